use candle_core::{Device, Tensor, Var};
use xdiff_nn::Rng;
use xdiff_nn::gradcheck::{Options, check};

use super::*;
use crate::nearest;

const CPU: Device = Device::Cpu;

fn draw(seed: u64, shape: &[usize]) -> Tensor {
    Rng::new(seed).randn(shape, &CPU).unwrap()
}

fn value(t: &Tensor) -> f32 {
    t.to_scalar().unwrap()
}

/// Seven prototypes of three classes, one of them without any neighbour of its own kind.
fn ownership() -> Ownership {
    Ownership::fixed(&[0, 0, 1, 2, 1, 0, 2], 3).unwrap()
}

fn nn(e: crate::Error) -> xdiff_nn::Error {
    xdiff_nn::Error::argument("loss", e.to_string())
}

#[test]
fn every_gradient_is_that_of_differences() {
    let own = ownership();
    let (features, vectors) = (draw(1, &[5, 4, 3, 2]), draw(2, &[7, 4]));
    let labels = [0, 2, 1, 1, 0];
    let (logits, head, slots) = (draw(3, &[5, 3]), draw(4, &[3, 7]), draw(5, &[3, 7, 2]));
    let weights = [0.5, 2.0, 1.0];
    let close = Options { step: 2e-3, ..Default::default() };
    type Loss<'a> = Box<dyn Fn(&[Tensor]) -> crate::Result<Tensor> + 'a>;
    let patches = || vec![features.clone(), vectors.clone()];
    let cases: Vec<(&str, Vec<Tensor>, Loss<'_>)> = vec![
        ("cluster", patches(), Box::new(|x| cluster(&nearest(&x[0], &x[1])?.distance, &labels, &own))),
        ("separation", patches(), Box::new(|x| separation(&nearest(&x[0], &x[1])?.distance, &labels, &own))),
        ("align, all", patches(), Box::new(|x| align(&nearest(&x[0], &x[1])?.distance, None))),
        (
            "align, own",
            patches(),
            Box::new(|x| align(&nearest(&x[0], &x[1])?.distance, Some((&labels, &own)))),
        ),
        ("cross-entropy", vec![logits.clone()], Box::new(|x| cross_entropy(&x[0], &labels, None))),
        ("weighted", vec![logits], Box::new(|x| cross_entropy(&x[0], &labels, Some(&weights)))),
        ("L1", vec![head], Box::new(|x| wrong_class_l1(&x[0], &own))),
        ("diversity", vec![vectors.clone()], Box::new(|x| diversity(&x[0], DiversityScale::Plain))),
        (
            "scaled diversity",
            vec![vectors.clone()],
            Box::new(|x| diversity(&x[0], DiversityScale::Dimension)),
        ),
        ("orthogonality", vec![slots], Box::new(|x| orthogonality(&x[0]))),
    ];
    let mut wrong = Vec::new();
    for (name, inputs, loss) in &cases {
        if let Err(e) = check(|x| loss(x).map_err(nn), inputs, close) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn distances_to_own_and_other_prototypes_are_told_apart() {
    let own = Ownership::fixed(&[0, 1, 1], 2).unwrap();
    let distance = Tensor::new(&[[4f32, 3.0, 2.0], [1.0, 6.0, 5.0]], &CPU).unwrap();
    assert_eq!(value(&cluster(&distance, &[0, 1], &own).unwrap()), (4.0 + 5.0) / 2.0);
    assert_eq!(value(&separation(&distance, &[0, 1], &own).unwrap()), (2.0 + 1.0) / 2.0);
    assert_eq!(value(&align(&distance, None).unwrap()), 1.0 + 3.0 + 2.0);
    assert_eq!(value(&align(&distance, Some((&[0, 1], &own))).unwrap()), 4.0 + 6.0 + 5.0);
    // The prototype of class 0 has no image here.
    assert_eq!(value(&align(&distance, Some((&[1, 1], &own))).unwrap()), 3.0 + 2.0);
}

#[test]
fn the_least_of_equals_gets_the_whole_gradient_once() {
    let distance = Var::from_tensor(&Tensor::new(&[[1f32, 1.0, 1.0]], &CPU).unwrap()).unwrap();
    let own = Ownership::fixed(&[0, 0, 1], 2).unwrap();
    let grads = cluster(&distance, &[0], &own).unwrap().backward().unwrap();
    assert_eq!(grads.get(&distance).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0]]);
}

#[test]
fn weights_of_zero_are_not_pulled() {
    let weight =
        Var::from_tensor(&Tensor::new(&[[1f32, 0.0, -2.0], [3.0, -1.0, 1.0]], &CPU).unwrap()).unwrap();
    let own = Ownership::fixed(&[0, 1, 1], 2).unwrap();
    let loss = wrong_class_l1(&weight, &own).unwrap();
    assert_eq!(value(&loss), 0.0 + 2.0 + 3.0);
    let grads = loss.backward().unwrap();
    let expected = [[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]];
    assert_eq!(grads.get(&weight).unwrap().to_vec2::<f32>().unwrap(), expected);
}

#[test]
fn diversity_is_what_its_documentation_says() {
    let one = draw(1, &[1, 5]);
    for scale in [DiversityScale::Plain, DiversityScale::Dimension] {
        assert_eq!(value(&diversity(&one, scale).unwrap()), 0.0, "{scale:?}");
        let same = Tensor::cat(&[&one, &one, &one], 0).unwrap();
        assert!((value(&diversity(&same, scale).unwrap()) - 6.0).abs() < 1e-4, "{scale:?}");
    }
    let two = Tensor::new(&[[0f32, 1.0, 0.0], [1.0, 0.0, 0.0]], &CPU).unwrap();
    let plain = value(&diversity(&two, DiversityScale::Plain).unwrap());
    assert!((f64::from(plain) - 2.0 * (-2f64).exp()).abs() < 1e-6, "{plain}");
    let scaled = value(&diversity(&two, DiversityScale::Dimension).unwrap());
    assert!((f64::from(scaled) - 2.0 * (-4f64).exp()).abs() < 1e-6, "{scaled}");
    // Fresh prototypes of 128 dimensions: dead and alive.
    let mut rng = Rng::new(3);
    let fresh: Vec<f32> = (0..20 * 128).map(|_| rng.range(0.0, 1.0) as f32).collect();
    let fresh = Tensor::from_vec(fresh, (20, 128), &CPU).unwrap();
    assert!(value(&diversity(&fresh, DiversityScale::Plain).unwrap()) < 1e-4);
    let alive = value(&diversity(&fresh, DiversityScale::Dimension).unwrap()) / 380.0;
    assert!((alive - (-1f32).exp()).abs() < 0.05, "{alive}");
}

#[test]
fn orthogonal_slots_cost_nothing_and_equal_ones_most() {
    let slots = |columns: &[[f32; 2]]| {
        let rows: Vec<f32> = (0..2).flat_map(|p| columns.iter().map(move |c| c[p])).collect();
        Tensor::from_vec(rows, (1, 2, columns.len()), &CPU).unwrap()
    };
    for (what, columns, expected) in [
        ("orthogonal", vec![[2.0, 0.0], [0.0, 3.0]], 0.0),
        ("equal", vec![[1.0, 1.0], [2.0, 2.0]], 1.0),
        ("opposite", vec![[1.0, 0.0], [-1.0, 0.0]], -1.0),
        ("one of them 0", vec![[1.0, 0.0], [0.0, 0.0]], -0.5),
    ] {
        let got = value(&orthogonality(&slots(&columns)).unwrap());
        assert!((got - expected).abs() < 1e-6, "{what}: {got}");
    }
    let dead = Var::from_tensor(&Tensor::zeros((1, 2, 3), candle_core::DType::F32, &CPU).unwrap()).unwrap();
    let grads = orthogonality(&dead).unwrap().backward().unwrap();
    let grad = grads.get(&dead).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(grad.iter().all(|g| *g == 0.0), "{grad:?}");
}

#[test]
fn the_strongest_prototypes_of_each_class_are_its_own() {
    // Class 0 takes the prototypes 1 and 3, class 1 the first two of equals.
    let shares = Tensor::new(
        &[
            [[0.0f32, 0.1], [0.9, 0.0], [0.1, 0.0], [0.0, 0.9]],
            [[0.25, 0.25], [0.25, 0.25], [0.25, 0.25], [0.25, 0.25]],
        ],
        &CPU,
    )
    .unwrap();
    let own = Ownership::strongest(&shares, 2).unwrap();
    assert_eq!(own.of_class(0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(own.of_class(1).collect::<Vec<_>>(), [0, 1]);
    for count in [0, 5] {
        assert!(matches!(Ownership::strongest(&shares, count), Err(crate::Error::Input { .. })), "{count}");
    }
    let broken = (shares * f64::NAN).unwrap();
    assert!(matches!(Ownership::strongest(&broken, 2), Err(crate::Error::Input { .. })));
}

#[test]
fn what_cannot_be_used_is_named() {
    use crate::Error::{Config, EmptyClass, Input};
    let distance = draw(1, &[2, 3]);
    let one = Ownership::fixed(&[0, 0, 0], 2).unwrap();
    let two = Ownership::fixed(&[0, 1, 1], 2).unwrap();
    let no_prototype = cluster(&distance, &[0, 1], &one).unwrap_err();
    assert!(matches!(no_prototype, EmptyClass { class: 1, .. }), "{no_prototype}");
    let no_other = separation(&distance, &[0, 0], &one).unwrap_err();
    assert!(matches!(no_other, EmptyClass { class: 0, .. }), "{no_other}");
    let inputs: Vec<(&str, crate::Result<Tensor>)> = vec![
        ("label beyond", cluster(&distance, &[0, 2], &two)),
        ("label too few", cluster(&distance, &[0], &two)),
        ("no label", separation(&distance, &[], &two)),
        ("prototypes too few", align(&distance, Some((&[0, 0], &Ownership::fixed(&[0], 1).unwrap())))),
        ("nobody's image", align(&distance, Some((&[1, 1], &one)))),
        ("no matrix", align(&draw(1, &[3]), None)),
        ("no prototype", diversity(&draw(1, &[3]), DiversityScale::Plain)),
        ("no slot", orthogonality(&draw(1, &[3, 2]))),
        ("head of another shape", wrong_class_l1(&draw(1, &[3, 2]), &two)),
        ("logits of another shape", cross_entropy(&draw(1, &[3, 2]), &[0, 1], None)),
        ("class beyond", cross_entropy(&draw(1, &[2, 2]), &[0, 5], None)),
        ("weights too few", cross_entropy(&draw(1, &[2, 2]), &[0, 1], Some(&[1.0]))),
        ("weight below 0", cross_entropy(&draw(1, &[2, 2]), &[0, 1], Some(&[1.0, -1.0]))),
        ("weights of 0", cross_entropy(&draw(1, &[2, 2]), &[0, 0], Some(&[0.0, 1.0]))),
    ];
    for (what, outcome) in inputs {
        assert!(matches!(outcome, Err(Input { .. })), "{what}: {outcome:?}");
    }
    assert!(matches!(Ownership::fixed(&[], 2), Err(Config { .. })));
    assert!(matches!(Ownership::fixed(&[2], 2), Err(Config { .. })));
}

#[test]
fn a_sum_holds_the_terms_that_have_a_weight() {
    let own = ownership();
    let (vectors, logits, head) = (draw(2, &[7, 4]), draw(3, &[5, 3]), draw(4, &[3, 7]));
    let distance = nearest(&draw(1, &[5, 4, 3, 2]), &vectors).unwrap().distance;
    let inputs = LossInputs {
        labels: &[0, 2, 1, 1, 0],
        distance: &distance,
        prototypes: &vectors,
        logits: Some(&logits),
        ownership: Some(&own),
        head: Some((&head, &own)),
        slots: None,
    };
    let found = LossConfig::default().compute(&inputs).unwrap();
    let of = |term: Term| f64::from(value(&found.terms[&term]));
    assert_eq!(found.terms.len(), 4);
    let by_hand =
        of(Term::CrossEntropy) + 0.8 * of(Term::Cluster) - 0.08 * of(Term::Separation) + 1e-4 * of(Term::L1);
    assert!((f64::from(value(&found.total)) - by_hand).abs() < 1e-5);
    // What a network lacks is an error that names the term.
    let bare = LossInputs { logits: None, ownership: None, head: None, ..inputs };
    for (term, weights) in [
        ("cross_entropy", LossWeights { cross_entropy: 1.0, ..Default::default() }),
        ("cluster", LossWeights { cluster: 1.0, ..Default::default() }),
        ("l1", LossWeights { l1: 1.0, ..Default::default() }),
        ("orthogonality", LossWeights { orthogonality: 1.0, ..Default::default() }),
    ] {
        let e = LossConfig::new(weights).compute(&bare).unwrap_err();
        assert!(matches!(&e, crate::Error::Config { field, .. } if *field == term), "{term}: {e}");
    }
    let single = LossConfig::new(LossWeights::single_class()).compute(&bare).unwrap();
    assert_eq!(single.terms.keys().copied().collect::<Vec<_>>(), [Term::Align, Term::Diversity]);
    for weights in [LossWeights::default(), LossWeights { align: f64::NAN, ..Default::default() }] {
        assert!(matches!(LossConfig::new(weights).validate(), Err(crate::Error::Config { .. })));
    }
}

#[test]
fn configurations_are_read_and_written() {
    let text = r#"{"weights": {"align": 1.0, "diversity": 0.1}, "diversity": "dimension"}"#;
    let config: LossConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.weights, LossWeights { align: 1.0, diversity: 0.1, ..Default::default() });
    assert_eq!(config.diversity, DiversityScale::Dimension);
    let again: LossConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(serde_json::from_str::<LossConfig>(r#"{"weights": {"clustre": 1}}"#).is_err());
}
