//! A training that is killed, at any moment and as often as one likes, ends with the bits of one that
//! ran through; and no reader ever finds half a checkpoint. Real processes, real signals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xdiff::core::train::Checkpoint;
use xdiff::nn::Rng;
use xdiff_examples::mri::model::checkpoint_path;
use xdiff_tests::small::differing;

const STEPS: usize = 16;

fn start(folder: &Path, threads: usize) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tiny-training"))
        .arg(folder)
        .arg(STEPS.to_string())
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Trains without interruption.
fn uninterrupted(threads: usize) -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (status, errors) = finish(start(folder.path(), threads));
    assert!(status.success(), "{errors}");
    let bytes = fs::read(checkpoint_path(folder.path())).unwrap();
    (folder, bytes)
}

/// The files of checkpoints that are being written, or were when their process ended.
fn partial(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "partial")).collect()
}

/// The step of the checkpoint, which must be whole; 0 when there is none yet.
fn step_on_disk(folder: &Path) -> usize {
    Checkpoint::read_if_present(&checkpoint_path(folder)).unwrap().map_or(0, |c| c.step)
}

/// Waits for something of a running child; false when the child ends before.
fn wait_for(child: &mut Child, mut what: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !what() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the training does not go on");
        std::hint::spin_loop();
    }
    true
}

fn compare(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|folder| Checkpoint::read(&checkpoint_path(folder)).unwrap());
    let differ = |what: &str, a, b| {
        let names = differing(a, b).unwrap();
        assert!(names.is_empty(), "{what} differ: {}", names.join(", "));
    };
    differ("weights", &a.weights, &b.weights);
    differ("moving averages", a.ema.as_ref().unwrap(), b.ema.as_ref().unwrap());
    differ("the optimiser's tensors", &a.optimizer, &b.optimizer);
    let bits = |history: &[f32]| history.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&a.history), bits(&b.history));
    assert_eq!((a.step, a.config, a.description), (b.step, b.config, b.description));
}

#[test]
fn a_training_that_is_killed_at_any_moment_ends_with_the_same_bits() {
    let (whole, bytes) = uninterrupted(2);
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(3);
    let (mut kills, mut while_writing, mut left_behind) = (0, 0, 0);
    loop {
        let before = step_on_disk(folder.path());
        let mut child = start(folder.path(), 1 + kills % 3);
        // By turns: while a checkpoint is being written, at any time after a step, at any time at all.
        let killed = match kills % 3 {
            0 => {
                wait_for(&mut child, || step_on_disk(folder.path()) > before)
                    && wait_for(&mut child, || !partial(folder.path()).is_empty())
            }
            1 => {
                let moved = wait_for(&mut child, || step_on_disk(folder.path()) > before);
                std::thread::sleep(Duration::from_micros(rng.below(60_000) as u64));
                moved
            }
            _ => {
                std::thread::sleep(Duration::from_micros(rng.below(400_000) as u64));
                child.try_wait().unwrap().is_none()
            }
        };
        if !killed {
            let (status, errors) = finish(child);
            assert!(status.success(), "{errors}");
            break;
        }
        let writing = !partial(folder.path()).is_empty();
        child.kill().unwrap();
        finish(child);
        kills += 1;
        while_writing += usize::from(writing);
        left_behind += partial(folder.path()).len();
        let after = step_on_disk(folder.path());
        assert!(after > before || (after == before && kills % 3 == 0), "step {before}, then {after}");
        assert!(partial(folder.path()).len() <= 1, "what earlier kills left behind was not removed");
    }
    println!(
        "{kills} kills, {while_writing} of them while a checkpoint was being written, {left_behind} left files"
    );
    assert!(kills >= 4, "only {kills} kills");
    assert!(left_behind > 0, "no kill met a checkpoint that was being written");
    compare(whole.path(), folder.path());
    assert!(fs::read(checkpoint_path(folder.path())).unwrap() == bytes, "the files differ");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the checkpoint is left");
}

#[test]
fn a_training_that_is_killed_before_its_first_step_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), 2);
    child.kill().unwrap();
    finish(child);
    assert!(step_on_disk(folder.path()) < STEPS);
    let (status, errors) = finish(start(folder.path(), 2));
    assert!(status.success(), "{errors}");
    assert_eq!(step_on_disk(folder.path()), STEPS);
}

#[test]
fn the_number_of_threads_changes_no_byte_of_a_checkpoint() {
    let one = uninterrupted(1);
    for threads in [2, 3] {
        let many = uninterrupted(threads);
        compare(one.0.path(), many.0.path());
        assert!(one.1 == many.1, "{threads} threads");
    }
}

#[cfg(unix)]
#[test]
fn a_training_that_is_interrupted_saves_and_goes_on() {
    let (whole, bytes) = uninterrupted(2);
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = start(folder.path(), 2);
        assert!(wait_for(&mut child, || step_on_disk(folder.path()) > 0));
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let (status, errors) = finish(child);
        assert_eq!(status.code(), Some(3), "{signal}: {errors}");
        let step = step_on_disk(folder.path());
        assert!(0 < step && step < STEPS, "{signal}: stopped at step {step}");
        assert!(partial(folder.path()).is_empty());

        let (status, errors) = finish(start(folder.path(), 2));
        assert!(status.success(), "{signal}: {errors}");
        assert!(errors.contains(&format!("going on from step {step}")), "{errors}");
        compare(whole.path(), folder.path());
        assert!(fs::read(checkpoint_path(folder.path())).unwrap() == bytes);
    }
}

#[test]
fn a_checkpoint_of_another_training_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (other, _) = uninterrupted(2);
    let path = checkpoint_path(folder.path());
    let mut checkpoint = Checkpoint::read(&checkpoint_path(other.path())).unwrap();
    checkpoint.description["data"] = "somebody else's images".into();
    checkpoint.write(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let (status, errors) = finish(start(folder.path(), 2));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("description") && errors.contains("model.safetensors"), "{errors}");
    assert!(fs::read(&path).unwrap() == before);
}
