//! Matrix products over operands that are packed for the registers: rows of weights in panels,
//! columns in bundles of vectors.
//!
//! A convolution packs its weights once and its columns a block at a time, while they are in the
//! cache anyway; so no product has to pack again, and none reads at strides that collide in the
//! cache.

use std::ops::Range;

use super::buffer::{Scratch, Writer};
use super::dots::Rows;
use super::simd::{Kernel, Vector, dispatch, prefetch};

/// Rows of weights that stand side by side.
pub(crate) const PANEL: usize = 16;

/// Vectors of columns that stand side by side.
pub(crate) const BUNDLE: usize = 3;

/// How many terms ahead rows of weights are asked for while they are packed.
const AHEAD: usize = 64;

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
