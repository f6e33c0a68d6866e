//! Winograd's convolution for 3×3 windows with stride 1: F(2×2, 3×3) and F(4×4, 3×3).
//!
//! Tiles of the image and the weights are transformed to points, where the convolution is a product
//! of numbers; so a 4×4 tile of outputs takes 36 products for each pair of channels instead of 144.
//! Output and gradients are transformed back. [`transform`] has the equations.
//!
//! The largest error grows with the root of the number of summed channels; up to 170 of them it is
//! below 2e-5 of the result's root mean square, which a test holds. Plain summation loses about a
//! quarter of that. A value that is not finite spreads to its whole tile.
//!
//! Weights are transformed at every call, unless a layer kept them from an earlier one.

mod convolution;
#[cfg(test)]
mod tests;
mod tiles;
mod transform;
mod weight_grad;
mod weights;

use std::ops::Range;

use self::convolution::Convolution;
use self::tiles::Sizes;
use self::weight_grad::weight_grad_at;
use super::buffer::Writer;
use super::panels::PANEL;
use super::simd::Level;
use crate::layers::ConvShape;

/// Fewest channels, in and out, for which transforms pay.
const CHANNELS: usize = 16;
/// Fewest tiles of one sample.
const FOUR_TILES: usize = 16;
const TWO_TILES: usize = 9;

/// The outputs that one tile covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 2 × 2.
    Two,
    /// 4 × 4.
    Four,
}

impl Tile {
    /// Points of a tile.
    fn points(self) -> usize {
        match self {
            Tile::Two => 16,
            Tile::Four => 36,
        }
    }
}

/// The tile for a convolution; none when unfolding it is faster or the window is another.
///
/// The choice does not depend on the batch, so that neither does a sample's result.
pub(crate) fn tile(s: &ConvShape) -> Option<Tile> {
    let g = &s.geometry;
    let fits = s.kernel == (3, 3) && g.stride == (1, 1) && g.dilation == (1, 1) && g.groups == 1;
    if !fits || s.in_channels.min(s.out_channels) < CHANNELS {
        return None;
    }
    let tiles = |m: usize| s.out_height.div_ceil(m) * s.out_width.div_ceil(m);
    if tiles(4) >= FOUR_TILES {
        Some(Tile::Four)
    } else if tiles(2) >= TWO_TILES {
        Some(Tile::Two)
    } else {
        None
    }
}

/// Transformed weights of a convolution, to be used again.
pub(crate) struct Transformed {
    tile: Tile,
    values: Vec<f32>,
}

/// How many bytes the transformed weights of a convolution take.
pub(crate) fn transformed_bytes(tile: Tile, s: &ConvShape) -> usize {
    let panels = s.out_channels.div_ceil(PANEL);
    tile.points() * weights::stride(s.in_channels, panels) * size_of::<f32>()
}

/// Transforms weights (O, I, 3, 3) for calls of [`forward`].
pub(crate) fn transform_weights(tile: Tile, s: &ConvShape, w: &[f32]) -> Transformed {
    let sizes = sizes_of(s);
    let convolution =
        Convolution { s: &sizes, level: Level::best(), mode: None, turned: false, transformed: None };
    let mut values = vec![0.0; transformed_bytes(tile, s) / size_of::<f32>()];
    match tile {
        Tile::Two => convolution.all_weights::<2>(w, &mut values),
        Tile::Four => convolution.all_weights::<4>(w, &mut values),
    }
    Transformed { tile, values }
}

/// y = w ∗ x + b, for w (O, I, 3, 3), perhaps transformed before. Writes all of `y`.
pub(crate) fn forward(
    tile: Tile,
    s: &ConvShape,
    x: &[f32],
    (w, transformed): (&[f32], Option<&Transformed>),
    bias: Option<&[f32]>,
    y: Writer<'_>,
) {
    let sizes = sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: false, transformed }
        .run(tile, x, w, bias, y);
}

/// dL/dx from dL/dy: the convolution of dL/dy with the turned weights. Writes all of `dx`.
pub(crate) fn input_grad(tile: Tile, s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let sizes = turned_sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: true, transformed: None }
        .run(tile, dy, w, None, dx);
}

/// dL/dw from dL/dy. Writes all of `dw` (O, I, 3, 3).
pub(crate) fn weight_grad(tile: Tile, s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    match tile {
        Tile::Two => weight_grad_at::<2>(Level::best(), s, dy, x, dw),
        Tile::Four => weight_grad_at::<4>(Level::best(), s, dy, x, dw),
    }
}

fn sizes_of(s: &ConvShape) -> Sizes {
    Sizes {
        samples: s.batch,
        inputs: s.in_channels,
        outputs: s.out_channels,
        height: s.height,
        width: s.width,
        out_height: s.out_height,
        out_width: s.out_width,
        top: s.geometry.padding.top as isize,
        left: s.geometry.padding.left as isize,
    }
}

/// The sizes of the convolution that yields the input's gradient.
fn turned_sizes_of(s: &ConvShape) -> Sizes {
    let forward = sizes_of(s);
    Sizes {
        inputs: forward.outputs,
        outputs: forward.inputs,
        height: forward.out_height,
        width: forward.out_width,
        out_height: forward.height,
        out_width: forward.width,
        top: 2 - forward.top,
        left: 2 - forward.left,
        ..forward
    }
}

/// Ranges of `step` that cover 0..n.
fn chunks(n: usize, step: usize) -> Vec<Range<usize>> {
    (0..n).step_by(step).map(|i| i..(i + step).min(n)).collect()
}

/// At most `count` ranges of almost equal length that cover 0..n, none of them empty.
fn parts(n: usize, count: usize) -> Vec<Range<usize>> {
    let count = count.clamp(1, n.max(1));
    (0..count).map(|i| n * i / count..n * (i + 1) / count).filter(|part| !part.is_empty()).collect()
}
