use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;

use super::*;
use crate::gradcheck::{Options, check};
use crate::layers::{Activation, GroupNorm, Linear, dropout};
use crate::optim::backward;
use crate::{Init, ParamSet, Params, Rng};

type Run = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// A function of tensors that may be called as it is or through [`checkpoint`].
#[derive(Clone)]
struct Block(Arc<Run>);

impl Block {
    fn new(run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    fn call(&self, inputs: &[&Tensor], kept: bool) -> Result<Tensor> {
        let inputs: Vec<Tensor> = inputs.iter().copied().cloned().collect();
        if kept {
            return (self.0)(&inputs);
        }
        let run = self.0.clone();
        checkpoint(&inputs, move |inputs| run(inputs))
    }
}

fn randn(seed: u64, dims: &[usize]) -> Tensor {
    Rng::new(seed).randn(dims, &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// A loss whose parameters come from a scope, with activations kept or not.
struct Case {
    name: &'static str,
    loss: fn(&Params, bool) -> Result<Tensor>,
    /// The largest difference of a gradient, as a share of its largest number.
    tolerance: f32,
}

/// Two linear layers with a group norm between.
fn two_layers(p: &Params, name: &str) -> Result<Block> {
    let p = p.at(name);
    let first = Linear::new(6, 8, true, &p.at("first"))?;
    let norm = GroupNorm::new(2, 8, 1e-5, &p.at("norm"))?;
    let second = Linear::new(8, 6, true, &p.at("second"))?;
    Ok(Block::new(move |x| second.forward(&norm.forward_act(&first.forward(&x[0])?, Activation::Silu)?)))
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "one input",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?;
                Ok(two_layers(p, "block")?.call(&[&x], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
        Case {
            name: "two inputs that are computed, and a stack",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?;
                let (a, b) = (x.sqr()?, Activation::Silu.apply(&x)?);
                let (first, second) = (two_layers(p, "a")?, two_layers(p, "b")?);
                let both =
                    Block::new(move |x| Ok((first.call(&[&x[0]], true)? * second.call(&[&x[1]], true)?)?));
                let y = both.call(&[&a, &b], kept)?;
                Ok(two_layers(p, "c")?.call(&[&y], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
        Case {
            name: "an input that goes on beside the call",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?.sqr()?;
                let y = two_layers(p, "block")?.call(&[&x], kept)?;
                Ok((&y + &x)?.mul(&x)?.sum_all()?)
            },
            tolerance: 1e-6,
        },
        Case {
            name: "nested",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?;
                let (first, second) = (two_layers(p, "a")?, two_layers(p, "b")?);
                let outer = Block::new(move |x| second.call(&[&first.call(&[&x[0]], kept)?], kept));
                Ok(outer.call(&[&x], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
        Case {
            name: "a parameter inside twice and outside",
            loss: |p, kept| {
                let w = p.weight("w", (6, 6), Init::Normal(0.5))?;
                let inner = w.clone();
                let block = Block::new(move |x| Ok(x[0].matmul(&inner)?.tanh()?.matmul(&inner)?));
                let y = block.call(&[&randn(1, &[3, 6])], kept)?;
                Ok(y.matmul(&w)?.sqr()?.sum_all()?)
            },
            tolerance: 1e-6,
        },
        Case {
            name: "an input that is also a parameter inside",
            loss: |p, kept| {
                let w = p.weight("w", (6, 6), Init::Normal(0.5))?;
                let inner = w.clone();
                let block = Block::new(move |x| Ok(x[0].matmul(&inner)?.tanh()?));
                Ok(block.call(&[&w], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 1e-6,
        },
        Case {
            name: "an input outside of the graph",
            loss: |p, kept| {
                let y = two_layers(p, "block")?.call(&[&randn(1, &[3, 6])], kept)?;
                Ok(y.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
        Case {
            name: "a view of the input, and none at all",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?;
                let turn = Block::new(|x| Ok(x[0].t()?.narrow(0, 1, 4)?));
                let same = Block::new(|x| Ok(x[0].clone()));
                Ok(same.call(&[&turn.call(&[&x], kept)?], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
        Case {
            name: "dropout from a generator of its own",
            loss: |p, kept| {
                let x = p.weight("x", (3, 6), Init::Normal(1.0))?;
                let (block, rng) = (two_layers(p, "block")?, Rng::new(5));
                let dropped =
                    Block::new(move |x| dropout(&block.call(&[&x[0]], true)?, 0.4, &mut rng.clone()));
                Ok(dropped.call(&[&x], kept)?.sqr()?.sum_all()?)
            },
            tolerance: 0.0,
        },
    ]
}

#[test]
fn results_and_gradients_are_those_with_activations_kept() {
    let run = |case: &Case, kept: bool| -> Result<(Vec<f32>, crate::Gradients, ParamSet)> {
        let scope = Params::fresh(3, &Device::Cpu);
        let loss = (case.loss)(&scope, kept)?;
        let params = scope.finish()?;
        Ok((numbers(&loss), backward(&loss, &params)?, params))
    };
    let mut wrong = Vec::new();
    for case in cases() {
        for path in [Path::Kernels, Path::Plain] {
            let outcome = with_path(path, || Ok::<_, Error>((run(&case, true)?, run(&case, false)?)));
            let ((loss, gradients, _), (again, recomputed, params)) = match outcome {
                Ok(outcome) => outcome,
                Err(e) => {
                    wrong.push(format!("{}, {path:?}: {e}", case.name));
                    continue;
                }
            };
            if loss != again {
                wrong.push(format!("{}, {path:?}: the loss is {again:?}, not {loss:?}", case.name));
            }
            for (name, _) in params.trainable() {
                let (a, b) = (gradients.get(name).unwrap(), recomputed.get(name).unwrap());
                let (a, b) = (numbers(a), numbers(b));
                let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
                let off = a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
                if off.is_nan() || off > case.tolerance {
                    wrong.push(format!("{}, {path:?}, {name}: off by {off:e}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn gradients_agree_with_differences() {
    let w = randn(1, &[5, 4]);
    let f = move |x: &[Tensor]| {
        let w = w.clone();
        checkpoint(x, move |x| Ok::<_, Error>(x[0].matmul(&w)?.tanh()?.matmul(&x[1])?))
    };
    check(f, &[randn(2, &[3, 5]), randn(3, &[4, 2])], Options::default()).unwrap();
}

#[test]
fn nothing_inside_is_kept_and_the_function_runs_once_for_each_pass() {
    let (calls, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
    let x = Var::from_tensor(&randn(1, &[4])).unwrap();
    let (counted, token) = (calls.clone(), inside.clone());
    let y = checkpoint(&[x.as_tensor().clone()], move |x| {
        counted.fetch_add(1, Ordering::SeqCst);
        // An operation that lives as long as the graph it belongs to.
        let token = token.clone();
        let y = known(&x[0], x[0].detach(), move |grad| {
            let _held = &token;
            Ok(Some(grad.clone()))
        })?;
        Ok::<_, Error>(y.sqr()?)
    })
    .unwrap();
    // One is here and one in the function.
    assert_eq!((calls.load(Ordering::SeqCst), Arc::strong_count(&inside)), (1, 2));
    for pass in 2..4 {
        let grads = y.sum_all().unwrap().backward().unwrap();
        let expected: Vec<f32> = numbers(&x).iter().map(|v| 2.0 * v).collect();
        assert_eq!(numbers(grads.get(&x).unwrap()), expected);
        assert_eq!((calls.load(Ordering::SeqCst), Arc::strong_count(&inside)), (pass, 2));
    }
}

#[test]
fn the_path_of_the_first_call_holds_in_the_second() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let x = Var::from_tensor(&randn(1, &[4])).unwrap();
    let y = with_path(Path::Plain, || {
        let seen = seen.clone();
        checkpoint(&[x.as_tensor().clone()], move |x| {
            seen.lock().unwrap().push(path());
            Activation::Silu.apply(&x[0])
        })
    })
    .unwrap();
    y.sum_all().unwrap().backward().unwrap();
    assert_eq!(*seen.lock().unwrap(), [Path::Plain; 2]);
    assert_eq!(path(), Path::Kernels);
}

#[test]
fn without_anything_to_differentiate_there_is_no_graph() {
    let y = checkpoint(&[randn(1, &[4])], |x| Activation::Silu.apply(&x[0])).unwrap();
    assert!(!y.track_op());
}

#[test]
fn an_input_in_vain_is_named_where_the_graph_needs_its_gradient() {
    let run = |x: Tensor| {
        let y = checkpoint(&[randn(1, &[4]), x], |x| Ok::<_, Error>(x[0].sqr()?)).unwrap();
        y.sum_all().unwrap().backward()
    };
    let leaf = Var::from_tensor(&randn(2, &[4])).unwrap();
    let error = run(leaf.sqr().unwrap()).unwrap_err().to_string();
    assert!(error.contains("does not depend on input 1"), "{error}");
    // A variable simply has no gradient then.
    assert!(run(leaf.as_tensor().clone()).unwrap().get(&leaf).is_none());
}

#[test]
fn errors_of_both_calls_reach_the_caller() {
    let failing = |at: usize| {
        let calls = AtomicUsize::new(0);
        let x = Var::from_tensor(&randn(1, &[4])).unwrap();
        let y = checkpoint(&[x.as_tensor().clone()], move |x| {
            if calls.fetch_add(1, Ordering::SeqCst) == at {
                return Err(Error::argument("block", "refused"));
            }
            Ok(x[0].sqr()?)
        })?;
        Ok::<_, Error>(y.sum_all()?.backward()?)
    };
    assert!(matches!(failing(0), Err(Error::Argument { what: "block", .. })));
    let text = failing(1).unwrap_err().to_string();
    assert!(text.contains("block: refused"), "{text}");
}

#[test]
fn backward_passes_at_once_do_not_mix() {
    let scope = Params::fresh(3, &Device::Cpu);
    let block = two_layers(&scope, "block").unwrap();
    let x = scope.weight("x", (3, 6), Init::Normal(1.0)).unwrap();
    let y = block.call(&[&x], false).unwrap();
    let params = scope.finish().unwrap();
    let gradient = |factor: f64| {
        let loss = (&y * factor).unwrap().sum_all().unwrap();
        let gradients = backward(&loss, &params).unwrap();
        gradients.iter().map(|(_, g)| numbers(g)).collect::<Vec<_>>()
    };
    let alone = [gradient(1.0), gradient(2.0)];
    std::thread::scope(|threads| {
        for _ in 0..8 {
            for (i, factor) in [(0, 1.0), (1, 2.0)] {
                let (gradient, alone) = (&gradient, &alone);
                threads.spawn(move || assert!(gradient(factor) == alone[i]));
            }
        }
    });
}
