//! Which patch of a feature map is nearest to each of many vectors.
//!
//! ‖f − p‖² is least where ‖f‖² − 2 f·p is. The products are formed tile by tile, a block of patches by
//! a bundle of vectors, and the least of each tile is taken while it is in the cache, so that all
//! distances never stand in memory. The distance that counts is summed anew from differences.

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch, Writer};
use super::linear::pack_matrix;
use super::matrix::Matrix;
use super::packing::pack_columns;
use super::panels::{BUNDLE, Columns, Panels, RowProducts};
use super::simd::{Kernel, Level, Vector, run_at};

/// Sizes: images (B, D, positions) and vectors (P, D).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PatchShape {
    pub(crate) batch: usize,
    pub(crate) width: usize,
    pub(crate) positions: usize,
    pub(crate) vectors: usize,
}

impl PatchShape {
    fn check(&self, features: &[f32], vectors: &[f32]) {
        assert_eq!(features.len(), self.batch * self.width * self.positions, "features");
        assert_eq!(vectors.len(), self.vectors * self.width, "vectors");
    }
}

/// Patches whose products with a bundle of vectors form one tile.
const ROWS: usize = 256;

/// Bundles of vectors that one task compares patches with.
const BUNDLES: usize = 16;

/// The position (B, P) of the patch that is nearest to each vector, the first of equals; where a patch
/// is NaN, the first that is.
pub(crate) fn nearest(s: PatchShape, features: &[f32], vectors: &[f32]) -> Result<Vec<u32>> {
    s.check(features, vectors);
    let (level, blocks) = (Level::best(), s.positions.div_ceil(ROWS));
    let bundle = BUNDLE * level.lanes();
    let chunks = s.vectors.div_ceil(bundle * BUNDLES);
    let columns = pack_matrix(Matrix::dense(vectors, s.width).t(), level);
    let columns: &[f32] = &columns;
    // The least of each block of each image and where in the block it is.
    let (mut least, mut places) =
        (Output::new(s.batch * blocks * s.vectors)?, Output::new(s.batch * blocks * s.vectors)?);
    let (to_least, to_places) = (least.writer(), places.writer());
    (0..s.batch * blocks * chunks).into_par_iter().with_max_len(1).for_each(|task| {
        let (of_image, chunk) = (task / chunks, task % chunks);
        let (image, block) = (of_image / blocks, of_image % blocks);
        let image = &features[image * s.width * s.positions..][..s.width * s.positions];
        let from = block * ROWS;
        let rows = ROWS.min(s.positions - from);
        let norms = squares(image, s.positions, from, rows);
        let first = chunk * bundle * BUNDLES;
        let width = (bundle * BUNDLES).min(s.vectors - first);
        let filled = width.next_multiple_of(level.lanes());
        let mut found = Scratch::take(2 * filled);
        let (values, at) = found.split_at_mut(filled);
        if let Some(place) = norms.iter().position(|norm| norm.is_nan()) {
            values.fill(f32::NEG_INFINITY);
            at.fill(place as f32);
        } else {
            let weights = pack_columns(&image[from..], (rows, 1), s.width, s.positions);
            let weights = Panels { values: &weights, depth: s.width };
            let columns = &columns[first * s.width..][..filled * s.width];
            run_at(level, Search { weights, norms: &norms, columns, least: values, places: at });
        }
        let start = of_image * s.vectors + first;
        // SAFETY: each task has its own block of an image and its own vectors.
        unsafe {
            to_least.copy(start, &values[..width]);
            to_places.copy(start, &at[..width]);
        }
    });
    // SAFETY: the tasks cover all blocks of all images and all vectors.
    let (least, places) = unsafe { (least.finish(), places.finish()) };
    let mut positions = vec![0u32; s.batch * s.vectors];
    for (image, positions) in positions.chunks_exact_mut(s.vectors).enumerate() {
        let mut best = vec![f32::INFINITY; s.vectors];
        for block in 0..blocks {
            let start = (image * blocks + block) * s.vectors;
            let found = least[start..].iter().zip(&places[start..]);
            for ((best, position), (least, place)) in best.iter_mut().zip(&mut *positions).zip(found) {
                if least < best {
                    (*best, *position) = (*least, (block * ROWS) as u32 + *place as u32);
                }
            }
        }
    }
    Ok(positions)
}

/// The squared lengths of some patches of an image (D, positions).
fn squares(image: &[f32], positions: usize, from: usize, rows: usize) -> Vec<f32> {
    let mut norms = vec![0.0; rows];
    for channel in image.chunks_exact(positions) {
        for (norm, value) in norms.iter_mut().zip(&channel[from..from + rows]) {
            *norm += value * value;
        }
    }
    norms
}

/// The least ‖f‖² − 2 f·p over a block of patches, and its place, for whole vectors of p.
struct Search<'a> {
    weights: Panels<'a>,
    /// ‖f‖² of each patch.
    norms: &'a [f32],
    columns: &'a [f32],
    least: &'a mut [f32],
    places: &'a mut [f32],
}

impl Kernel for Search<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { weights, norms, columns, least, places } = self;
        let (depth, rows, wide) = (weights.depth, norms.len(), BUNDLE * V::LANES);
        let mut tile = Scratch::take(rows * wide);
        let bundles = columns.chunks(wide * depth).zip(least.chunks_mut(wide)).zip(places.chunks_mut(wide));
        for ((columns, least), places) in bundles {
            let width = least.len();
            let tile = &mut tile[..rows * width];
            let columns = Columns::whole(columns, width / V::LANES, depth);
            let to = Writer::over(tile);
            RowProducts { weights, rows, columns, width, bias: None, to, start: 0, stride: width }.run::<V>();
            let lanes = least.chunks_exact_mut(V::LANES).zip(places.chunks_exact_mut(V::LANES));
            for (lane, (least, places)) in (0..).step_by(V::LANES).zip(lanes) {
                let (mut best, mut place) = (V::splat(f32::INFINITY), V::splat(0.0));
                for (row, norm) in norms.iter().enumerate() {
                    let product = V::load(&tile[row * width + lane..]);
                    let value = product.fma(V::splat(-2.0), V::splat(*norm));
                    place = value.where_below(best, V::splat(row as f32), place);
                    best = value.where_below(best, value, best);
                }
                best.store(least);
                place.store(places);
            }
        }
    }
}

/// The patches of all images as rows (B, positions, D).
fn rows_of(s: PatchShape, features: &[f32]) -> Vec<f32> {
    let size = s.width * s.positions;
    let mut rows = vec![0.0; features.len()];
    let images = rows.par_chunks_exact_mut(size).zip(features.par_chunks_exact(size));
    images.for_each(|(rows, image)| turn(image, s.positions, rows));
    rows
}

/// Side of the squares that a matrix is turned by.
const SQUARE: usize = 16;

/// Writes a matrix with rows of `columns` numbers with rows and columns exchanged.
fn turn(from: &[f32], columns: usize, to: &mut [f32]) {
    let rows = from.len() / columns;
    for first in (0..rows).step_by(SQUARE) {
        let end = (first + SQUARE).min(rows);
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (row, to) in (first..end).zip(&mut to[first..end]) {
                *to = from[row * columns + column];
            }
        }
    }
}

/// ‖f − p‖² (B, P) for the patch at each position (B, P).
pub(crate) fn distances(s: PatchShape, features: &[f32], vectors: &[f32], positions: &[u32]) -> Vec<f32> {
    s.check(features, vectors);
    let (level, size) = (Level::best(), s.width * s.positions);
    let mut distances = vec![0.0; s.batch * s.vectors];
    let images = distances.par_chunks_exact_mut(s.vectors).zip(features.par_chunks_exact(size));
    images.zip(positions.par_chunks_exact(s.vectors)).for_each(|((to, image), positions)| {
        let mut rows = Scratch::take(size);
        turn(image, s.positions, &mut rows);
        run_at(level, Differences { rows: &rows, vectors, width: s.width, positions, to });
    });
    distances
}

/// The squared distances of one image.
struct Differences<'a> {
    rows: &'a [f32],
    vectors: &'a [f32],
    width: usize,
    positions: &'a [u32],
    to: &'a mut [f32],
}

impl Kernel for Differences<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, vectors, width, positions, to } = self;
        for ((position, vector), to) in positions.iter().zip(vectors.chunks_exact(width)).zip(to) {
            let row = &rows[*position as usize * width..][..width];
            let (mut xs, mut ys) = (row.chunks_exact(V::LANES), vector.chunks_exact(V::LANES));
            let mut sum = V::splat(0.0);
            for (x, y) in (&mut xs).zip(&mut ys) {
                let difference = V::load(x).sub(V::load(y));
                sum = difference.fma(difference, sum);
            }
            let rest = xs.remainder().iter().zip(ys.remainder());
            *to = rest.fold(sum.sum(), |sum, (x, y)| sum + (x - y) * (x - y));
        }
    }
}

/// dL/df (B, D, positions): of each patch 2 g (f − p), summed over the vectors p that it is nearest to.
pub(crate) fn features_grad(
    s: PatchShape,
    (features, vectors): (&[f32], &[f32]),
    positions: &[u32],
    grad: &[f32],
) -> Vec<f32> {
    s.check(features, vectors);
    let (level, size) = (Level::best(), s.width * s.positions);
    let mut all = vec![0.0; features.len()];
    let images = all.par_chunks_exact_mut(size).zip(features.par_chunks_exact(size));
    let chosen = positions.par_chunks_exact(s.vectors).zip(grad.par_chunks_exact(s.vectors));
    images.zip(chosen).for_each(|((to, image), (positions, grad))| {
        let mut work = Scratch::take(2 * size);
        let (rows, sums) = work.split_at_mut(size);
        turn(image, s.positions, rows);
        sums.fill(0.0);
        let pairs = positions.iter().zip(grad).zip(vectors.chunks_exact(s.width));
        let pairs = pairs.map(|((position, g), vector)| {
            let row = *position as usize * s.width;
            (2.0 * g, &rows[row..row + s.width], vector, row)
        });
        run_at(level, Scaled { pairs, width: s.width, sums });
        turn(sums, s.width, to);
    });
    all
}

/// dL/dp (P, D): 2 g (p − f), summed over the images.
pub(crate) fn vectors_grad(
    s: PatchShape,
    (features, vectors): (&[f32], &[f32]),
    positions: &[u32],
    grad: &[f32],
) -> Vec<f32> {
    s.check(features, vectors);
    let (level, rows) = (Level::best(), rows_of(s, features));
    let mut all = vec![0.0; vectors.len()];
    all.par_chunks_exact_mut(s.width).zip(vectors.par_chunks_exact(s.width)).enumerate().for_each(
        |(j, (sums, vector))| {
            let pairs = (0..s.batch).map(|image| {
                let pair = image * s.vectors + j;
                let row = image * s.positions + positions[pair] as usize;
                (2.0 * grad[pair], vector, &rows[row * s.width..][..s.width], 0)
            });
            run_at(level, Scaled { pairs, width: s.width, sums });
        },
    );
    all
}

/// sums[start..] += factor · (a − b) for each (factor, a, b, start), in order; a and b have `width`
/// numbers.
struct Scaled<'a, I> {
    pairs: I,
    width: usize,
    sums: &'a mut [f32],
}

impl<'b, I: Iterator<Item = (f32, &'b [f32], &'b [f32], usize)>> Kernel for Scaled<'_, I> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let whole = self.width / V::LANES * V::LANES;
        for (factor, a, b, start) in self.pairs {
            let sums = &mut self.sums[start..][..self.width];
            let (sums, sums_rest) = sums.split_at_mut(whole);
            let parts = a.chunks_exact(V::LANES).zip(b.chunks_exact(V::LANES));
            for (sum, (a, b)) in sums.chunks_exact_mut(V::LANES).zip(parts) {
                V::load(a).sub(V::load(b)).fma(V::splat(factor), V::load(sum)).store(sum);
            }
            for (sum, (a, b)) in sums_rest.iter_mut().zip(a[whole..].iter().zip(&b[whole..])) {
                *sum += factor * (a - b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::tests::on_every_level;

    /// Whole numbers make every sum exact, so that the nearest patch is known, ties and all.
    #[test]
    fn the_nearest_patch_is_the_first_of_equals_on_every_level() {
        let number = |i: usize, seed: usize| ((i * 7919 + seed * 104_729) % 1009 % 5) as f32 - 2.0;
        on_every_level(|level| {
            for (batch, width, positions, vectors) in
                [(1, 1, 1, 1), (2, 3, 49, 7), (3, 17, 5, 50), (1, 170, 600, 3), (2, 8, 257, 900)]
            {
                let s = PatchShape { batch, width, positions, vectors };
                let features: Vec<f32> = (0..batch * width * positions).map(|i| number(i, 1)).collect();
                let prototypes: Vec<f32> = (0..vectors * width).map(|i| number(i, 2)).collect();
                let found = nearest(s, &features, &prototypes).unwrap();
                let near = distances(s, &features, &prototypes, &found);
                for b in 0..batch {
                    for j in 0..vectors {
                        let distance = |at: usize| -> f32 {
                            let f = |d: usize| features[(b * width + d) * positions + at];
                            (0..width).map(|d| (f(d) - prototypes[j * width + d]).powi(2)).sum()
                        };
                        let first = (0..positions)
                            .min_by(|x, y| distance(*x).total_cmp(&distance(*y)))
                            .map(|at| (at, distance(at)))
                            .unwrap();
                        let got = (found[b * vectors + j] as usize, near[b * vectors + j]);
                        assert_eq!(got, first, "{level:?} {s:?}: {b} {j}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_patch_that_is_nan_is_not_passed_over() {
        let s = PatchShape { batch: 1, width: 2, positions: 300, vectors: 2 };
        let mut features = vec![0.5; 600];
        features[280] = f32::NAN;
        let found = nearest(s, &features, &[0.5; 4]).unwrap();
        assert_eq!(found, [280, 280]);
        assert!(distances(s, &features, &[0.5; 4], &found).iter().all(|d| d.is_nan()));
    }
}
