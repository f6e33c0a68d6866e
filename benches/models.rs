//! Networks: `cargo bench -p xdiff-benches --bench models -- reference/forward`.

mod harness;

use xdiff_benches::catalogue;

fn main() {
    harness::run([catalogue::models(), catalogue::vision()].concat());
}
