//! The curves behind the areas: receiver operating characteristic, and precision over recall.

use serde::Serialize;

use super::ranking::check;
use crate::{Error, Result};

/// One threshold of a classifier: everything that scores at least so much counts as positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RocPoint {
    /// The lowest score that counts as positive; +∞ at the start, where nothing does.
    pub threshold: f64,
    /// The share of negatives above it (1 − specificity).
    pub false_positive_rate: f64,
    /// The share of positives above it (sensitivity).
    pub true_positive_rate: f64,
}

/// One threshold of a classifier, by its precision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PrecisionRecallPoint {
    /// The lowest score that counts as positive; +∞ at the start, where nothing does.
    pub threshold: f64,
    /// The share of positives above it (sensitivity).
    pub recall: f64,
    /// The share of positives among what is above it; 1 at the start, where nothing is.
    pub precision: f64,
}

/// The points of the ROC curve, one for each different score from the highest down, after (0, 0). Its
/// area by trapezoids is [`roc_auc`](crate::roc_auc). No point is dropped (scikit-learn's
/// `drop_intermediate=False`).
///
/// ```
/// let curve = xdiff_metrics::roc_curve(&[true, false, true], &[0.9, 0.5, 0.2])?;
/// let points: Vec<_> = curve.iter().map(|p| (p.false_positive_rate, p.true_positive_rate)).collect();
/// assert_eq!(points, [(0.0, 0.0), (0.0, 0.5), (1.0, 0.5), (1.0, 1.0)]);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// Those of [`roc_auc`](crate::roc_auc).
pub fn roc_curve(labels: &[bool], scores: &[f64]) -> Result<Vec<RocPoint>> {
    const METRIC: &str = "ROC curve";
    let positives = check(METRIC, labels, scores)?;
    let negatives = labels.len() - positives;
    if negatives == 0 {
        return Err(Error::Undefined { metric: METRIC, reason: "there are no negatives" });
    }
    let point = |(threshold, hits, above): (f64, usize, usize)| RocPoint {
        threshold,
        false_positive_rate: (above - hits) as f64 / negatives as f64,
        true_positive_rate: hits as f64 / positives as f64,
    };
    Ok(thresholds(labels, scores).into_iter().map(point).collect())
}

/// The points of the precision–recall curve, one for each different score from the highest down, after
/// (recall 0, precision 1). [`average_precision`](crate::average_precision) is the sum of its steps;
/// no area by trapezoids is offered, since points of this curve may not be joined by lines (Davis and
/// Goadrich 2006).
///
/// # Errors
/// Those of [`average_precision`](crate::average_precision).
pub fn precision_recall_curve(labels: &[bool], scores: &[f64]) -> Result<Vec<PrecisionRecallPoint>> {
    let positives = check("precision-recall curve", labels, scores)?;
    let point = |(threshold, hits, above): (f64, usize, usize)| PrecisionRecallPoint {
        threshold,
        recall: hits as f64 / positives as f64,
        precision: if above == 0 { 1.0 } else { hits as f64 / above as f64 },
    };
    Ok(thresholds(labels, scores).into_iter().map(point).collect())
}

/// Each different score from the highest down, with how many positives and how many samples score at
/// least so much; first +∞, with none.
fn thresholds(labels: &[bool], scores: &[f64]) -> Vec<(f64, usize, usize)> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut hits, mut above) = (0, 0);
    let mut points = vec![(f64::INFINITY, 0, 0)];
    for ties in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        hits += ties.iter().filter(|i| labels[**i]).count();
        above += ties.len();
        points.push((scores[ties[0]], hits, above));
    }
    points
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{average_precision, roc_auc};

    #[test]
    fn points_agree_with_scikit_learn() {
        let labels = [0, 0, 1, 1, 1, 0, 1, 0].map(|l| l == 1);
        let scores = [0.1, 0.4, 0.35, 0.8, 0.8, 0.4, 0.4, 0.2];
        // scikit-learn 1.9.1: roc_curve(drop_intermediate=False), precision_recall_curve (turned round).
        let inf = f64::INFINITY;
        let want = [
            (inf, 0.0, 0.0, 1.0),
            (0.8, 0.0, 0.5, 1.0),
            (0.4, 0.5, 0.75, 0.6),
            (0.35, 0.5, 1.0, 2.0 / 3.0),
            (0.2, 0.75, 1.0, 4.0 / 7.0),
            (0.1, 1.0, 1.0, 0.5),
        ];
        let (roc, pr) =
            (roc_curve(&labels, &scores).unwrap(), precision_recall_curve(&labels, &scores).unwrap());
        let got: Vec<_> = roc
            .iter()
            .zip(&pr)
            .map(|(r, p)| (r.threshold, r.false_positive_rate, r.true_positive_rate, p.precision))
            .collect();
        assert_eq!(got, want);
        assert!(roc.iter().zip(&pr).all(|(r, p)| r.true_positive_rate == p.recall));
    }

    #[test]
    fn constant_scores_are_the_diagonal_and_bad_input_is_a_typed_error() {
        let constant = roc_curve(&[true, false, false], &[0.5; 3]).unwrap();
        assert_eq!(
            (constant.len(), constant[1].false_positive_rate, constant[1].true_positive_rate),
            (2, 1.0, 1.0)
        );
        assert!(matches!(roc_curve(&[true, true], &[0.1, 0.2]), Err(Error::Undefined { .. })));
        assert!(matches!(precision_recall_curve(&[false], &[0.1]), Err(Error::Undefined { .. })));
        for f in [
            |l: &[bool], s: &[f64]| roc_curve(l, s).map(|c| c.len()),
            |l: &[bool], s: &[f64]| precision_recall_curve(l, s).map(|c| c.len()),
        ] {
            assert!(matches!(f(&[], &[]), Err(Error::Undefined { .. })));
            assert!(matches!(f(&[true], &[]), Err(Error::Mismatch { .. })));
            assert!(matches!(f(&[true, false], &[0.1, f64::NAN]), Err(Error::Value { index: 1, .. })));
        }
    }

    proptest! {
        #[test]
        fn areas_follow_from_the_points(samples in prop::collection::vec((any::<bool>(), -4i32..4), 2..40)) {
            let labels: Vec<bool> = samples.iter().map(|s| s.0).collect();
            let scores: Vec<f64> = samples.iter().map(|s| f64::from(s.1)).collect();
            if let Ok(curve) = roc_curve(&labels, &scores) {
                let trapezoid = |w: &[RocPoint]| {
                    (w[1].false_positive_rate - w[0].false_positive_rate)
                        * (w[0].true_positive_rate + w[1].true_positive_rate) / 2.0
                };
                let area: f64 = curve.windows(2).map(trapezoid).sum();
                prop_assert!((area - roc_auc(&labels, &scores).unwrap()).abs() < 1e-12);
            }
            if let Ok(curve) = precision_recall_curve(&labels, &scores) {
                let area: f64 = curve.windows(2).map(|w| (w[1].recall - w[0].recall) * w[1].precision).sum();
                prop_assert!((area - average_precision(&labels, &scores).unwrap()).abs() < 1e-12);
            }
        }
    }
}
