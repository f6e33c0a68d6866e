//! NIfTI files: what nibabel reads from them is read, and what is none is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xdiff_data::nifti::{
    Datatype, NiftiFile, NiftiVersion, Placement, read_nifti, read_nifti_labels, write_nifti,
    write_nifti_labels,
};
use xdiff_data::{Affine, Axis, Depth, Error, Grid, LabelVolume, Limits, Volume, Window};

use crate::common::shared_data;

/// What `tests/reference/nifti.py` wrote down.
#[derive(Deserialize)]
struct Reference {
    small: BTreeMap<String, Known>,
    real: BTreeMap<String, Known>,
    written: BTreeMap<String, Known>,
}

#[derive(Deserialize)]
struct Known {
    dims: [usize; 3],
    frames: usize,
    frame_seconds: Option<f64>,
    affine: [[f64; 4]; 3],
    orientation: String,
    sha256: String,
    first: f32,
    last: f32,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

fn small(name: &str) -> PathBuf {
    folder().join("nifti").join(name)
}

fn reference() -> Reference {
    serde_json::from_slice(&fs::read(folder().join("nifti.json")).unwrap()).unwrap()
}

fn digest(voxels: &[f32]) -> String {
    let mut hash = Sha256::new();
    voxels.iter().for_each(|v| hash.update(v.to_le_bytes()));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What differs between a file and what nibabel makes of it.
fn differences(path: &Path, known: &Known) -> Vec<String> {
    let volume = match read_nifti(path, &Limits::default()) {
        Ok(volume) => volume,
        Err(e) => return vec![e.to_string()],
    };
    let mut wrong = Vec::new();
    let grid = volume.grid();
    if (grid.dims(), volume.frames()) != (known.dims, known.frames) {
        wrong.push(format!(
            "{:?} × {}, not {:?} × {}",
            grid.dims(),
            volume.frames(),
            known.dims,
            known.frames
        ));
    }
    let rows = grid.affine().rows();
    let apart = rows.as_flattened().iter().zip(known.affine.as_flattened());
    let apart = apart.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
    if apart > 1e-6 {
        wrong.push(format!("affine {:?}, not {:?}", grid.affine().rows(), known.affine));
    }
    if grid.orientation().to_string() != known.orientation {
        wrong.push(format!("{}, not {}", grid.orientation(), known.orientation));
    }
    match (volume.frame_seconds, known.frame_seconds) {
        (None, None) => {}
        (Some(a), Some(b)) if (a - b).abs() < 1e-9 => {}
        (a, b) => wrong.push(format!("{a:?} s a frame, not {b:?}")),
    }
    if digest(volume.voxels()) != known.sha256 {
        let ends = (volume.voxels().first(), volume.voxels().last());
        wrong.push(format!("voxels from {ends:?}, not {:?}", (known.first, known.last)));
    }
    wrong.into_iter().map(|w| format!("{}: {w}", path.display())).collect()
}

#[test]
fn every_kind_of_file_is_read_as_nibabel_reads_it() {
    let known = reference().small;
    let wrong: Vec<String> = known.iter().flat_map(|(name, k)| differences(&small(name), k)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(known.len() >= 40, "{} files", known.len());
}

#[test]
fn real_volumes_are_read_as_nibabel_reads_them() {
    let Some(root) = shared_data() else { return };
    let known = reference().real;
    let wrong: Vec<String> =
        known.iter().flat_map(|(name, k)| differences(&root.join("nifti").join(name), k)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(known.len(), 12);
    for (image, labels) in [
        ("pyradiomics_brain1_image", "pyradiomics_brain1_label"),
        ("pyradiomics_breast1_image", "pyradiomics_breast1_label"),
        ("ts_example_ct_sm", "ts_example_seg"),
        ("ts_example_mr_sm", "ts_example_seg_mr"),
    ] {
        let at = |name: &str| root.join("nifti").join(format!("{name}.nii.gz"));
        let image = read_nifti(at(image), &Limits::default()).unwrap();
        let labels = read_nifti_labels(at(labels), &Limits::default()).unwrap();
        labels.check_same_grid(&image).unwrap();
        assert!(!labels.counts().is_empty());
    }
}

#[test]
fn headers_say_what_they_hold() {
    let open = |name: &str| NiftiFile::open(small(name), &Limits::default()).unwrap();
    let file = open("qform_left.nii");
    assert_eq!(file.header().placement, Placement::Qform);
    assert_eq!((file.header().version, file.header().datatype), (NiftiVersion::One, Datatype::I16));
    assert_eq!(open("no_form.nii").header().placement, Placement::VoxelSizes);
    assert_eq!(open("sform_unknown_code.nii").header().placement, Placement::Qform);
    assert_eq!(open("both_forms.nii").header().placement, Placement::Sform);
    assert_eq!(open("two_big_f8.nii.gz").header().version, NiftiVersion::Two);
    assert_eq!(open("slope_zero.nii").header().scaling, None);
    let depth = |name: &str| read_nifti(small(name), &Limits::default()).unwrap().origin.depth;
    assert_eq!(depth("one_u1.nii"), Depth::U8);
    assert_eq!(depth("one_u2.nii"), Depth::U16);
    assert_eq!((depth("one_i2.nii"), depth("slope.nii")), (Depth::F32, Depth::F32));
    // The whole range of a type is a window only where there is one.
    let slice = |name: &str| read_nifti(small(name), &Limits::default()).unwrap().slice(Axis::K, 0).unwrap();
    assert!(
        Window::Full.apply(slice("one_u1.nii")).is_ok() && Window::Full.apply(slice("slope.nii")).is_err()
    );
}

#[test]
fn parts_of_a_file_are_parts_of_its_volume() {
    for name in ["frames_seconds.nii", "compressed.nii.gz", "one_big_u8.nii", "extension.nii", "pair.hdr"] {
        let file = NiftiFile::open(small(name), &Limits::default()).unwrap();
        let volume = file.volume().unwrap();
        for t in 0..volume.frames() {
            assert_eq!(file.frame(t).unwrap().voxels(), volume.frame(t).unwrap().voxels(), "{name} {t}");
            for axis in [Axis::K, Axis::I, Axis::Axial, Axis::Sagittal] {
                for index in 0..volume.grid().slices(axis) {
                    let (got, want) = (file.slice(t, axis, index), volume.slice_of_frame(t, axis, index));
                    assert_eq!(got.unwrap(), want.unwrap(), "{name}, frame {t}, {axis:?} {index}");
                }
                let beyond = volume.grid().slices(axis);
                assert!(
                    matches!(file.slice(t, axis, beyond), Err(Error::Argument { .. })),
                    "{name} {axis:?}"
                );
            }
        }
        assert!(matches!(file.frame(volume.frames()), Err(Error::Argument { .. })));
        assert!(matches!(file.slice(volume.frames(), Axis::K, 0), Err(Error::Argument { .. })));
    }
}

#[test]
fn pairs_are_found_from_either_file() {
    let dir = TempDir::new().unwrap();
    for name in ["pair.hdr", "pair.img"] {
        fs::copy(small(name), dir.path().join(name)).unwrap();
    }
    let read = |name: &str| read_nifti(dir.path().join(name), &Limits::default());
    assert_eq!(read("pair.hdr").unwrap().voxels(), read("pair.img").unwrap().voxels());
    fs::remove_file(dir.path().join("pair.img")).unwrap();
    let error = read("pair.hdr").unwrap_err().to_string();
    assert!(error.contains(".img"), "{error}");
    fs::remove_file(dir.path().join("pair.hdr")).unwrap();
    assert!(matches!(read("pair.hdr"), Err(Error::Io { .. })));
}

/// A small file with some bytes of its header changed.
fn changed(name: &str, changes: &[(usize, &[u8])]) -> (TempDir, PathBuf) {
    let mut bytes = fs::read(small(name)).unwrap();
    changes.iter().for_each(|(at, new)| bytes[*at..*at + new.len()].copy_from_slice(new));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn headers_that_lie_are_refused() {
    type Case<'a> = (&'a str, &'a str, Vec<(usize, &'a [u8])>, fn(&Error) -> bool, &'a str);
    let malformed: fn(&Error) -> bool = |e| matches!(e, Error::Malformed { .. });
    let unsupported: fn(&Error) -> bool = |e| matches!(e, Error::Unsupported { .. });
    let large: fn(&Error) -> bool = |e| matches!(e, Error::TooLarge { .. });
    let nan = f32::NAN.to_le_bytes();
    let two = 2f32.to_le_bytes();
    let huge = 1e30f32.to_le_bytes();
    let cases: Vec<Case<'_>> = vec![
        ("not NIfTI", "one_i2.nii", vec![(0, b"\x89PNG")], malformed, "not a NIfTI"),
        ("magic", "one_i2.nii", vec![(344, b"nope")], malformed, "magic"),
        ("Analyze", "one_i2.nii", vec![(344, b"\0\0\0\0")], unsupported, "Analyze 7.5"),
        ("line ends", "two_i2.nii", vec![(4, b"n+2\0\n\n\x1a\n")], malformed, "line ends"),
        ("0 dimensions", "one_i2.nii", vec![(40, &[0, 0])], malformed, "0 dimensions"),
        ("8 dimensions", "one_i2.nii", vec![(40, &[8, 0])], malformed, "8 dimensions"),
        ("a side of 0", "one_i2.nii", vec![(42, &[0, 0])], malformed, "at least 1"),
        ("a side below 0", "one_i2.nii", vec![(44, &[0xFE, 0xFF])], malformed, "at least 1"),
        ("too long", "one_i2.nii", vec![(42, &[0, 1])], malformed, "the file has 400"),
        ("much too long", "one_i2.nii", vec![(42, &[0xFF, 0x7F]), (44, &[0xFF, 0x7F])], large, "voxels"),
        ("overflow", "two_i2.nii", vec![(24, &[0xFF; 7]), (32, &[0xFF; 7])], large, "voxels"),
        ("five dimensions", "one_i2.nii", vec![(40, &[5, 0]), (50, &[3, 0])], unsupported, "dimensions"),
        ("RGB", "one_i2.nii", vec![(70, &[128, 0])], unsupported, "RGB"),
        ("complex", "one_i2.nii", vec![(70, &[32, 0])], unsupported, "complex"),
        ("f128", "one_i2.nii", vec![(70, &[0, 6])], unsupported, "128 bits"),
        ("no datatype", "one_i2.nii", vec![(70, &[3, 0])], unsupported, "unknown datatype 3"),
        ("offset in the header", "one_i2.nii", vec![(108, &two)], malformed, "inside the header"),
        ("no offset", "one_i2.nii", vec![(108, &[0; 4])], malformed, "inside the header"),
        ("offset NaN", "one_i2.nii", vec![(108, &nan)], malformed, "NaN"),
        ("offset far off", "one_i2.nii", vec![(108, &huge)], malformed, "begin at byte"),
        ("offset far off", "two_i2.nii", vec![(168, &[0, 0, 0, 0, 0, 0, 0, 1])], large, "before the voxels"),
        ("offset below 0", "two_i2.nii", vec![(168, &[0xFF; 8])], malformed, "begin at byte -1"),
        ("sform NaN", "one_i2.nii", vec![(280, &nan)], malformed, "Sform"),
        ("sform singular", "one_i2.nii", vec![(280, &[0; 48])], malformed, "Sform"),
        ("qform NaN", "qform.nii", vec![(256, &nan)], malformed, "Qform"),
        ("qform too long", "qform.nii", vec![(256, &two)], malformed, "longer than 1"),
        ("size NaN", "no_form.nii", vec![(80, &nan)], malformed, "VoxelSizes"),
        ("intercept NaN", "slope.nii", vec![(116, &nan)], malformed, "intercept NaN"),
    ];
    let mut wrong = Vec::new();
    for (what, name, changes, fits, word) in cases {
        let (_dir, path) = changed(name, &changes);
        match read_nifti(&path, &Limits::default()) {
            Err(e) if fits(&e) && e.to_string().contains(word) => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn limits_hold_before_anything_is_read() {
    let path = small("frames_seconds.nii");
    let refused = |limits: Limits| matches!(read_nifti(&path, &limits), Err(Error::TooLarge { .. }));
    assert!(refused(Limits { voxels: 71, ..Limits::default() }));
    assert!(refused(Limits { file_bytes: 495, ..Limits::default() }));
    assert!(!refused(Limits { voxels: 72, file_bytes: 496, ..Limits::default() }));
    // A small compressed file that unpacks to far more than its header admits to is read no further.
    let dir = TempDir::new().unwrap();
    let bomb = dir.path().join("bomb.nii.gz");
    let grid = Grid::new([1000, 1000, 30], Affine::scaling([1.0; 3]).unwrap()).unwrap();
    write_nifti(&bomb, &Volume::zeros(grid)).unwrap();
    assert!(fs::metadata(&bomb).unwrap().len() < 200_000);
    let limits = Limits { voxels: 1_000_000, ..Limits::default() };
    assert!(matches!(read_nifti(&bomb, &limits), Err(Error::TooLarge { .. })));
    // One that cannot hold what it claims is refused by its length.
    let (_dir, path) = changed("one_i2.nii", &[(42, &[0, 4]), (44, &[0, 4]), (46, &[0, 1])]);
    let packed = dir.path().join("lie.nii.gz");
    let mut out = flate2_bytes(&fs::read(path).unwrap());
    fs::write(&packed, &out).unwrap();
    let error = read_nifti(&packed, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("cannot hold"), "{error}");
    // A wrong checksum after the last voxel is seen.
    out = flate2_bytes(&fs::read(small("one_i2.nii")).unwrap());
    let n = out.len();
    out[n - 6] ^= 1;
    fs::write(&packed, &out).unwrap();
    assert!(matches!(read_nifti(&packed, &Limits::default()), Err(Error::Malformed { .. })));
}

/// The bytes as a gzip file of stored blocks, so that the tests need no compressor.
fn flate2_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = bytes.len() as u16;
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(bytes);
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    });
    out.extend(crc.to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let dir = TempDir::new().unwrap();
    let files = ["one_i2.nii", "two_i2.nii", "compressed.nii.gz", "members.nii.gz", "frames_seconds.nii"];
    for name in files {
        let whole = fs::read(small(name)).unwrap();
        let path = dir.path().join(name);
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let error = read_nifti(&path, &Limits::default()).expect_err(&format!("{name} to {end}"));
            assert!(matches!(error, Error::Malformed { .. }), "{name} to {end}: {error}");
        }
    }
    assert!(matches!(read_nifti(dir.path(), &Limits::default()), Err(Error::Malformed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_header_makes_it_panic(
        which in 0usize..4,
        changes in prop::collection::vec((0usize..540, any::<u8>()), 1..24),
    ) {
        let name = ["one_i2.nii", "two_f4.nii", "qform.nii", "compressed.nii.gz"][which];
        let mut bytes = fs::read(small(name)).unwrap();
        for (at, value) in changes {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        if let Ok(volume) = read_nifti(&path, &Limits { voxels: 1 << 20, ..Limits::default() }) {
            prop_assert!(volume.voxels().len() == volume.grid().voxels() * volume.frames());
            prop_assert!(volume.voxels().len() <= bytes.len() * 1032);
        }
    }

    #[test]
    fn what_is_written_is_read(
        dims in prop::array::uniform3(1usize..6),
        frames in 1usize..4,
        steps in prop::array::uniform3(prop::array::uniform3(-2.0f64..2.0)),
        compress in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let affine = Affine::from_steps(steps, [1.5, -2.25, 100.0]);
        prop_assume!(affine.is_ok());
        let grid = Grid::new(dims, affine.unwrap()).unwrap();
        let voxels = (0..grid.voxels() * frames).map(|n| (n as f32 + seed as f32).sin()).collect();
        let mut volume = Volume::with_frames(grid, frames, voxels).unwrap();
        volume.frame_seconds = (frames > 1).then_some(0.5);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(if compress { "a.nii.gz" } else { "a.NII" });
        write_nifti(&path, &volume).unwrap();
        let read = read_nifti(&path, &Limits::default()).unwrap();
        prop_assert_eq!(read.voxels(), volume.voxels());
        prop_assert_eq!(read.frame_seconds, volume.frame_seconds);
        for (a, b) in read.grid().affine().rows().iter().flatten().zip(affine_of(&volume).iter().flatten()) {
            prop_assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{} {}", a, b);
        }
        // The same volume, the same bytes.
        let first = fs::read(&path).unwrap();
        write_nifti(&path, &volume).unwrap();
        prop_assert_eq!(first, fs::read(&path).unwrap());
    }
}

fn affine_of(volume: &Volume) -> [[f64; 4]; 3] {
    volume.grid().affine().rows()
}

#[test]
fn labels_take_the_width_that_they_need() {
    let dir = TempDir::new().unwrap();
    let grid = Grid::new([2, 1, 1], Affine::scaling([1.0, 1.0, 3.0]).unwrap()).unwrap();
    for (largest, datatype) in
        [(255, Datatype::U8), (256, Datatype::U16), (65_535, Datatype::U16), (65_536, Datatype::U32)]
    {
        let labels = LabelVolume::new(grid, vec![0, largest]).unwrap();
        let path = dir.path().join("labels.nii.gz");
        write_nifti_labels(&path, &labels).unwrap();
        let file = NiftiFile::open(&path, &Limits::default()).unwrap();
        assert_eq!((file.header().datatype, file.header().intent), (datatype, 1002), "{largest}");
        assert_eq!(read_nifti_labels(&path, &Limits::default()).unwrap().labels(), labels.labels());
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let dir = TempDir::new().unwrap();
    let grid = Grid::new([40_000, 1, 1], Affine::scaling([1.0; 3]).unwrap()).unwrap();
    let error = write_nifti(dir.path().join("a.nii"), &Volume::zeros(grid)).unwrap_err().to_string();
    assert!(error.contains("32767"), "{error}");
    let grid = Grid::new([1, 1, 1], Affine::scaling([1.0; 3]).unwrap()).unwrap();
    assert!(matches!(
        write_nifti(dir.path().join("a.png"), &Volume::zeros(grid)),
        Err(Error::Argument { .. })
    ));
    let nowhere = dir.path().join("none/a.nii");
    assert!(
        matches!(write_nifti(&nowhere, &Volume::zeros(grid)), Err(Error::Io { path, .. }) if path == nowhere)
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn maps_are_put_back_slice_by_slice() {
    let volume = read_nifti(small("one_f4.nii"), &Limits::default()).unwrap();
    for axis in [Axis::Axial, Axis::Coronal, Axis::Sagittal, Axis::I, Axis::J, Axis::K] {
        let mut map = Volume::zeros(*volume.grid());
        for index in 0..volume.grid().slices(axis) {
            map.set_slice(0, axis, index, &volume.slice(axis, index).unwrap()).unwrap();
        }
        assert_eq!(map.voxels(), volume.voxels(), "{axis:?}");
        let wrong = volume.slice(if axis == Axis::K { Axis::I } else { Axis::K }, 0).unwrap();
        if (wrong.height(), wrong.width()) != volume.grid().slice_size(axis) {
            assert!(map.set_slice(0, axis, 0, &wrong).is_err(), "{axis:?}");
        }
        assert!(map.set_slice(1, axis, 0, &volume.slice(axis, 0).unwrap()).is_err());
    }
}

/// Three volumes as they were written when nibabel last read them back.
fn written() -> (Volume, Volume, LabelVolume) {
    let steps = [[0.0, 1.5, 0.25], [-0.75, 0.0, 0.0], [0.0, -0.5, 3.0]];
    let sheared = Grid::new([3, 2, 2], Affine::from_steps(steps, [10.0, -20.5, 30.0]).unwrap()).unwrap();
    let steps = [[-1.6, 1.2, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 4.0]];
    let turned = Grid::new([3, 2, 2], Affine::from_steps(steps, [1.0, 2.0, 3.0]).unwrap()).unwrap();
    let map = Volume::new(sheared, (0..12).map(|v| v as f32 / 8.0 - 0.5).collect()).unwrap();
    let mut frames = Volume::with_frames(turned, 2, (0..24).map(|v| v as f32 * 0.3).collect()).unwrap();
    frames.frame_seconds = Some(2.5);
    (map, frames, LabelVolume::new(turned, (0..12).map(|v| v * 100).collect()).unwrap())
}

#[test]
fn what_is_written_is_what_nibabel_read_back() {
    let dir = TempDir::new().unwrap();
    let (map, frames, labels) = written();
    let folder = folder().join("nifti_written");
    let target = match std::env::var_os("XDIFF_WRITE_REFERENCE") {
        Some(_) => folder.clone(),
        None => dir.path().to_path_buf(),
    };
    write_nifti(target.join("map.nii"), &map).unwrap();
    write_nifti(target.join("frames.nii"), &frames).unwrap();
    write_nifti_labels(target.join("labels.nii"), &labels).unwrap();
    for (name, known) in reference().written {
        assert!(
            fs::read(target.join(&name)).unwrap() == fs::read(folder.join(&name)).unwrap(),
            "{name}: other bytes than nibabel has read; write them with XDIFF_WRITE_REFERENCE and run nifti.py"
        );
        assert_eq!(differences(&target.join(&name), &known), Vec::<String>::new());
        let volume = match name.as_str() {
            "map.nii" => map.clone(),
            "frames.nii" => frames.clone(),
            _ => Volume::new(*labels.grid(), labels.labels().iter().map(|l| *l as f32).collect()).unwrap(),
        };
        assert_eq!(digest(volume.voxels()), known.sha256, "{name}");
    }
}
