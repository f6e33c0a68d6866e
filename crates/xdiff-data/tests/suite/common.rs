//! Files and datasets that several tests need.

use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, RgbImage};

/// The folder of real images: `XDIFF_DATA`, or `../shared/data` beside the workspace. `None`, with a
/// line that says so, where there is none.
pub(crate) fn shared_data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("XDIFF_DATA").map_or(beside, PathBuf::from);
    if folder.join("MANIFEST.tsv").is_file() {
        return Some(folder);
    }
    println!("skipped: no real images at {}; set XDIFF_DATA", folder.display());
    None
}

/// A grey PNG whose pixels all have one tone.
pub(crate) fn grey(path: impl AsRef<Path>, width: u32, height: u32, tone: u8) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    GrayImage::from_pixel(width, height, Luma([tone])).save(path).unwrap();
}

/// An RGB PNG whose channels differ.
pub(crate) fn rgb(path: impl AsRef<Path>, width: u32, height: u32) {
    RgbImage::from_pixel(width, height, image::Rgb([255, 128, 0])).save(path).unwrap();
}

/// A PNG of a header alone, with a right checksum, of any size.
pub(crate) fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        png.extend((body.len() as u32).to_be_bytes());
        let mut data = kind.to_vec();
        data.extend(body);
        let crc = data.iter().fold(!0u32, |mut crc, byte| {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            }
            crc
        });
        png.extend(&data);
        png.extend((!crc).to_be_bytes());
    };
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([8, 0, 0, 0, 0]);
    chunk(b"IHDR", &header);
    // An empty zlib stream.
    chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
    chunk(b"IEND", &[]);
    png
}
