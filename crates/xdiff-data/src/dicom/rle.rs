//! RLE lossless (PS3.5, annex G): up to 15 segments, each a plane of bytes packed by runs.

/// Undoes the packing of one frame: samples of `bytes` bytes, pixel by pixel, little endian.
///
/// A segment is a plane of one byte of one sample, the high byte first.
///
/// # Errors
/// In words, when the frame has other segments than `samples` times `bytes`, or one is too short.
pub(super) fn decode(frame: &[u8], pixels: usize, samples: usize, bytes: usize) -> Result<Vec<u8>, String> {
    let word = |i: usize| -> Option<usize> {
        let b = frame.get(4 * i..4 * i + 4)?;
        Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let planes = samples * bytes;
    let segments = word(0).ok_or("the RLE header is cut off")?;
    if segments != planes || frame.len() < 64 {
        return Err(format!("{segments} RLE segments, but {planes} are needed"));
    }
    let mut out = vec![0; pixels * planes];
    for segment in 0..planes {
        let start = word(segment + 1).unwrap_or(0);
        let end = if segment + 1 < planes { word(segment + 2).unwrap_or(0) } else { frame.len() };
        let packed = frame.get(start..end).filter(|_| start >= 64);
        let packed = packed.ok_or_else(|| format!("RLE segment {segment} from byte {start} to {end}"))?;
        let (sample, byte) = (segment / bytes, bytes - 1 - segment % bytes);
        let places = out.iter_mut().skip(sample * bytes + byte).step_by(planes);
        let unpacked = unpack(packed, places);
        if unpacked < pixels {
            return Err(format!("RLE segment {segment} has {unpacked} bytes, but {pixels} are needed"));
        }
    }
    Ok(out)
}

/// Unpacks runs until the places are full or the input ends; how many places were filled.
fn unpack<'a>(packed: &[u8], mut places: impl Iterator<Item = &'a mut u8>) -> usize {
    let (mut at, mut filled) = (0, 0);
    while let Some(head) = packed.get(at) {
        let head = *head as i8;
        at += 1;
        if head == -128 {
            continue;
        }
        let literal = head >= 0;
        let count = usize::from(head.unsigned_abs()) + 1;
        for i in 0..count {
            let Some(byte) = packed.get(at + if literal { i } else { 0 }) else { return filled };
            let Some(place) = places.next() else { return filled };
            *place = *byte;
            filled += 1;
        }
        at += if literal { count } else { 1 };
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(segments: &[&[u8]]) -> Vec<u8> {
        let mut header = vec![segments.len() as u32];
        let mut at = 64;
        for s in segments {
            header.push(at);
            at += s.len() as u32;
        }
        header.resize(16, 0);
        let mut bytes: Vec<u8> = header.iter().flat_map(|w| w.to_le_bytes()).collect();
        segments.iter().for_each(|s| bytes.extend(*s));
        bytes
    }

    #[test]
    fn runs_and_literals_are_laid_into_their_bytes() {
        // High bytes 1 1 1 1, low bytes 5 6 7 7, with an idle byte.
        let bytes = frame(&[&[0xFD, 1], &[0x80, 1, 5, 6, 0xFF, 7]]);
        assert_eq!(decode(&bytes, 4, 1, 2).unwrap(), [5, 1, 6, 1, 7, 1, 7, 1]);
        let colour = frame(&[&[0xFF, 1], &[0xFF, 2], &[1, 3, 4]]);
        assert_eq!(decode(&colour, 2, 3, 1).unwrap(), [1, 2, 3, 1, 2, 4]);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = frame(&[&[0xFD, 1], &[1, 5, 6, 0xFF, 7]]);
        assert!((0..bytes.len()).all(|n| decode(&bytes[..n], 4, 1, 2).is_err()));
        let mut wild = bytes.clone();
        wild[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&wild, 4, 1, 2).is_err());
        wild[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode(&wild, 4, 1, 2).is_err());
    }
}
