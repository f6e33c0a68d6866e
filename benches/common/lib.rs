//! What is timed, how it runs, and how a driver asks for it.

pub mod catalogue;
pub mod machine;
pub mod metric;
pub mod op;
pub mod precision;
pub mod push;
pub mod serve;
pub mod stack;
pub mod unet;
pub mod vision;
pub mod workload;
