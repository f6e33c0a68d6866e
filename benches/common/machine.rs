//! What a measurement ran on.

use std::time::Instant;

use gemm::Parallelism;
use rayon::prelude::*;
use serde::Serialize;

/// Side of the square matrices whose product gives the peak.
const SIDE: usize = 2048;
/// Products, and copies, of which the fastest counts.
const REPEATS: usize = 12;
/// Numbers in the copy that gives the peak of the memory, more than any cache holds.
const COPIED: usize = 1 << 26;

/// How the process computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// What the machine does at best on all threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peak {
    /// Billions of floating-point operations a second in a large product of f32 matrices.
    pub gflops: f64,
    /// Billions of bytes a second, read and written, in a large copy.
    pub gbytes: f64,
}

impl Peak {
    /// The fastest of several, since others may use the machine.
    pub fn measure() -> Self {
        Self { gflops: matmul_peak(), gbytes: copy_peak() }
    }
}

/// Seconds of the fastest of several calls.
fn fastest(mut work: impl FnMut()) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn matmul_peak() -> f64 {
    let (a, b) = (vec![1.0f32; SIDE * SIDE], vec![0.5f32; SIDE * SIDE]);
    let mut c = vec![0.0f32; SIDE * SIDE];
    let threads = rayon::current_num_threads();
    2.0 * (SIDE as f64).powi(3) / fastest(|| multiply(&mut c, &a, &b, threads)) / 1e9
}

fn copy_peak() -> f64 {
    let (from, mut to) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
    let part = COPIED.div_ceil(rayon::current_num_threads());
    let copy = || {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
    };
    2.0 * size_of_val(from.as_slice()) as f64 / fastest(copy) / 1e9
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
