//! Reading images: what comes out of good files, and what is said of bad ones.

use std::path::Path;

use image::{ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use tempfile::TempDir;
use xdiff_data::{Colour, Depth, Error, Image, Limits, Mask, MaskRule, Scale, Span, Window};

fn read(path: impl AsRef<Path>) -> Result<Image, Error> {
    Image::read(path, &Limits::default())
}

#[test]
fn every_supported_file_gives_its_stored_values() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let grey8 = ImageBuffer::from_fn(5, 3, |x, y| Luma([(x * 40 + y) as u8]));
    let grey16 = ImageBuffer::from_fn(5, 3, |x, y| Luma([(x * 9000 + y) as u16]));
    let rgb8: RgbImage = ImageBuffer::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 200]));
    let rgb16 = ImageBuffer::from_fn(5, 3, |x, y| Rgb([x as u16 * 1000, y as u16, 60000]));
    let float = ImageBuffer::from_fn(5, 3, |x, y| Rgb([x as f32 - 900.5, y as f32, 3e4]));
    for name in ["8.png", "8.tif", "8.bmp"] {
        grey8.save(at(name)).unwrap();
        rgb8.save(at(&format!("rgb{name}"))).unwrap();
    }
    for name in ["16.png", "16.tif"] {
        grey16.save(at(name)).unwrap();
        rgb16.save(at(&format!("rgb{name}"))).unwrap();
    }
    float.save(at("float.tif")).unwrap();
    let cases: [(&str, usize, Depth, f32); 11] = [
        ("8.png", 1, Depth::U8, 161.0),
        ("8.tif", 1, Depth::U8, 161.0),
        ("8.bmp", 1, Depth::U8, 161.0),
        ("rgb8.png", 3, Depth::U8, 4.0),
        ("rgb8.tif", 3, Depth::U8, 4.0),
        ("rgb8.bmp", 3, Depth::U8, 4.0),
        ("16.png", 1, Depth::U16, 36001.0),
        ("16.tif", 1, Depth::U16, 36001.0),
        ("rgb16.png", 3, Depth::U16, 4000.0),
        ("rgb16.tif", 3, Depth::U16, 4000.0),
        ("float.tif", 3, Depth::F32, -896.5),
    ];
    let mut failed = Vec::new();
    for (name, channels, depth, at_4_1) in cases {
        let image = read(at(name)).unwrap();
        let value = image.plane(0)[5 + 4];
        if (image.channels(), image.origin.depth, value) != (channels, depth, at_4_1)
            || (image.height(), image.width(), image.scale) != (3, 5, Scale::Stored)
        {
            failed.push(format!("{name}: {} channels, {:?}, {value}", image.channels(), image.origin));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    grey8.save(at("8.jpg")).unwrap();
    let jpeg = read(at("8.jpg")).unwrap();
    assert!((jpeg.plane(0)[9] - 161.0).abs() < 12.0);
}

#[test]
fn bad_files_are_named_with_the_remedy() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    let noise: RgbImage = ImageBuffer::from_fn(40, 40, |x, y| {
        Rgb([(x * 7919 + y * 104_729) as u8, (x * y) as u8, (x ^ y) as u8])
    });
    for name in ["whole.png", "whole.jpg", "whole.tif", "whole.bmp"] {
        noise.save(at(name)).unwrap();
        let bytes = std::fs::read(at(name)).unwrap();
        for (share, tag) in [(2, "half"), (20, "start")] {
            write(&name.replace("whole", tag), &bytes[..bytes.len() / share]);
        }
        write(&name.replace("whole", "almost"), &bytes[..bytes.len() - 4]);
    }
    write("empty.png", b"");
    write("text.png", b"Not an image but a letter to the editor.");
    write("magic.png", b"\x89PNG\r\n\x1a\n");
    write("magic.jpg", b"\xff\xd8\xff");
    write("zero.png", &crate::common::png_header(0, 7));
    write("no_pixels.png", &crate::common::png_header(9, 7));
    write("image.gif", b"GIF89a\x01\x00\x01\x00\x80\x00\x00");
    std::fs::create_dir(at("folder.png")).unwrap();

    let cases = [
        "empty.png",
        "text.png",
        "magic.png",
        "magic.jpg",
        "zero.png",
        "no_pixels.png",
        "image.gif",
        "folder.png",
        "half.png",
        "half.jpg",
        "half.tif",
        "half.bmp",
        "start.png",
        "start.jpg",
        "start.tif",
        "start.bmp",
        "almost.jpg",
        "almost.tif",
        "almost.bmp",
    ];
    let mut failed = Vec::new();
    for name in cases {
        match read(at(name)) {
            Err(e @ Error::Malformed { .. })
                if e.to_string().contains(name) && e.to_string().contains(';') => {}
            other => failed.push(format!("{name}: {:?}", other.map(|i| i.origin))),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(matches!(read(at("missing.png")), Err(Error::Io { path, .. }) if path == at("missing.png")));
}

#[test]
fn truncating_a_file_anywhere_never_panics() {
    let dir = TempDir::new().unwrap();
    let image: RgbImage = ImageBuffer::from_fn(9, 9, |x, y| Rgb([(x * 31) as u8, (y * 57) as u8, 3]));
    for name in ["a.png", "a.jpg", "a.tif", "a.bmp"] {
        let path = dir.path().join(name);
        image.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for n in (0..bytes.len()).step_by(7) {
            let cut = dir.path().join("cut");
            std::fs::write(&cut, &bytes[..n]).unwrap();
            if let Ok(whole) = read(&cut) {
                assert_eq!((whole.height(), whole.width()), (9, 9), "{name} cut to {n} bytes");
            }
            let mut bent = bytes.clone();
            bent[n] ^= 0x55;
            std::fs::write(&cut, &bent).unwrap();
            if let Ok(read) = read(&cut) {
                assert!(read.data().iter().all(|v| v.is_finite()), "{name} changed at {n}");
            }
        }
    }
}

#[test]
fn huge_images_are_refused_by_their_headers() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("huge.png");
    for (w, h) in [(30_000, 30_000), (1, 2_000_000_000), (100_000, 3)] {
        std::fs::write(&path, crate::common::png_header(w, h)).unwrap();
        assert!(matches!(read(&path), Err(Error::TooLarge { .. })), "{w}×{h}");
    }
    crate::common::grey(&path, 64, 64, 9);
    let tight = [
        Limits { pixels: 64 * 64 - 1, ..Limits::default() },
        Limits { side: 63, ..Limits::default() },
        Limits { file_bytes: 20, ..Limits::default() },
    ];
    for limits in tight {
        let error = Image::read(&path, &limits).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{limits:?}");
        assert!(error.to_string().contains("huge.png") && error.to_string().contains("limit"), "{error}");
    }
    assert!(Image::read(&path, &Limits { pixels: 64 * 64, side: 64, ..Limits::default() }).is_ok());
}

#[test]
fn nan_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nan.tif");
    let mut float: ImageBuffer<Rgb<f32>, Vec<f32>> = ImageBuffer::from_pixel(4, 4, Rgb([0.5, 0.5, 0.5]));
    float.put_pixel(1, 2, Rgb([f32::NAN, 0.0, f32::INFINITY]));
    float.save(&path).unwrap();
    let error = read(&path).unwrap_err();
    assert!(matches!(error, Error::NonFinite { count: 2, total: 48, .. }), "{error}");
    assert!(error.to_string().contains("nan.tif"));
    assert!(matches!(Image::new(1, 1, 1, vec![f32::NAN], Scale::Unit), Err(Error::NonFinite { .. })));
}

#[test]
fn alpha_is_dropped_only_where_it_says_nothing() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    ImageBuffer::from_pixel(3, 3, Rgba([10u8, 20, 30, 255])).save(at("opaque.png")).unwrap();
    ImageBuffer::from_pixel(3, 3, LumaA([500u16, 65535])).save(at("grey.png")).unwrap();
    ImageBuffer::from_pixel(3, 3, Rgba([10u8, 20, 30, 254])).save(at("glass.png")).unwrap();
    let opaque = read(at("opaque.png")).unwrap();
    assert_eq!((opaque.channels(), opaque.plane(2)[0]), (3, 30.0));
    assert_eq!(read(at("grey.png")).unwrap().data(), [500.0; 9]);
    assert!(matches!(read(at("glass.png")), Err(Error::Channels { .. })));
}

#[test]
fn channels_change_only_when_asked() {
    let colour = Image::new(3, 1, 1, vec![100.0, 200.0, 50.0], Scale::Stored).unwrap();
    let grey = Image::new(1, 1, 1, vec![7.0], Scale::Stored).unwrap();
    let luma = colour.clone().with_colour(Colour::ToGrey).unwrap().into_data()[0];
    assert!((luma - (29.9 + 117.4 + 5.7)).abs() < 1e-4, "{luma}");
    assert_eq!(grey.clone().with_colour(Colour::ToRgb).unwrap().data(), [7.0; 3]);
    assert_eq!(colour.clone().with_colour(Colour::Keep).unwrap(), colour);
    for (image, asked) in [(colour, Colour::Grey), (grey, Colour::Rgb)] {
        let error = image.with_colour(asked).unwrap_err();
        assert!(
            matches!(error, Error::Channels { .. }) && error.to_string().contains("Colour::To"),
            "{error}"
        );
    }
}

#[test]
fn windows_are_explicit_and_report_what_they_clip() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("16.png");
    ImageBuffer::from_fn(4, 1, |x, _| Luma([[0u16, 1000, 2000, 4000][x as usize]])).save(&path).unwrap();
    let image = read(&path).unwrap();
    let full = Window::Full.apply(image.clone()).unwrap();
    assert!((full.data()[3] - 4000.0 / 65535.0).abs() < 1e-7);
    assert_eq!(full.origin.windowed.unwrap().clipped, 0.0);
    let narrow = Window::Range { lo: 1000.0, hi: 3000.0 }.apply(image.clone()).unwrap();
    assert_eq!(narrow.data(), [0.0, 0.0, 0.5, 1.0]);
    assert_eq!(narrow.origin.windowed.unwrap().clipped, 0.5);

    // A dataset's span, not the image's own: the fainter image stays fainter.
    let faint = Image::new(1, 1, 2, vec![0.0, 2000.0], Scale::Stored).unwrap();
    let mut span = Span::new();
    span.include(&image).unwrap();
    span.include(&faint).unwrap();
    assert_eq!(span.seen(), (0.0, 4000.0, 2));
    assert_eq!(span.window().unwrap().apply(faint.clone()).unwrap().data(), [0.0, 0.5]);

    assert!(Window::Full.apply(faint.clone()).is_err(), "floats have no full range");
    assert!(Window::Full.apply(full).is_err(), "already scaled");
    assert!(Span::new().window().is_err());
    for (lo, hi) in [(1.0, 1.0), (2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
        assert!(Window::Range { lo, hi }.apply(faint.clone()).is_err(), "{lo} to {hi}");
    }
}

#[test]
fn signed_and_unit_are_inverse_and_stored_is_neither() {
    let unit = Image::new(1, 1, 3, vec![0.0, 0.25, 1.0], Scale::Unit).unwrap();
    let signed = unit.clone().to_signed().unwrap();
    assert_eq!(signed.data(), [-1.0, -0.5, 1.0]);
    assert_eq!(signed.clone().to_signed().unwrap(), signed);
    assert_eq!(signed.to_unit().unwrap(), unit);
    let stored = Image::new(1, 1, 1, vec![3.0], Scale::Stored).unwrap();
    assert!(stored.clone().to_signed().is_err() && stored.to_unit().is_err());
}

#[test]
fn masks_need_a_rule() {
    let stored = |v: &[f32]| Image::new(1, 1, v.len(), v.to_vec(), Scale::Stored).unwrap();
    let soft = stored(&[0.0, 3.0, 127.0, 128.0, 255.0]);
    assert_eq!(Mask::from_image(&soft, MaskRule::Above(127.0)).unwrap().data(), [0, 0, 0, 1, 1]);
    let labels = Mask::from_image(&soft, MaskRule::Labels).unwrap();
    assert_eq!((labels.labels(), labels.area()), (vec![3, 127, 128, 255], 4));
    assert_eq!(labels.select(127).data(), [0, 0, 1, 0, 0]);
    assert!(labels.select(127).is_within(&labels).unwrap() && !labels.is_within(&labels.select(3)).unwrap());
    for bad in [0.5, -1.0, 256.0, 40_000.0] {
        assert!(Mask::from_image(&stored(&[bad]), MaskRule::Labels).is_err(), "{bad}");
    }
    assert!(Mask::from_image(&soft, MaskRule::Above(f32::NAN)).is_err());
    let coloured = Image::new(3, 1, 1, vec![0.0, 255.0, 0.0], Scale::Stored).unwrap();
    assert!(matches!(Mask::from_image(&coloured, MaskRule::Above(0.0)), Err(Error::Channels { .. })));
    let agreeing = Image::new(3, 1, 1, vec![255.0; 3], Scale::Stored).unwrap();
    assert_eq!(Mask::from_image(&agreeing, MaskRule::Above(0.0)).unwrap().data(), [1]);
    assert!(Mask::new(2, 2, vec![0; 3]).is_err() && Mask::empty(0, 4).is_err());
}
