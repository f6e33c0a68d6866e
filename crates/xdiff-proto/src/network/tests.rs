use candle_core::{DType, Device};
use xdiff_nn::ParamSet;
use xdiff_nn::optim::backward_partial;
use xdiff_nn::tap::{Recorder, Sites};

use super::*;
use crate::testing::Grid;
use crate::{
    Annealing, Gumbel, Mixing, OneHot, Preset, SlotSampling, eppnet, ppnet, protopool, soft_codebook,
};

const SIMILARITIES: [Similarity; 4] =
    [Similarity::Log { epsilon: 1e-4 }, Similarity::Linear, Similarity::Cosine, Similarity::Reciprocal];

fn slots(sampling: SlotSampling, mixing: Mixing) -> Assignment {
    Assignment::Slots { classes: 3, slots: 2, sampling, mixing }
}

fn gumbel(one_hot: OneHot) -> SlotSampling {
    let annealing = Annealing { rate: 1.0, epochs: 9, last: 3.0 };
    SlotSampling::Gumbel(Gumbel { annealing, temperature: 0.8, scales_noise: true, inference: 2.0, one_hot })
}

/// Every way of reading six prototypes.
fn readings() -> Vec<(Assignment, Head)> {
    let soft = SlotSampling::Softmax { temperature: 0.7 };
    vec![
        (Assignment::Fixed { classes: 3 }, Head::PPNET),
        (Assignment::Fixed { classes: 1 }, Head::None),
        (Assignment::Given { classes: 3, class_of: vec![0, 2, 2, 2, 1, 0] }, Head::Sum),
        (slots(soft, Mixing::Distances), Head::PROTOPOOL),
        (slots(soft, Mixing::Similarities), Head::Sum),
        (slots(gumbel(OneHot::Never), Mixing::Similarities), Head::PROTOPOOL),
        (Assignment::SoftCodebook, Head::Pooled { classes: 3 }),
        (Assignment::SoftCodebook, Head::None),
    ]
}

/// Every combination of small parts.
fn combinations() -> Vec<PrototypeConfig> {
    let add_ons = [AddOn::Regular, AddOn::None, AddOn::Single, AddOn::Bottleneck];
    let mut all = Vec::new();
    for (i, similarity) in SIMILARITIES.into_iter().enumerate() {
        for (k, (assignment, head)) in readings().into_iter().enumerate() {
            let add_on = add_ons[(i + k) % 4];
            let width = if add_on == AddOn::None { 5 } else { 3 };
            all.push(PrototypeConfig {
                channels: 5,
                prototypes: 6,
                width,
                add_on,
                similarity,
                assignment,
                head,
            });
        }
    }
    all
}

fn build(config: &PrototypeConfig, seed: u64) -> (PrototypeNetwork<Grid>, ParamSet) {
    let params = Params::fresh(seed, &Device::Cpu);
    let grid = Grid::new(2, config.channels, &params);
    let network = PrototypeNetwork::new(config, grid, &params).unwrap();
    (network, params.finish().unwrap())
}

fn images(seed: u64, batch: usize) -> Tensor {
    Rng::new(seed).randn((batch, 2, 5, 7), &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Everything that a reading says and that has a gradient.
fn outputs(reading: &Reading) -> Vec<Tensor> {
    let mut all = vec![reading.similarity.clone(), reading.nearest.distance.clone()];
    all.extend(reading.logits.clone());
    all.extend(reading.slots.as_ref().map(|s| s.similarity.clone()));
    all.extend(reading.codes.iter().flat_map(|c| [c.alpha.clone(), c.z.clone()]));
    all
}

/// ⟨r, outputs⟩ of a fixed direction r.
fn along(reading: &Reading) -> Tensor {
    let parts = outputs(reading);
    let rng = Rng::new(5);
    let terms = parts.iter().enumerate().map(|(i, x)| {
        let r = rng.sample(i as u64).randn(x.shape(), &Device::Cpu).unwrap();
        (x * r).unwrap().sum_all().unwrap()
    });
    terms.reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// Compares the gradients of all parameters with differences.
fn gradients_fit(
    config: &PrototypeConfig,
    read: impl Fn(&PrototypeNetwork<Grid>) -> Reading,
) -> std::result::Result<(), String> {
    let (network, set) = build(config, 3);
    let value = || {
        let reading = read(&network);
        let position = reading.nearest.position.to_vec2::<u32>().unwrap();
        (f64::from(along(&reading).to_scalar::<f32>().unwrap()), position)
    };
    let grads = backward_partial(&along(&read(&network)), &set, |_| false).map_err(|e| e.to_string())?;
    const STEP: f32 = 2e-3;
    let (mut checked, mut tried) = (0, 0);
    for (name, var) in set.trainable() {
        let grad = numbers(grads.get(name).ok_or(format!("{name} has no gradient"))?);
        let scale = grad.iter().fold(0f32, |m, g| m.max(g.abs()));
        if scale == 0.0 {
            return Err(format!("the gradient of {name} is 0"));
        }
        let start = numbers(var);
        for i in (0..start.len()).step_by(start.len().div_ceil(3)) {
            tried += 1;
            let at = |delta: f32| {
                let mut moved = start.clone();
                moved[i] += delta;
                var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                value()
            };
            let ((above, there), (below, here)) = (at(STEP), at(-STEP));
            // Between two nearest patches the least distance has a corner.
            if there != here {
                continue;
            }
            checked += 1;
            let slope = (above - below) / f64::from(2.0 * STEP);
            if (slope - f64::from(grad[i])).abs() > f64::from(2e-2 * scale).max(3e-3) {
                return Err(format!("{name}[{i}]: backward gives {}, differences {slope}", grad[i]));
            }
        }
        var.set(&Tensor::from_vec(start, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    if 5 * checked < 4 * tried {
        return Err(format!("{checked} of {tried} slopes were compared"));
    }
    Ok(())
}

#[test]
fn gradients_of_all_parameters_agree_with_differences_in_every_combination() {
    let x = images(1, 2);
    let mut wrong = Vec::new();
    for config in combinations() {
        let outcome = gradients_fit(&config, |network| network.forward(&x, &mut ()).unwrap());
        wrong.extend(outcome.err().map(|e| format!("{config:?}: {e}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn gradients_of_noisy_slots_agree_with_differences() {
    let x = images(1, 2);
    for mixing in [Mixing::Distances, Mixing::Similarities] {
        let mut config = protopool(Preset::Released, 5, 3, 6);
        (config.width, config.assignment) = (3, slots(gumbel(OneHot::Never), mixing));
        let read = |network: &PrototypeNetwork<Grid>| network.forward_training(&x, 4, &Rng::new(8)).unwrap();
        gradients_fit(&config, read).unwrap_or_else(|e| panic!("{mixing:?}: {e}"));
    }
}

#[test]
fn one_hot_slots_have_the_gradient_of_soft_ones() {
    let x = images(1, 2);
    let gradient = |one_hot| {
        let mut config = protopool(Preset::Released, 5, 3, 6);
        config.assignment = slots(gumbel(one_hot), Mixing::Similarities);
        let (network, set) = build(&config, 3);
        let reading = network.forward_training(&x, 4, &Rng::new(8)).unwrap();
        let slots = reading.slots.unwrap();
        let loss = slots.similarity.sum_all().unwrap();
        let grads = backward_partial(&loss, &set, |_| true).unwrap();
        (numbers(&slots.weights), numbers(grads.get("proto_presence").unwrap()))
    };
    let (soft, wanted) = gradient(OneHot::Never);
    let (hard, got) = gradient(OneHot::Always);
    // A sum of similarities is linear in q, so the gradient does not depend on q before its softmax.
    assert!(got.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {wanted:?}");
    for (row, soft) in hard.chunks(6).zip(soft.chunks(6)) {
        let best = soft.iter().position(|q| soft.iter().all(|other| q >= other)).unwrap();
        assert!(row.iter().enumerate().all(|(j, q)| (q - f32::from(u8::from(j == best))).abs() < 1e-6));
    }
    let (settled, _) = {
        let mut config = protopool(Preset::Careful, 5, 3, 6);
        config.width = 3;
        build(&config, 3)
    };
    let rows = numbers(&settled.slot_weights().unwrap().unwrap());
    assert!(rows.chunks(6).all(|row| row.iter().filter(|q| **q == 1.0).count() == 1));
    assert!(rows.iter().all(|q| *q == 0.0 || *q == 1.0));
}

#[test]
fn an_image_is_read_alike_alone_and_in_a_batch_and_at_every_call() {
    let x = images(2, 5);
    for config in combinations() {
        let (network, _) = build(&config, 4);
        let together = network.forward(&x, &mut ()).unwrap();
        let again = network.forward(&x, &mut ()).unwrap();
        for (a, b) in outputs(&together).iter().zip(outputs(&again)) {
            assert_eq!(numbers(a), numbers(&b), "{config:?}");
        }
        for i in 0..5 {
            let alone = network.forward(&x.narrow(0, i, 1).unwrap(), &mut ()).unwrap();
            for (all, one) in outputs(&together).iter().zip(outputs(&alone)) {
                assert_eq!(numbers(&all.get(i).unwrap()), numbers(&one), "image {i}: {config:?}");
            }
            let position = together.nearest.position.get(i).unwrap().to_vec1::<u32>().unwrap();
            assert_eq!(alone.nearest.position.get(0).unwrap().to_vec1::<u32>().unwrap(), position);
        }
    }
}

#[test]
fn chance_is_in_training_alone_and_follows_the_generator() {
    let mut config = protopool(Preset::Released, 5, 3, 6);
    config.width = 3;
    let (network, _) = build(&config, 4);
    let x = images(2, 2);
    let drawn = |epoch, seed| {
        let reading = network.forward_training(&x, epoch, &Rng::new(seed)).unwrap();
        numbers(&reading.slots.unwrap().weights)
    };
    assert_eq!(drawn(1, 1), drawn(1, 1));
    assert_ne!(drawn(1, 1), drawn(1, 2));
    // Before the first epoch of the schedule there is no noise.
    assert_eq!(drawn(0, 1), drawn(0, 2));
    let sharpest = |q: Vec<f32>| q.chunks(6).map(|row| row.iter().copied().fold(0.0, f32::max)).sum::<f32>();
    assert!(
        sharpest(drawn(0, 1)) < sharpest(drawn(3, 1))
            && sharpest(drawn(3, 1)) <= sharpest(drawn(40, 1)) + 1e-3
    );
    assert!(sharpest(numbers(&network.slot_weights().unwrap().unwrap())) > 17.99);
}

/// Nested loops in double precision: distances (B, P, positions).
fn distances(embedded: &Tensor, prototypes: &Tensor, normalises: bool) -> Vec<Vec<Vec<f64>>> {
    let unit = |v: Vec<f64>| {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if normalises { v.into_iter().map(|x| x / length).collect() } else { v }
    };
    let f64s = |v: Vec<f32>| unit(v.into_iter().map(f64::from).collect());
    let rows = embedded.flatten_from(2).unwrap().transpose(1, 2).unwrap().to_vec3::<f32>().unwrap();
    let prototypes: Vec<Vec<f64>> = prototypes.to_vec2::<f32>().unwrap().into_iter().map(f64s).collect();
    let image = |patches: Vec<Vec<f32>>| {
        let patches: Vec<Vec<f64>> = patches.into_iter().map(f64s).collect();
        let to = |p: &Vec<f64>| -> Vec<f64> {
            patches.iter().map(|f| f.iter().zip(p).map(|(a, b)| (a - b).powi(2)).sum()).collect()
        };
        prototypes.iter().map(to).collect()
    };
    rows.into_iter().map(image).collect()
}

fn alike(similarity: Similarity, d: f64) -> f64 {
    match similarity {
        Similarity::Log { epsilon } => ((d + 1.0) / (d + epsilon)).ln(),
        Similarity::Linear => -d,
        Similarity::Cosine => 1.0 - d / 2.0,
        Similarity::Reciprocal => 1.0 / (1.0 + d),
    }
}

#[test]
fn numbers_are_those_of_the_formulas() {
    let x = images(3, 2);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let least = |v: &[f64]| v.iter().copied().fold(f64::INFINITY, f64::min);
    let near = |got: f32, wanted: f64, what: String| {
        assert!(
            (f64::from(got) - wanted).abs() < 2e-5 * wanted.abs().max(1.0),
            "{what}: {got}, expected {wanted}"
        );
    };
    for config in combinations() {
        let s = config.similarity;
        let (network, set) = build(&config, 6);
        let embedded = network.embed(&x, &mut ()).unwrap();
        let vectors = network.prototypes().vectors();
        let d = distances(&embedded, vectors, s.normalises());
        let reading = network.read(&embedded).unwrap();
        let similarity = reading.similarity.to_vec2::<f32>().unwrap();
        let head = set.get("last_layer.weight").map(|w| w.to_vec2::<f32>().unwrap());
        for (b, d) in d.iter().enumerate() {
            let g: Vec<f64> = d.iter().map(|d| alike(s, least(d))).collect();
            for j in 0..6 {
                near(similarity[b][j], g[j], format!("similarity {b} {j} of {config:?}"));
            }
            let taken: Vec<f64> = if let Some(found) = &reading.slots {
                let q = found.weights.reshape((6, 6)).unwrap().to_vec2::<f32>().unwrap();
                let Assignment::Slots { mixing, .. } = config.assignment else { panic!("no slots") };
                let slot = |q: &Vec<f32>| -> f64 {
                    let mixed = |f: &dyn Fn(&Vec<f64>) -> f64| -> f64 {
                        q.iter().zip(d).map(|(q, d)| f64::from(*q) * f(d)).sum()
                    };
                    match mixing {
                        Mixing::Distances => alike(s, mixed(&|d| least(d))) - alike(s, mixed(&|d| mean(d))),
                        Mixing::Similarities => mixed(&|d| {
                            alike(s, least(d)) - mean(&d.iter().map(|d| alike(s, *d)).collect::<Vec<_>>())
                        }),
                    }
                };
                let taken: Vec<f64> = q.iter().map(slot).collect();
                for (got, wanted) in numbers(&found.similarity.get(b).unwrap()).into_iter().zip(&taken) {
                    near(got, *wanted, format!("slot of {config:?}"));
                }
                taken
            } else if let Some(codes) = &reading.codes {
                let alpha = codes.alpha.get(b).unwrap().flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
                let p = vectors.to_vec2::<f32>().unwrap();
                let mut pooled = vec![0.0; config.width];
                let positions = d[0].len();
                for i in 0..positions {
                    let sum: f64 = d.iter().map(|d| (-d[i]).exp()).sum();
                    for j in 0..6 {
                        let a = (-d[j][i]).exp() / sum;
                        near(alpha[j][i], a, format!("alpha of {config:?}"));
                        for (k, z) in pooled.iter_mut().enumerate() {
                            *z += a * f64::from(p[j][k]) / positions as f64;
                        }
                    }
                }
                let influence = codes.influence().unwrap().get(b).unwrap().sum_all().unwrap();
                near(influence.to_scalar().unwrap(), 1.0, "influence".into());
                pooled
            } else {
                g
            };
            let Some(logits) = &reading.logits else { continue };
            for (c, got) in numbers(&logits.get(b).unwrap()).into_iter().enumerate() {
                let weight = |k: usize| match (&head, &config.assignment) {
                    (Some(w), _) => f64::from(w[c][k]),
                    (None, Assignment::Given { class_of, .. }) => f64::from(u8::from(class_of[k] == c)),
                    (None, _) => f64::from(u8::from(k / 2 == c)),
                };
                let wanted = taken.iter().enumerate().map(|(k, x)| weight(k) * x).sum();
                near(got, wanted, format!("logit {c} of {config:?}"));
            }
        }
    }
}

#[test]
fn fresh_parameters_are_the_published_ones() {
    let (_, set) = build(&PrototypeConfig { prototypes: 4, ..ppnet(5, 2) }, 0);
    let names: Vec<&str> = set.names().filter(|n| !n.starts_with("features")).collect();
    let add_on = ["0.bias", "0.weight", "2.bias", "2.weight"].map(|n| format!("add_on_layers.{n}"));
    assert_eq!(names[..4], add_on);
    assert_eq!(names[4..], ["last_layer.weight", "prototype_vectors"]);
    assert_eq!(set.get("prototype_vectors").unwrap().dims(), [4, 128, 1, 1]);
    let rows = set.get("last_layer.weight").unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(rows, [[1.0, 1.0, -0.5, -0.5], [-0.5, -0.5, 1.0, 1.0]]);
    let weight = numbers(set.get("add_on_layers.2.weight").unwrap());
    let deviation = (weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32).sqrt();
    assert!((deviation - (2f32 / 128.0).sqrt()).abs() < 3e-3, "{deviation}");

    let (_, set) = build(&protopool(Preset::Released, 5, 2, 7), 0);
    assert_eq!(set.get("proto_presence").unwrap().dims(), [2, 7, 10]);
    let rows = set.get("last_layer.weight").unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(rows[1], [[0f32; 10], [1.0; 10]].concat());
    assert!(set.get("add_on_layers.2.weight").is_none());
    let scores = numbers(set.get("proto_presence").unwrap());
    let deviation = (scores.iter().map(|w| w * w).sum::<f32>() / scores.len() as f32).sqrt();
    assert!((deviation - (2f32 / 90.0).sqrt()).abs() < 3e-2, "{deviation}");
}

#[test]
fn presets_are_valid_and_survive_their_text_form() {
    let all = [
        ppnet(512, 200),
        ppnet(64, 1),
        eppnet(512, 4),
        protopool(Preset::Paper, 512, 200, 202),
        protopool(Preset::Released, 2048, 200, 202),
        protopool(Preset::Careful, 64, 2, 8),
        soft_codebook(64, 10),
    ];
    for config in all {
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<PrototypeConfig>(&text).unwrap(), config);
        let more = text.replacen('{', "{\"hidden\":1,", 1);
        assert!(serde_json::from_str::<PrototypeConfig>(&more).is_err());
    }
}

#[test]
fn configurations_that_cannot_be_are_errors() {
    let small = || PrototypeConfig { width: 3, ..ppnet(5, 3) };
    let with = |change: &dyn Fn(&mut PrototypeConfig)| {
        let mut config = small();
        change(&mut config);
        config
    };
    let cases = [
        ("no prototypes", with(&|c| c.prototypes = 0), "prototypes"),
        ("no class", PrototypeConfig { prototypes: 10, ..ppnet(5, 0) }, "classes"),
        ("no multiple", with(&|c| c.prototypes = 31), "multiple of 3"),
        ("no width", with(&|c| c.width = 0), "width"),
        ("no channels", with(&|c| c.channels = 0), "channels"),
        ("other width", with(&|c| c.add_on = AddOn::None), "without add-on layers"),
        ("epsilon", with(&|c| c.similarity = Similarity::Log { epsilon: 0.0 }), "epsilon"),
        ("head of codes", with(&|c| c.head = Head::Pooled { classes: 3 }), "soft codebook"),
        ("head of classes", with(&|c| c.assignment = Assignment::SoftCodebook), "soft codebook"),
        ("weights", with(&|c| c.head = Head::Linear { own: f64::NAN, other: 0.0 }), "finite"),
        (
            "temperature",
            with(&|c| {
                c.head = Head::PROTOPOOL;
                c.assignment = slots(SlotSampling::Softmax { temperature: 0.0 }, Mixing::Distances);
            }),
            "temperature",
        ),
    ];
    for (what, config, words) in cases {
        let params = Params::fresh(0, &Device::Cpu);
        let e = PrototypeNetwork::new(&config, Grid::identity(), &params).unwrap_err();
        assert!(matches!(e, Error::Config { .. }) && e.to_string().contains(words), "{what}: {e}");
    }
}

#[test]
fn features_that_cannot_be_read_are_errors() {
    let (network, _) = build(&PrototypeConfig { width: 3, ..ppnet(5, 2) }, 0);
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    for dims in [&[2, 4, 3, 3][..], &[0, 3, 3, 3], &[2, 3, 0, 3], &[2, 3, 3, 0], &[2, 3], &[2, 3, 3]] {
        let e = network.read(&zeros(dims)).unwrap_err();
        assert!(matches!(e, Error::Input { .. }) && e.to_string().contains("(B, 3, h, w)"), "{dims:?}: {e}");
    }
    let e = network.embed_features(&zeros(&[1, 4, 3, 3]), &mut ()).unwrap_err();
    assert!(matches!(e, Error::Input { .. }) && e.to_string().contains("(B, 5, h, w)"), "{e}");
    for (bad, shape) in [(f32::NAN, [3, 3, 2, 2]), (f32::INFINITY, [3, 3, 2, 2])] {
        let mut values = vec![0f32; 36];
        values[17] = bad;
        let x = Tensor::from_vec(values, &shape, &Device::Cpu).unwrap();
        let e = network.read(&x).unwrap_err();
        assert!(matches!(&e, Error::NonFinite { of, .. } if of == "image 1"), "{e}");
    }
}

#[test]
fn prototypes_that_training_broke_are_named() {
    let (network, set) = build(&PrototypeConfig { width: 3, ..ppnet(5, 2) }, 0);
    let vectors = set.get("prototype_vectors").unwrap();
    let mut values = numbers(vectors);
    values[3 * 7 + 1] = f32::NAN;
    vectors.set(&Tensor::from_vec(values, vectors.shape(), &Device::Cpu).unwrap()).unwrap();
    let e = network.forward(&images(0, 1), &mut ()).unwrap_err();
    assert!(matches!(&e, Error::NonFinite { of, .. } if of == "prototype 7"), "{e}");
}

#[test]
fn it_is_an_extractor_and_a_classifier_with_sites() {
    let config = PrototypeConfig { width: 3, ..ppnet(5, 2) };
    let (network, _) = build(&config, 0);
    let x = images(1, 2);
    let mut tap = Recorder::new(Sites::All);
    let reading = network.forward(&x, &mut tap).unwrap();
    let sites: Vec<&str> = tap.seen().keys().map(String::as_str).collect();
    let layers = ["add_on_layers.0", "add_on_layers.1", "add_on_layers.2", "add_on_layers.3"];
    assert_eq!(sites[0], "add_on_layers");
    assert_eq!(sites[1..5], layers);
    assert_eq!(sites[5..], ["features.conv1", "last_layer"]);
    let embedded = network.features(&x, &mut ()).unwrap();
    assert_eq!(numbers(&embedded), numbers(&tap.seen()["add_on_layers"]));
    assert_eq!(network.identity(), "grid, add-on layers Regular 5 to 3");
    let (logits, taken) = network.classify(&x, &mut ()).unwrap();
    assert_eq!(numbers(&logits), numbers(&reading.logits.unwrap()));
    assert_eq!(numbers(&taken), numbers(&reading.similarity));

    let (network, _) = build(&PrototypeConfig { head: Head::None, ..config }, 0);
    let e = network.classify(&x, &mut ()).unwrap_err();
    assert!(e.to_string().contains("no head"), "{e}");
}

#[test]
fn patches_of_a_cosine_have_length_1_and_their_own_prototype_is_nearest() {
    let config =
        PrototypeConfig { width: 5, add_on: AddOn::None, similarity: Similarity::Cosine, ..ppnet(5, 1) };
    let (network, set) = build(&config, 0);
    let embedded = network.embed(&images(1, 1), &mut ()).unwrap();
    let lengths = embedded.sqr().unwrap().sum(1).unwrap();
    assert!(numbers(&lengths).iter().all(|l| (l - 1.0).abs() < 1e-5));
    let patches = embedded.flatten_from(2).unwrap().transpose(1, 2).unwrap().squeeze(0).unwrap();
    let chosen = patches.narrow(0, 1, 10).unwrap().reshape((10, 5, 1, 1)).unwrap();
    set.get("prototype_vectors").unwrap().set(&(chosen * 3.0).unwrap()).unwrap();
    let reading = network.read(&embedded).unwrap();
    assert_eq!(reading.nearest.position.to_vec2::<u32>().unwrap()[0], (1..=10).collect::<Vec<_>>());
    assert!(numbers(&reading.similarity).iter().all(|s| (s - 1.0).abs() < 1e-6));
}
