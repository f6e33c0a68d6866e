//! Scores of one formula data set against other libraries, and the table of all scores.

use xdiff_core::Metric;

use super::*;
use crate::{BootstrapConfig, Design, Error, IntervalMethod, ResamplingUnit, Result, bootstrap};

/// Probabilities with ties, and labels; the tables' Python makes the same.
fn data(n: usize, classes: usize) -> (Vec<f64>, Vec<usize>) {
    let labels: Vec<usize> = (0..n).map(|i| (i * i / 3 + i / 5) % classes).collect();
    let row = |i: usize| {
        let weight =
            |j: usize| (1 + (i * 37 + j * 101 + i * j * 13) % 17 + 12 * usize::from(j == labels[i])) as f64;
        let sum: f64 = (0..classes).map(weight).sum();
        (0..classes).map(|j| weight(j) / sum).collect::<Vec<f64>>()
    };
    ((0..n).flat_map(row).collect(), labels)
}

fn predictions(n: usize, classes: usize) -> Predictions {
    let (scores, labels) = data(n, classes);
    let mut all = Predictions::new(classes).unwrap();
    all.update(PredictionBatch::probabilities(&scores, &labels)).unwrap();
    all
}

fn quick() -> BootstrapConfig {
    BootstrapConfig { replicates: 300, ..BootstrapConfig::default() }
}

#[test]
fn scores_agree_with_other_libraries() {
    let (p2, l2) = data(60, 2);
    let (p4, l4) = data(57, 4);
    let class = |k: usize| {
        (l2.iter().map(|l| *l == k).collect::<Vec<_>>(), p2.chunks(2).map(|r| r[k]).collect::<Vec<_>>())
    };
    let (positive, column) = class(1);
    let error = |binning, bins, target| CalibrationConfig { bins, binning, target };
    let of2 = |c: CalibrationConfig| calibration(&p2, 2, &l2, &c).unwrap();
    let of4 = |c: CalibrationConfig| calibration(&p4, 4, &l4, &c).unwrap();
    let (width, mass, top) = (Binning::EqualWidth, Binning::EqualMass, CalibrationTarget::TopLabel);
    // scikit-learn 1.9.1.
    let exact = [
        ("log loss, 2", log_loss(&p2, 2, &l2).unwrap(), 0.3452318595720318),
        ("Brier, 2", brier_score(&p2, 2, &l2, BrierScale::Auto).unwrap(), 0.09616025129748174),
        ("Brier sum, 2", brier_score(&p2, 2, &l2, BrierScale::Sum).unwrap(), 0.19232050259496347),
        ("log loss, 4", log_loss(&p4, 4, &l4).unwrap(), 0.8483969154399885),
        ("Brier, 4", brier_score(&p4, 4, &l4, BrierScale::Auto).unwrap(), 0.4581854373660509),
        ("Brier half, 4", brier_score(&p4, 4, &l4, BrierScale::Half).unwrap(), 0.4581854373660509 / 2.0),
        ("AUC, 2", roc_auc(&positive, &column).unwrap(), 0.9933035714285715),
        ("AP, 2", average_precision(&positive, &column).unwrap(), 0.9943074003795067),
        ("AP macro", average_precision_one_vs_rest(&p4, 4, &l4, Average::Macro).unwrap(), 0.9178257111046634),
        ("AP micro", average_precision_one_vs_rest(&p4, 4, &l4, Average::Micro).unwrap(), 0.9272148384836032),
        (
            "AP weighted",
            average_precision_one_vs_rest(&p4, 4, &l4, Average::Weighted).unwrap(),
            0.9169386255299568,
        ),
        ("AUC macro", roc_auc_one_vs_rest(&p4, 4, &l4, Average::Macro).unwrap(), 0.9645922040358016),
        ("AUC micro", roc_auc_one_vs_rest(&p4, 4, &l4, Average::Micro).unwrap(), 0.9714784036113676),
        ("AUC weighted", roc_auc_one_vs_rest(&p4, 4, &l4, Average::Weighted).unwrap(), 0.9639946595979972),
        ("top 1", top_k_accuracy(&p4, 4, &l4, 1).unwrap(), 0.8771929824561403),
        ("top 2", top_k_accuracy(&p4, 4, &l4, 2).unwrap(), 0.9824561403508771),
        ("top 3", top_k_accuracy(&p4, 4, &l4, 3).unwrap(), 0.9824561403508771),
        ("top 4", top_k_accuracy(&p4, 4, &l4, 4).unwrap(), 1.0),
        // NumPy 2.4.6, the sums over the bins of Guo et al. and over bins of equal mass.
        ("ECE 10, 2", of2(error(width, 10, top)).expected, 0.22402074834878116),
        ("ECE 10, 4", of4(error(width, 10, top)).expected, 0.4421588490875612),
        ("RMS 10, 4", of4(error(width, 10, top)).root_mean_square, 0.444112088456291),
        ("ECE 15, 4", of4(error(width, 15, top)).expected, 0.4323803043650993),
        ("RMS 15, 4", of4(error(width, 15, top)).root_mean_square, 0.44352482109771507),
        ("MCE 15, 4", of4(error(width, 15, top)).maximum, 0.5495718708728913),
        (
            "RMS 10 of class 1",
            of2(error(width, 10, CalibrationTarget::Class(1))).root_mean_square,
            0.24403586819310574,
        ),
        (
            "ECE 15 of class 1",
            of4(error(width, 15, CalibrationTarget::Class(1))).expected,
            0.20210389205102086,
        ),
        ("ECE 5 of equal mass, 2", of2(error(mass, 5, top)).expected, 0.2240207483487811),
        ("ECE 5 of equal mass, 4", of4(error(mass, 5, top)).expected, 0.4323803043650992),
    ];
    let wrong: Vec<_> = exact.iter().filter(|(_, got, want)| (got - want).abs() > 1e-13).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bins_hold_every_sample_once_and_edges_belong_below() {
    let (p, labels) = data(57, 4);
    for binning in [Binning::EqualWidth, Binning::EqualMass] {
        for bins in [1, 7, 15, 1000] {
            let found =
                calibration(&p, 4, &labels, &CalibrationConfig { bins, binning, ..Default::default() })
                    .unwrap();
            assert_eq!(found.bins.iter().map(|b| b.count).sum::<usize>(), 57, "{binning:?} {bins}");
            for b in found.bins.iter().filter(|b| b.count > 0) {
                assert!(b.low <= b.confidence && b.confidence <= b.high, "{b:?}");
            }
            assert!(found.expected <= found.root_mean_square && found.root_mean_square <= found.maximum);
        }
    }
    // 0.3 and 0.7 are the edges 3/10 and 7/10 themselves, whatever 0.3·10 is rounded to.
    for (confidence, bin) in
        [(0.0, 0), (0.1, 0), (0.3, 2), (0.30000000000000004, 3), (0.7, 6), (1.0, 9), (1.00001, 9)]
    {
        assert_eq!(calibration::width_bin(confidence, 10), bin, "{confidence}");
    }
    let bad = [
        CalibrationConfig { bins: 0, ..Default::default() },
        CalibrationConfig { bins: usize::MAX, ..Default::default() },
        CalibrationConfig { target: CalibrationTarget::Class(4), ..Default::default() },
    ];
    for bad in bad {
        assert!(matches!(calibration(&p, 4, &labels, &bad), Err(Error::Config { .. })), "{bad:?}");
    }
}

#[test]
fn bad_rows_are_typed_errors_everywhere() {
    type Score = fn(&[f64], usize, &[usize]) -> Result<f64>;
    let scores: [(&str, Score); 3] = [
        ("Brier", |p, k, l| brier_score(p, k, l, BrierScale::Auto)),
        ("log loss", log_loss),
        ("calibration", |p, k, l| Ok(calibration(p, k, l, &CalibrationConfig::default())?.expected)),
    ];
    for (name, score) in scores {
        let logits = score(&[2.0, -1.0], 2, &[0]).unwrap_err();
        assert!(logits.to_string().contains("apply softmax"), "{name}: {logits}");
        assert!(matches!(score(&[0.5, 0.6], 2, &[0]), Err(Error::Value { .. })), "{name}");
        assert!(matches!(score(&[0.5, f64::NAN], 2, &[0]), Err(Error::Value { index: 1, .. })), "{name}");
        assert!(matches!(score(&[0.5, 0.5], 2, &[2]), Err(Error::Value { .. })), "{name}");
        assert!(matches!(score(&[0.5, 0.5], 2, &[0, 1]), Err(Error::Shape { .. })), "{name}");
        assert!(matches!(score(&[1.0], 1, &[0]), Err(Error::Shape { .. })), "{name}");
        assert!(matches!(score(&[], 2, &[]), Err(Error::TooFew { .. })), "{name}");
    }
    assert_eq!(log_loss(&[0.0, 1.0], 2, &[0]).unwrap(), -f64::EPSILON.ln());
    assert_eq!(brier_score(&[0.0, 1.0], 2, &[0], BrierScale::Sum).unwrap(), 2.0);
    for k in [0, 3] {
        assert!(matches!(top_k_accuracy(&[0.5, 0.5], 2, &[0], k), Err(Error::Config { field: "k", .. })));
    }
    // Of equal scores the lower class comes first.
    assert_eq!(top_k_accuracy(&[0.5, 0.5, 0.5, 0.5], 2, &[0, 1], 1).unwrap(), 0.5);
    assert!(average_precision_one_vs_rest(&[0.1; 6], 3, &[0, 1], Average::Macro).is_err());
}

/// Resampling moves this error upwards, so that its interval need not reach the value.
const BIASED: &str = "expected calibration error (15 bins)";

#[test]
fn the_table_holds_what_the_functions_compute() {
    for (n, k) in [(60, 2), (57, 4)] {
        let all = predictions(n, k);
        let table = classification_scores(&all, &quick()).unwrap();
        let (p, l) = (all.probabilities(), all.labels());
        let m = all.confusion().unwrap();
        let ece = calibration(p, k, l, &CalibrationConfig::default()).unwrap().expected;
        let mut want = vec![
            ("accuracy", None, m.accuracy().unwrap()),
            ("balanced accuracy", None, m.balanced_accuracy().unwrap()),
            ("Matthews correlation", None, m.matthews().unwrap()),
            ("Cohen's kappa", None, m.cohen_kappa().unwrap()),
            ("log loss", None, log_loss(p, k, l).unwrap()),
            ("Brier score", None, brier_score(p, k, l, BrierScale::Auto).unwrap()),
            (BIASED, None, ece),
        ];
        let average = Average::Macro;
        let mean = [
            ("precision (macro)", None, m.precision(average).unwrap()),
            ("sensitivity (macro)", None, m.recall(average).unwrap()),
            ("specificity (macro)", None, m.specificity(average).unwrap()),
            ("F1 (macro)", None, m.f1(average).unwrap()),
            ("ROC AUC (macro, one against rest)", None, roc_auc_one_vs_rest(p, k, l, average).unwrap()),
            (
                "average precision (macro, one against rest)",
                None,
                average_precision_one_vs_rest(p, k, l, average).unwrap(),
            ),
        ];
        want.extend(mean.into_iter().filter(|_| k > 2));
        for class in if k == 2 { 1..2 } else { 0..k } {
            let counts = m.class_counts()[class];
            let (positive, column) = all.one_against_rest(class).unwrap();
            want.extend([
                ("precision", Some(class), counts.precision()),
                ("sensitivity", Some(class), counts.recall()),
                ("specificity", Some(class), counts.specificity()),
                ("F1", Some(class), counts.f1()),
                ("ROC AUC", Some(class), roc_auc(&positive, &column).unwrap()),
                ("average precision", Some(class), average_precision(&positive, &column).unwrap()),
            ]);
        }
        let mut wrong = Vec::new();
        for (name, class, want) in &want {
            let row = table.get(name, *class).unwrap();
            let i = row.interval.unwrap();
            let inside = i.low - 1e-9 <= i.value && i.value <= i.high + 1e-9;
            if (i.value - want).abs() > 1e-12 || row.value != Some(i.value) || !(inside || *name == BIASED) {
                wrong.push(format!("{name} {class:?}: {i}, not {want}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(table.rows.len(), want.len());
    }
}

#[test]
fn weights_and_indices_are_the_same_bootstrap() {
    let all = predictions(60, 2);
    let sorted = all.compute().unwrap();
    let (positive, column) = sorted.one_against_rest(1).unwrap();
    for method in [IntervalMethod::Bca, IntervalMethod::Percentile] {
        let config = BootstrapConfig { method, ..quick() };
        let table = classification_scores(&all, &config).unwrap();
        let by_index = bootstrap(&Design::samples(60).unwrap(), &config, |indices| {
            let drawn: (Vec<bool>, Vec<f64>) = indices.iter().map(|i| (positive[*i], column[*i])).unzip();
            roc_auc(&drawn.0, &drawn.1)
        });
        let (a, b) = (table.get("ROC AUC", Some(1)).unwrap().interval.unwrap(), by_index.unwrap());
        assert!((a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12, "{a:.9} {b:.9}");
    }
}

#[test]
fn intervals_do_not_depend_on_shards_and_follow_groups() {
    let (scores, labels) = data(48, 3);
    let groups: Vec<String> = (0..48).map(|i| format!("patient {}", i / 4)).collect();
    let shard = |range: std::ops::Range<usize>| {
        let mut p = Predictions::new(3).unwrap();
        let batch =
            PredictionBatch::probabilities(&scores[range.start * 3..range.end * 3], &labels[range.clone()]);
        p.update(PredictionBatch { groups: &groups[range], ..batch }).unwrap();
        p
    };
    let whole = shard(0..48);
    let mut parts = shard(31..48);
    parts.merge(&shard(7..31)).unwrap();
    parts.merge(&shard(0..7)).unwrap();
    let table = classification_scores(&whole, &quick()).unwrap();
    assert_eq!(table, classification_scores(&parts, &quick()).unwrap());
    assert_eq!(table.groups, Some(12));
    let text = table.to_string();
    assert!(text.contains("n = 48 in 12 groups; 95 % BCa intervals, 300 replicates, seed 0"), "{text}");
    let by_sample = BootstrapConfig { unit: ResamplingUnit::Sample, ..quick() };
    let alone = classification_scores(&whole, &by_sample).unwrap();
    assert_eq!((alone.groups, alone.rows[0].value), (None, table.rows[0].value));
    assert_ne!(alone.rows[0].interval, table.rows[0].interval);
    let stratified = BootstrapConfig { stratify: true, ..quick() };
    let refused = classification_scores(&whole, &stratified);
    assert!(matches!(refused, Err(Error::Config { field: "stratify", .. })));
    classification_scores(&whole, &BootstrapConfig { stratify: true, ..by_sample }).unwrap();
}

#[test]
fn what_is_not_defined_has_no_interval() {
    let rows = [0.6, 0.3, 0.1, 0.2, 0.7, 0.1, 0.5, 0.4, 0.1, 0.1, 0.8, 0.1];
    let mut all = Predictions::new(3).unwrap();
    all.update(PredictionBatch::probabilities(&rows, &[0, 1, 0, 1])).unwrap();
    let table = classification_scores(&all, &quick()).unwrap();
    for (name, class) in [
        ("ROC AUC", Some(2)),
        ("sensitivity", Some(2)),
        ("average precision", Some(2)),
        ("ROC AUC (macro, one against rest)", None),
    ] {
        let row = table.get(name, class).unwrap();
        assert!(row.value.is_none() && row.interval.is_none(), "{row:?}");
    }
    assert_eq!(table.get("precision", Some(2)).unwrap().value, Some(0.0));
    assert_eq!(table.get("specificity", Some(2)).unwrap().value, Some(1.0));
    let auc = table.get("ROC AUC", Some(0)).unwrap().interval.unwrap();
    // One in eight replicates holds one class alone.
    assert!(auc.value == 1.0 && (15..=65).contains(&auc.undefined), "{auc}");
    assert!(table.to_string().contains("not defined") && table.to_string().contains("replicates undefined"));

    let mut one = Predictions::new(2).unwrap();
    assert!(matches!(classification_scores(&one, &quick()), Err(Error::TooFew { .. })));
    one.update(PredictionBatch::probabilities(&[0.5, 0.5], &[0])).unwrap();
    assert!(matches!(classification_scores(&one, &quick()), Err(Error::TooFew { need: 2, .. })));
    one.update(PredictionBatch::probabilities(&[0.5, 0.5], &[1])).unwrap();
    let constant = classification_scores(&one, &quick()).unwrap();
    assert_eq!(constant.get("ROC AUC", Some(1)).unwrap().value, Some(0.5));
}

#[test]
fn differences_are_of_the_same_samples() {
    let names: Vec<String> = (0..60).map(|i| format!("{:02}", i * 7 % 60)).collect();
    let (scores, labels) = data(60, 2);
    let build = |scores: &[f64]| {
        let mut p = Predictions::new(2).unwrap();
        p.update(PredictionBatch { ids: &names, ..PredictionBatch::probabilities(scores, &labels) }).unwrap();
        p
    };
    let first = build(&scores);
    let same = classification_differences(&first, &first, &quick()).unwrap();
    assert!(
        same.rows
            .iter()
            .all(|r| r.value == Some(0.0) && r.interval.is_some_and(|i| i.low == 0.0 && i.high == 0.0))
    );
    // A second classifier that has every third sample the wrong way round.
    let worse: Vec<f64> =
        (0..120usize).map(|i| scores[if (i / 2).is_multiple_of(3) { i ^ 1 } else { i }]).collect();
    let table = classification_differences(&first, &build(&worse), &quick()).unwrap();
    let accuracy = table.get("accuracy", None).unwrap().interval.unwrap();
    assert!(accuracy.value < -0.2 && accuracy.high < 0.0, "{accuracy}");
    let shorter = predictions(59, 2);
    assert!(matches!(
        classification_differences(&first, &shorter, &quick()),
        Err(Error::Incompatible { .. })
    ));
    let three = predictions(60, 3);
    assert!(matches!(classification_differences(&first, &three, &quick()), Err(Error::Incompatible { .. })));
    let nameless = predictions(60, 2);
    assert!(matches!(classification_differences(&first, &nameless, &quick()), Err(Error::Undefined { .. })));
}
