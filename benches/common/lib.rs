//! What the benches share.

pub mod machine;
pub mod serve;
pub mod workload;
