//! The project's own conformance cases, and the sample cases beside the project where they are.

use std::path::{Path, PathBuf};

use xdiff_examples::conformance::{check, find, ops};

fn failures(root: PathBuf, skip: impl Fn(&str) -> bool) -> (usize, Vec<String>) {
    let verdicts: Vec<_> =
        find(&[root]).unwrap().iter().map(|file| check(file)).filter(|v| !skip(&v.op)).collect();
    (verdicts.len(), verdicts.iter().filter(|v| !v.passed()).map(ToString::to_string).collect())
}

#[test]
fn our_own_cases_pass() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/cases");
    let (count, failed) = failures(cases, |_| false);
    assert!(count > 100, "only {count} cases found");
    assert!(failed.is_empty(), "{} of {count}:\n{}", failed.len(), failed.join("\n"));
}

/// Ops of models that do not exist yet are left out by name, not by failing quietly.
#[test]
fn the_samples_of_the_format_pass() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    if !samples.is_dir() {
        println!("no sample cases beside the project");
        return;
    }
    let known: Vec<&str> = ops().collect();
    let (count, failed) = failures(samples, |op| !known.contains(&op));
    assert!(count > 0);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn an_unknown_op_a_broken_file_and_a_missing_one_fail_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.safetensors");
    std::fs::write(&broken, b"\xff\xff\xff\xff\xff\xff\xff\xffnothing").unwrap();
    let verdict = check(&broken);
    assert!(!verdict.passed() && verdict.to_string().contains("FAIL"), "{verdict}");
    assert!(find(&[dir.path().join("nothing")]).is_err());
}
