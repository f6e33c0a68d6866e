//! Every DICOM file of the shared data against what pydicom reads from it (`tests/reference/dicom.py`).

use sha2::{Digest, Sha256};
use xdiff_data::Limits;
use xdiff_data::dicom::{Dicom, PixelValues};

use crate::common::shared_data;
use crate::dicom_files::read_all;

const TABLE: &str = include_str!("../reference/dicom.tsv");

struct Row<'a> {
    file: &'a str,
    syntax: &'a str,
    shape: Vec<usize>,
    lossy: bool,
    sha256: &'a str,
    least: i32,
    greatest: i32,
    probes: Vec<i32>,
    modality: [f64; 3],
}

fn rows() -> Vec<Row<'static>> {
    let parse = |line: &'static str| {
        let f: Vec<&str> = line.split('\t').collect();
        Row {
            file: f[0],
            syntax: f[1],
            shape: f[2].split('x').map(|n| n.parse().unwrap()).collect(),
            lossy: f[3] == "lossy",
            sha256: f[4],
            least: f[5].parse().unwrap(),
            greatest: f[6].parse().unwrap(),
            probes: f[7].split(',').map(|n| n.parse().unwrap()).collect(),
            modality: [8, 9, 10].map(|i| f[i].parse().unwrap()),
        }
    };
    TABLE.lines().skip(2).map(parse).collect()
}

/// What is wrong with a file that should be read, if anything.
fn compare(file: &Dicom, row: &Row<'_>) -> Result<(), String> {
    let layout = file.layout().map_err(|e| e.to_string())?;
    let shape = [layout.frames, layout.channels(), layout.rows, layout.columns];
    if shape[..] != row.shape || file.meta().syntax.uid() != row.syntax {
        return Err(format!("{shape:?} {}", file.meta().syntax));
    }
    let (mut all, mut measured) = (Vec::new(), Vec::new());
    for frame in 0..layout.frames {
        all.extend(file.stored(frame).map_err(|e| e.to_string())?);
        measured.extend(file.image(frame, PixelValues::Modality).map_err(|e| e.to_string())?.into_data());
    }
    let bytes: Vec<u8> = all.iter().flat_map(|v| v.to_le_bytes()).collect();
    let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let probes: Vec<i32> = (0..16).map(|i| all[i * (all.len() - 1) / 15]).collect();
    let (least, greatest) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
    let sum: f64 = measured.iter().map(|v| f64::from(*v)).sum();
    let extent =
        measured.iter().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min((*v).into()), hi.max((*v).into())));
    if sha256 == row.sha256 {
        let close = (sum - row.modality[2]).abs() <= 1e-9 * sum.abs().max(1.0);
        return if close && (extent.0, extent.1) == (row.modality[0], row.modality[1]) {
            Ok(())
        } else {
            Err(format!("modality values {extent:?}, sum {sum}, but {:?}", row.modality))
        };
    }
    // Decoders of a lossy frame may round the inverse transform either way.
    let near = |a: i32, b: i32| (a - b).abs() <= 1;
    let mean_off = (sum - row.modality[2]).abs() / measured.len() as f64;
    let fine = probes.iter().zip(&row.probes).all(|(a, b)| near(*a, *b))
        && near(least, row.least)
        && near(greatest, row.greatest);
    if row.lossy
        && fine
        && mean_off < 0.5 * (row.modality[1] - row.modality[0]) / f64::from(row.greatest - row.least)
    {
        println!("{}: within 1 of pydicom, mean off by {mean_off:.4}", row.file);
        return Ok(());
    }
    Err(format!("{least}..{greatest} {probes:?}, mean off {mean_off}"))
}

#[test]
fn every_file_is_read_as_pydicom_reads_it() {
    let Some(root) = shared_data() else { return };
    let mut failed = Vec::new();
    let rows = rows();
    assert_eq!(rows.len(), 60);
    for row in &rows {
        let file = Dicom::read(root.join(row.file), &Limits::default()).unwrap();
        let outcome = compare(&file, row);
        failed.extend(outcome.err().map(|e| format!("{}: {e}", row.file)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn cuts_of_every_encoding_are_errors() {
    let Some(root) = shared_data() else { return };
    let files = [
        "JLSL_16_15_1_1F",
        "JPEG2000",
        "JPGExtended",
        "MR_small",
        "MR_small_RLE",
        "MR_small_bigendian",
        "MR_small_implicit",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_rle",
        "image_dfl",
        "liver",
    ];
    let mut failed = Vec::new();
    for name in files {
        let bytes = std::fs::read(root.join(format!("dicom/{name}.dcm"))).unwrap();
        // Elements may follow the pixels; cuts inside those do no harm.
        let whole = (0..bytes.len()).rev().find(|n| read_all(&bytes[..*n]).is_err()).unwrap_or(0);
        let cuts = (0..whole).step_by(whole / 150 + 1);
        failed.extend(cuts.filter(|n| read_all(&bytes[..*n]).is_ok()).map(|n| format!("{name} cut at {n}")));
        assert!(whole > bytes.len() / 2, "{name}: {whole} of {}", bytes.len());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn bent_bytes_of_every_encoding_do_not_panic() {
    let Some(root) = shared_data() else { return };
    let rounds = 8;
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut outcomes = [0usize; 2];
    for name in [
        "JLSL_16_15_1_1F",
        "MR_small_RLE",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_rle",
        "JPEG2000",
        "JPGExtended",
    ] {
        let bytes = std::fs::read(root.join(format!("dicom/{name}.dcm"))).unwrap();
        for _ in 0..rounds {
            let mut bent = bytes.clone();
            for _ in 0..1 + next(4) {
                let at = 132 + next(bent.len() - 132);
                bent[at] = next(256) as u8;
            }
            outcomes[usize::from(read_all(&bent).is_ok())] += 1;
        }
    }
    assert_eq!(outcomes.iter().sum::<usize>(), 8 * rounds, "{outcomes:?}");
}
