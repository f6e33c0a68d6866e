//! Extended sequential JPEG with samples of 12 bits, of one component (ITU-T T.81): what the general
//! decoder leaves out. Colours, arithmetic coding and progressive frames of 12 bits are refused.

use std::f64::consts::PI;

/// From the order of the code to row · 8 + column (figure A.6).
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Half the range of the samples, which the transform is centred on.
const MIDDLE: f64 = 2048.0;

/// A Huffman table (annex C): codes of a length follow each other.
#[derive(Clone, Default)]
struct Huffman {
    /// For each length the first code, the place of its value, and the number of codes.
    lengths: [(i32, usize, i32); 17],
    values: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8], values: &[u8]) -> Self {
        let mut lengths = [(0, 0, 0); 17];
        let (mut code, mut place) = (0, 0);
        for (length, count) in lengths.iter_mut().skip(1).zip(counts) {
            *length = (code, place, i32::from(*count));
            code = (code + i32::from(*count)) << 1;
            place += usize::from(*count);
        }
        Self { lengths, values: values.to_vec() }
    }

    fn decode(&self, bits: &mut Bits<'_>) -> Result<u8, String> {
        let mut code = 0;
        for (first, place, count) in &self.lengths[1..] {
            code = code << 1 | bits.bit()?;
            if code - first < *count {
                return self.values.get(place + (code - first) as usize).copied().ok_or_else(no_code);
            }
        }
        Err(no_code())
    }
}

fn no_code() -> String {
    "the JPEG data hold a code that no table has".into()
}

/// Reads the bits of a scan, in which a zero follows each byte 0xFF.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u8,
    count: u8,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<i32, String> {
        if self.count == 0 {
            let byte = self.bytes.get(self.at).copied();
            let stuffed = byte == Some(0xFF);
            let fine = !stuffed || self.bytes.get(self.at + 1) == Some(&0);
            self.held = byte.filter(|_| fine).ok_or("the JPEG scan stops before its end")?;
            self.at += if stuffed { 2 } else { 1 };
            self.count = 8;
        }
        self.count -= 1;
        Ok(i32::from(self.held >> self.count & 1))
    }

    /// A signed value of a category (F.2.2.1).
    fn value(&mut self, category: u8) -> Result<i32, String> {
        let mut value = 0;
        for _ in 0..category {
            value = value << 1 | self.bit()?;
        }
        let negative = category > 0 && value < 1 << (category - 1);
        Ok(if negative { value + 1 - (1 << category) } else { value })
    }

    /// Goes past a restart marker.
    fn restart(&mut self) -> Result<(), String> {
        self.count = 0;
        match self.bytes.get(self.at..self.at + 2) {
            Some([0xFF, 0xD0..=0xD7]) => {
                self.at += 2;
                Ok(())
            }
            _ => Err("a restart marker is missing".into()),
        }
    }
}

/// What the segments ahead of the scan say.
#[derive(Default)]
struct Tables {
    steps: [Option<[f64; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart: usize,
    /// The quantisation table of the component.
    quantised_by: Option<usize>,
}

/// Decodes a frame that was found to have 12 bits, one component and that size.
///
/// # Errors
/// In words, when the data are cut off, damaged, or use what is not decoded here.
pub(super) fn decode(bytes: &[u8], rows: usize, columns: usize) -> Result<Vec<i32>, String> {
    let mut tables = Tables::default();
    let mut at = 2;
    loop {
        while bytes.get(at) == Some(&0xFF) && bytes.get(at + 1) == Some(&0xFF) {
            at += 1;
        }
        let head = bytes.get(at..at + 4).ok_or("the JPEG header is cut off")?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]])).max(2);
        let body = bytes.get(at + 4..at + 2 + length).ok_or("the JPEG header is cut off")?;
        at += 2 + length;
        match head[1] {
            0xDB => tables.quantisation(body)?,
            0xC4 => tables.huffman(body)?,
            0xC1 => tables.quantised_by = body.get(8).map(|t| usize::from(*t)),
            0xDD => {
                tables.restart = body.get(..2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])))
            }
            0xDA => return tables.scan(body, &bytes[at..], rows, columns),
            0xC0 | 0xC2..=0xCF => return Err("it is no extended sequential JPEG".into()),
            _ => {}
        }
    }
}

impl Tables {
    fn quantisation(&mut self, mut body: &[u8]) -> Result<(), String> {
        let cut = "a quantisation table is cut off";
        while let Some((head, rest)) = body.split_first() {
            let bytes = if head >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * bytes).ok_or(cut)?;
            let number = |v: &[u8]| v.iter().fold(0.0, |n, b| n * 256.0 + f64::from(*b));
            let mut table = [0.0; 64];
            table.iter_mut().zip(values.chunks_exact(bytes)).for_each(|(t, v)| *t = number(v));
            *self.steps.get_mut(usize::from(head & 15)).ok_or(cut)? = Some(table);
            body = &rest[64 * bytes..];
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Result<(), String> {
        let cut = "a Huffman table is cut off";
        while let Some((head, rest)) = body.split_first() {
            let counts = rest.get(..16).ok_or(cut)?;
            let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
            let values = rest.get(16..16 + total).ok_or(cut)?;
            let kind = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *kind.get_mut(usize::from(head & 15)).ok_or(cut)? = Some(Huffman::new(counts, values));
            body = &rest[16 + total..];
        }
        Ok(())
    }

    /// The only scan: blocks of 8×8 row by row (annex F.2).
    fn scan(&self, header: &[u8], data: &[u8], rows: usize, columns: usize) -> Result<Vec<i32>, String> {
        let [1, _, tables, 0, 63, 0] = *header else {
            return Err("a scan other than one of a single component, all at once".into());
        };
        let missing = "the JPEG frame names a table that is not there";
        let table = |all: &[Option<Huffman>; 4], i: u8| all.get(usize::from(i)).cloned().flatten();
        let dc = table(&self.dc, tables >> 4).ok_or(missing)?;
        let ac = table(&self.ac, tables & 15).ok_or(missing)?;
        let steps = self.quantised_by.and_then(|t| *self.steps.get(t)?).ok_or(missing)?;
        let waves = waves();
        let mut bits = Bits { bytes: data, at: 0, held: 0, count: 0 };
        let mut image = vec![0; rows * columns];
        let mut previous = 0i64;
        let across = columns.div_ceil(8);
        for block in 0..across * rows.div_ceil(8) {
            if self.restart > 0 && block > 0 && block % self.restart == 0 {
                bits.restart()?;
                previous = 0;
            }
            let category = dc.decode(&mut bits)?;
            if category > 15 {
                return Err(no_code());
            }
            previous += i64::from(bits.value(category)?);
            let mut coefficients = [0.0; 64];
            coefficients[0] = previous as f64 * steps[0];
            let mut k = 1;
            while k < 64 {
                let code = ac.decode(&mut bits)?;
                let (zeros, category) = (usize::from(code >> 4), code & 15);
                if category == 0 && zeros < 15 {
                    break;
                }
                k += zeros;
                if category > 0 {
                    let place = ZIGZAG.get(k).ok_or_else(no_code)?;
                    coefficients[*place] = f64::from(bits.value(category)?) * steps[k];
                }
                k += 1;
            }
            let samples = inverse(&coefficients, &waves);
            let (top, left) = (block / across * 8, block % across * 8);
            for (y, line) in samples.chunks_exact(8).enumerate().take(rows - top) {
                for (x, sample) in line.iter().enumerate().take(columns - left) {
                    let value = (sample + MIDDLE).round().clamp(0.0, 2.0 * MIDDLE - 1.0);
                    image[(top + y) * columns + left + x] = value as i32;
                }
            }
        }
        Ok(image)
    }
}

/// ½ C(u) cos((2x + 1) u π / 16) at x · 8 + u.
fn waves() -> [f64; 64] {
    std::array::from_fn(|i| {
        let (x, u) = ((i / 8) as f64, (i % 8) as f64);
        let scale = if i % 8 == 0 { 0.5f64.sqrt() } else { 1.0 };
        0.5 * scale * ((2.0 * x + 1.0) * u * PI / 16.0).cos()
    })
}

/// The inverse cosine transform of a block (A.3.3), along rows and then along columns.
fn inverse(coefficients: &[f64; 64], waves: &[f64; 64]) -> [f64; 64] {
    let product = |place: usize, value: &dyn Fn(usize) -> f64| -> f64 {
        (0..8).map(|u| waves[place * 8 + u] * value(u)).sum()
    };
    let half: [f64; 64] = std::array::from_fn(|i| product(i % 8, &|u| coefficients[i / 8 * 8 + u]));
    std::array::from_fn(|i| product(i / 8, &|v| half[v * 8 + i % 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of 3×10 samples in two blocks: a constant of `first`, then a step of the mean.
    fn frame() -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0];
        bytes.extend([8; 64]);
        bytes.extend([0xFF, 0xC1, 0, 11, 12, 0, 3, 0, 10, 1, 1, 0x11, 0]);
        // One-bit codes: DC category 3 or 0; AC end of block.
        bytes.extend([0xFF, 0xC4, 0, 21, 0x00, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
        bytes.extend([0xFF, 0xC4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0x00, 0, 63, 0]);
        // 0 110 0: a difference of 6, end. 0 001 0: a difference of −6, end. Ones fill up.
        bytes.extend([0b0110_0000, 0b1011_1111, 0xFF, 0xD9]);
        bytes
    }

    #[test]
    fn blocks_of_a_constant_have_their_mean() {
        // A difference of 6 in steps of 8 is 48, and the transform divides by 8.
        let image = decode(&frame(), 3, 10).unwrap();
        assert_eq!(image.len(), 30);
        for line in image.chunks(10) {
            assert_eq!(line, [[2054; 8].as_slice(), &[2048; 2]].concat());
        }
    }

    #[test]
    fn cut_frames_are_refused() {
        let bytes = frame();
        assert!((2..bytes.len() - 3).all(|n| decode(&bytes[..n], 3, 10).is_err()));
        // A table that is not there.
        let mut bent = bytes.clone();
        let scan = bytes.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
        bent[scan + 6] = 0x33;
        assert!(decode(&bent, 3, 10).is_err());
    }

    #[test]
    fn the_transform_is_that_of_the_definition() {
        let mut coefficients = [0.0; 64];
        coefficients[2 * 8 + 3] = 100.0;
        let samples = inverse(&coefficients, &waves());
        for (i, sample) in samples.iter().enumerate() {
            let (y, x) = ((i / 8) as f64, (i % 8) as f64);
            let want =
                25.0 * ((2.0 * x + 1.0) * 3.0 * PI / 16.0).cos() * ((2.0 * y + 1.0) * 2.0 * PI / 16.0).cos();
            assert!((sample - want).abs() < 1e-9, "{i}");
        }
    }
}
