//! Tables of cases that hold the kernel and the plain path together.

use std::sync::Mutex;

use candle_core::{DType, Device, Tensor, Var};

use crate::compute::{Path, with_path};
use crate::kernels::simd::tests::on_every_level;
use crate::{Error, Result, Rng};

type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Sync>;

/// A seeded normal tensor on the CPU.
pub(crate) fn randn(seed: u64, dims: &[usize]) -> Tensor {
    Rng::new(seed).randn(dims, &Device::Cpu).expect("memory for a test's tensor")
}

/// A function at some inputs.
pub(crate) struct Case {
    name: String,
    inputs: Vec<Tensor>,
    run: Run,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        inputs: Vec<Tensor>,
        run: impl Fn(&[Tensor]) -> Result<Tensor> + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), inputs, run: Box::new(run) }
    }

    /// The result and the gradient of every input for a fixed random direction. The inputs keep
    /// their strides: each is a leaf of zeros plus the tensor as given.
    fn outcome(&self, path: Path) -> Result<Vec<Tensor>> {
        with_path(path, || {
            let vars = self
                .inputs
                .iter()
                .map(|t| Ok(Var::from_tensor(&unstrided(t)?)?))
                .collect::<Result<Vec<_>>>()?;
            let inputs = self
                .inputs
                .iter()
                .zip(&vars)
                .map(|(t, v)| restrided(v.as_tensor(), t))
                .collect::<Result<Vec<_>>>()?;
            let y = (self.run)(&inputs)?;
            let direction = Rng::new(9).randn(y.shape(), y.device())?;
            let grads = (&y * direction)?.sum_all()?.backward()?;
            let mut outcome = vec![y];
            for (i, v) in vars.iter().enumerate() {
                outcome.push(match grads.get(v) {
                    Some(grad) => grad.clone(),
                    // Of a result without numbers every gradient is zero, made or not.
                    None if outcome[0].elem_count() == 0 => v.zeros_like()?,
                    None => return Err(Error::MissingGradient { name: format!("input {i}") }),
                });
            }
            Ok(outcome)
        })
    }
}

/// A two-dimensional transpose is undone, so that a leaf can hold the numbers in memory order.
fn unstrided(t: &Tensor) -> Result<Tensor> {
    Ok(match order(t) {
        Some((a, b)) => t.transpose(a, b)?.contiguous()?,
        None => t.contiguous()?,
    })
}

fn restrided(leaf: &Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(match order(like) {
        Some((a, b)) => leaf.transpose(a, b)?,
        None => leaf.clone(),
    })
}

/// The first two dimensions whose strides are out of order.
fn order(t: &Tensor) -> Option<(usize, usize)> {
    if t.is_contiguous() {
        return None;
    }
    let s = t.stride();
    (0..s.len()).flat_map(|a| (a + 1..s.len()).map(move |b| (a, b))).find(|&(a, b)| s[a] < s[b])
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Panics with every case in which a result or a gradient of the kernel, on any instruction set of
/// this processor, differs from the plain path's by more than `tolerance` of its largest number.
pub(crate) fn compare(cases: &[Case], tolerance: f64) {
    let failures = Mutex::new(Vec::new());
    let plain: Vec<_> = cases.iter().map(|case| case.outcome(Path::Plain)).collect();
    on_every_level(|level| {
        for (case, plain) in cases.iter().zip(&plain) {
            let misses = match plain {
                Ok(plain) => case.outcome(Path::Kernels).and_then(|kernel| misses(&kernel, plain, tolerance)),
                Err(e) => Ok(vec![format!("the plain path fails: {e}")]),
            };
            let misses = misses.unwrap_or_else(|e| vec![e.to_string()]);
            let named = misses.into_iter().map(|miss| format!("{}, {level:?}: {miss}", case.name));
            failures.lock().expect("no test holds the lock when it panics").extend(named);
        }
    });
    let failures = failures.into_inner().expect("no test holds the lock when it panics");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What differs by more than `tolerance`.
fn misses(kernel: &[Tensor], plain: &[Tensor], tolerance: f64) -> Result<Vec<String>> {
    let mut misses = Vec::new();
    for (i, (k, p)) in kernel.iter().zip(plain).enumerate() {
        let off = difference(k, p)?;
        if off.is_nan() || off > tolerance {
            let what = if i == 0 { "result".into() } else { format!("gradient of input {}", i - 1) };
            misses.push(format!("the {what} is off by {off:.2e}"));
        }
    }
    Ok(misses)
}

/// The largest difference, as a share of the largest number of `p`.
fn difference(k: &Tensor, p: &Tensor) -> Result<f64> {
    if k.dims() != p.dims() {
        return Err(Error::shape("compare", format!("{:?}", p.dims()), k.dims()));
    }
    let (k, p) = (numbers(k)?, numbers(p)?);
    let largest = p.iter().filter(|v| v.is_finite()).fold(1e-3f64, |m, v| m.max(v.abs()));
    let differences =
        k.iter().zip(&p).map(|(k, p)| if k == p || (k.is_nan() && p.is_nan()) { 0.0 } else { (k - p).abs() });
    Ok(differences.fold(0.0f64, |m, d| if m >= d || m.is_nan() { m } else { d }) / largest)
}
