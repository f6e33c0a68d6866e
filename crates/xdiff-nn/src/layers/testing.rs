//! What the tests of layers share: the kernel and the plain path held together.

use candle_core::{Device, Tensor, Var};

use crate::compute::{Path, with_path};
use crate::{Error, Result, Rng};

/// A seeded normal tensor on the CPU.
pub(crate) fn randn(seed: u64, dims: &[usize]) -> Tensor {
    Rng::new(seed).randn(dims, &Device::Cpu).expect("memory for a test's tensor")
}

/// Compares both paths over many cases and reports all that differ.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    worst: Vec<(String, f64)>,
    broken: Vec<String>,
}

impl Agreement {
    /// Runs `f` on both paths, forward and backward for every input, with one random direction.
    pub(crate) fn case(&mut self, name: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
        match (values(Path::Kernels, inputs, &f), values(Path::Plain, inputs, &f)) {
            (Ok(kernel), Ok(plain)) => {
                for (i, (a, b)) in kernel.iter().zip(&plain).enumerate() {
                    let part = if i == 0 { "output".to_owned() } else { format!("gradient {}", i - 1) };
                    match difference(a, b) {
                        Ok(d) => self.worst.push((format!("{name}: {part}"), d)),
                        Err(e) => self.broken.push(format!("{name}: {part}: {e}")),
                    }
                }
            }
            (a, b) => self.broken.push(format!("{name}: kernel {:?}, plain {:?}", a.err(), b.err())),
        }
    }

    /// Fails with a list of all cases that broke or differ by more than `tolerance` of the largest
    /// value.
    pub(crate) fn finish(self, tolerance: f64) {
        assert!(!(self.worst.is_empty() && self.broken.is_empty()), "no case was run");
        let wrong = self.worst.iter().filter(|(_, d)| *d > tolerance || d.is_nan());
        let wrong: Vec<String> = wrong.map(|(n, d)| format!("{n}: differs by {d:e}")).collect();
        let all: Vec<String> = self.broken.into_iter().chain(wrong).collect();
        assert!(all.is_empty(), "{} failures:\n{}", all.len(), all.join("\n"));
    }
}

/// The output, then the gradient of each input.
fn values(path: Path, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    with_path(path, || {
        let vars = inputs.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tracked)?;
        let direction = Rng::new(99).randn(y.shape(), y.device())?;
        let grads = (&y * direction)?.sum_all()?.backward()?;
        let mut all = vec![y];
        for (i, var) in vars.iter().enumerate() {
            let name = || format!("input {i}");
            all.push(grads.get(var).ok_or_else(|| Error::MissingGradient { name: name() })?.clone());
        }
        Ok(all)
    })
}

/// The largest difference, as a share of the largest value of `b`.
fn difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    if a.dims() != b.dims() {
        return Err(Error::shape("the kernel path", format!("{:?}", b.dims()), a.dims()));
    }
    let (a, b) = (a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?);
    let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs());
    Ok(f64::from(worst.fold(0.0f32, |m, d| if m >= d || m.is_nan() { m } else { d }) / scale))
}
