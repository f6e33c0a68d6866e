//! Norms, activations, softmax and attention: medians in milliseconds, forward and with backward.
//!
//! `cargo bench -p xdiff-benches --bench norm_attention -- [part of a name] [seconds a case]`

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use xdiff_nn::layers::{
    Activation, AttentionOptions, BatchNorm2d, BatchNormConfig, Mode, attention, group_norm, layer_norm,
    softmax_last_dim,
};
use xdiff_nn::{Params, Result, Rng};

/// Times the cases whose name holds `filter`.
struct Bench {
    filter: String,
    budget: Duration,
}

impl Bench {
    fn run(&self, name: &str, shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        let mut rng = Rng::new(0);
        let inputs = shapes.iter().map(|s| rng.randn(*s, &Device::Cpu)).collect::<Result<Vec<_>>>()?;
        let forward = self.median(|| f(&inputs).map(drop))?;
        let vars = inputs.iter().map(|t| Ok(Var::from_tensor(t)?)).collect::<Result<Vec<_>>>()?;
        let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let both = self.median(|| {
            f(&tracked)?.backward()?;
            Ok(())
        })?;
        println!("{name:32} {forward:9.3} {both:9.3}");
        Ok(())
    }

    /// The median time of a call in milliseconds.
    fn median(&self, f: impl Fn() -> Result<()>) -> Result<f64> {
        f()?;
        f()?;
        let (start, mut times) = (Instant::now(), Vec::new());
        while (start.elapsed() < self.budget || times.len() < 3) && times.len() < 200 {
            let one = Instant::now();
            f()?;
            times.push(one.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = arguments.next().unwrap_or_default();
    let seconds = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(0.5);
    let bench = Bench { filter, budget: Duration::from_secs_f64(seconds) };
    println!("{} threads, times in milliseconds\n{:32} {:>9} {:>9}", threads(), "", "forward", "+backward");

    for (b, c, h) in [(8, 64, 64), (8, 128, 32), (1, 64, 256), (1, 512, 64)] {
        bench.run(&format!("group_norm_silu {b}x{c}x{h}x{h}"), &[&[b, c, h, h], &[c], &[c]], |x| {
            group_norm(&x[0], 32, &x[1], &x[2], 1e-5, Activation::Silu)
        })?;
    }
    bench.run("layer_norm 2x4096x320", &[&[2, 4096, 320], &[320], &[320]], |x| {
        layer_norm(&x[0], &x[1], &x[2], 1e-5)
    })?;
    for (name, act) in [
        ("silu", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("mish", Activation::Mish),
    ] {
        bench.run(&format!("{name} 8x64x64x64"), &[&[8, 64, 64, 64]], |x| act.apply(&x[0]))?;
    }
    bench.run("softmax 16x1024x1024", &[&[16, 1024, 1024]], |x| softmax_last_dim(&x[0]))?;
    for (b, h, l, k, d) in [
        (2, 8, 4096, 4096, 40),
        (2, 8, 1024, 1024, 80),
        (2, 8, 256, 256, 160),
        (2, 8, 4096, 77, 40),
        (8, 4, 256, 256, 32),
        (1, 1, 4096, 4096, 64),
        (1, 1, 4096, 4096, 512),
        (8, 8, 64, 64, 64),
    ] {
        bench.run(
            &format!("attention {b}x{h}x{l}x{k}x{d}"),
            &[&[b, h, l, d], &[b, h, k, d], &[b, h, k, d]],
            |x| attention(&x[0], &x[1], &x[2], &AttentionOptions::default()),
        )?;
    }
    let params = Params::fresh(0, &Device::Cpu);
    let norm = BatchNorm2d::new(64, BatchNormConfig::default(), &params)?;
    for (name, mode) in [("eval", Mode::Eval), ("train", Mode::Train)] {
        bench.run(&format!("batch_norm_{name} 8x64x56x56"), &[&[8, 64, 56, 56]], |x| {
            norm.forward(&x[0], mode)
        })?;
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
