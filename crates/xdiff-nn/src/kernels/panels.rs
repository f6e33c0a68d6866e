//! Matrix products over operands that are packed for the registers: rows of weights in panels,
//! columns in bundles of vectors.
//!
//! A convolution packs its weights once and its columns a block at a time, while they are in the
//! cache anyway; so no product has to pack again, and none reads at strides that collide in the
//! cache.

use std::ops::Range;

use super::buffer::Writer;
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
            let size = Strip { depth: step.min(depth - k), next: depth * PANEL };
            let start = if first + k > 0 { Start::Sums } else { Start::Zero };
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
                        let last = u16::MAX >> (16 - V::LANES);
                        let place = Place { out, stride: wide * V::LANES, rows: PANEL, last, start };
                        match wide {
                            3 => panel_product::<V, 3>(size, u, v, place),
                            2 => panel_product::<V, 2>(size, u, v, place),
                            _ => panel_product::<V, 1>(size, u, v, place),
                        }
                    }
                }
            }
        }
    }
}

/// The products of packed weights and columns in rows as they lie in an image: row r of the result
/// starts r · `stride` behind `start`.
#[derive(Debug)]
pub(crate) struct RowProducts<'a> {
    pub(crate) weights: Panels<'a>,
    /// Rows of weights that count; those beyond fill up the last panel.
    pub(crate) rows: usize,
    /// Packed columns, of which each row meets a term.
    pub(crate) columns: Columns<'a>,
    /// Columns that count; those beyond fill up the last vector.
    pub(crate) width: usize,
    /// What is added to each row.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) to: Writer<'a>,
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

impl Kernel for RowProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, width, stride, .. } = self;
        let Panels { values, depth } = self.weights;
        let groups = self.columns.groups;
        let columns = &self.columns.values[..depth * groups * V::LANES];
        assert!(depth > 0 && self.columns.depth == depth && self.columns.first == 0);
        assert!(rows > 0 && rows <= self.weights.len() * PANEL && self.bias.is_none_or(|b| b.len() == rows));
        assert!(width > 0 && groups == width.div_ceil(V::LANES));
        let out = self.to.at(self.start, (rows - 1) * stride + width);
        let all = u16::MAX >> (16 - V::LANES);
        let step = depth.div_ceil(depth.div_ceil(DEPTH));
        for k in (0..depth).step_by(step) {
            let size = Strip { depth: step.min(depth - k), next: depth * PANEL };
            for bundle in (0..groups).step_by(BUNDLE) {
                let wide = BUNDLE.min(groups - bundle);
                let beyond = ((bundle + wide) * V::LANES).saturating_sub(width);
                for first in (0..rows).step_by(PANEL) {
                    let start = match self.bias {
                        _ if k > 0 => Start::Sums,
                        Some(bias) => Start::Bias(&bias[first..]),
                        None => Start::Zero,
                    };
                    // SAFETY: the offsets stay below the lengths checked above, as in `Products`;
                    // of the result, only rows below `rows` and columns below `width` are touched.
                    // They are this task's own, and were written before when k > 0.
                    unsafe {
                        let u = values.as_ptr().add((first / PANEL * depth + k) * PANEL);
                        let v = columns.as_ptr().add((bundle * depth + k * wide) * V::LANES);
                        let out = out.add(first * stride + bundle * V::LANES);
                        let rows = PANEL.min(rows - first);
                        let place = Place { out, stride, rows, last: all >> beyond, start };
                        match wide {
                            3 => panel_product::<V, 3>(size, u, v, place),
                            2 => panel_product::<V, 2>(size, u, v, place),
                            _ => panel_product::<V, 1>(size, u, v, place),
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
}

/// What the terms are added to.
#[derive(Clone, Copy, Debug)]
enum Start<'a> {
    Zero,
    /// A number for each row.
    Bias(&'a [f32]),
    /// The sums that are there.
    Sums,
}

/// Where the sums of one panel go.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    out: *mut f32,
    /// Numbers from one row to the next.
    stride: usize,
    /// How many rows are written.
    rows: usize,
    /// Which lanes of the last vector are.
    last: u16,
    start: Start<'a>,
}

impl<'a> Place<'a> {
    /// The rows from `first` on.
    ///
    /// # Safety
    /// There are as many rows.
    #[inline(always)]
    unsafe fn rows_from(self, first: usize) -> Self {
        let start = match self.start {
            Start::Bias(bias) => Start::Bias(&bias[first..]),
            other => other,
        };
        // SAFETY: a row of the result.
        Self { out: unsafe { self.out.add(first * self.stride) }, rows: self.rows - first, start, ..self }
    }
}

/// As many rows at once as registers allow.
///
/// # Safety
/// As [`rows_product`], for 16 rows of weights.
#[inline(always)]
unsafe fn panel_product<V: Vector, const N: usize>(
    size: Strip,
    u: *const f32,
    v: *const f32,
    place: Place<'_>,
) {
    let rows = if V::LANES == 16 { 8 } else { 4 };
    for first in (0..place.rows).step_by(rows) {
        // SAFETY: handed on; these rows' weights and sums start `first` numbers and rows later.
        unsafe {
            let (u, place) = (u.add(first), place.rows_from(first));
            if V::LANES == 16 && place.rows > 4 {
                rows_product::<V, 8, N>(size, u, v, place);
            } else {
                rows_product::<V, 4, N>(size, u, v, place);
            }
        }
    }
}

/// out[r][j] (+)= Σ over k of u[k][r] · v[k][j] for R rows and N vectors.
///
/// # Safety
/// `u` can be read at (depth − 1) · 16 + R numbers, `v` at depth · N vectors. Of the place, up to R
/// rows of N vectors, the last of them in its lanes, can be written (and read, when the terms are
/// added to them), and nobody else uses them meanwhile.
#[inline(always)]
unsafe fn rows_product<V: Vector, const R: usize, const N: usize>(
    size: Strip,
    mut u: *const f32,
    mut v: *const f32,
    place: Place<'_>,
) {
    let mut sums = [[V::splat(0.0); N]; R];
    let all = u16::MAX >> (16 - V::LANES);
    // SAFETY: all addresses lie within what the contract grants.
    unsafe {
        match place.start {
            Start::Zero => {}
            Start::Bias(bias) => {
                for (sums, bias) in sums.iter_mut().zip(bias) {
                    *sums = [V::splat(*bias); N];
                }
            }
            Start::Sums => {
                for (r, sums) in sums.iter_mut().enumerate().take(place.rows) {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let lanes = if j + 1 == N { place.last } else { all };
                        *sum = V::load_masked(place.out.add(r * place.stride + j * V::LANES), lanes);
                    }
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
        for (r, sums) in sums.iter().enumerate().take(place.rows) {
            for (j, sum) in sums.iter().enumerate() {
                let lanes = if j + 1 == N { place.last } else { all };
                sum.store_masked(place.out.add(r * place.stride + j * V::LANES), lanes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::packing::pack;
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
