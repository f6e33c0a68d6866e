//! Single operations, forward and backward: `cargo bench -p xdiff-benches --bench ops -- conv2d`.

mod harness;

use xdiff_benches::catalogue;

fn main() {
    harness::run([catalogue::convolutions(), catalogue::operations(), catalogue::prototypes()].concat());
}
