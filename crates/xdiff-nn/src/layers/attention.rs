//! Scaled dot-product attention.

use candle_core::{DType, Tensor};

use super::softmax::over_last_dim;
use crate::compute::use_kernel;
use crate::kernels::attention::{Mask, Op};
use crate::kernels::softmax::EmptyRow;
use crate::tap::Tap;
use crate::{Error, Result};

/// How attention is done.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// What products of queries and keys are multiplied by; 1/√d when not given.
    pub scale: Option<f64>,
    /// Added to the scaled products: (B or 1, heads or 1, queries or 1, keys). −∞ hides a key from
    /// a query.
    pub mask: Option<Tensor>,
}

/// Attention softmax(q kᵀ · scale + mask) v (Vaswani et al., 2017).
///
/// On the CPU in f32 no buffer of queries × keys is made, forward or backward, unless the mask is
/// itself differentiated. A query whose keys are all masked gets zeros, and no gradient.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::{AttentionOptions, attention};
///
/// let q = Tensor::new(&[[[[0f32, 0.]]]], &Device::Cpu)?;
/// let k = Tensor::new(&[[[[1f32, 2.], [3., 4.]]]], &Device::Cpu)?;
/// let y = attention(&q, &k, &k, &AttentionOptions::default())?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [2., 3.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Shapes
/// q (B, heads, Lq, d), k (B, heads, Lk, d), v (B, heads, Lk, dv) → (B, heads, Lq, dv).
///
/// # Errors
/// [`Error::Shape`] when the tensors or the mask do not fit, [`Error::Argument`] for integers, for
/// tensors of different types and for a scale that is not finite.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let scale = validate(q, k, Some(v), options)?;
    let tracked_mask = options.mask.as_ref().is_some_and(|m| m.track_op());
    if tracked_mask || !use_kernel(&[q, k, v]) {
        return weigh(&probabilities(q, k, scale, options)?, v);
    }
    let mask = match &options.mask {
        Some(mask) => Some(Mask {
            size: mask.dims4()?.into(),
            values: mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        }),
        None => None,
    };
    Ok(dense(q)?.apply_op3(&dense(k)?, &dense(v)?, Op::new(scale, mask))?)
}

/// The probabilities softmax(q kᵀ · scale + mask) of [`attention`], rows summing to 1, or to 0
/// where every key is masked. They take memory of the order of queries × keys.
///
/// # Shapes
/// q (B, heads, Lq, d), k (B, heads, Lk, d) → (B, heads, Lq, Lk).
///
/// # Errors
/// As [`attention`].
pub fn attention_probabilities(q: &Tensor, k: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    let scale = validate(q, k, None, options)?;
    probabilities(q, k, scale, options)
}

/// [`attention`] that a tap can look into, and change, at `site`. The probabilities are made only
/// when the tap wants them.
///
/// # Shapes
/// As [`attention`].
///
/// # Errors
/// As [`attention`]; those of the tap, and [`Error::Shape`] when it returns another shape.
pub fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionOptions,
    site: &str,
    tap: &mut dyn Tap,
) -> Result<Tensor> {
    if !tap.wants_attention(site) {
        return attention(q, k, v, options);
    }
    let scale = validate(q, k, Some(v), options)?;
    let seen = probabilities(q, k, scale, options)?;
    let shape = seen.shape().clone();
    let seen = tap.attention(site, seen)?;
    if seen.shape() != &shape {
        let expected = format!("attention of shape {shape:?} from site {site}");
        return Err(Error::shape("tap", expected, seen.dims()));
    }
    weigh(&seen, v)
}

/// Checks shapes and types; the scale.
fn validate(q: &Tensor, k: &Tensor, v: Option<&Tensor>, options: &AttentionOptions) -> Result<f64> {
    let &[batch, heads, queries, d] = q.dims() else {
        return Err(Error::shape("attention", "queries of shape (B, heads, Lq, d)", q.dims()));
    };
    let keys = match *k.dims() {
        [b, h, keys, e] if (b, h, e) == (batch, heads, d) => keys,
        _ => return Err(Error::shape("attention", format!("keys ({batch}, {heads}, Lk, {d})"), k.dims())),
    };
    if keys == 0 || d == 0 {
        return Err(Error::shape("attention", "at least one key, of a width of at least 1", k.dims()));
    }
    if let Some(v) = v
        && (v.rank() != 4 || v.dims()[..3] != [batch, heads, keys])
    {
        return Err(Error::shape("attention", format!("values ({batch}, {heads}, {keys}, dv)"), v.dims()));
    }
    for t in [Some(k), v].into_iter().flatten() {
        if t.dtype() != q.dtype() || !q.dtype().is_float() {
            let reason = format!(
                "queries are {:?} and keys or values {:?}; convert them to one floating point type",
                q.dtype(),
                t.dtype()
            );
            return Err(Error::argument("attention", reason));
        }
    }
    if let Some(mask) = &options.mask {
        let fits = match *mask.dims() {
            [b, h, l, n] => {
                (b == 1 || b == batch) && (h == 1 || h == heads) && (l == 1 || l == queries) && n == keys
            }
            _ => false,
        };
        if !fits {
            let expected = format!("a mask ({batch} or 1, {heads} or 1, {queries} or 1, {keys})");
            return Err(Error::shape("attention", expected, mask.dims()));
        }
        if !mask.dtype().is_float() {
            let reason = format!("is added to scores, so it cannot be {:?}; use 0 and −∞", mask.dtype());
            return Err(Error::argument("attention mask", reason));
        }
    }
    let scale = options.scale.unwrap_or(1.0 / (d.max(1) as f64).sqrt());
    if !scale.is_finite() {
        return Err(Error::argument("attention scale", format!("must be finite, got {scale}")));
    }
    Ok(scale)
}

fn probabilities(q: &Tensor, k: &Tensor, scale: f64, options: &AttentionOptions) -> Result<Tensor> {
    let (b, h, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    if b * h * queries == 0 {
        return Ok(Tensor::zeros((b, h, queries, keys), q.dtype(), q.device())?);
    }
    let scores = (q.contiguous()?.matmul(&k.contiguous()?.transpose(2, 3)?)? * scale)?;
    let scores = match &options.mask {
        Some(mask) => scores.broadcast_add(&mask.to_dtype(q.dtype())?)?,
        None => scores,
    };
    over_last_dim(&scores, EmptyRow::Zero)
}

fn weigh(probabilities: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, h, queries, _) = probabilities.dims4()?;
    let width = v.dim(3)?;
    if b * h * queries * width == 0 {
        return Ok(Tensor::zeros((b, h, queries, width), v.dtype(), v.device())?);
    }
    Ok(probabilities.contiguous()?.matmul(&v.contiguous()?)?)
}

/// The tensor, copied only when its last dimension is not dense.
fn dense(t: &Tensor) -> Result<Tensor> {
    let last = t.stride().last().copied();
    Ok(if last == Some(1) { t.clone() } else { t.contiguous()? })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::Rng;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    struct Shape {
        batch: usize,
        heads: usize,
        queries: usize,
        keys: usize,
        d: usize,
        dv: usize,
    }

    fn qkv(rng: &mut Rng, s: &Shape) -> Vec<Tensor> {
        let mut draw = |rows, width| rng.randn((s.batch, s.heads, rows, width), &Device::Cpu).unwrap();
        vec![draw(s.queries, s.d), draw(s.keys, s.d), draw(s.keys, s.dv)]
    }

    fn case(name: &str, rng: &mut Rng, s: &Shape, options: AttentionOptions) -> Case {
        Case::new(name, qkv(rng, s), move |x| attention(&x[0], &x[1], &x[2], &options))
    }

    #[test]
    fn gradients_agree_with_differences() {
        let mut rng = Rng::new(1);
        let s = Shape { batch: 2, heads: 1, queries: 5, keys: 7, d: 3, dv: 2 };
        let mut inputs = qkv(&mut rng, &s);
        inputs.push(rng.randn((1, 1, 5, 7), &Device::Cpu).unwrap());
        for path in [Path::Kernels, Path::Plain] {
            let masked = AttentionOptions { mask: Some(inputs[3].clone()), scale: Some(0.8) };
            with_path(path, || {
                let three = |x: &[Tensor]| attention(&x[0], &x[1], &x[2], &masked);
                check(three, &inputs[..3], Options::default())?;
                let learnt = |x: &[Tensor]| {
                    let options = AttentionOptions { mask: Some(x[3].clone()), scale: None };
                    attention(&x[0], &x[1], &x[2], &options)
                };
                check(learnt, &inputs, Options::default())
            })
            .unwrap_or_else(|e| panic!("{path:?}: {e}"));
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        let shape = |batch, heads, queries, keys, d, dv| Shape { batch, heads, queries, keys, d, dv };
        for (name, s) in [
            ("odd", shape(1, 3, 17, 19, 5, 7)),
            ("one of each", shape(1, 1, 1, 1, 1, 1)),
            ("no sample", shape(0, 2, 3, 3, 4, 4)),
            ("no query", shape(1, 2, 0, 3, 4, 4)),
            ("more queries than a block", shape(2, 1, 300, 33, 8, 8)),
            ("more keys than two blocks", shape(1, 2, 40, 1100, 16, 16)),
            ("many blocks of both", shape(1, 1, 400, 700, 40, 40)),
            ("wide heads", shape(1, 2, 64, 64, 160, 160)),
        ] {
            cases.push(case(name, &mut rng, &s, AttentionOptions::default()));
            let large = AttentionOptions { scale: Some(20.0), mask: None };
            cases.push(case(&format!("{name}, large scores"), &mut rng, &s, large));
            let negative = AttentionOptions { scale: Some(-0.7), mask: None };
            cases.push(case(&format!("{name}, negative scale"), &mut rng, &s, negative));
        }
        let s = shape(2, 3, 150, 530, 5, 3);
        for (b, h, l) in [(2, 3, 150), (1, 3, 150), (2, 1, 1), (1, 1, 150), (1, 1, 1)] {
            let mask = rng.randn((b, h, l, 530), &Device::Cpu).unwrap();
            // A key in four is hidden, and the first 520 keys of a query in three.
            let hidden = Tensor::from_vec(
                (0..b * h * l * 530)
                    .map(|i| {
                        if i % 4 == 3 || (i / 530 % 3 == 2 && i % 530 < 520) {
                            f32::NEG_INFINITY
                        } else {
                            0.0
                        }
                    })
                    .collect::<Vec<_>>(),
                (b, h, l, 530),
                &Device::Cpu,
            )
            .unwrap();
            let options = AttentionOptions { mask: Some((mask + hidden).unwrap()), scale: None };
            cases.push(case(&format!("mask {b} {h} {l}"), &mut rng, &s, options));
        }
        let swap = |t: Tensor| t.transpose(1, 2).unwrap();
        let inputs = qkv(&mut rng, &shape(2, 40, 3, 3, 5, 5)).into_iter().map(swap).collect();
        cases.push(Case::new("heads behind rows", inputs, |x| {
            attention(&x[0], &x[1], &x[2], &AttentionOptions::default())
        }));
        let inputs = qkv(&mut rng, &shape(2, 3, 6, 6, 30, 30));
        let inputs = inputs.into_iter().map(|t| t.transpose(2, 3).unwrap()).collect();
        cases.push(Case::new("columns behind rows", inputs, |x| {
            attention(&x[0], &x[1], &x[2], &AttentionOptions::default())
        }));
        compare(&cases, 5e-5);
    }

    #[test]
    fn a_query_without_keys_gets_zeros_and_no_gradient() {
        let mut rng = Rng::new(3);
        let s = Shape { batch: 1, heads: 1, queries: 2, keys: 3, d: 4, dv: 4 };
        let inputs = qkv(&mut rng, &s);
        let mask = [[[[f32::NEG_INFINITY; 3], [0.0; 3]]]];
        let options = AttentionOptions { mask: Some(Tensor::new(&mask, &Device::Cpu).unwrap()), scale: None };
        for path in [Path::Kernels, Path::Plain] {
            with_path(path, || {
                let q = Var::from_tensor(&inputs[0]).unwrap();
                let y = attention(&q, &inputs[1], &inputs[2], &options).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                let y = y.squeeze(0).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
                let dq = grads.get(&q).unwrap().squeeze(0).unwrap().squeeze(0).unwrap();
                assert_eq!(
                    (y[0].clone(), dq.to_vec2::<f32>().unwrap()[0].clone()),
                    (vec![0.0; 4], vec![0.0; 4])
                );
                assert!(y[1].iter().any(|v| *v != 0.0));
                let p = attention_probabilities(&q, &inputs[1], &options).unwrap();
                let sums = p.sum(3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(sums[0] == 0.0 && (sums[1] - 1.0).abs() < 1e-6, "{path:?}: {sums:?}");
            });
        }
    }

    #[test]
    fn only_tracked_inputs_get_gradients() {
        let s = Shape { batch: 1, heads: 2, queries: 5, keys: 6, d: 4, dv: 3 };
        let inputs = qkv(&mut Rng::new(4), &s);
        for i in 0..3 {
            let mut args = inputs.clone();
            let var = Var::from_tensor(&inputs[i]).unwrap();
            args[i] = var.as_tensor().clone();
            let y = attention(&args[0], &args[1], &args[2], &AttentionOptions::default()).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some());
            assert!((0..3).all(|j| j == i || grads.get(&inputs[j]).is_none()));
        }
    }

    #[test]
    fn a_tap_sees_and_replaces_the_probabilities() {
        struct Uniform(Option<Tensor>);
        impl Tap for Uniform {
            fn wants_attention(&self, site: &str) -> bool {
                site == "here"
            }
            fn attention(&mut self, _site: &str, p: Tensor) -> Result<Tensor> {
                let keys = p.dim(3)? as f64;
                self.0 = Some(p.clone());
                Ok((p.ones_like()? / keys)?)
            }
        }
        let s = Shape { batch: 1, heads: 2, queries: 3, keys: 4, d: 5, dv: 5 };
        let x = qkv(&mut Rng::new(5), &s);
        let options = AttentionOptions::default();
        let mut tap = Uniform(None);
        let there = attend(&x[0], &x[1], &x[2], &options, "there", &mut tap).unwrap();
        assert!(tap.0.is_none());
        let plain = attention(&x[0], &x[1], &x[2], &options).unwrap();
        let difference = (there - plain).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
        let here = attend(&x[0], &x[1], &x[2], &options, "here", &mut tap).unwrap();
        assert_eq!(tap.0.unwrap().dims(), [1, 2, 3, 4]);
        let mean = x[2].mean_keepdim(2).unwrap().broadcast_as(here.shape()).unwrap();
        let difference = (here - mean).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let (q, k, v) = (t(&[1, 2, 3, 4]), t(&[1, 2, 5, 4]), t(&[1, 2, 5, 6]));
        let run = |q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>, scale| {
            attention(q, k, v, &AttentionOptions { scale, mask })
        };
        for (what, outcome) in [
            ("rank", run(&t(&[2, 3, 4]), &k, &v, None, None)),
            ("keys", run(&q, &t(&[1, 2, 5, 3]), &v, None, None)),
            ("values", run(&q, &k, &t(&[1, 2, 4, 6]), None, None)),
            ("no key", run(&q, &t(&[1, 2, 0, 4]), &t(&[1, 2, 0, 6]), None, None)),
            ("no width", run(&t(&[1, 2, 3, 0]), &t(&[1, 2, 5, 0]), &v, None, None)),
            ("mask", run(&q, &k, &v, Some(t(&[1, 2, 2, 5])), None)),
            ("rank of mask", run(&q, &k, &v, Some(t(&[3, 5])), None)),
        ] {
            assert!(matches!(outcome, Err(Error::Shape { .. })), "{what}");
        }
        let wide = k.to_dtype(DType::F64).unwrap();
        let bits = Tensor::zeros((1, 1, 1, 5), DType::U8, &Device::Cpu).unwrap();
        for (what, outcome) in [
            ("type", run(&q, &wide, &v, None, None)),
            ("type of mask", run(&q, &k, &v, Some(bits), None)),
            ("scale", run(&q, &k, &v, None, Some(f64::NAN))),
        ] {
            assert!(matches!(outcome, Err(Error::Argument { .. })), "{what}");
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let s = Shape { batch: 1, heads: 2, queries: 300, keys: 600, d: 24, dv: 24 };
        let inputs = qkv(&mut Rng::new(6), &s);
        let run = || {
            let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
            let y = attention(&vars[0], &vars[1], &vars[2], &AttentionOptions::default()).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (flat(&y), vars.iter().map(|v| flat(grads.get(v).unwrap())).collect::<Vec<_>>())
        };
        let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(run);
        assert!(on(1) == on(3));
    }
}
