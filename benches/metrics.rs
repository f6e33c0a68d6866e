//! Metrics: `cargo bench -p xdiff-benches --bench metrics -- ssim`.

mod harness;

use xdiff_benches::catalogue;

fn main() {
    harness::run(catalogue::metrics());
}
