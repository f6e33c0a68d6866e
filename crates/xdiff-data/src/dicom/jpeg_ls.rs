//! A decoder of JPEG-LS, lossless and near-lossless (ITU-T T.87 | ISO/IEC 14495-1).
//!
//! Samples of 2 to 16 bits, one or three components, all three ways of interleaving, and preset coding
//! parameters. Not decoded, and refused by name: mapping tables, restart intervals, point transforms,
//! subsampled components and the colour transforms that some encoders add outside the standard.

mod bits;
mod scan;

use scan::{Coding, Scan};

/// The segments ahead of the scans.
struct Frame {
    precision: u8,
    rows: usize,
    columns: usize,
    components: Vec<u8>,
}

/// Decodes an image that must have that size; values lie pixel by pixel.
///
/// # Errors
/// In words, when the data are cut off, damaged, of another size, or use what is not decoded here. Memory
/// is taken only once the size is found to be right.
pub(super) fn decode(
    bytes: &[u8],
    rows: usize,
    columns: usize,
    components: usize,
) -> Result<Vec<u16>, String> {
    if !bytes.starts_with(&[0xFF, 0xD8]) {
        return Err("no start of a JPEG-LS image".into());
    }
    let mut at = 2;
    let mut frame: Option<Frame> = None;
    let mut preset = None;
    let mut image = Vec::new();
    let mut done = vec![false; components];
    loop {
        let (marker, body) = segment(bytes, &mut at)?;
        match marker {
            0xF7 => {
                let read = frame_header(body)?;
                let found = (read.rows, read.columns, read.components.len());
                if frame.is_some() || found != (rows, columns, components) {
                    return Err(format!(
                        "the JPEG-LS frame is {found:?}, the header says {:?}",
                        (rows, columns, components)
                    ));
                }
                image = vec![0u16; rows * columns * components];
                frame = Some(read);
            }
            0xF8 => preset = Some(preset_parameters(body)?),
            0xDD if body.iter().all(|b| *b == 0) => {}
            0xDD => return Err("restart intervals are not decoded".into()),
            0xE8 if body.starts_with(b"mrfx") && body.get(4) != Some(&0) => {
                return Err("colour transforms outside the standard are not decoded".into());
            }
            0xDA => {
                let frame = frame.as_ref().ok_or("a scan stands before the frame header")?;
                let (members, near, interleave) = scan_header(body, frame)?;
                if members.iter().any(|c| std::mem::replace(&mut done[*c], true)) {
                    return Err("a component is coded twice".into());
                }
                let coding = Coding::new(frame.precision, near, preset)?;
                let scan = Scan { coding, members: &members, interleave, rows, columns };
                at += scan.decode(&bytes[at..], &mut image, components)?;
                if done.iter().all(|d| *d) {
                    return Ok(image);
                }
            }
            0xD9 => return Err("the image ends before all its components".into()),
            0xC0..=0xCF => return Err("it is JPEG, but not JPEG-LS".into()),
            _ => {}
        }
    }
}

/// The next marker and the body of its segment.
fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<(u8, &'a [u8]), String> {
    let cut = || "the JPEG-LS data stop before their end".to_string();
    if bytes.get(*at).ok_or_else(cut)? != &0xFF {
        return Err(format!("no marker at byte {at} of the JPEG-LS data"));
    }
    while bytes.get(*at) == Some(&0xFF) {
        *at += 1;
    }
    let marker = *bytes.get(*at).ok_or_else(cut)?;
    *at += 1;
    if marker == 0xD9 {
        return Ok((marker, &[]));
    }
    let length =
        bytes.get(*at..*at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))).ok_or_else(cut)?;
    let body = bytes.get(*at + 2..*at + length.max(2)).ok_or_else(cut)?;
    *at += length.max(2);
    Ok((marker, body))
}

fn word(body: &[u8], at: usize) -> Option<usize> {
    body.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
}

fn frame_header(body: &[u8]) -> Result<Frame, String> {
    let cut = "the JPEG-LS frame header is cut off";
    let precision = *body.first().ok_or(cut)?;
    let (rows, columns) = (word(body, 1).ok_or(cut)?, word(body, 3).ok_or(cut)?);
    let count = usize::from(*body.get(5).ok_or(cut)?);
    let parts = body.get(6..6 + 3 * count).ok_or(cut)?;
    if !(2..=16).contains(&precision) {
        return Err(format!("JPEG-LS samples of {precision} bits"));
    }
    if parts.chunks_exact(3).any(|c| c[1] != 0x11) {
        return Err("subsampled components are not decoded".into());
    }
    Ok(Frame { precision, rows, columns, components: parts.chunks_exact(3).map(|c| c[0]).collect() })
}

/// MAXVAL, T1, T2, T3 and RESET; 0 stands for the default.
fn preset_parameters(body: &[u8]) -> Result<[i32; 5], String> {
    match body.first() {
        Some(1) => {
            let mut values = [0; 5];
            for (i, v) in values.iter_mut().enumerate() {
                *v = word(body, 1 + 2 * i).ok_or("preset coding parameters are cut off")? as i32;
            }
            Ok(values)
        }
        _ => Err("mapping tables and oversize images are not decoded".into()),
    }
}

/// How the components of a scan are interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interleave {
    /// One component alone.
    None,
    /// A line of each in turn.
    Line,
    /// A sample of each in turn.
    Sample,
}

/// The components of a scan by their place in the frame, the allowed error, and the interleaving.
fn scan_header(body: &[u8], frame: &Frame) -> Result<(Vec<usize>, i32, Interleave), String> {
    let cut = "the JPEG-LS scan header is cut off";
    let count = usize::from(*body.first().ok_or(cut)?);
    let parts = body.get(1..1 + 2 * count).ok_or(cut)?;
    let rest = body.get(1 + 2 * count..4 + 2 * count).ok_or(cut)?;
    let place = |id: u8| frame.components.iter().position(|c| *c == id);
    let members = parts.chunks_exact(2).map(|p| if p[1] == 0 { place(p[0]) } else { None });
    let members: Option<Vec<usize>> = members.collect();
    let members = members.ok_or("a scan names an unknown component or a mapping table")?;
    let interleave = match (rest[1], count) {
        (_, 0) => return Err("a scan without components".into()),
        (0, 1) => Interleave::None,
        (1, _) => Interleave::Line,
        (2, _) => Interleave::Sample,
        (other, _) => return Err(format!("interleaving {other} of {count} components")),
    };
    if rest[2] != 0 {
        return Err("point transforms are not decoded".into());
    }
    Ok((members, i32::from(rest[0]), interleave))
}

#[cfg(test)]
mod tests {
    use super::decode;

    /// The example of annex H.3: a 4×4 image of 8 bits, which starts in run mode and uses both modes.
    const EXAMPLE: [u8; 57] = [
        0xFF, 0xD8, 0xFF, 0xF7, 0x00, 0x0B, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11, 0x00, 0xFF, 0xDA,
        0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0xC0, 0x00, 0x00, 0x6C, 0x80, 0x20, 0x8E, 0x01, 0xC0,
        0x00, 0x00, 0x57, 0x40, 0x00, 0x00, 0x6E, 0xE6, 0x00, 0x00, 0x01, 0xBC, 0x18, 0x00, 0x00, 0x05, 0xD8,
        0x00, 0x00, 0x91, 0x60, 0xFF, 0xD9,
    ];

    #[test]
    fn the_example_of_the_standard_is_decoded() {
        let want = [0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145];
        assert_eq!(decode(&EXAMPLE, 4, 4, 1).unwrap(), want);
    }

    /// Streams that CharLS made, with what it decodes (`tests/reference/charls.py`).
    const CHARLS: &str = include_str!("../../tests/reference/charls.tsv");

    #[test]
    fn every_mode_is_decoded_as_charls_decodes_it() {
        let mut failed = Vec::new();
        for row in CHARLS.lines().skip(1) {
            let f: Vec<&str> = row.split('\t').collect();
            let number = |i: usize| f[i].parse::<usize>().unwrap();
            let hex = |i: usize| u8::from_str_radix(&f[5][i..i + 2], 16).unwrap();
            let stream: Vec<u8> = (0..f[5].len()).step_by(2).map(hex).collect();
            let want: Vec<u16> = f[6].split(',').map(|v| v.parse().unwrap()).collect();
            let decoded = decode(&stream, number(1), number(2), number(3));
            if decoded.as_ref() != Ok(&want) {
                failed.push(format!(
                    "{}: {:?}",
                    f[0],
                    decoded.map(|v| v.iter().zip(&want).position(|(a, b)| a != b))
                ));
            }
            // Bent streams are refused or give another image; they do not panic.
            for at in 2..stream.len() {
                let mut bent = stream.clone();
                bent[at] ^= 1 << (at % 8);
                let other = decode(&bent, number(1), number(2), number(3));
                assert!(other.is_err() || other.is_ok_and(|v| v.len() == want.len()));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn cut_and_foreign_data_are_refused() {
        assert!((0..EXAMPLE.len() - 3).all(|n| decode(&EXAMPLE[..n], 4, 4, 1).is_err()));
        assert!(decode(&EXAMPLE, 4, 5, 1).is_err());
        assert!(decode(&EXAMPLE, 4, 4, 3).is_err());
        for (at, byte) in [(3, 0xC0), (6, 17), (13, 0x21), (22, 200), (23, 3), (24, 1)] {
            let mut bent = EXAMPLE;
            bent[at] = byte;
            assert!(decode(&bent, 4, 4, 1).is_err(), "byte {at} = {byte}");
        }
    }
}
