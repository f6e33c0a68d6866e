use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::compute::{Path, with_path};
use crate::{Error, Init, ParamSet, Params, Result, Rng};

/// The parameters and gradients of the golden runs: `p = [(i-2)/4 for i in range(6)]` and
/// `p.grad = [((i*7+s*5)%11-5)/8 for i in range(6)]` at step s, five steps.
fn golden_run<R: Rule>(config: R, lr: f64) -> Vec<f32> {
    let p: Vec<f32> = (0..6).map(|i| (i as f32 - 2.0) / 4.0).collect();
    let (params, p) = set_of(Tensor::new(p, &Device::Cpu).unwrap());
    let mut optimiser = Optimizer::new(&params, config).unwrap();
    for s in 0..5 {
        let g: Vec<f32> = (0..6).map(|i| (((i * 7 + s * 5) % 11) as f32 - 5.0) / 8.0).collect();
        optimiser.step(&gradients(Tensor::new(g, &Device::Cpu).unwrap()), lr).unwrap();
    }
    p.to_vec1().unwrap()
}

fn set_of(value: Tensor) -> (ParamSet, Tensor) {
    let scope = Params::trainable(BTreeMap::from([("p".to_owned(), value.clone())]), &Device::Cpu);
    let p = scope.weight("p", value.shape(), Init::ZEROS).unwrap();
    (scope.finish().unwrap(), p)
}

fn gradients(g: Tensor) -> Gradients {
    Gradients::new(BTreeMap::from([("p".to_owned(), g)]))
}

fn compare(name: &str, got: &[f32], expected: [f32; 6], wrong: &mut Vec<String>) {
    let error = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    if error.is_nan() || error > 1.5e-7 {
        wrong.push(format!("{name}: off by {error:e}: {got:?}"));
    }
}

#[test]
#[allow(clippy::excessive_precision)]
fn numbers_are_pytorchs() {
    // torch 2.15, torch.optim.AdamW and torch.optim.SGD on the golden run.
    let adamw = [
        (
            AdamWConfig::default(),
            0.01,
            [-0.486377478, -0.245540723, 0.0129881985, 0.218767062, 0.498606294, 0.775700271],
        ),
        (
            AdamWConfig { betas: (0.4, 0.99), eps: 1e-3, weight_decay: 0.3, ..Default::default() },
            0.003,
            [-0.498003393, -0.245506704, 0.00401571766, 0.241582811, 0.496108711, 0.754355192],
        ),
    ];
    let sgd = [
        (
            SgdConfig::default(),
            0.1,
            [-0.537500024, -0.175000012, 0.0500000007, 0.137500018, 0.5, 0.862500072],
        ),
        (
            SgdConfig { momentum: 0.9, dampening: 0.25, weight_decay: 0.05, ..Default::default() },
            0.1,
            [-0.367204666, -0.145990714, 0.0827658325, -0.0771458969, 0.502773762, 0.927080989],
        ),
        (
            SgdConfig { momentum: 0.8, nesterov: true, weight_decay: 0.1, ..Default::default() },
            0.05,
            [-0.474613845, -0.137466714, 0.0522232987, 0.0656799302, 0.480820984, 0.837147295],
        ),
    ];
    let mut wrong = Vec::new();
    for path in [Path::Kernels, Path::Plain] {
        with_path(path, || {
            for (config, lr, expected) in adamw {
                let got = golden_run(config, lr);
                compare(&format!("{path:?} {config:?}"), &got, expected, &mut wrong);
            }
            for (config, lr, expected) in sgd {
                let got = golden_run(config, lr);
                compare(&format!("{path:?} {config:?}"), &got, expected, &mut wrong);
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Seven steps on a tensor that spans several chunks; after each, `between` may replace the optimiser.
fn long_run<R: Rule>(
    config: &R,
    between: impl Fn(Optimizer<R>, &ParamSet) -> Result<Optimizer<R>>,
) -> Vec<f32> {
    let rng = Rng::new(5);
    let (params, p) = set_of(rng.fork("p").randn((3, 90_001), &Device::Cpu).unwrap());
    let mut optimiser = Optimizer::new(&params, config.clone()).unwrap();
    for s in 0..7 {
        // A gradient that is not contiguous.
        let g = rng.sample(s).randn((90_001, 3), &Device::Cpu).unwrap().t().unwrap();
        optimiser.step(&gradients(g), 1e-2).unwrap();
        optimiser = between(optimiser, &params).unwrap();
    }
    p.flatten_all().unwrap().to_vec1().unwrap()
}

fn same_bits_on_every_way<R: Rule>(config: R) {
    let straight = long_run(&config, |o, _| Ok(o));
    assert!(straight.iter().all(|v| v.is_finite()));
    let resumed = long_run(&config, |old, params| {
        let mut new = Optimizer::new(params, config.clone())?;
        new.load_state(&old.state()?)?;
        Ok(new)
    });
    assert!(straight == resumed, "resumption changes {config:?}");
    let plain = with_path(Path::Plain, || long_run(&config, |o, _| Ok(o)));
    assert!(straight == plain, "the plain path differs for {config:?}");
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(straight == one_thread.install(|| long_run(&config, |o, _| Ok(o))), "threads change {config:?}");
}

#[test]
fn kernel_plain_path_resumption_and_threads_give_the_same_bits() {
    same_bits_on_every_way(AdamWConfig::default());
    same_bits_on_every_way(SgdConfig { weight_decay: 0.01, ..Default::default() });
    same_bits_on_every_way(SgdConfig { momentum: 0.9, dampening: 0.1, ..Default::default() });
    same_bits_on_every_way(SgdConfig { momentum: 0.9, nesterov: true, ..Default::default() });
}

#[test]
fn gradients_of_another_dtype_are_taken() {
    for path in [Path::Kernels, Path::Plain] {
        with_path(path, || {
            let (params, p) = set_of(Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap());
            let mut optimiser = AdamW::new(&params, AdamWConfig::default()).unwrap();
            let g = Tensor::new(&[0.5f64, 0.0], &Device::Cpu).unwrap();
            optimiser.step(&gradients(g), 0.1).unwrap();
            let got = p.to_vec1::<f32>().unwrap();
            assert!((got[0] - 0.899).abs() < 1e-6 && (got[1] + 1.998).abs() < 1e-6, "{path:?} {got:?}");
        });
    }
}

#[test]
fn a_gradient_that_does_not_fit_changes_nothing() {
    let (params, p) = set_of(Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap());
    let mut optimiser = AdamW::new(&params, AdamWConfig::default()).unwrap();
    let missing = optimiser.step(&Gradients::default(), 0.1);
    assert!(matches!(missing, Err(Error::MissingGradient { name }) if name == "p"));
    let g = |n: usize| gradients(Tensor::ones(n, DType::F32, &Device::Cpu).unwrap());
    assert!(matches!(optimiser.step(&g(3), 0.1), Err(Error::Shape { .. })));
    for lr in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(optimiser.step(&g(2), lr), Err(Error::Argument { .. })), "{lr}");
    }
    assert_eq!(p.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(optimiser.state().unwrap()["step.p"].to_scalar::<i64>().unwrap(), 0);
}

#[test]
fn parameters_rightly_without_gradient_are_left_alone() {
    let scope = Params::fresh(0, &Device::Cpu);
    let a = scope.weight("a", 1, Init::ONES).unwrap();
    let b = scope.weight("b", 1, Init::ONES).unwrap();
    let params = scope.finish().unwrap();
    let mut optimiser = AdamW::new(&params, AdamWConfig::default()).unwrap();
    let loss = a.sum_all().unwrap();
    optimiser.step(&backward_partial(&loss, &params, |n| n == "b").unwrap(), 0.1).unwrap();
    assert!(a.to_vec1::<f32>().unwrap()[0] < 1.0);
    assert_eq!(b.to_vec1::<f32>().unwrap(), [1.0]);
    let state = optimiser.state().unwrap();
    let steps = ["step.a", "step.b"].map(|n| state[n].to_scalar::<i64>().unwrap());
    assert_eq!(steps, [1, 0]);
}

#[test]
fn a_state_of_another_model_is_reported_whole() {
    let (params, _) = set_of(Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap());
    let mut optimiser = AdamW::new(&params, AdamWConfig::default()).unwrap();
    let mut state = optimiser.state().unwrap();
    state.remove("exp_avg.p");
    state.insert("exp_avg.q".to_owned(), state["exp_avg_sq.p"].clone());
    state.insert("exp_avg_sq.p".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    let Err(Error::Keys(report)) = optimiser.load_state(&state) else { panic!("must not fit") };
    assert_eq!((report.missing, report.unexpected), (vec!["exp_avg.p".into()], vec!["exp_avg.q".into()]));
    assert_eq!(report.misshaped[0].name, "exp_avg_sq.p");

    let mut state = optimiser.state().unwrap();
    state.insert("step.p".to_owned(), Tensor::new(-1i64, &Device::Cpu).unwrap());
    assert!(matches!(optimiser.load_state(&state), Err(Error::Argument { .. })));
}

#[test]
fn configurations_out_of_range_name_the_field() {
    let d = AdamWConfig::default();
    let s = SgdConfig::default();
    let cases = [
        ("lr", AdamWConfig { lr: f64::NAN, ..d }.validate()),
        ("lr", AdamWConfig { lr: -1e-3, ..d }.validate()),
        ("betas.0", AdamWConfig { betas: (1.0, 0.9), ..d }.validate()),
        ("betas.1", AdamWConfig { betas: (0.9, -0.1), ..d }.validate()),
        ("betas.1", AdamWConfig { betas: (0.9, f64::NAN), ..d }.validate()),
        ("eps", AdamWConfig { eps: 0.0, ..d }.validate()),
        ("eps", AdamWConfig { eps: f64::NAN, ..d }.validate()),
        ("weight_decay", AdamWConfig { weight_decay: -0.1, ..d }.validate()),
        ("lr", SgdConfig { lr: f64::INFINITY, ..s }.validate()),
        ("momentum", SgdConfig { momentum: -0.1, ..s }.validate()),
        ("dampening", SgdConfig { dampening: f64::NAN, ..s }.validate()),
        ("nesterov", SgdConfig { nesterov: true, ..s }.validate()),
        ("nesterov", SgdConfig { nesterov: true, momentum: 0.9, dampening: 0.1, ..s }.validate()),
    ];
    let mut wrong = Vec::new();
    for (i, (field, outcome)) in cases.iter().enumerate() {
        if !matches!(outcome, Err(Error::Argument { what, .. }) if what == field) {
            wrong.push(format!("case {i}: {outcome:?}, expected a complaint about {field}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(serde_json::from_str::<AdamWConfig>(r#"{"learning_rate":1}"#).is_err());
}
