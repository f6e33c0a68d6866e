//! Rounding f32 numbers to pairs of bf16 numbers.
//!
//! A pair is a 32-bit word: the first number in the low half. Rounding is to the nearest, ties to
//! even; NaN stays NaN. What exceeds 3.39e38 becomes infinite; with AVX-512, what is below 1.2e-38
//! becomes 0.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;

use super::level::Level;

/// Words of a tile's row: 16 pairs.
pub(super) const ROW: usize = 16;

/// Two numbers, rounded.
pub(super) fn pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

/// The numbers of a pair.
#[cfg(test)]
pub(super) fn unpair(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

/// Pairs of neighbours: the i-th [`ROW`] of them to `to[i · step..]`, the last one filled up with
/// zeros.
pub(super) fn neighbours(level: Level, x: &[f32], to: &mut [u32], step: usize) {
    #[cfg(target_arch = "x86_64")]
    if level.has_vectors() {
        // SAFETY: this level names processors with these instructions.
        return unsafe { neighbours_avx512(x, to, step) };
    }
    let _ = level;
    for (x, to) in x.chunks(2 * ROW).zip(to.chunks_mut(step)) {
        neighbours_of_row(x, &mut to[..ROW]);
    }
}

fn neighbours_of_row(x: &[f32], to: &mut [u32]) {
    to.fill(0);
    for (x, to) in x.chunks(2).zip(to) {
        *to = pair(x[0], x.get(1).copied().unwrap_or(0.0));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn neighbours_avx512(x: &[f32], to: &mut [u32], step: usize) {
    for (x, to) in x.chunks(2 * ROW).zip(to.chunks_mut(step)) {
        let to = &mut to[..ROW];
        if x.len() < 2 * ROW {
            neighbours_of_row(x, to);
            continue;
        }
        // SAFETY: 32 numbers are read and 16 words written, which the slices hold.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[ROW..].as_ptr()));
            let words: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
        }
    }
}

/// Pairs of numbers that stand in two rows one above the other, to all of `to`.
pub(super) fn interleave(level: Level, above: &[f32], below: &[f32], to: &mut [u32]) {
    let n = to.len();
    let (above, below) = (&above[..n], &below[..n]);
    #[cfg(target_arch = "x86_64")]
    if level.has_vectors() {
        // SAFETY: this level names processors with these instructions.
        return unsafe { interleave_avx512(above, below, to) };
    }
    let _ = level;
    interleave_scalars(above, below, to);
}

fn interleave_scalars(above: &[f32], below: &[f32], to: &mut [u32]) {
    for (to, (a, b)) in to.iter_mut().zip(above.iter().zip(below)) {
        *to = pair(*a, *b);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn interleave_avx512(above: &[f32], below: &[f32], to: &mut [u32]) {
    let whole = to.len() / ROW * ROW;
    let (vectors, rest) = to.split_at_mut(whole);
    for ((to, a), b) in
        vectors.chunks_exact_mut(ROW).zip(above.chunks_exact(ROW)).zip(below.chunks_exact(ROW))
    {
        // SAFETY: 16 numbers of each row are read and 16 words written, which the slices hold.
        unsafe {
            let a: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(a.as_ptr())));
            let b: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(b.as_ptr())));
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b));
            let words = _mm512_or_si512(_mm512_cvtepu16_epi32(a), high);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
        }
    }
    interleave_scalars(&above[whole..], &below[whole..], rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::bf16::level::levels;

    #[test]
    fn every_level_rounds_alike() {
        let mut x: Vec<f32> = (0..77).map(|i| (i as f32 * 0.71).sin() * 10f32.powi(i % 9 - 4)).collect();
        // Ties, both ways, and the ends.
        x.extend([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.0, 3.4e38, f32::INFINITY, f32::NEG_INFINITY]);
        x.push(f32::NAN);
        let y: Vec<f32> = x.iter().rev().copied().collect();
        let bits = |x: f32| if x.is_nan() { None } else { Some(x.to_bits()) };
        for level in levels() {
            let mut to = vec![u32::MAX; 3 * 40];
            neighbours(level, &x, &mut to, 40);
            for i in 0..96 {
                let [a, b] = unpair(to[i / 32 * 40 + i % 32 / 2]);
                let expected = x.get(i).map_or(0.0, |x| bf16::from_f32(*x).to_f32());
                assert_eq!(bits(if i % 2 == 0 { a } else { b }), bits(expected), "{level:?} {i}");
            }
            let mut to = vec![u32::MAX; x.len()];
            interleave(level, &x, &y, &mut to);
            for (word, (x, y)) in to.iter().zip(x.iter().zip(&y)) {
                let expected = [*x, *y].map(|v| bits(bf16::from_f32(v).to_f32()));
                assert_eq!(unpair(*word).map(bits), expected, "{level:?}");
            }
        }
    }
}
