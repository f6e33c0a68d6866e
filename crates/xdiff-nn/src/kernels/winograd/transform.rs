//! The transforms of F(m×m, 3×3) in one dimension, for m = 2 and m = 4.
//!
//! With n = m + 2 points (0, 1, −1, ∞ for m = 2; 0, ±5/8, ±3/2, ∞ for m = 4) the m outputs of a
//! filter g of three taps over n inputs d are Aᵀ[(G g) ∘ (Bᵀ d)]; in two dimensions each matrix is
//! applied to rows and columns. Row i of Bᵀ holds the coefficients of Π over j ≠ i of (x − pⱼ), row i
//! of G those of 1, pᵢ, pᵢ² divided by Π (pᵢ − pⱼ), and column i of Aᵀ the powers of pᵢ (A. Lavin,
//! S. Gray, "Fast algorithms for convolutional neural networks", 2016). The points ±5/8, ±3/2 lose
//! two to four times less precision than the customary ±1, ±2 at the same cost.

use crate::kernels::simd::Vector;

/// Points of the larger tile: 0, ±P, ±Q, ∞.
const P: f64 = 0.625;
const Q: f64 = 1.5;

/// Points of one dimension at most.
pub(super) const POINTS: usize = 6;

/// A column of points, of which m + 2 are in use.
pub(super) type Column<V> = [V; POINTS];

/// The matrix G, (m + 2) × 3, filled up with zeros.
pub(super) fn filter_matrix(m: usize) -> [[f32; 3]; POINTS] {
    let points: &[f64] = if m == 2 { &[0.0, 1.0, -1.0] } else { &[0.0, P, -P, Q, -Q] };
    let mut g = [[0.0; 3]; POINTS];
    for (i, p) in points.iter().enumerate() {
        let others = points.iter().enumerate().filter(|(j, _)| *j != i);
        let scale: f64 = others.map(|(_, other)| p - other).product();
        g[i] = [1.0 / scale, p / scale, p * p / scale].map(|v| v as f32);
    }
    g[m + 1] = [0.0, 0.0, 1.0];
    g
}

#[inline(always)]
fn c<V: Vector>(value: f64) -> V {
    V::splat(value as f32)
}

#[inline(always)]
fn zeros<V: Vector>() -> Column<V> {
    [V::splat(0.0); POINTS]
}

/// Bᵀ d: m + 2 inputs to m + 2 points.
#[inline(always)]
pub(super) fn input<V: Vector, const M: usize>(d: &Column<V>) -> Column<V> {
    let mut r = zeros();
    if M == 2 {
        r[0] = d[2].sub(d[0]);
        r[1] = d[1].add(d[2]);
        r[2] = d[2].sub(d[1]);
        r[3] = d[3].sub(d[1]);
    } else {
        // The polynomials of a pair of points share their even and odd parts.
        let (p2, q2) = (P * P, Q * Q);
        r[0] = d[0].fma(c(p2 * q2), d[2].fma(c(-(p2 + q2)), d[4]));
        r[5] = d[1].fma(c(p2 * q2), d[3].fma(c(-(p2 + q2)), d[5]));
        let (even, odd) = (d[2].fma(c(-q2), d[4]), d[1].fma(c(-q2), d[3]));
        r[1] = odd.fma(c(P), even);
        r[2] = odd.fma(c(-P), even);
        let (even, odd) = (d[2].fma(c(-p2), d[4]), d[1].fma(c(-p2), d[3]));
        r[3] = odd.fma(c(Q), even);
        r[4] = odd.fma(c(-Q), even);
    }
    r
}

/// Aᵀ x: m + 2 points to m outputs.
#[inline(always)]
pub(super) fn output<V: Vector, const M: usize>(x: &Column<V>) -> Column<V> {
    let mut r = zeros();
    let (sum, difference) = (x[1].add(x[2]), x[1].sub(x[2]));
    if M == 2 {
        r[0] = x[0].add(sum);
        r[1] = difference.add(x[3]);
    } else {
        let (sum2, difference2) = (x[3].add(x[4]), x[3].sub(x[4]));
        let powers = |n: i32, a: V, b: V| b.fma(c(Q.powi(n)), a.mul(c(P.powi(n))));
        r[0] = x[0].add(sum.add(sum2));
        r[1] = powers(1, difference, difference2);
        r[2] = powers(2, sum, sum2);
        r[3] = x[5].add(powers(3, difference, difference2));
    }
    r
}

/// A y: m outputs to m + 2 points, for gradients.
#[inline(always)]
pub(super) fn output_transposed<V: Vector, const M: usize>(y: &Column<V>) -> Column<V> {
    let mut r = zeros();
    r[0] = y[0];
    r[M + 1] = y[M - 1];
    if M == 2 {
        r[1] = y[0].add(y[1]);
        r[2] = y[0].sub(y[1]);
    } else {
        for (i, p) in [(1, P), (3, Q)] {
            let even = y[2].fma(c(p * p), y[0]);
            let odd = y[3].fma(c(p * p), y[1]).mul(c(p));
            r[i] = even.add(odd);
            r[i + 1] = even.sub(odd);
        }
    }
    r
}
