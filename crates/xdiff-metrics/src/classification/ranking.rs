//! Measures of how scores order positives and negatives.

use xdiff_core::statistics::mean_ranks;

use super::Average;
use super::probability::check_scores;
use crate::error::check_finite;
use crate::{Error, Result};

/// The area under the ROC curve: the chance that a positive scores above a negative, ties counting
/// one half (Mann–Whitney).
///
/// ```
/// let labels = [false, false, true, true, true, false, true, false];
/// let auc = xdiff_metrics::roc_auc(&labels, &[0.1, 0.4, 0.35, 0.8, 0.8, 0.4, 0.4, 0.2])?;
/// assert_eq!(auc, 0.8125);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When the lengths differ, a score is not finite, or there are no positives or no negatives.
pub fn roc_auc(labels: &[bool], scores: &[f64]) -> Result<f64> {
    const METRIC: &str = "ROC AUC";
    let positives = check(METRIC, labels, scores)?;
    if positives == labels.len() {
        return Err(Error::Undefined { metric: METRIC, reason: "there are no negatives" });
    }
    let ranks = mean_ranks(scores);
    let sum: f64 = ranks.iter().zip(labels).filter(|(_, l)| **l).map(|(r, _)| r).sum();
    let (p, n) = (positives as f64, (labels.len() - positives) as f64);
    Ok((sum - p * (p + 1.0) / 2.0) / (p * n))
}

/// Average precision Σ(Rₙ − Rₙ₋₁)·Pₙ over the thresholds from the highest score down, without
/// interpolation.
///
/// # Errors
/// When the lengths differ, a score is not finite, or there are no positives.
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Result<f64> {
    let positives = check("average precision", labels, scores)?;
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut above, mut hits, mut sum) = (0, 0, 0.0);
    for ties in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let new = ties.iter().filter(|i| labels[**i]).count();
        above += ties.len();
        hits += new;
        sum += new as f64 * hits as f64 / above as f64;
    }
    Ok(sum / positives as f64)
}

/// [`roc_auc`] of each class against the rest, averaged.
///
/// Two classes have the area of class 1, whatever the average. With more, [`Average::Micro`] takes
/// every score of every class as one problem, [`Average::Weighted`] gives a class without labels no
/// weight, and [`Average::Binary`] does not exist.
///
/// # Shapes
/// `scores` are rows of `classes` values, one row for each label.
///
/// # Errors
/// When lengths do not fit, a label is no class, a score is not finite, or a class has no area: with
/// [`Average::Macro`] one that does not occur among the labels, and always one that all labels are.
pub fn roc_auc_one_vs_rest(
    scores: &[f64],
    classes: usize,
    labels: &[usize],
    average: Average,
) -> Result<f64> {
    one_vs_rest("ROC AUC one against the rest", roc_auc, scores, classes, labels, average)
}

/// [`average_precision`] of each class against the rest, averaged as in [`roc_auc_one_vs_rest`].
///
/// # Shapes
/// `scores` are rows of `classes` values, one row for each label.
///
/// # Errors
/// Those of [`roc_auc_one_vs_rest`].
pub fn average_precision_one_vs_rest(
    scores: &[f64],
    classes: usize,
    labels: &[usize],
    average: Average,
) -> Result<f64> {
    one_vs_rest("average precision one against the rest", average_precision, scores, classes, labels, average)
}

fn one_vs_rest(
    metric: &'static str,
    area: fn(&[bool], &[f64]) -> Result<f64>,
    scores: &[f64],
    classes: usize,
    labels: &[usize],
    average: Average,
) -> Result<f64> {
    if labels.is_empty() {
        return Err(Error::Undefined { metric, reason: "there are no samples" });
    }
    check_scores(metric, scores, classes, labels)?;
    let is = |class: usize| labels.iter().map(|l| *l == class).collect::<Vec<bool>>();
    let of = |class: usize| {
        let column: Vec<f64> = scores.iter().skip(class).step_by(classes).copied().collect();
        area(&is(class), &column)
    };
    if classes == 2 {
        return of(1);
    }
    match average {
        Average::Micro => {
            let hot: Vec<bool> = labels.iter().flat_map(|l| (0..classes).map(move |c| *l == c)).collect();
            area(&hot, scores)
        }
        Average::Macro => {
            let areas = (0..classes).map(of).collect::<Result<Vec<f64>>>()?;
            Ok(crate::pair::mean(&areas))
        }
        Average::Weighted => {
            let mut sum = 0.0;
            for class in 0..classes {
                let support = labels.iter().filter(|l| **l == class).count();
                sum += if support > 0 { of(class)? * support as f64 } else { 0.0 };
            }
            Ok(sum / labels.len() as f64)
        }
        Average::Binary => {
            Err(Error::config("average", format!("`binary` needs 2 classes, got {classes}; use `macro`")))
        }
    }
}

/// The share of samples whose label is among the `k` classes with the highest scores; of equal scores
/// the class with the lower number comes first, as in a prediction.
///
/// # Shapes
/// `scores` are rows of `classes` values, one row for each label.
///
/// # Errors
/// When there are no samples, lengths do not fit, a label is no class, a score is not finite, or `k` is
/// not from 1 to the number of classes.
pub fn top_k_accuracy(scores: &[f64], classes: usize, labels: &[usize], k: usize) -> Result<f64> {
    check_scores("top-k accuracy", scores, classes, labels)?;
    if !(1..=classes).contains(&k) {
        return Err(Error::config("k", format!("must be 1 to {classes}, the number of classes, got {k}")));
    }
    let hit = |(row, label): (&[f64], &usize)| {
        let before = |(class, s): (usize, &f64)| *s > row[*label] || *s == row[*label] && class < *label;
        row.iter().enumerate().filter(|c| before(*c)).count() < k
    };
    let hits = scores.chunks(classes).zip(labels).filter(|s| hit(*s)).count();
    Ok(hits as f64 / labels.len() as f64)
}

/// How many positives there are, of which there must be one.
pub(super) fn check(metric: &'static str, labels: &[bool], scores: &[f64]) -> Result<usize> {
    if labels.len() != scores.len() {
        return Err(Error::Mismatch { metric, a: vec![labels.len()], b: vec![scores.len()] });
    }
    check_finite(metric, "the scores", scores)?;
    match labels.iter().filter(|l| **l).count() {
        0 => Err(Error::Undefined { metric, reason: "there are no positives" }),
        positives => Ok(positives),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_numbers() {
        let labels = [0, 0, 1, 1, 1, 0, 1, 0].map(|l| l == 1);
        let scores = [0.1, 0.4, 0.35, 0.8, 0.8, 0.4, 0.4, 0.2];
        assert!((roc_auc(&labels, &scores).unwrap() - 0.8125).abs() < 1e-15);
        assert!((average_precision(&labels, &scores).unwrap() - 0.8166666666666667).abs() < 1e-15);
    }

    #[test]
    fn what_has_no_area_is_a_typed_error() {
        assert!(matches!(roc_auc(&[true, true], &[0.1, 0.2]), Err(Error::Undefined { .. })));
        assert!(matches!(roc_auc(&[false], &[0.1]), Err(Error::Undefined { .. })));
        assert!(matches!(roc_auc(&[], &[]), Err(Error::Undefined { .. })));
        assert!(matches!(average_precision(&[false], &[0.1]), Err(Error::Undefined { .. })));
        assert!(matches!(roc_auc(&[true], &[0.1, 0.2]), Err(Error::Mismatch { .. })));
        assert!(matches!(roc_auc(&[true, false], &[0.1, f64::NAN]), Err(Error::Value { .. })));
        let of = |scores: &[f64], labels: &[usize]| roc_auc_one_vs_rest(scores, 3, labels, Average::Macro);
        let absent = roc_auc_one_vs_rest(&[0.5, 0.3, 0.2, 0.1, 0.6, 0.3], 3, &[0, 1], Average::Weighted);
        assert_eq!(absent.unwrap(), 1.0);
        let one = roc_auc_one_vs_rest(&[0.5; 6], 3, &[1, 1], Average::Weighted);
        assert!(matches!(one, Err(Error::Undefined { .. })));
        assert!(matches!(of(&[0.5; 6], &[0, 1]), Err(Error::Undefined { .. })));
        assert!(matches!(of(&[0.5; 5], &[0, 1]), Err(Error::Shape { .. })));
        assert!(matches!(of(&[0.5; 6], &[0, 3]), Err(Error::Value { index: 1, .. })));
    }

    proptest! {
        #[test]
        fn area_is_the_share_of_ordered_pairs(
            samples in prop::collection::vec((any::<bool>(), -5i32..5), 2..40),
        ) {
            let labels: Vec<bool> = samples.iter().map(|s| s.0).collect();
            let scores: Vec<f64> = samples.iter().map(|s| f64::from(s.1)).collect();
            let (mut ordered, mut pairs) = (0.0, 0.0);
            for (p, n) in samples.iter().flat_map(|p| samples.iter().map(move |n| (p, n))) {
                if p.0 && !n.0 {
                    pairs += 1.0;
                    ordered += if p.1 > n.1 { 1.0 } else if p.1 == n.1 { 0.5 } else { 0.0 };
                }
            }
            match roc_auc(&labels, &scores) {
                Ok(area) => prop_assert!((area - ordered / pairs).abs() < 1e-12),
                Err(_) => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
