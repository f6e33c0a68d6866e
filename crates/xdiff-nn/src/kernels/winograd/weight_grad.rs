//! The gradient of the weights: sums over tiles, for each point and each pair of channels.

use rayon::prelude::*;

use super::tiles::{GradTiles, Groups, InputTiles, Order, Part, Points};
use super::weights::WeightGrad;
use super::{chunks, parts, sizes_of, transform};
use crate::kernels::buffer::{Scratch, Writer};
use crate::kernels::dots::{Dots, Rows};
use crate::kernels::matrix::Target;
use crate::kernels::packing::Turned;
use crate::kernels::panels::{BUNDLE, Columns, PANEL, Panels, Products};
use crate::kernels::simd::{Level, run_at};
use crate::layers::ConvShape;

/// Points of the input and of the output's gradient, and sums for the weights' gradient, that are
/// held at once (16 MiB each).
const GRAD_VALUES: usize = 4 << 20;

/// Vectors of tiles from which on sums run along the rows of points.
const LONG_SUMS: usize = 32;

/// dL/dw from dL/dy, by tiles of M × M outputs.
pub(super) fn weight_grad_at<const M: usize>(
    level: Level,
    s: &ConvShape,
    dy: &[f32],
    x: &[f32],
    dw: Writer<'_>,
) {
    let sizes = sizes_of(s);
    let (n, lanes, threads) = ((M + 2) * (M + 2), level.lanes(), rayon::current_num_threads());
    let (inputs, outputs) = (s.in_channels, s.out_channels);
    let all = Groups::new(&sizes, M, lanes);
    let (x_loads, y_loads) = (all.input_loads(&sizes), all.grad_loads(&sizes));
    let matrix = &transform::filter_matrix(M);
    // Output channels whose sums are held at once.
    let rows = (GRAD_VALUES / (n * inputs)).max(PANEL);
    let groups = (GRAD_VALUES / (n * (inputs + outputs) * lanes)).max(8);
    for (turn, held) in chunks(all.len(), groups).into_iter().enumerate() {
        let of = |channels| Points { groups: held.len(), channels, lanes, order: Order::Channels };
        let (v_points, w_points) = (of(inputs), of(outputs));
        let mut v = Scratch::take(n * v_points.stride());
        let mut w = Scratch::take(n * w_points.stride());
        let part = |points| Part { s: &sizes, all: &all, first: held.start, points };
        let (to_v, to_w) = (Writer::over(&mut v), Writer::over(&mut w));
        rayon::join(
            || {
                parts(inputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                    let part = part(v_points);
                    run_at(level, InputTiles::<M> { part, loads: &x_loads, x, channels, to: to_v });
                });
            },
            || {
                parts(outputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                    let part = part(w_points);
                    run_at(level, GradTiles::<M> { part, loads: &y_loads, dy, channels, to: to_w });
                });
            },
        );
        for channels in chunks(outputs, rows) {
            let sums = Sums::new(level, inputs, channels.len(), held.len());
            let mut values = Scratch::take(n * sums.points.stride());
            let to = Writer::over(&mut values);
            (0..n).into_par_iter().with_max_len(1).for_each(|point| {
                let a = w_points.rows(&w, point, channels.clone());
                let b = v_points.rows(&v, point, 0..inputs);
                sums.product(a, b, to, point);
            });
            channels.into_par_iter().enumerate().for_each(|(row, output)| {
                let size = inputs * 9;
                if turn == 0 {
                    // SAFETY: each task has its own output channel.
                    unsafe { dw.fill(output * size, size, 0.0) };
                }
                // SAFETY: as above, and set before.
                let to = unsafe { dw.slice(output * size, size) };
                let (sums, from) = (sums.points, &values);
                run_at(level, WeightGrad::<M> { from, sums, row, matrix, inputs, add: turn > 0, to });
            });
        }
    }
}

/// Sums over tiles for each pair of channels, for all points.
#[derive(Clone, Copy)]
struct Sums {
    level: Level,
    /// A row for each output channel, with the input channels in its lanes.
    points: Points,
    /// Vectors of tiles that are summed.
    vectors: usize,
}

impl Sums {
    /// Sums for `outputs` rows over so many vectors of tiles.
    fn new(level: Level, inputs: usize, outputs: usize, vectors: usize) -> Self {
        let (order, channels) = if vectors < LONG_SUMS {
            (Order::Bundles, outputs.next_multiple_of(PANEL))
        } else {
            (Order::Channels, outputs)
        };
        let lanes = level.lanes();
        Self { level, points: Points { groups: inputs.div_ceil(lanes), channels, lanes, order }, vectors }
    }

    /// The sums of one point over rows `a` of the output's gradient and `b` of the input. Short ones
    /// over packed operands, since adding up the lanes would cost too much.
    fn product(&self, a: Rows<'_>, b: Rows<'_>, to: Writer<'_>, point: usize) {
        let Self { level, points, vectors } = *self;
        let start = point * points.stride();
        match points.order {
            Order::Channels => {
                let to = Target { writer: to, start, stride: points.row() };
                run_at(level, Dots { a, b, vectors, to, add: false });
            }
            Order::Bundles => {
                let (terms, groups) = (vectors * level.lanes(), points.groups);
                let mut weights = Scratch::take(points.channels * terms);
                run_at(level, Turned { rows: a, terms, width: (PANEL, PANEL), to: &mut weights });
                let mut columns = Scratch::take(points.row() * terms);
                let last = (groups - 1) % BUNDLE + 1;
                let width = (BUNDLE * level.lanes(), last * level.lanes());
                run_at(level, Turned { rows: b, terms, width, to: &mut columns });
                let weights = Panels { values: &weights, depth: terms };
                let (panels, columns) = (0..weights.len(), Columns::whole(&columns, groups, terms));
                run_at(level, Products { weights, panels, columns, to, start });
            }
        }
    }
}
