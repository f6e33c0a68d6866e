//! The whole network: gradients, taps, conditions, and what it refuses.

mod checkpointing;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};
use xdiff_nn::compute::{Bf16Support, Path, Precision, bf16_support, with_path, with_precision};
use xdiff_nn::optim::backward;
use xdiff_nn::tap::{GradRecorder, Recorder, Sites};
use xdiff_nn::{ParamSet, Params, Rng, Tap};

use super::*;
use crate::{Cond, Denoiser, Error, Prediction, Result};

/// A network of three stages, with attention, for 8 × 8 images of one channel, two given.
fn config(changes: Value) -> UNet2DConfig {
    let mut config = json!({
        "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 2,
        "block_out_channels": [4, 8, 8], "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    UNet2DConfig::from_diffusers(&config).unwrap()
}

fn build(changes: Value) -> (UNet2D, ParamSet) {
    let params = Params::fresh(3, &Device::Cpu);
    let unet = UNet2D::new(&config(changes), &params).unwrap();
    (unet, params.finish().unwrap())
}

/// Two noisy images and their time steps.
fn input() -> (Tensor, Tensor) {
    let x = Rng::new(1).randn((2, 1, 8, 8), &Device::Cpu).unwrap();
    (x, Tensor::new(&[17f32, 640.], &Device::Cpu).unwrap())
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A tensor of ±1.
fn signs(seed: u64, like: &Tensor) -> Tensor {
    let mut rng = Rng::new(seed);
    let signs: Vec<f32> = (0..like.elem_count()).map(|_| if rng.chance(0.5) { 1. } else { -1. }).collect();
    Tensor::from_vec(signs, like.shape(), &Device::Cpu).unwrap()
}

/// The derivative of `f` along the direction `d` at `x`, by central differences.
fn slope(x: &Tensor, d: &Tensor, f: impl Fn(&Tensor) -> f64) -> f64 {
    let step = 0.03 / (d.elem_count() as f64).sqrt();
    let at = |h: f64| f(&(x + (d * h).unwrap()).unwrap());
    (at(step) - at(-step)) / (2.0 * step)
}

#[test]
fn products_in_bf16_change_a_frozen_network_little_and_another_not_at_all() {
    let changes = json!({ "block_out_channels": [32, 64, 64], "norm_num_groups": 8 });
    let x = Rng::new(1).randn((2, 1, 16, 16), &Device::Cpu).unwrap();
    let t = Tensor::new(&[17f32, 640.], &Device::Cpu).unwrap();
    let params = Params::fresh(3, &Device::Cpu).freeze(|_| true);
    let frozen = UNet2D::new(&config(changes.clone()), &params).unwrap();
    let predict = |unet: &UNet2D| unet.predict(&x, &t, &Cond::default(), &mut ()).unwrap();
    let exact = predict(&frozen);
    let fast = with_precision(Precision::Bf16, || predict(&frozen));
    let off = (&fast - &exact).unwrap();
    let share = (dot(&off, &off) / dot(&exact, &exact)).sqrt();
    assert_eq!(share > 0.0, bf16_support() != Bf16Support::None, "{share}");
    // One layer is off by 2.3e-3; what a network makes of it depends on its weights.
    assert!(share < 1e-2, "{share}");
    let tracked = with_precision(Precision::Bf16, || predict(&build(changes).0));
    assert_eq!(largest_difference(&tracked, &exact), 0.0);
}

#[test]
fn the_gradient_of_every_weight_and_of_the_input_is_that_of_differences() {
    let networks = [
        json!({}),
        json!({ "resnet_time_scale_shift": "scale_shift" }),
        json!({
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "downsample_type": "resnet", "upsample_type": "resnet", "mid_block_scale_factor": 1.4,
            "downsample_padding": 0,
        }),
    ];
    let (x, t) = input();
    let mut wrong = Vec::new();
    for changes in networks {
        let (unet, params) = build(changes.clone());
        let direction = Rng::new(2).randn(x.shape(), &Device::Cpu).unwrap();
        let loss = |x: &Tensor| dot(&unet.predict(x, &t, &Cond::default(), &mut ()).unwrap(), &direction);
        let seen = Var::from_tensor(&x).unwrap();
        let y = unet.predict(&seen, &t, &Cond::default(), &mut ()).unwrap();
        let store = (y * &direction).unwrap().sum_all().unwrap();
        let grads = backward(&store, &params).unwrap();
        let to_x = store.backward().unwrap().get(&seen).unwrap().clone();
        let mut check = |name: &str, gradient: &Tensor, by_differences: f64, d: &Tensor| {
            let (along, size) = (dot(gradient, d), dot(gradient, gradient).sqrt());
            if (along - by_differences).abs().partial_cmp(&(0.02 * size + 0.002))
                != Some(std::cmp::Ordering::Less)
            {
                wrong.push(format!("{changes} {name}: {along}, by differences {by_differences}"));
            }
        };
        let d = signs(4, &x);
        check("input", &to_x, slope(&x, &d, loss), &d);
        for (i, (name, var)) in params.trainable().enumerate() {
            let (before, d) = (var.as_detached_tensor().copy().unwrap(), signs(5 + i as u64, var));
            let numeric = slope(&before, &d, |w| {
                var.set(w).unwrap();
                loss(&x)
            });
            var.set(&before).unwrap();
            check(name, grads.get(name).unwrap(), numeric, &d);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_paths_agree_forward_and_backward() {
    let (x, t) = input();
    let mut wrong = Vec::new();
    for changes in [json!({}), json!({ "resnet_time_scale_shift": "scale_shift" })] {
        let (unet, params) = build(changes.clone());
        let run = |path| {
            with_path(path, || {
                let y = unet.predict(&x, &t, &Cond::default(), &mut ()).unwrap();
                let grads = backward(&y.sqr().unwrap().sum_all().unwrap(), &params).unwrap();
                (y, grads)
            })
        };
        let ((y, grads), (plain_y, plain_grads)) = (run(Path::Kernels), run(Path::Plain));
        let difference = largest_difference(&y, &plain_y);
        if difference > 1e-5 {
            wrong.push(format!("{changes} output: {difference}"));
        }
        for (name, g) in grads.iter() {
            let plain = plain_grads.get(name).unwrap();
            let size = values(plain).iter().fold(1.0, |m: f64, v| m.max(v.abs()));
            let difference = largest_difference(g, plain) / size;
            if difference > 1e-4 {
                wrong.push(format!("{changes} {name}: {difference}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_recorder_sees_the_documented_sites() {
    let (unet, _) = build(json!({}));
    let (x, t) = input();
    let mut tap = Recorder::new(Sites::All);
    let y = unet.predict(&x, &t, &Cond::default(), &mut tap).unwrap();
    assert_eq!(largest_difference(&y, &unet.predict(&x, &t, &Cond::default(), &mut ()).unwrap()), 0.0);
    let seen: Vec<(&str, [usize; 2])> =
        tap.seen().iter().map(|(site, x)| (site.as_str(), [x.dims()[1], x.dims()[2]])).collect();
    assert_eq!(
        seen,
        [
            ("conv_in", [4, 8]),
            ("conv_out", [1, 8]),
            ("down_blocks.0.downsamplers.0", [4, 4]),
            ("down_blocks.0.resnets.0", [4, 8]),
            ("down_blocks.1.attentions.0", [8, 4]),
            ("down_blocks.1.downsamplers.0", [8, 2]),
            ("down_blocks.1.resnets.0", [8, 4]),
            ("down_blocks.2.resnets.0", [8, 2]),
            ("mid_block", [8, 2]),
            ("mid_block.attentions.0", [8, 2]),
            ("mid_block.resnets.0", [8, 2]),
            ("mid_block.resnets.1", [8, 2]),
            ("up_blocks.0.resnets.0", [8, 2]),
            ("up_blocks.0.resnets.1", [8, 2]),
            ("up_blocks.0.upsamplers.0", [8, 4]),
            ("up_blocks.1.attentions.0", [8, 4]),
            ("up_blocks.1.attentions.1", [8, 4]),
            ("up_blocks.1.resnets.0", [8, 4]),
            ("up_blocks.1.resnets.1", [8, 4]),
            ("up_blocks.1.upsamplers.0", [8, 8]),
            ("up_blocks.2.resnets.0", [4, 8]),
            ("up_blocks.2.resnets.1", [4, 8]),
        ]
    );
    assert_eq!(largest_difference(&tap.seen()["conv_out"], &y), 0.0);
}

/// Records attention maps, and makes one of them uniform when asked to.
#[derive(Default)]
struct Attention {
    maps: Vec<(String, Tensor)>,
    level: Option<&'static str>,
}

impl Tap for Attention {
    fn wants_attention(&self, _: &str) -> bool {
        true
    }

    fn attention(&mut self, site: &str, map: Tensor) -> xdiff_nn::Result<Tensor> {
        self.maps.push((site.to_owned(), map.clone()));
        if self.level == Some(site) {
            let keys = map.dim(3)? as f64;
            return Ok(map.ones_like()?.affine(1.0 / keys, 0.0)?);
        }
        Ok(map)
    }
}

#[test]
fn attention_maps_are_distributions_and_can_be_replaced() {
    let (unet, _) = build(json!({}));
    let (x, t) = input();
    let mut tap = Attention::default();
    let y = unet.predict(&x, &t, &Cond::default(), &mut tap).unwrap();
    let shapes: Vec<_> = tap.maps.iter().map(|(site, map)| (site.as_str(), map.dims())).collect();
    assert_eq!(
        shapes,
        [
            ("down_blocks.1.attentions.0", [2, 2, 16, 16].as_slice()),
            ("mid_block.attentions.0", &[2, 2, 4, 4]),
            ("up_blocks.1.attentions.0", &[2, 2, 16, 16]),
            ("up_blocks.1.attentions.1", &[2, 2, 16, 16]),
        ]
    );
    for (site, map) in &tap.maps {
        assert!(values(map).iter().all(|p| (0.0..=1.0).contains(p)), "{site}");
        assert!(values(&map.sum(3).unwrap()).iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{site}");
    }
    // Whether the maps are seen changes nothing but the order of sums; what they hold does.
    let unseen = unet.predict(&x, &t, &Cond::default(), &mut ()).unwrap();
    assert!(largest_difference(&y, &unseen) < 1e-5);
    let mut level = Attention { level: Some("mid_block.attentions.0"), ..Default::default() };
    let levelled = unet.predict(&x, &t, &Cond::default(), &mut level).unwrap();
    assert!(largest_difference(&y, &levelled) > 1e-5);
}

/// Adds a tensor to the activation of a site.
struct Push<'a>(&'static str, &'a Tensor);

impl Tap for Push<'_> {
    fn wants(&self, site: &str) -> bool {
        site == self.0
    }

    fn activation(&mut self, _: &str, x: Tensor) -> xdiff_nn::Result<Tensor> {
        Ok((x + self.1)?)
    }
}

#[test]
fn gradients_of_activations_are_those_of_differences() {
    let frozen = {
        let (unet, params) = build(json!({}));
        let p = Params::frozen(params.tensors().unwrap(), &Device::Cpu);
        UNet2D::new(unet.config(), &p).unwrap()
    };
    let (x, t) = input();
    let sites = ["mid_block", "down_blocks.1.attentions.0", "up_blocks.1.resnets.1", "conv_in"];
    let mut tap = GradRecorder::new(Sites::named(sites));
    let y = frozen.predict(&x, &t, &Cond::default(), &mut tap).unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for site in sites {
        let gradient = tap.gradient(&grads, site).unwrap();
        let d = signs(9, &gradient);
        let numeric = slope(&gradient.zeros_like().unwrap(), &d, |push| {
            let y = frozen.predict(&x, &t, &Cond::default(), &mut Push(site, push)).unwrap();
            dot(&y, &y)
        });
        let (along, size) = (dot(&gradient, &d), dot(&gradient, &gradient).sqrt());
        assert!(size > 1e-3, "{site}: the gradient vanishes");
        assert!((along - numeric).abs() < 0.02 * size, "{site}: {along}, by differences {numeric}");
    }
}

#[test]
fn a_frozen_network_has_no_graph_and_predicts_the_same() {
    let (unet, params) = build(json!({}));
    let (x, t) = input();
    let y = unet.predict(&x, &t, &Cond::default(), &mut ()).unwrap();
    let scope = Params::frozen(params.tensors().unwrap(), &Device::Cpu);
    let frozen = UNet2D::new(unet.config(), &scope).unwrap().predicting(Prediction::Velocity);
    let set = scope.finish().unwrap();
    let frozen_y = frozen.predict(&x, &t, &Cond::default(), &mut ()).unwrap();
    assert!(y.track_op() && !frozen_y.track_op());
    assert_eq!(set.trainable().count(), 0);
    assert_eq!(values(&y), values(&frozen_y));
    assert_eq!((unet.prediction(), frozen.prediction()), (Prediction::Epsilon, Prediction::Velocity));
}

#[test]
fn dropout_acts_in_training_alone_and_is_drawn_from_its_generator() {
    let (unet, _) = build(json!({ "dropout": 0.3 }));
    let (x, t) = input();
    let cond = Cond::default();
    let train = |seed| values(&unet.predict_training(&x, &t, &cond, &mut Rng::new(seed)).unwrap());
    let still = || values(&unet.predict(&x, &t, &cond, &mut ()).unwrap());
    assert_eq!(still(), still());
    assert_eq!(train(1), train(1));
    assert_ne!(train(1), train(2));
    assert_ne!(train(1), still());
}

#[test]
fn classes_and_conditioning_images_change_the_prediction() {
    let (unet, _) = build(json!({ "in_channels": 2, "num_class_embeds": 3 }));
    let (x, t) = input();
    let cond = |class: u32, image: f64| Cond {
        image: Some(x.zeros_like().unwrap().affine(1.0, image).unwrap()),
        class: Some(Tensor::new(&[class, class], &Device::Cpu).unwrap()),
        text: None,
    };
    let predict = |cond: &Cond| unet.predict(&x, &t, cond, &mut ()).unwrap();
    let base = predict(&cond(0, -1.0));
    assert_eq!(largest_difference(&base, &predict(&cond(0, -1.0))), 0.0);
    assert!(largest_difference(&base, &predict(&cond(2, -1.0))) > 1e-4);
    assert!(largest_difference(&base, &predict(&cond(0, 1.0))) > 1e-4);
}

#[test]
fn each_kind_of_time_and_class_embedding_runs() {
    let (x, t) = input();
    let width = config(json!({})).time_width();
    let vectors = Rng::new(3).randn((2, width), &Device::Cpu).unwrap();
    let steps = Tensor::new(&[3u32, 4], &Device::Cpu).unwrap();
    let cases = [
        (json!({ "time_embedding_type": "fourier" }), None),
        (json!({ "time_embedding_type": "learned", "num_train_timesteps": 700 }), None),
        (json!({ "class_embed_type": "timestep" }), Some(&steps)),
        (json!({ "class_embed_type": "identity" }), Some(&vectors)),
        (json!({ "mid_block_type": null }), None),
        (json!({ "add_attention": false, "center_input_sample": true, "attention_head_dim": null }), None),
    ];
    let mut seen: Vec<Vec<f64>> = Vec::new();
    for (changes, class) in cases {
        let (unet, _) = build(changes.clone());
        let cond = Cond { class: class.cloned(), ..Default::default() };
        let y = unet.predict(&x, &t, &cond, &mut ()).unwrap_or_else(|e| panic!("{changes}: {e}"));
        assert!(values(&y).iter().all(|v| v.is_finite()), "{changes}");
        assert!(!seen.contains(&values(&y)), "{changes} changes nothing");
        seen.push(values(&y));
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let (unet, _) = build(json!({ "in_channels": 2, "num_class_embeds": 3 }));
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let classes = |labels: &[u32]| Some(Tensor::new(labels, &Device::Cpu).unwrap());
    let image = |dims: &[usize]| Some(zeros(dims));
    let (x, fits) = ([2, 1, 8, 8], [2, 1, 8, 8]);
    let case = |x: &[usize], t: usize, image: Option<Tensor>, class: Option<Tensor>| {
        unet.predict(&zeros(x), &zeros(&[t]), &Cond { image, class, text: None }, &mut ())
    };
    let cases: Vec<(&str, Result<Tensor>, Vec<&str>)> = vec![
        ("three dimensions", case(&[1, 8, 8], 1, None, classes(&[0])), vec!["[1, 8, 8]", "(B, C, H, W)"]),
        ("time steps", case(&x, 3, image(&fits), classes(&[0, 0])), vec!["[3]", "batch of 2"]),
        ("channels", case(&x, 2, None, classes(&[0, 0])), vec!["1 channels", "in_channels = 2"]),
        (
            "size of the condition",
            case(&x, 2, image(&[2, 1, 8, 4]), classes(&[0, 0])),
            vec!["[2, 1, 8, 4]", "[2, 1, 8, 8]"],
        ),
        ("batch of the condition", case(&x, 2, image(&[1, 1, 8, 8]), classes(&[0, 0])), vec!["[1, 1, 8, 8]"]),
        (
            "size",
            case(&[2, 1, 8, 10], 2, image(&[2, 1, 8, 10]), classes(&[0, 0])),
            vec!["8×10", "multiples of 4"],
        ),
        (
            "no pixels",
            case(&[2, 1, 0, 8], 2, image(&[2, 1, 0, 8]), classes(&[0, 0])),
            vec!["0×8", "multiples of 4"],
        ),
        ("no class", case(&x, 2, image(&fits), None), vec!["class", "none was given"]),
        ("classes of another batch", case(&x, 2, image(&fits), classes(&[0])), vec!["[1]", "[2]"]),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, parts) in cases {
        match outcome {
            Err(Error::Input { what, reason }) => {
                let text = format!("{what}: {reason}");
                wrong.extend(
                    parts.iter().filter(|p| !text.contains(**p)).map(|p| format!("{name}: {p} in {text}")),
                );
            }
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    // The table of classes is a layer's, which names the number and its range.
    let text = case(&x, 2, image(&fits), classes(&[0, 3])).unwrap_err().to_string();
    if !(text.contains('3') && text.to_lowercase().contains("embedding")) {
        wrong.push(format!("class out of range: {text}"));
    }
    let (plain, _) = build(json!({}));
    let cond = Cond { class: classes(&[0, 0]), ..Default::default() };
    let unwanted = plain.predict(&zeros(&x), &zeros(&[2]), &cond, &mut ());
    if !matches!(&unwanted, Err(Error::Input { reason, .. }) if reason.contains("num_class_embeds")) {
        wrong.push(format!("unwanted class: {unwanted:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_weights_that_do_not_fit_are_named_at_once() {
    let (unet, params) = build(json!({}));
    let mut tensors = params.tensors().unwrap();
    for name in ["conv_in.bias", "mid_block.attentions.0.to_q.weight"] {
        assert!(tensors.remove(name).is_some());
    }
    let conv_out = tensors["conv_out.weight"].clone();
    tensors.insert("conv_out.weight".to_owned(), conv_out.flatten_all().unwrap());
    tensors.insert("mid_block.extra".to_owned(), conv_out);
    let scope = Params::frozen(tensors, &Device::Cpu);
    UNet2D::new(unet.config(), &scope).unwrap();
    let Err(xdiff_nn::Error::Keys(report)) = scope.finish() else { panic!("the weights do not fit") };
    assert_eq!(report.missing, ["conv_in.bias", "mid_block.attentions.0.to_q.weight"]);
    assert_eq!(report.unexpected, ["mid_block.extra"]);
    let misshaped: Vec<_> = report.misshaped.iter().map(|m| (m.name.as_str(), m.found.clone())).collect();
    assert_eq!(misshaped, [("conv_out.weight", vec![36])]);
    assert_eq!(report.misshaped[0].expected, [1, 4, 3, 3]);
}

/// The counts are those of diffusers 0.42.
#[test]
fn as_many_parameters_as_diffusers() {
    let four = json!([64, 128, 256, 256]);
    let (d, a) = ("DownBlock2D", "AttnDownBlock2D");
    let (u, b) = ("UpBlock2D", "AttnUpBlock2D");
    let cases = [
        (
            json!({
                "in_channels": 1, "out_channels": 1, "block_out_channels": four,
                "down_block_types": [d, d, a, a], "up_block_types": [b, b, u, u],
            }),
            26_621_057,
        ),
        (
            json!({
                "in_channels": 2, "out_channels": 1, "block_out_channels": four,
                "down_block_types": [d, d, d, a], "up_block_types": [b, u, u, u],
                "resnet_time_scale_shift": "scale_shift", "num_class_embeds": 10, "attention_head_dim": 32,
            }),
            26_341_505,
        ),
        (
            json!({
                "block_out_channels": [32, 64], "layers_per_block": 1, "add_attention": false,
                "down_block_types": ["ResnetDownsampleBlock2D", a],
                "up_block_types": [b, "ResnetUpsampleBlock2D"],
                "time_embedding_type": "learned", "num_train_timesteps": 1000,
            }),
            731_235,
        ),
    ];
    for (config, count) in cases {
        let params = Params::synthetic(&Device::Cpu);
        UNet2D::new(&UNet2DConfig::from_diffusers(&config).unwrap(), &params).unwrap();
        assert_eq!(params.finish().unwrap().count(), count, "{config}");
    }
}
