use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use xdiff_core::FeatureExtractor;
use xdiff_core::cancel::CancelToken;
use xdiff_nn::layers::{BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, Mode};
use xdiff_nn::{Params, Rng, Tap};

use super::*;
use crate::loss::{LossConfig, LossWeights, Term};
use crate::stage::{Part, Parts, Push, Rate, Schedule, Stage, Statistics};
use crate::{
    AddOn, Assignment, Batch, Error, Head, Preset, PrototypeConfig, PrototypeNetwork, Result, ppnet,
    protopool,
};

const CPU: Device = Device::Cpu;

/// A convolution and a batch norm.
#[derive(Debug)]
struct Stem {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Stem {
    fn new(params: &Params) -> Self {
        let conv = Conv2d::new(Conv2dConfig::new(1, 6, 3).padding(1).stride(2), &params.at("conv")).unwrap();
        let norm = BatchNorm2d::new(6, BatchNormConfig::default(), &params.at("norm")).unwrap();
        Self { conv, norm }
    }
}

impl FeatureExtractor for Stem {
    fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        Ok(self.norm.forward(&self.conv.forward(images)?, Mode::Eval)?)
    }

    fn features_training(&self, images: &Tensor, _: &Rng) -> xdiff_core::Result<Tensor> {
        Ok(self.norm.forward(&self.conv.forward(images)?, Mode::Train)?)
    }

    fn identity(&self) -> String {
        "a convolution and a norm".to_owned()
    }
}

/// Noise with a bright bar (class 0) or a dark one (class 1) somewhere.
fn batch(seed: u64, count: usize) -> Batch {
    const SIDE: usize = 8;
    let mut rng = Rng::new(seed);
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = i % 2;
        let mut image: Vec<f32> = (0..SIDE * SIDE).map(|_| 0.1 * rng.normal() as f32).collect();
        let (y, x) = (rng.below(SIDE - 4), rng.below(SIDE - 4));
        for along in 0..4 {
            image[y * SIDE + x + along] += if class == 0 { 1.5 } else { -1.5 };
        }
        pixels.extend(image);
        classes.push(class as u32);
    }
    let names = (0..count).map(|i| format!("{seed}-{i}")).collect();
    Batch::new(Tensor::from_vec(pixels, (count, 1, SIDE, SIDE), &CPU).unwrap(), names, classes).unwrap()
}

/// Three batches an epoch, other noise in each epoch; two batches of training images as they are.
fn data<'a>() -> TrainData<'a> {
    TrainData::new(Batches::new(3, |epoch, i| Ok::<_, Error>(batch(1000 * (epoch + 1) + i as u64, 8))))
        .validated_on(Batches::fixed(vec![batch(1, 10)]))
        .pushed_onto(Batches::new(2, |_, i| Ok::<_, Error>(batch(5 + i as u64, 8))))
}

fn small() -> PrototypeConfig {
    PrototypeConfig { prototypes: 4, width: 5, add_on: AddOn::Regular, ..ppnet(6, 2) }
}

fn rates(lr: f64) -> Parts {
    let rate = Some(Rate::new(lr));
    Parts { features: rate, add_on: rate, prototypes: rate, assignment: None, head: None }
}

fn stage(name: &str, epochs: usize, train: Parts, weights: LossWeights) -> Stage {
    Stage {
        name: name.to_owned(),
        epochs,
        train,
        decay: Default::default(),
        losses: LossConfig::new(weights),
        statistics: Statistics::Batch,
        push: None,
    }
}

/// All kinds of stages: warm, joint, push, last layer, joint again, push, last layer.
fn stages() -> Vec<Stage> {
    let joint = Stage { push: Some(Push::default()), ..stage("joint", 2, rates(0.02), LossWeights::ppnet()) };
    let head = Parts { head: Some(Rate { lr: 0.02, l2: 1e-3 }), ..Default::default() };
    let last = Stage { statistics: Statistics::Frozen, ..stage("last", 1, head, LossWeights::last_layer()) };
    let warm = Parts { features: None, ..rates(0.02) };
    vec![stage("warm", 1, warm, LossWeights::ppnet()), joint.clone(), last.clone(), joint, last]
}

fn trainer(config: &PrototypeConfig, stages: Vec<Stage>) -> Trainer<Stem> {
    let params = Params::fresh(3, &CPU);
    let stem = Stem::new(&params.at("features"));
    let network = PrototypeNetwork::new(config, stem, &params).unwrap();
    let config = TrainConfig { checkpoint_every: 2, ..TrainConfig::new(Schedule { stages }, 7) };
    Trainer::new(network, params.finish().unwrap(), config, json!({"data": "bars"})).unwrap()
}

fn run(trainer: &mut Trainer<Stem>, data: &TrainData<'_>) -> Result<Outcome> {
    trainer.run(data, None, &CancelToken::new(), &mut ())
}

/// The bits of all weights.
fn bits(trainer: &Trainer<Stem>) -> BTreeMap<String, Vec<u32>> {
    let tensors = trainer.params().tensors().unwrap().into_iter();
    let bits = |t: Tensor| {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    tensors.map(|(name, t)| (name, bits(t))).collect()
}

/// Raises a flag behind a number of steps.
struct StopAt(usize, CancelToken);

impl TrainObserver for StopAt {
    fn step(&mut self, report: &StepReport) -> xdiff_core::Result<()> {
        if report.step == self.0 {
            self.1.cancel();
        }
        Ok(())
    }
}

impl StageObserver for StopAt {}

#[test]
fn a_problem_that_can_be_told_apart_is_learnt_and_prototypes_become_patches() {
    let mut stages = stages();
    stages[0].epochs = 3;
    (stages[1].epochs, stages[3].epochs) = (20, 20);
    (stages[2].epochs, stages[4].epochs) = (3, 3);
    let mut trainer = trainer(&small(), stages);
    run(&mut trainer, &data()).unwrap();
    let history = trainer.history();
    assert_eq!(history.losses.len(), 3 * history.epochs.len());
    let last = history.epochs.last().unwrap();
    assert!(last.validation.unwrap().accuracy >= 0.9, "{last:?}");
    assert!(last.accuracy.unwrap() >= 0.8, "{last:?}");
    assert!(last.loss < 0.7 * history.epochs[0].terms[&Term::CrossEntropy], "{last:?}");
    // The last stage left features and prototypes alone: each prototype is the patch that its record
    // names, to the last bit.
    let projected = trainer.projected().unwrap();
    let network = trainer.network();
    projected.projection.check(network.prototypes(), network).unwrap();
    let vectors = network.prototypes().vectors().to_vec2::<f32>().unwrap();
    let images: Vec<Batch> = (0..2).map(|i| batch(5 + i, 8)).collect();
    for (j, source) in projected.projection.sources.iter().enumerate() {
        let (batch, i) = images
            .iter()
            .find_map(|b| Some((b, b.ids().iter().position(|id| *id == source.image)?)))
            .unwrap();
        assert_eq!(batch.classes()[i] as usize, network.class_of().unwrap()[j]);
        let patches = network.embed(batch.images(), &mut ()).unwrap().get(i).unwrap();
        let patch = patches.narrow(1, source.row, 1).unwrap().narrow(2, source.column, 1).unwrap();
        assert_eq!(patch.flatten_all().unwrap().to_vec1::<f32>().unwrap(), vectors[j], "prototype {j}");
    }
}

#[test]
fn an_interrupted_training_ends_with_the_same_bits() {
    let mut whole = trainer(&small(), stages());
    assert_eq!(run(&mut whole, &data()).unwrap(), Outcome::Finished);
    let total = whole.step();
    assert_eq!(total, 21);
    // In the midst of epochs, at their ends, before and behind pushes.
    for stops in [vec![1, 4, 10], vec![9], vec![8, 12, 13, 18], vec![20, 21]] {
        let folder = tempfile::tempdir().unwrap();
        for stop in &stops {
            let mut part = trainer(&small(), stages());
            part.resume_in(folder.path()).unwrap();
            let token = CancelToken::new();
            let outcome = part.run(&data(), Some(folder.path()), &token, &mut StopAt(*stop, token.clone()));
            assert_eq!(outcome.unwrap(), Outcome::Cancelled, "{stops:?}");
            assert_eq!(part.step(), *stop);
        }
        let mut rest = trainer(&small(), stages());
        assert!(rest.resume_in(folder.path()).unwrap());
        let outcome = rest.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
        assert_eq!(outcome, Outcome::Finished);
        assert!(bits(&rest) == bits(&whole), "{stops:?}");
        assert_eq!(rest.history(), whole.history(), "{stops:?}");
        // JSON rounds the last bit of a distance, and is no part of the training.
        let record = |trainer: &Trainer<Stem>| {
            let mut record = trainer.projected().unwrap().projection.clone();
            record.sources.iter_mut().for_each(|source| source.distance = 0.0);
            record
        };
        assert_eq!(record(&rest), record(&whole), "{stops:?}");
        assert!(folder.path().join(PROTOTYPES).with_extension("json").is_file());
    }
}

#[test]
fn a_killed_run_does_again_what_stands_in_no_file() {
    let mut whole = trainer(&small(), stages());
    run(&mut whole, &data()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut killed = trainer(&small(), stages());
    let failing = TrainData {
        train: Batches::new(3, |epoch, i| match (epoch, i) {
            (1, 2) => Err("the disk is gone"),
            _ => Ok(batch(1000 * (epoch + 1) + i as u64, 8)),
        }),
        ..data()
    };
    let e = killed.run(&failing, Some(folder.path()), &CancelToken::new(), &mut ()).unwrap_err();
    assert!(matches!(&e, Error::Data(e) if e.to_string() == "the disk is gone"), "{e}");
    let mut rest = trainer(&small(), stages());
    assert!(rest.resume_in(folder.path()).unwrap());
    assert_eq!(rest.step(), 4, "checkpoints were asked for at every second step");
    rest.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
    assert!(bits(&rest) == bits(&whole));
}

#[test]
fn a_push_that_is_stopped_changes_nothing_and_is_done_again() {
    let mut whole = trainer(&small(), stages());
    run(&mut whole, &data()).unwrap();
    // Stopped while images are projected, and while the validation behind it runs.
    for in_validation in [false, true] {
        let token = CancelToken::new();
        let calls = Cell::new(0);
        let stopping = |n: usize, i: usize| {
            calls.set(calls.get() + 1);
            if calls.get() == n {
                token.cancel();
            }
            batch(i as u64, 8)
        };
        let mut data = data();
        if in_validation {
            // Once behind the first epoch, twice behind the third: before the push and behind it.
            data.validation = Some(Batches::new(2, |_, i| Ok::<_, Error>(stopping(7, [1, 2][i]))));
        } else {
            data.push = Some(Batches::new(2, |_, i| Ok::<_, Error>(stopping(1, [5, 6][i]))));
        }
        let mut part = trainer(&small(), stages());
        let outcome = part.run(&data, None, &token, &mut ()).unwrap();
        assert_eq!((outcome, part.step(), part.history().epochs.len()), (Outcome::Cancelled, 9, 2));
        assert!(part.projected().is_none());
        part.run(&data, None, &CancelToken::new(), &mut ()).unwrap();
        assert!(bits(&part) == bits(&whole), "in validation: {in_validation}");
    }
}

#[test]
fn what_is_not_trained_stays() {
    let before = bits(&trainer(&small(), stages()));
    let rate = Some(Rate { lr: 0.01, l2: 1e-3 });
    let slots = protopool_of(Preset::Released);
    for (part, train) in [
        (Part::Features, Parts { features: rate, ..Default::default() }),
        (Part::AddOn, Parts { add_on: rate, ..Default::default() }),
        (Part::Prototypes, Parts { prototypes: rate, ..Default::default() }),
        (Part::Head, Parts { head: rate, ..Default::default() }),
    ] {
        for statistics in [Statistics::Frozen, Statistics::Batch] {
            let stage = Stage { statistics, ..stage("one", 1, train, LossWeights::ppnet()) };
            let mut trainer = trainer(&small(), vec![stage]);
            run(&mut trainer, &data()).unwrap();
            for (name, after) in bits(&trainer) {
                let expected = match name.contains("running") {
                    true => statistics == Statistics::Batch,
                    false => Part::of(&name) == part,
                };
                assert_eq!(after != before[&name], expected, "{name} while {part:?} learn by {statistics:?}");
            }
        }
    }
    let fresh = bits(&trainer(&slots, stages()));
    let only = Parts { assignment: rate, ..Default::default() };
    let mut trainer = trainer(&slots, vec![stage("slots", 1, only, LossWeights::protopool())]);
    run(&mut trainer, &data()).unwrap();
    for (name, after) in bits(&trainer).into_iter().filter(|(name, _)| !name.contains("running")) {
        assert_eq!(after != fresh[&name], name == "proto_presence", "{name}");
    }
}

fn protopool_of(preset: Preset) -> PrototypeConfig {
    let mut config = PrototypeConfig { width: 5, ..protopool(preset, 6, 2, 6) };
    if let Assignment::Slots { slots, .. } = &mut config.assignment {
        *slots = 2;
    }
    config
}

#[test]
fn stages_of_one_name_share_an_optimiser() {
    let train = |split: &[(&str, usize)]| {
        let stages =
            split.iter().map(|(name, epochs)| stage(name, *epochs, rates(0.02), LossWeights::ppnet()));
        let mut trainer = trainer(&small(), stages.collect());
        run(&mut trainer, &data()).unwrap();
        bits(&trainer)
    };
    let whole = train(&[("a", 3)]);
    assert!(whole == train(&[("a", 1), ("a", 2)]));
    assert!(whole != train(&[("a", 1), ("b", 2)]));
}

#[test]
fn threads_do_not_change_a_bit() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = trainer(&small(), stages());
            run(&mut trainer, &data()).unwrap();
            (bits(&trainer), trainer.history().clone())
        })
    };
    assert!(with(1) == with(3));
}

#[test]
fn batches_of_a_push_and_of_the_validation_do_not_matter() {
    let push = |sizes: &[usize]| {
        let whole = batch(5, 12);
        let mut first = 0;
        let mut batches = Vec::new();
        for size in sizes {
            let part = first..first + size;
            let images = whole.images().narrow(0, first, *size).unwrap();
            let (ids, classes) = (whole.ids()[part.clone()].to_vec(), whole.classes()[part].to_vec());
            batches.push(Batch::new(images, ids, classes).unwrap());
            first += size;
        }
        let data = TrainData {
            validation: Some(Batches::fixed(batches.clone())),
            push: Some(Batches::fixed(batches)),
            ..data()
        };
        let mut trainer = trainer(&small(), stages());
        run(&mut trainer, &data).unwrap();
        let accuracies = trainer.history().epochs.iter().map(|e| e.validation.unwrap().accuracy);
        (bits(&trainer), accuracies.collect::<Vec<_>>())
    };
    assert!(push(&[12]) == push(&[5, 7]));
}

#[test]
fn shared_prototypes_are_trained_pushed_and_read_without_chance() {
    for preset in [Preset::Paper, Preset::Released] {
        let mut stages = stages();
        for stage in &mut stages {
            if stage.name != "last" {
                stage.train.assignment = Some(Rate::new(0.02));
                stage.losses.weights = LossWeights::protopool();
            }
        }
        let config = protopool_of(preset);
        let mut first = trainer(&config, stages.clone());
        run(&mut first, &data()).unwrap();
        let terms = &first.history().epochs[1].terms;
        assert_eq!(terms.len(), 5, "{terms:?}");
        assert!(terms[&Term::Orthogonality].abs() <= 1.0 && terms[&Term::Cluster] >= 0.0, "{terms:?}");
        assert_eq!(first.projected().unwrap().projection.sources.len(), 6);
        let mut second = trainer(&config, stages);
        run(&mut second, &data()).unwrap();
        assert!(bits(&first) == bits(&second), "{preset:?}");
    }
}

#[test]
fn prototypes_without_a_head_align_with_patches() {
    let config =
        PrototypeConfig { head: Head::None, assignment: Assignment::Fixed { classes: 1 }, ..small() };
    let train = Parts { prototypes: Some(Rate::new(0.02)), ..Default::default() };
    let weights = LossWeights { diversity: 0.01, ..LossWeights::single_class() };
    let align = Stage {
        statistics: Statistics::Frozen,
        push: Some(Push { distinct: true, ..Default::default() }),
        ..stage("align", 8, train, weights)
    };
    let mut trainer = trainer(&config, vec![align]);
    let one_class = |seed| {
        let batch = batch(seed, 8);
        Batch::unlabelled(batch.images().clone(), batch.ids().to_vec()).unwrap()
    };
    let data = TrainData::new(Batches::fixed(vec![one_class(1), one_class(2)]))
        .pushed_onto(Batches::fixed(vec![one_class(1), one_class(2)]));
    run(&mut trainer, &data).unwrap();
    let history = trainer.history();
    let align = |epoch: usize| history.epochs[epoch].terms[&Term::Align];
    assert!(align(7) < 0.5 * align(0), "{} {}", align(7), align(0));
    assert_eq!(history.epochs[7].accuracy, None);
    let validated = TrainData { validation: Some(Batches::fixed(vec![one_class(1)])), ..data };
    let mut again = self::trainer(&config, trainer.config.schedule.stages.clone());
    assert!(matches!(run(&mut again, &validated), Err(Error::Input { what: "validation data", .. })));
}

#[test]
fn what_cannot_be_trained_is_named() {
    let with = |change: &dyn Fn(&mut TrainData<'_>)| {
        let mut data = data();
        change(&mut data);
        run(&mut trainer(&small(), stages()), &data).unwrap_err()
    };
    let no_push = with(&|data| data.push = None);
    assert!(matches!(no_push, Error::Input { what: "images to project onto", .. }), "{no_push}");
    for empty in ["train", "validation", "push"] {
        let e = with(&|data| {
            let none = Batches::fixed(vec![]);
            match empty {
                "train" => data.train = none,
                "validation" => data.validation = Some(none),
                _ => data.push = Some(none),
            }
        });
        assert!(matches!(e, Error::Input { .. }), "{empty}: {e}");
    }
    // A class without training images, of any kind.
    let zeros = |seed| {
        let batch = batch(seed, 6);
        Batch::new(batch.images().clone(), batch.ids().to_vec(), vec![0; 6]).unwrap()
    };
    let lacking = with(&|data| data.train = Batches::fixed(vec![zeros(1)]));
    assert!(matches!(lacking, Error::EmptyClass { class: 1, .. }), "{lacking}");
    let lacking = with(&|data| data.push = Some(Batches::fixed(vec![zeros(1)])));
    assert!(matches!(lacking, Error::EmptyClass { class: 1, .. }), "{lacking}");
    let beyond = |seed| {
        let batch = batch(seed, 6);
        Batch::new(batch.images().clone(), batch.ids().to_vec(), vec![2; 6]).unwrap()
    };
    assert!(matches!(with(&|data| data.train = Batches::fixed(vec![beyond(1)])), Error::Input { .. }));
    let broken = |seed| {
        let batch = batch(seed, 6);
        Batch::new((batch.images() * f64::NAN).unwrap(), batch.ids().to_vec(), batch.classes().to_vec())
            .unwrap()
    };
    for part in ["train", "validation", "push"] {
        let e = with(&|data| {
            let nan = Batches::fixed(vec![broken(1)]);
            match part {
                "train" => data.train = nan,
                "validation" => data.validation = Some(nan),
                _ => data.push = Some(nan),
            }
        });
        assert!(matches!(e, Error::NonFinite { .. }), "{part}: {e}");
    }
    // Nothing to train, and weights of another network.
    let slots = Parts { assignment: Some(Rate::new(0.1)), ..Default::default() };
    let params = Params::fresh(3, &CPU);
    let network = PrototypeNetwork::new(&small(), Stem::new(&params.at("features")), &params).unwrap();
    let stage = stage("slots", 1, slots, LossWeights::ppnet());
    let config = TrainConfig::new(Schedule { stages: vec![stage] }, 0);
    let made = Trainer::new(network, params.finish().unwrap(), config, Value::Null);
    assert!(matches!(made, Err(Error::Config { field: "train", .. })));
    let params = Params::fresh(3, &CPU);
    let network = PrototypeNetwork::new(&small(), Stem::new(&params.at("features")), &params).unwrap();
    let config = TrainConfig::new(Schedule { stages: stages() }, 0);
    let made = Trainer::new(network, Default::default(), config, Value::Null);
    assert!(matches!(made, Err(Error::Input { what: "parameters", .. })));
}

#[test]
fn a_checkpoint_of_something_else_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut done = trainer(&small(), stages());
    run(&mut done, &data()).unwrap();
    done.write(&file("done")).unwrap();
    let refused = |mut trainer: Trainer<Stem>, path: &Path, what: &str| {
        let before = bits(&trainer);
        let e = trainer.resume(path).unwrap_err();
        assert!(bits(&trainer) == before && trainer.step() == 0, "{what}");
        e.to_string()
    };
    let mut other = stages();
    other[0].train.add_on = Some(Rate::new(0.5));
    assert!(refused(trainer(&small(), other), &file("done"), "rates").contains("configuration"));
    let wide = PrototypeConfig { width: 6, ..small() };
    assert!(refused(trainer(&wide, stages()), &file("done"), "width").contains("prototype network"));
    std::fs::write(file("noise"), b"nothing of the kind").unwrap();
    refused(trainer(&small(), stages()), &file("noise"), "noise");
    let bytes = std::fs::read(file("done")).unwrap();
    std::fs::write(file("cut"), &bytes[..bytes.len() / 2]).unwrap();
    refused(trainer(&small(), stages()), &file("cut"), "cut");
    refused(trainer(&small(), stages()), &file("missing"), "missing");
    // More stages behind those of the file are no other training.
    let mut longer = stages();
    longer.push(stage("more", 1, rates(0.01), LossWeights::ppnet()));
    let mut longer = trainer(&small(), longer);
    longer.resume(&file("done")).unwrap();
    assert_eq!(run(&mut longer, &data()).unwrap(), Outcome::Finished);
    assert_eq!(longer.step(), done.step() + 3);
}
