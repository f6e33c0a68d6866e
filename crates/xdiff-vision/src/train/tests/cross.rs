//! Cross-validation.

use std::path::Path;

use super::*;
use crate::Error;

fn folds() -> Vec<Fold> {
    let part = |k: usize| (0..9).filter(|i| i % 3 == k).collect::<Vec<_>>();
    (0..3).map(|k| Fold { train: (0..9).filter(|i| i % 3 != k).collect(), held_out: part(k) }).collect()
}

fn validated(folds: &[Fold], folder: Option<&Path>, observer: &mut StopAfter) -> Result<CrossValidation> {
    let fit = FitConfig { monitor: Measure::Loss, ..full() };
    let model = |run: FoldRun<'_>| {
        let params = Params::fresh(run.seed, &Device::Cpu);
        let network = Tiny::new(&params, false, 0.2)?;
        Ok((Classification::new(network, CrossEntropy::default())?, params.finish()?))
    };
    let data = |run: FoldRun<'_>| {
        let feed = |indices: &[usize]| Feed::fixed(indices.chunks(4).map(|c| vec![group(c, 6)]).collect());
        let (train, validation) = run.fold.train.split_at(4);
        Ok(FoldData {
            fit: FitData::new(feed(train)).validated_on(feed(validation)),
            held_out: feed(&run.fold.held_out),
        })
    };
    let token = observer.cancel.clone().unwrap_or_default();
    cross_validate(CrossConfig { count: 9, folds, fit: &fit, folder }, model, data, &token, observer)
}

fn free() -> StopAfter {
    StopAfter { step: 0, cancel: None }
}

#[test]
fn every_image_is_predicted_once_by_a_network_that_has_not_seen_it() {
    let folds = folds();
    let all = validated(&folds, None, &mut free()).unwrap();
    assert_eq!(all.folds, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    let expected: Vec<String> =
        folds.iter().flat_map(|f| f.held_out.iter().map(|i| format!("image {i}"))).collect();
    assert_eq!(all.predictions.ids(), expected);
    assert_eq!((all.best.len(), all.histories.len(), all.histories[0].epochs.len()), (3, 3, 3));
    // Folds have seeds of their own.
    assert_ne!(all.histories[0].losses, all.histories[1].losses);

    // Stopped in the second fold and called again, it ends as it would have.
    let folder = tempfile::tempdir().unwrap();
    let stopped =
        validated(&folds, Some(folder.path()), &mut StopAfter { step: 2, cancel: Some(CancelToken::new()) });
    assert!(matches!(stopped, Err(Error::Cancelled { step: 2 })), "{stopped:?}");
    let again = validated(&folds, Some(folder.path()), &mut free()).unwrap();
    assert_eq!(again.predictions, all.predictions);
    assert!(folder.path().join("fold-2").join(BEST).is_file());
}

#[test]
fn folds_that_do_not_divide_the_data_are_refused() {
    let changed = |change: &dyn Fn(&mut Vec<Fold>)| {
        let mut folds = folds();
        change(&mut folds);
        validated(&folds, None, &mut free()).map(|_| ())
    };
    let tenfold = vec![Fold { train: vec![1], held_out: vec![0] }; 10];
    let cases = [
        ("one fold", changed(&|f| f.truncate(1)), "at least 2"),
        ("more folds than images", changed(&|f| f.clone_from(&tenfold)), "10 given for 9 images"),
        ("an empty fold", changed(&|f| f[1].held_out.clear()), "fold 1 has nothing"),
        ("nothing to train on", changed(&|f| f[2].train.clear()), "fold 2 has nothing"),
        (
            "an image held out twice",
            changed(&|f| f[1].held_out.push(0)),
            "image 0 is held out by folds 0 and 1",
        ),
        ("an unknown image", changed(&|f| f[0].held_out.push(9)), "names image 9 of 9"),
        ("a leak", changed(&|f| f[0].train.push(3)), "trains on image 3"),
        ("an image left out", changed(&|f| f[2].held_out.truncate(2)), "no fold holds out image 8"),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, part) in cases {
        match outcome {
            Err(e @ Error::Input { .. }) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
