//! Packing of weights and columns for the products of [`panels`](super::panels).

use super::buffer::Scratch;
use super::dots::Rows;
use super::panels::PANEL;
use super::simd::{Kernel, Vector, dispatch, prefetch};

/// How many terms ahead rows of weights are asked for while they are packed.
const AHEAD: usize = 64;

/// Packs `rows` rows of `depth` terms, of which (row, term) is `weight(row, term)`; the last panel
/// is filled up with zeros.
pub(crate) fn pack(rows: usize, depth: usize, weight: impl Fn(usize, usize) -> f32) -> Scratch {
    let mut packed = Scratch::take(rows.div_ceil(PANEL) * depth * PANEL);
    for (panel, values) in packed.chunks_exact_mut(depth * PANEL).enumerate() {
        for (term, lanes) in values.chunks_exact_mut(PANEL).enumerate() {
            for (lane, value) in lanes.iter_mut().enumerate() {
                let row = panel * PANEL + lane;
                *value = if row < rows { weight(row, term) } else { 0.0 };
            }
        }
    }
    packed
}

/// Packs `rows` rows of `depth` terms that lie one behind the other, as [`pack`] does.
pub(crate) fn pack_rows(values: &[f32], rows: usize, depth: usize) -> Scratch {
    let mut packed = Scratch::take(rows.div_ceil(PANEL) * depth * PANEL);
    dispatch(PackedRows { rows: Rows { values, count: rows, stride: depth }, to: &mut packed });
    packed
}

/// Packs rows of `terms` numbers for each of `taps` taps, as [`pack`] does with terms · taps terms:
/// number t of row r at tap k is values[t · stride + r · taps + k].
pub(crate) fn pack_columns(
    values: &[f32],
    (rows, taps): (usize, usize),
    terms: usize,
    stride: usize,
) -> Scratch {
    let mut packed = Scratch::take(rows.div_ceil(PANEL) * terms * taps * PANEL);
    for (panel, to) in packed.chunks_exact_mut(terms * taps * PANEL).enumerate() {
        let first = panel * PANEL;
        let count = PANEL.min(rows - first);
        for (term, to) in to.chunks_exact_mut(taps * PANEL).enumerate() {
            let from = &values[term * stride + first * taps..][..count * taps];
            if taps == 1 && count == PANEL {
                to.copy_from_slice(from);
                continue;
            }
            for (tap, to) in to.chunks_exact_mut(PANEL).enumerate() {
                for (row, value) in to.iter_mut().enumerate() {
                    *value = from.get(row * taps + tap).copied().unwrap_or(0.0);
                }
            }
        }
    }
    packed
}

struct PackedRows<'a> {
    rows: Rows<'a>,
    to: &'a mut [f32],
}

impl Kernel for PackedRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::LANES == 16 { self.panels::<V, 16>() } else { self.panels::<V, 8>() }
    }
}

impl PackedRows<'_> {
    #[inline(always)]
    fn panels<V: Vector, const N: usize>(self) {
        let Self { rows, to } = self;
        let depth = rows.stride;
        rows.check(depth);
        let whole = depth / N * N;
        for (panel, to) in to.chunks_exact_mut(depth * PANEL).enumerate() {
            for lane in (0..PANEL).step_by(N) {
                let first = panel * PANEL + lane;
                let count = rows.count.saturating_sub(first).min(N);
                let from = rows.values.as_ptr().wrapping_add(first * depth);
                for term in (0..whole).step_by(N) {
                    for row in 0..count {
                        prefetch(from.wrapping_add(row * depth + term + AHEAD));
                    }
                    // SAFETY: `count` rows that hold `depth` numbers, by the check.
                    let turned: [V; N] = unsafe { V::load_columns(from.wrapping_add(term), depth, count) };
                    for (k, numbers) in turned.into_iter().enumerate() {
                        numbers.store(&mut to[(term + k) * PANEL + lane..]);
                    }
                }
                for term in whole..depth {
                    for (row, value) in to[term * PANEL + lane..][..N].iter_mut().enumerate() {
                        *value = if row < count { rows.values[(first + row) * depth + term] } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// Rows turned into packed weights or columns: number k of each row becomes a part of row k.
///
/// A panel of `width` rows, the last filled up with zeros, becomes `terms` rows of `width` numbers.
#[derive(Debug)]
pub(crate) struct Turned<'a> {
    pub(crate) rows: Rows<'a>,
    /// Numbers of each row, a multiple of those of a vector.
    pub(crate) terms: usize,
    /// Rows of a whole panel, and of the last one: multiples of those of a vector.
    pub(crate) width: (usize, usize),
    pub(crate) to: &'a mut [f32],
}

impl Kernel for Turned<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::LANES == 16 { self.panels::<V, 16>() } else { self.panels::<V, 8>() }
    }
}

impl Turned<'_> {
    #[inline(always)]
    fn panels<V: Vector, const N: usize>(self) {
        let Self { rows, terms, width: (whole, last), to } = self;
        rows.check(terms);
        let mut first = 0;
        for panel in to.chunks_mut(whole * terms) {
            let width = if panel.len() == whole * terms { whole } else { last };
            assert!(N == V::LANES && width % N == 0 && terms % N == 0 && panel.len() == width * terms);
            for lane in (0..width).step_by(N) {
                let count = rows.count.saturating_sub(first + lane).min(N);
                let from = rows.values.as_ptr().wrapping_add((first + lane) * rows.stride);
                for term in (0..terms).step_by(N) {
                    // SAFETY: `count` rows that hold `terms` numbers, by the check.
                    let turned: [V; N] =
                        unsafe { V::load_columns(from.wrapping_add(term), rows.stride, count) };
                    for (k, numbers) in turned.into_iter().enumerate() {
                        numbers.store(&mut panel[(term + k) * width + lane..]);
                    }
                }
            }
            first += width;
        }
    }
}
