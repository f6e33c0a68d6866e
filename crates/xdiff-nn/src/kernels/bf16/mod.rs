//! Products of bf16 numbers, summed in f32, for inference: [`Precision::Bf16`].
//!
//! Both factors of a product are rounded to bf16, to the nearest with ties to even, while they are
//! packed; products are summed in f32. A factor is off by at most 2⁻⁹ of itself, so a product by
//! 2⁻⁸ and a little. Errors of both signs meet: for normal factors the root mean square error of a
//! sum is 2.3e-3 of the sums' root mean square, whatever their length (tests hold it below 4e-3),
//! and the largest of a layer about 1.4e-2 of it. The reference U-Net of the page on speed, with
//! random weights, differs from f32 by 2.7e-3 (root mean square) and 1.7e-2 (largest).
//!
//! # What runs where
//!
//! | operation, of untracked f32 tensors | with AVX-512 BF16 | with AMX | else |
//! |---|---|---|---|
//! | linear layer, at least 16 rows a sample, 32 inputs and outputs | bf16 | bf16 | f32 |
//! | convolution without groups, at least 32 channels in and out, 16 positions a sample (32 for strided windows of more than 4 Mi weights), that Winograd does not serve | bf16 | bf16 | f32 |
//! | the same that Winograd serves (3×3, stride 1) | f32 | bf16 | f32 |
//! | attention, everything else | f32 | f32 | f32 |
//!
//! With vectors a product of bf16 costs half of one of f32, whereas Winograd's tiles take a quarter
//! of the products: measured, direct convolution in bf16 takes 1.35 to 2.2 times as long as
//! Winograd's in f32. AMX multiplies about four times as fast as f32 vectors, by published
//! measurements of such processors, without Winograd's transforms.
//!
//! The choice depends on the processor and on the shape of one sample. Every sum has one order,
//! given by the level and the shape of the layer: neither the batch nor the number of threads
//! changes a bit. Levels differ in that order.
//!
//! # How it is tested
//!
//! All levels share packing, layout and the division of work; they differ in the product of one
//! block ([`block`]). [`Level::Portable`] says what that is. In tests, the level `Emulated` runs
//! AMX's block, its loads, strides and order of tiles included, with each instruction replaced by
//! the manual's pseudocode, on any processor. The instructions themselves run in the same tests
//! where the processor has AMX; the figures above were taken on one that has only AVX-512 BF16, so
//! AMX's instructions have not been run or timed.

mod amx;
mod block;
mod choice;
pub(crate) mod conv;
mod level;
pub(crate) mod linear;
mod pack;
mod planes;
mod round;
#[cfg(test)]
mod tests;

pub(crate) use choice::{for_conv, for_linear};
pub(crate) use level::support;

#[cfg(doc)]
use crate::compute::Precision;
#[cfg(doc)]
use level::Level;
