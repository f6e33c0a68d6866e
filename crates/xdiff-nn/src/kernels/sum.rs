//! Sums with one order, whatever the machine.

use super::vector::widest;

/// Lanes in which a long sum is kept.
const LANES: usize = 16;
/// Values that are summed in f32 before they are added to an f64 total.
const BLOCK: usize = 4096;

/// The sum of `x`: in lanes of f32 by blocks, the blocks in f64.
pub(super) fn sum(x: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let mut part = 0.0;
        block_sum(block, &mut part);
        total += f64::from(part);
    }
    total
}

widest! { fn block_sum(x: &[f32], out: &mut f32) = block_sum_body; }
widest! {
    /// y += a · x for slices of one length.
    pub(super) fn axpy(y: &mut [f32], a: f32, x: &[f32]) = axpy_body;
}

#[inline(always)]
fn block_sum_body(x: &[f32], out: &mut f32) {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (l, v) in lanes.iter_mut().zip(chunk) {
            *l += v;
        }
    }
    *out = lanes.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>();
}

#[inline(always)]
fn axpy_body(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 17, 4096, 10_000] {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 2.5).collect();
            let exact: f64 = x.iter().map(|v| f64::from(*v)).sum();
            assert_eq!(sum(&x), exact, "{n}");
        }
    }
}
