//! Files of a training, and going on from them.

use xdiff_nn::weights::{read_safetensors_metadata, read_safetensors_with_metadata, write_safetensors};

use super::*;
use crate::Error;

/// Six steps: two in each of three epochs.
const STEPS: usize = 6;

fn whole() -> Vec<(String, Vec<u64>)> {
    let mut fit = tiny(full(), 0.3).unwrap();
    assert_eq!(fit.run(&data(), None, &CancelToken::new(), &mut ()).unwrap(), FitOutcome::Finished);
    assert_eq!(fit.step(), STEPS);
    state(&fit)
}

#[test]
fn a_cancelled_training_goes_on_to_the_same_bits() {
    let whole = whole();
    for stop in 1..STEPS {
        let folder = tempfile::tempdir().unwrap();
        let token = CancelToken::new();
        let mut fit = tiny(full(), 0.3).unwrap();
        let mut observer = StopAfter { step: stop, cancel: Some(token.clone()) };
        let outcome = fit.run(&data(), Some(folder.path()), &token, &mut observer).unwrap();
        assert_eq!((outcome, fit.step()), (FitOutcome::Cancelled, stop));
        // Cancelled at the end of an epoch, it has not validated yet.
        assert_eq!(fit.history().epochs.len(), (stop - 1) / 2, "stop {stop}");

        let mut resumed = tiny(full(), 0.3).unwrap();
        assert!(resumed.resume_in(folder.path()).unwrap());
        assert_eq!(state(&resumed), state(&fit), "stop {stop}");
        resumed.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
        assert_eq!(state(&resumed), whole, "stop {stop}");
        // The files are those of a training that ran through, too.
        let mut again = tiny(full(), 0.3).unwrap();
        again.resume(&folder.path().join(LAST)).unwrap();
        assert_eq!(state(&again), whole, "stop {stop}");
    }
}

#[test]
fn a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_bits() {
    let whole = whole();
    for (every, stop, found) in [(0, 3, 2), (0, 4, 2), (0, 1, 0), (4, 5, 4), (3, 4, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let config = FitConfig { checkpoint_every: every, ..full() };
        let mut fit = tiny(config.clone(), 0.3).unwrap();
        let mut observer = StopAfter { step: stop, cancel: None };
        let error = fit.run(&data(), Some(folder.path()), &CancelToken::new(), &mut observer).unwrap_err();
        assert!(error.to_string().contains("the power is gone"), "{error}");

        let mut resumed = tiny(config, 0.3).unwrap();
        assert_eq!(resumed.resume_in(folder.path()).unwrap(), found > 0);
        assert_eq!(resumed.step(), found, "every {every}, stop {stop}");
        resumed.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
        assert_eq!(state(&resumed), whole, "every {every}, stop {stop}");
    }
}

#[test]
fn the_best_weights_are_a_file_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut fit = tiny(full(), 0.0).unwrap();
    fit.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
    let last = weights(fit.params());
    let fitted = fit.into_best().unwrap();
    let (tensors, metadata) = read_safetensors_with_metadata(folder.path().join(BEST)).unwrap();
    let best = fitted.best.unwrap();
    assert_eq!(bits(&tensors), weights(&fitted.params));
    assert_ne!(bits(&tensors), last, "the moving average is validated");
    assert_eq!((metadata["measure"].as_str(), metadata["epoch"].parse()), ("macro_f1", Ok(best.epoch)));
    assert_eq!(metadata["description"], "\"tiny\"");
    // It is read as any weights are.
    let params = Params::frozen(tensors, &Device::Cpu);
    let network = Tiny::new(&params, false, 0.0).unwrap();
    params.finish().unwrap();
    let validation = [Ok::<_, Error>(vec![group(&[20, 21, 22, 23], 6), group(&[24], 5)])];
    let measured = predict(&network, validation).unwrap().measure(Measure::MacroF1);
    assert_eq!(measured, Some(best.value));
}

#[test]
fn nothing_that_does_not_fit_is_resumed_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LAST);
    let mut fit = tiny(full(), 0.0).unwrap();
    fit.run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
    let (tensors, metadata) = read_safetensors_with_metadata(&path).unwrap();
    let fresh = |config| tiny(config, 0.0).unwrap();
    let other = |change: &dyn Fn(&mut FitConfig)| {
        let mut config = full();
        change(&mut config);
        fresh(config).resume(&path)
    };
    let changed = |name: &str, tensor: Option<Tensor>, header: Option<(&str, &str)>| {
        let (mut tensors, mut metadata) = (tensors.clone(), metadata.clone());
        match tensor {
            Some(t) => drop(tensors.insert(name.to_owned(), t)),
            None => drop(tensors.remove(name)),
        }
        if let Some((from, to)) = header {
            let text = metadata["training"].replace(from, to);
            metadata.insert("training".to_owned(), text);
        }
        let path = folder.path().join("changed.safetensors");
        write_safetensors(&path, &tensors, &metadata).unwrap();
        let mut fit = fresh(full());
        let before = state(&fit);
        let outcome = fit.resume(&path);
        assert_eq!(state(&fit), before, "{name}");
        outcome
    };
    let t = |n: usize| Some(Tensor::zeros(n, DType::F64, &Device::Cpu).unwrap());
    let none = fresh(full()).resume(&folder.path().join("none"));
    let best = fresh(full()).resume(&folder.path().join(BEST));
    let cases = [
        ("no file", none, "none"),
        ("the best weights", best, "its format is None"),
        ("another seed", other(&|c| c.seed = 1), "configuration"),
        ("another rate", other(&|c| c.adamw.lr = 1.0), "configuration"),
        ("more epochs along a cosine", other(&|c| c.epochs = 9), "configuration"),
        ("no average", changed("ema/updates", None, None), "updates"),
        ("another network", changed("model/fc.bias", t(9), None), "fc.bias"),
        ("no best weights", changed("best/fc.bias", None, None), "best weights"),
        ("no moments", changed("optimizer/exp_avg.fc.bias", None, None), "exp_avg.fc.bias"),
        ("another column", changed("epochs/luck", t(3), None), "epochs/luck"),
        ("a short column", changed("epochs/validation.loss", t(2), None), "2 values for 3 epochs"),
        ("lost losses", changed("history", None, None), "0 steps and 3 epochs"),
        (
            "other batches",
            changed("none", None, Some(("\"batches\":3", "\"batches\":9"))),
            "epochs of 5 steps",
        ),
        (
            "huge batches",
            changed("none", None, Some(("\"batches\":3", "\"batches\":18446744073709551615"))),
            "steps",
        ),
        ("another description", changed("none", None, Some(("\"tiny\"", "\"huge\""))), "description"),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, part) in cases {
        match outcome {
            Err(e) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!fresh(full()).resume_in(&folder.path().join("empty")).unwrap());
    // Other data are noticed when the training goes on.
    let mut fit = fresh(full());
    fit.resume(&path).unwrap();
    let error = fit.run(&FitData::new(mixed(4)), None, &CancelToken::new(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("began with 3"), "{error}");
    assert!(read_safetensors_metadata(&path).unwrap().contains_key("training"));
}

#[test]
fn a_training_at_one_rate_may_be_made_longer() {
    let config = |epochs| FitConfig { epochs, schedule: Schedule::Constant, ..full() };
    let folder = tempfile::tempdir().unwrap();
    tiny(config(1), 0.3).unwrap().run(&data(), Some(folder.path()), &CancelToken::new(), &mut ()).unwrap();
    let mut longer = tiny(config(2), 0.3).unwrap();
    longer.resume_in(folder.path()).unwrap();
    longer.run(&data(), None, &CancelToken::new(), &mut ()).unwrap();
    let mut whole = tiny(config(2), 0.3).unwrap();
    whole.run(&data(), None, &CancelToken::new(), &mut ()).unwrap();
    assert_eq!(state(&longer), state(&whole));
}
