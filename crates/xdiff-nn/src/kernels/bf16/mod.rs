//! placeholder

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
