//! Classifiers from images to report, as the example `train_classifier` puts them together.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use rayon::ThreadPoolBuilder;
use xdiff::core::cancel::CancelToken;
use xdiff::data::Augment;
use xdiff::data::phantom::PhantomKind;
use xdiff::nn::{Params, Rng};
use xdiff::vision::{Architecture, Pass};
use xdiff_examples::classify::judging::{answers, judge, majority};
use xdiff_examples::classify::report::{self, Run, Setting};
use xdiff_examples::classify::source::{ClassData, FolderOptions, folder, phantoms};
use xdiff_examples::classify::training::{Plan, Trained, train};
use xdiff_tests::small::bits;

fn threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

fn plan(augment: Augment) -> Plan {
    Plan { network: Architecture::SmallCnn, epochs: 3, batch: 8, lr: 2e-3, augment }
}

fn cells() -> ClassData {
    phantoms(PhantomKind::BloodCells, 30, 32, 4).unwrap()
}

fn weights(trained: &Trained) -> Vec<(String, Vec<u32>)> {
    let tensors = trained.fitted.params.tensors().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor).unwrap())).collect()
}

#[test]
fn an_answer_depends_neither_on_the_batch_nor_on_the_threads() {
    let mut wrong = Vec::new();
    for architecture in [
        Architecture::ResNet18,
        Architecture::SqueezeNet1_1,
        Architecture::DenseNet121,
        Architecture::MobileNetV2,
        Architecture::GoogLeNet,
    ] {
        let params = Params::fresh(1, &Device::Cpu).freeze(|_| true);
        let network = architecture.build(1, 3, &params).unwrap();
        let images = Rng::new(2).randn((3, 1, 64, 72), &Device::Cpu).unwrap();
        let answer =
            |images: &Tensor| network.forward(images, &mut Pass::eval(&mut ())).unwrap().logits.detach();
        let together = answer(&images);
        let last = bits(&together.narrow(0, 2, 1).unwrap()).unwrap();
        if bits(&answer(&images.narrow(0, 2, 1).unwrap())).unwrap() != last {
            wrong.push(format!("{architecture} depends on the batch"));
        }
        if threads(1, || bits(&answer(&images)).unwrap()) != bits(&together).unwrap() {
            wrong.push(format!("{architecture} depends on the threads"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_training_that_was_cut_short_ends_with_the_same_bits_whatever_the_threads() {
    let (data, plan, whole) = (cells(), plan(Plan::augmentation()), tempfile::tempdir().unwrap());
    let token = CancelToken::new();
    let through = train(&plan, &data, 7, whole.path(), &token).unwrap().unwrap();

    let parts = tempfile::tempdir().unwrap();
    let stopped = CancelToken::new();
    stopped.cancel();
    assert!(train(&plan, &data, 7, parts.path(), &stopped).unwrap().is_none());
    // Goes on after the first epoch from what an earlier run left.
    let one = Plan { epochs: 3, ..plan.clone() };
    let stop_after_an_epoch = CancelToken::new();
    let watched = parts.path().to_owned();
    let seen = stop_after_an_epoch.clone();
    let watcher = std::thread::spawn(move || {
        while !watched.join(xdiff::vision::train::BEST).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        seen.cancel();
    });
    let first = threads(1, || train(&one, &data, 7, parts.path(), &stop_after_an_epoch).unwrap());
    watcher.join().unwrap();
    let resumed = match first {
        Some(trained) => trained,
        None => train(&plan, &data, 7, parts.path(), &token).unwrap().unwrap(),
    };
    assert_eq!(weights(&through), weights(&resumed));
    assert_eq!(through.fitted.history, resumed.fitted.history);
    let other = train(&plan, &data, 8, tempfile::tempdir().unwrap().path(), &token).unwrap().unwrap();
    assert_ne!(weights(&through), weights(&other));
}

#[test]
fn a_classifier_learns_phantoms_and_its_report_is_written() {
    let (data, out) = (phantoms(PhantomKind::BloodCells, 120, 32, 4).unwrap(), tempfile::tempdir().unwrap());
    let plan = Plan { epochs: 8, ..plan(Augment::default()) };
    let trained = train(&plan, &data, 0, out.path(), &CancelToken::new()).unwrap().unwrap();
    let said = answers(trained.fitted.objective.network(), &data, 8).unwrap();
    assert_eq!(said.n(), data.test.len());
    let judged = judge(said, &data, 0).unwrap();
    let (_, chance) = majority(&data).unwrap();
    let accuracy = judged.classes.accuracy;
    assert!(accuracy > chance + 0.2, "accuracy {accuracy}, chance {chance}");

    let setting = Setting {
        network: plan.network.to_string(),
        parameters: trained.fitted.params.count(),
        batch: plan.batch,
        fit: plan.fit(0),
        majority: majority(&data).unwrap(),
    };
    let run = Run {
        seed: 0,
        history: trained.fitted.history,
        best_epoch: trained.fitted.best.map(|best| best.epoch),
        stopped_early: trained.stopped_early,
        judged,
    };
    report::write(out.path(), &data, &setting, &[run]).unwrap();
    let html = std::fs::read_to_string(out.path().join("report.html")).unwrap();
    for part in ["Confusion", "Calibration", "not a medical device", "accuracy", "n = "] {
        assert!(html.contains(part), "{part}");
    }
    for file in
        ["scores.csv", "scores.md", "classes-0.csv", "confusion-0.png", "calibration.png", "report.json"]
    {
        assert!(out.path().join(file).is_file(), "{file}");
    }
}

/// A folder of two classes with eight images each, changed in one way.
fn classes(change: impl Fn(&Path)) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (value, class) in [(40, "dark"), (200, "bright")] {
        std::fs::create_dir(root.path().join(class)).unwrap();
        for i in 0..8 {
            let image = GrayImage::from_pixel(24, 20, Luma([value + i]));
            image.save(root.path().join(format!("{class}/p{i}_0.png"))).unwrap();
        }
    }
    change(root.path());
    root
}

#[test]
fn a_folder_of_classes_is_read_and_patients_are_kept_apart() {
    let root = classes(|root| {
        for class in ["dark", "bright"] {
            for i in 0..8 {
                let twin = root.join(format!("{class}/p{i}_1.png"));
                std::fs::copy(root.join(format!("{class}/p{i}_0.png")), twin).unwrap();
            }
        }
    });
    let options = FolderOptions { size: 16, patient_before: Some('_'), ..Default::default() };
    let data = folder(root.path(), &options).unwrap();
    assert_eq!((data.classes.len(), data.channels), (2, 1));
    let groups = |part: &dyn xdiff::data::Dataset| -> std::collections::BTreeSet<String> {
        xdiff::data::infos(part).unwrap().into_iter().filter_map(|i| i.group).collect()
    };
    let [train, val, test] = [&data.train, &data.val, &data.test].map(|part| groups(&**part));
    assert!(train.is_disjoint(&test) && train.is_disjoint(&val) && val.is_disjoint(&test));
    assert_eq!(data.train.len() + data.val.len() + data.test.len(), 32);
}

#[test]
fn what_is_no_set_of_classes_is_an_error_that_says_so() {
    let mut wrong = Vec::new();
    let only = FolderOptions { size: 16, only: vec![("a".into(), "b".into())], ..Default::default() };
    let plain = FolderOptions { size: 16, ..Default::default() };
    type Change = fn(&Path);
    let cases: [(&str, Change, &FolderOptions, &str); 4] = [
        ("one class", |root| std::fs::remove_dir_all(root.join("dark")).unwrap(), &plain, "two"),
        ("no manifest", |_| {}, &only, "manifest"),
        (
            "an image without class",
            |root| {
                std::fs::copy(root.join("dark/p0_0.png"), root.join("stray.png")).unwrap();
            },
            &plain,
            "no class",
        ),
        (
            "a broken image",
            |root| std::fs::write(root.join("dark/p0_0.png"), b"no image").unwrap(),
            &plain,
            "image",
        ),
    ];
    for (name, change, options, word) in cases {
        let root = classes(change);
        match folder(root.path(), options) {
            Err(e) if e.to_string().contains(word) => {}
            other => wrong.push(format!("{name}: {:?}", other.map_err(|e| e.to_string()))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
