//! What the tests of the networks share.

use candle_core::{Device, Tensor};
use xdiff_nn::gradcheck::{self, Options};
use xdiff_nn::tap::{Recorder, Sites};
use xdiff_nn::{ParamSet, Params, Rng};

use crate::{Backbone, Error, Output, Pass, Result};

/// A seeded normal tensor on the CPU.
pub(crate) fn randn(seed: u64, dims: &[usize]) -> Tensor {
    Rng::new(seed).randn(dims, &Device::Cpu).unwrap()
}

/// sin(0.37 i) over row-major i.
pub(crate) fn waves(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (0.37 * i as f64).sin() as f32).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// A network with the synthetic weights of the conformance format.
pub(crate) fn synthetic<B>(build: impl FnOnce(&Params) -> Result<B>) -> B {
    build(&Params::synthetic(&Device::Cpu)).unwrap()
}

/// A fresh network.
pub(crate) fn fresh<B>(build: impl FnOnce(&Params) -> Result<B>) -> B {
    build(&Params::fresh(0, &Device::Cpu)).unwrap()
}

/// How many numbers the learnt parameters have, and how many parameters and buffers there are.
pub(crate) fn size<B>(build: impl FnOnce(&Params) -> Result<B>) -> (usize, usize) {
    // Zeros stand in for what the source lacks.
    let params = Params::frozen(Default::default(), &Device::Cpu);
    build(&params).unwrap();
    let (set, _) = params.finish_with_report();
    (set.count(), set.names().count())
}

/// The root of the mean square of the fresh numbers of one parameter.
pub(crate) fn deviation(set: &ParamSet, name: &str) -> f64 {
    let x = set.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The largest difference of two tensors, as a share of the largest number of the second.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest(&(a - b).unwrap()) / largest(b).max(1e-12)
}

/// Fails unless a tensor has these rows, within `tolerance`.
pub(crate) fn assert_rows<const N: usize>(got: &Tensor, wanted: &[[f32; N]], tolerance: f32) {
    let got = got.to_vec2::<f32>().unwrap();
    let near = |(got, wanted): (&Vec<f32>, &[f32; N])| {
        got.len() == N && got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= tolerance)
    };
    assert!(got.len() == wanted.len() && got.iter().zip(wanted).all(near), "{got:?}, expected {wanted:?}");
}

/// Runs a network once unseen and once with every site recorded; the results must be the same.
pub(crate) fn seen_and_unseen(net: &dyn Backbone, images: &Tensor) -> (Output, Recorder) {
    let mut tap = Recorder::new(Sites::All);
    let seen = net.forward(images, &mut Pass::eval(&mut tap)).unwrap();
    let unseen = net.forward(images, &mut Pass::eval(&mut ())).unwrap();
    assert!(difference(&seen.logits, &unseen.logits) < 1e-4);
    assert!(difference(&seen.features, &unseen.features) < 1e-4);
    (unseen, tap)
}

/// Compares gradients with finite differences for inputs of these shapes.
pub(crate) fn check_gradients(dims: &[usize], f: impl Fn(&Tensor) -> Result<Tensor>) {
    let run = |x: &[Tensor]| {
        f(&x[0]).map_err(|e| match e {
            Error::Nn(e) => e,
            other => xdiff_nn::Error::argument("network", other.to_string()),
        })
    };
    // Few elements and a short step: every number has many corners of ReLU behind it.
    let options = Options { step: 1e-3, tolerance: 3e-2, elements: 8 };
    gradcheck::check(run, &[randn(3, dims)], options).unwrap();
}
