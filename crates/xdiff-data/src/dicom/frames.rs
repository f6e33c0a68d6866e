//! Which bytes belong to which frame.

use std::ops::Range;

use super::fault::{DicomFault, Outcome};
use super::layout::PixelLayout;
use super::structure::Pixels;

/// That there are as many bytes as the frames of the header need, before any is decoded.
pub(super) fn check(layout: &PixelLayout, pixels: &Pixels) -> Outcome<()> {
    let (range, bits) = match pixels {
        Pixels::None => {
            return Err(DicomFault::Missing {
                name: "PixelData",
                tag: "(7FE0,0010)".into(),
                why: "the file has no image, or was cut off ahead of it",
            });
        }
        Pixels::Double => {
            return Err(DicomFault::Unsupported {
                what: "pixel data of 64-bit floats".into(),
                hint: "store them as 32-bit floats or integers",
            });
        }
        Pixels::Fragments { fragments, .. } => {
            if fragments.len() < layout.frames {
                return Err(DicomFault::Truncated {
                    what: format!("pixel data of {} frames (one fragment each)", layout.frames),
                    needed: layout.frames as u64,
                    found: fragments.len() as u64,
                });
            }
            return Ok(());
        }
        Pixels::Native { range, .. } => (range, layout.frame_bits()),
        Pixels::Float(range) => (range, layout.stored_samples() as u64 * 32),
    };
    let needed = bits.saturating_mul(layout.frames as u64).div_ceil(8);
    if (range.len() as u64) < needed {
        return Err(DicomFault::Truncated {
            what: format!("pixel data of {} frames of {}×{}", layout.frames, layout.rows, layout.columns),
            needed,
            found: range.len() as u64,
        });
    }
    Ok(())
}

/// The bytes of a compressed frame. Fragments are joined where there are more than frames: by the
/// offset table if there is one, else by the marks with which codestreams begin.
pub(super) fn encapsulated(
    data: &[u8],
    offsets: &Range<usize>,
    fragments: &[Range<usize>],
    frame: usize,
    frames: usize,
) -> Outcome<Vec<u8>> {
    if fragments.len() == frames {
        return Ok(data[fragments[frame].clone()].to_vec());
    }
    let starts = if frames == 1 {
        vec![0]
    } else {
        from_table(data, offsets, fragments, frames)
            .or_else(|| from_marks(data, fragments, frames))
            .ok_or_else(|| {
                DicomFault::malformed(format!(
                    "{} fragments cannot be told apart into {frames} frames, since there is no usable offset table",
                    fragments.len()
                ))
            })?
    };
    let end = starts.get(frame + 1).copied().unwrap_or(fragments.len());
    Ok(fragments[starts[frame]..end].iter().flat_map(|r| &data[r.clone()]).copied().collect())
}

/// The first fragment of each frame by the basic offset table, whose offsets count from the first
/// fragment's item.
fn from_table(
    data: &[u8],
    table: &Range<usize>,
    fragments: &[Range<usize>],
    frames: usize,
) -> Option<Vec<usize>> {
    let offsets: Vec<usize> = data[table.clone()]
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let origin = fragments.first()?.start;
    let place = |o: &usize| fragments.binary_search_by_key(&(o + origin), |r| r.start).ok();
    let starts: Vec<usize> = offsets.iter().map(place).collect::<Option<_>>()?;
    sound(starts, frames)
}

fn from_marks(data: &[u8], fragments: &[Range<usize>], frames: usize) -> Option<Vec<usize>> {
    let begins = |r: &Range<usize>| {
        let head = &data[r.clone()];
        head.starts_with(&[0xFF, 0xD8, 0xFF]) || head.starts_with(&[0xFF, 0x4F, 0xFF, 0x51])
    };
    sound((0..fragments.len()).filter(|i| begins(&fragments[*i])).collect(), frames)
}

fn sound(starts: Vec<usize>, frames: usize) -> Option<Vec<usize>> {
    let rising = starts.windows(2).all(|w| w[0] < w[1]);
    (starts.len() == frames && starts.first() == Some(&0) && rising).then_some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three fragments of two frames: items of 8 bytes ahead of each.
    fn fixture(marks: bool) -> (Vec<u8>, Vec<Range<usize>>) {
        let mark: &[u8] = if marks { &[0xFF, 0xD8, 0xFF, 1] } else { &[9, 9, 9, 1] };
        let data = [&[0, 0, 0, 0, 24, 0, 0, 0][..], &[0; 8], mark, &[0; 8], &[2; 4], &[0; 8], mark].concat();
        (data, vec![16..20, 28..32, 40..44])
    }

    #[test]
    fn fragments_are_joined_by_table_or_mark() {
        for (marks, table, fine) in
            [(false, 0..8, true), (true, 0..0, true), (false, 0..0, false), (true, 0..4, true)]
        {
            let (data, fragments) = fixture(marks);
            let first = encapsulated(&data, &table, &fragments, 0, 2);
            assert_eq!(first.is_ok(), fine, "{marks} {table:?}");
            if fine {
                assert_eq!(first.unwrap()[3..], [1, 2, 2, 2, 2]);
                assert_eq!(encapsulated(&data, &table, &fragments, 1, 2).unwrap()[3..], [1]);
            }
        }
        let (data, fragments) = fixture(false);
        assert_eq!(encapsulated(&data, &(0..0), &fragments, 0, 1).unwrap().len(), 12);
    }
}
