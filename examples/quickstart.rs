//! Placeholder until the crates below stand.
fn main() {}
