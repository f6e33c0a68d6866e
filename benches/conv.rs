//! Convolution: medians in milliseconds and billions of operations a second, forward and backward.
//!
//! `cargo bench -p xdiff-benches --bench conv -- [part of a name] [seconds a case]`

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use xdiff_nn::layers::{ConvGeometry, Padding, conv2d};
use xdiff_nn::{Result, Rng};

/// (batch, input channels, output channels, image size, window, stride, groups).
const CASES: [(usize, usize, usize, usize, usize, usize, usize); 15] = [
    (1, 64, 64, 256, 3, 1, 1),
    (1, 128, 128, 128, 3, 1, 1),
    (8, 128, 128, 32, 3, 1, 1),
    (8, 64, 64, 64, 3, 1, 1),
    (4, 320, 320, 32, 3, 1, 1),
    (1, 512, 512, 64, 3, 1, 1),
    (2, 1280, 1280, 8, 3, 1, 1),
    (2, 640, 640, 16, 3, 1, 1),
    (8, 512, 512, 8, 3, 1, 1),
    (8, 3, 64, 64, 3, 1, 1),
    (8, 64, 64, 64, 3, 2, 1),
    (4, 320, 320, 32, 3, 2, 1),
    (8, 256, 128, 32, 1, 1, 1),
    (2, 640, 640, 16, 1, 1, 1),
    (8, 144, 144, 56, 3, 1, 144),
];

/// The median of the times that `f` reports, in milliseconds.
fn median(budget: Duration, f: impl Fn() -> Result<Duration>) -> Result<f64> {
    f()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while (start.elapsed() < budget || times.len() < 3) && times.len() < 200 {
        times.push(f()?.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = arguments.next().unwrap_or_default();
    let seconds = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(0.5);
    let budget = Duration::from_secs_f64(seconds);
    println!("{:28} {:>9} {:>7} {:>9} {:>7}", "", "forward", "GFLOP/s", "backward", "GFLOP/s");
    for (batch, inputs, outputs, size, window, stride, groups) in CASES {
        let name = format!("{batch}x{inputs}-{outputs}x{size}^2_{window}/{stride}/{groups}");
        if !name.contains(&filter) {
            continue;
        }
        let geometry = ConvGeometry {
            stride: (stride, stride),
            padding: Padding::symmetric(window / 2, window / 2),
            groups,
            ..Default::default()
        };
        let mut rng = Rng::new(0);
        let x = rng.randn((batch, inputs, size, size), &Device::Cpu)?;
        let w = rng.randn((outputs, inputs / groups, window, window), &Device::Cpu)?;
        let b = rng.randn(outputs, &Device::Cpu)?;
        let forward = median(budget, || {
            let start = Instant::now();
            let y = conv2d(&x, &w, Some(&b), &geometry)?;
            let time = start.elapsed();
            drop(y);
            Ok(time)
        })?;
        let tracked = |t: &Tensor| -> Result<Tensor> { Ok(Var::from_tensor(t)?.into_inner()) };
        let (x, w, b) = (tracked(&x)?, tracked(&w)?, tracked(&b)?);
        let backward = median(budget, || {
            let y = conv2d(&x, &w, Some(&b), &geometry)?;
            let start = Instant::now();
            y.backward()?;
            Ok(start.elapsed())
        })?;
        let out = size.div_ceil(stride);
        let operations = 2e-6 * (batch * outputs * out * out * inputs / groups * window * window) as f64;
        let (a, b) = (operations / forward, 2.0 * operations / backward);
        println!("{name:28} {forward:9.3} {a:7.0} {backward:9.3} {b:7.0}");
    }
    Ok(())
}
