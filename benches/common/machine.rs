//! What a measurement ran on.

use std::time::Instant;

use gemm::Parallelism;
use serde::{Deserialize, Serialize};

/// Side of the square matrices whose product gives the peak.
const SIDE: usize = 2048;
/// Products of which the fastest counts.
const PRODUCTS: usize = 12;

/// How the process computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Threads of the pool that all kernels share.
    pub threads: usize,
    /// The widest vectors that the kernels find on this processor.
    pub vectors: String,
    /// The largest resident memory of the process so far, in MiB, where the system tells it.
    pub peak_rss_mib: Option<f64>,
}

impl Machine {
    /// The state now.
    pub fn now() -> Self {
        Self {
            threads: rayon::current_num_threads(),
            vectors: vectors().to_owned(),
            peak_rss_mib: peak_rss_mib(),
        }
    }
}

/// The vectors that `xdiff-nn` picks by the same questions to the processor.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    "portable"
}

/// `VmHWM` of Linux.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// What the processor does at best in f32: the rate of a large product of matrices on all threads,
/// in GFLOP/s. The fastest of several, since others may use the machine.
pub fn matmul_peak() -> f64 {
    let (a, b) = (vec![1.0f32; SIDE * SIDE], vec![0.5f32; SIDE * SIDE]);
    let mut c = vec![0.0f32; SIDE * SIDE];
    let threads = rayon::current_num_threads();
    let best = (0..PRODUCTS).map(|_| {
        let start = Instant::now();
        multiply(&mut c, &a, &b, threads);
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / best.fold(f64::INFINITY, f64::min) / 1e9
}

fn multiply(c: &mut [f32], a: &[f32], b: &[f32], threads: usize) {
    let values = SIDE * SIDE;
    assert!(a.len() == values && b.len() == values && c.len() == values, "square matrices");
    let (by_row, by_column) = (SIDE as isize, 1);
    // SAFETY: all three hold SIDE rows of SIDE numbers one after another, and `c` is borrowed alone.
    unsafe {
        gemm::gemm(
            SIDE,
            SIDE,
            SIDE,
            c.as_mut_ptr(),
            by_column,
            by_row,
            false,
            a.as_ptr(),
            by_column,
            by_row,
            b.as_ptr(),
            by_column,
            by_row,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(threads),
        );
    }
}
