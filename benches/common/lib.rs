//! What is timed, how it runs, and how a driver asks for it.

pub mod catalogue;
pub mod machine;
pub mod metric;
pub mod op;
pub mod precision;
mod resnet18;
pub mod serve;
pub mod stack;
pub mod unet;
pub mod workload;
