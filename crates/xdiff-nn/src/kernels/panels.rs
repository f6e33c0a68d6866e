//! Matrix products over operands that are packed for the registers: rows of weights in panels,
//! columns in bundles of vectors.
//!
//! A convolution packs its weights once and its columns a block at a time, while they are in the
//! cache anyway; so no product has to pack again, and none reads at strides that collide in the
//! cache.

use std::ops::Range;

use super::buffer::{Scratch, Writer};
use super::dots::Rows;
use super::simd::{Kernel, Vector, prefetch};

/// Rows of weights that stand side by side.
pub(crate) const PANEL: usize = 16;

/// Vectors of columns that stand side by side.
pub(crate) const BUNDLE: usize = 3;

/// Terms that are summed before the next weights are fetched.
const DEPTH: usize = 160;

/// Packed weights: for each panel of [`PANEL`] rows and each term, one number a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(crate) values: &'a [f32],
    /// Terms of each sum.
    pub(crate) depth: usize,
}

impl Panels<'_> {
    /// How many panels there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len() / (self.depth * PANEL)
    }
}

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

/// The products of packed weights and columns.
///
/// The columns stand in bundles of up to [`BUNDLE`] vectors, each a matrix of `depth` rows. The
/// result is nested alike, with a row for each row of weights. Every sum has the
/// same order, wherever its column stands.
#[derive(Debug)]
pub(crate) struct Products<'a> {
    pub(crate) weights: Panels<'a>,
    /// The panels to multiply; each task writes its own.
    pub(crate) panels: Range<usize>,
    pub(crate) columns: Columns<'a>,
    pub(crate) to: Writer<'a>,
    /// Where in `to` the result starts.
    pub(crate) start: usize,
}

/// Packed columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    pub(crate) values: &'a [f32],
    /// How many vectors wide they are.
    pub(crate) groups: usize,
    /// Rows of each bundle.
    pub(crate) depth: usize,
    /// The row that meets the first term of the weights. The sums of later rows are added to what
    /// those of earlier ones left.
    pub(crate) first: usize,
}

impl<'a> Columns<'a> {
    /// Columns of which every row meets a term of the weights.
    pub(crate) fn whole(values: &'a [f32], groups: usize, depth: usize) -> Self {
        Self { values, groups, depth, first: 0 }
    }
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Panels { values, depth } = self.weights;
        let Columns { values: columns, groups, depth: height, first } = self.columns;
        let rows = self.weights.len() * PANEL;
        let columns = &columns[..height * groups * V::LANES];
        let out = self.to.at(self.start, rows * groups * V::LANES);
        assert!(depth > 0 && first + depth <= height && self.panels.end * PANEL <= rows);
        let step = depth.div_ceil(depth.div_ceil(DEPTH));
        for k in (0..depth).step_by(step) {
            let size = Strip { depth: step.min(depth - k), next: depth * PANEL, add: first + k > 0 };
            for bundle in (0..groups).step_by(BUNDLE) {
                let wide = BUNDLE.min(groups - bundle);
                for panel in self.panels.clone() {
                    // SAFETY: the offsets stay below the lengths checked above: of `size.depth`
                    // · 16 from (panel · depth + k) · 16 on in the weights, of `size.depth` · wide
                    // vectors from bundle · height + (first + k) · wide on in the columns, of 16 ·
                    // wide vectors from bundle · rows + panel · 16 · wide on in the result. That
                    // is this task's own, and was written before when first + k > 0.
                    unsafe {
                        let u = values.as_ptr().add((panel * depth + k) * PANEL);
                        let v = columns.as_ptr().add((bundle * height + (first + k) * wide) * V::LANES);
                        let out = out.add((bundle * rows + panel * PANEL * wide) * V::LANES);
                        match wide {
                            3 => panel_product::<V, 3>(size, u, v, out),
                            2 => panel_product::<V, 2>(size, u, v, out),
                            _ => panel_product::<V, 1>(size, u, v, out),
                        }
                    }
                }
            }
        }
    }
}

/// What the products of one panel sum.
#[derive(Clone, Copy, Debug)]
struct Strip {
    /// How many terms.
    depth: usize,
    /// Numbers from these weights to those that are wanted next.
    next: usize,
    /// Whether the sums are added to what is there.
    add: bool,
}

/// As many rows at once as registers allow.
///
/// # Safety
/// As [`rows_product`], for 16 rows.
#[inline(always)]
unsafe fn panel_product<V: Vector, const N: usize>(size: Strip, u: *const f32, v: *const f32, out: *mut f32) {
    let rows = if V::LANES == 16 { 8 } else { 4 };
    for first in (0..PANEL).step_by(rows) {
        // SAFETY: handed on; these rows' weights and sums start `first` and first · N vectors
        // later.
        unsafe {
            let (u, out) = (u.add(first), out.add(first * N * V::LANES));
            if V::LANES == 16 {
                rows_product::<V, 8, N>(size, u, v, out);
            } else {
                rows_product::<V, 4, N>(size, u, v, out);
            }
        }
    }
}

/// out[r][j] (+)= Σ over k of u[k][r] · v[k][j] for R rows and N vectors.
///
/// # Safety
/// `u` can be read at (depth − 1) · 16 + R numbers, `v` at depth · N vectors; `out` can be written (and read,
/// with `add`) at R · N vectors that nobody else uses meanwhile.
#[inline(always)]
unsafe fn rows_product<V: Vector, const R: usize, const N: usize>(
    size: Strip,
    mut u: *const f32,
    mut v: *const f32,
    out: *mut f32,
) {
    let mut sums = [[V::splat(0.0); N]; R];
    // SAFETY: all addresses lie within what the contract grants.
    unsafe {
        if size.add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load_at(out.add((r * N + j) * V::LANES));
                }
            }
        }
        for _ in 0..size.depth {
            prefetch(u.wrapping_add(size.next));
            let mut x = [V::splat(0.0); N];
            for (j, x) in x.iter_mut().enumerate() {
                *x = V::load_at(v.add(j * V::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*u.add(r));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = x.fma(weight, *sum);
                }
            }
            u = u.wrapping_add(PANEL);
            v = v.wrapping_add(N * V::LANES);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store_at(out.add((r * N + j) * V::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::run_at;
    use crate::kernels::simd::tests::levels;

    #[test]
    fn products_of_whole_numbers_are_exact_on_every_level() {
        for level in levels() {
            for (rows, depth, groups) in [(1, 1, 1), (5, 7, 2), (16, 170, 3), (40, 330, 7)] {
                let lanes = level.lanes();
                let weight = |row: usize, term: usize| ((row * 3 + term * 5) % 11) as f32 - 5.0;
                let column = |term: usize, c: usize| ((term * 7 + c) % 13) as f32 - 6.0;
                let packed = pack(rows, depth, weight);
                let mut columns = Vec::new();
                for first in (0..groups).step_by(BUNDLE) {
                    for term in 0..depth {
                        let end = (first + BUNDLE).min(groups) * lanes;
                        columns.extend((first * lanes..end).map(|c| column(term, c)));
                    }
                }
                let weights = Panels { values: &packed, depth };
                let mut out = vec![f32::NAN; weights.len() * PANEL * groups * lanes];
                let (panels, to) = (0..weights.len(), Writer::over(&mut out));
                let columns = Columns::whole(&columns, groups, depth);
                run_at(level, Products { weights, panels, columns, to, start: 0 });
                for first in (0..groups).step_by(BUNDLE) {
                    let wide = (groups - first).min(BUNDLE) * lanes;
                    let block = &out[first * lanes * weights.len() * PANEL..];
                    for row in 0..rows {
                        for c in 0..wide {
                            let sum: f32 =
                                (0..depth).map(|k| weight(row, k) * column(k, first * lanes + c)).sum();
                            assert_eq!(block[row * wide + c], sum, "{level:?} {rows} {depth} {groups}");
                        }
                    }
                }
            }
        }
    }
}
