//! All measures of a classifier's scores at once.

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use xdiff_core::Metric;

use super::{Average, ConfusionMatrix, roc_auc_one_vs_rest};
use crate::error::check_finite;
use crate::{Error, Result};

const METRIC: &str = "classification report";

/// What [`classification_report`] computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassificationReport {
    /// How the classes were averaged.
    pub average: Average,
    /// How many samples there are.
    pub n: usize,
    /// The share of samples whose highest score is that of their label.
    pub accuracy: f64,
    /// Averaged precision.
    pub precision: f64,
    /// Averaged recall (sensitivity).
    pub recall: f64,
    /// Averaged F1.
    pub f1: f64,
    /// Averaged specificity.
    pub specificity: f64,
    /// [`roc_auc_one_vs_rest`]; `None` where it is not defined, as a macro average when a class has no
    /// label.
    pub roc_auc: Option<f64>,
    /// The matrix that the rates follow from.
    pub confusion: ConfusionMatrix,
}

/// Compares the scores of a classifier with labels. The predicted class is the first with the
/// highest score; scores may be logits or probabilities, of which only the order matters, except for
/// [`Average::Micro`]'s area, which compares scores of different samples and classes.
///
/// # Shapes
/// `scores` (n, k) with k ≥ 2; `labels` (n), whole numbers from 0 to k−1 of any type.
///
/// # Errors
/// When shapes do not fit, a score is not finite, a label is no class, or [`Average::Binary`] meets
/// more than two classes.
pub fn classification_report(
    scores: &Tensor,
    labels: &Tensor,
    average: Average,
) -> Result<ClassificationReport> {
    let &[n, classes] = scores.dims() else {
        return Err(Error::shape(METRIC, "scores (n, k)", scores.dims()));
    };
    if labels.dims() != [n] {
        return Err(Error::shape(METRIC, format!("labels ({n}), one a row of scores"), labels.dims()));
    }
    let host = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1();
    let scores: Vec<f64> = host(scores)?;
    check_finite(METRIC, "the scores", &scores)?;
    let labels = class_indices(METRIC, &host(labels)?)?;
    let mut confusion = ConfusionMatrix::new(classes)?;
    let predicted: Vec<usize> = scores.chunks(classes).map(first_highest).collect();
    confusion.update((&labels, &predicted))?;
    let roc_auc = match roc_auc_one_vs_rest(&scores, classes, &labels, average) {
        Err(Error::Undefined { .. }) => None,
        area => Some(area?),
    };
    Ok(ClassificationReport {
        average,
        n,
        accuracy: confusion.accuracy()?,
        precision: confusion.precision(average)?,
        recall: confusion.recall(average)?,
        f1: confusion.f1(average)?,
        specificity: confusion.specificity(average)?,
        roc_auc,
        confusion,
    })
}

/// The class with the highest score, the first of equal ones.
pub(super) fn first_highest(scores: &[f64]) -> usize {
    scores.iter().enumerate().fold(0, |best, (i, s)| if *s > scores[best] { i } else { best })
}

/// Labels that were read as numbers.
pub(super) fn class_indices(metric: &'static str, labels: &[f64]) -> Result<Vec<usize>> {
    let whole = |v: &f64| v.fract() == 0.0 && (0.0..f64::from(u32::MAX)).contains(v);
    match labels.iter().position(|v| !whole(v)) {
        None => Ok(labels.iter().map(|v| *v as usize).collect()),
        Some(index) => Err(Error::Value {
            metric,
            what: "the labels",
            value: labels[index],
            index,
            hint: "labels are indices of classes, from 0",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Tensor {
        let rows: [[f64; 3]; 6] = [
            [0.6, 0.3, 0.1],
            [0.2, 0.5, 0.3],
            [0.3, 0.3, 0.4],
            [0.5, 0.25, 0.25],
            [0.1, 0.7, 0.2],
            [0.4, 0.4, 0.2],
        ];
        Tensor::new(&rows, &Device::Cpu).unwrap()
    }

    #[test]
    fn report_agrees_with_scikit_learn() {
        let labels = Tensor::new(&[0u32, 1, 2, 2, 1, 1], &Device::Cpu).unwrap();
        // scikit-learn 1.9: accuracy, precision, recall, f1, roc_auc(multi_class="ovr").
        let table = [
            (
                Average::Macro,
                [
                    0.6666666666666666,
                    0.7777777777777777,
                    0.7222222222222222,
                    0.6555555555555556,
                    0.9583333333333334,
                ],
            ),
            (
                Average::Micro,
                [
                    0.6666666666666666,
                    0.6666666666666666,
                    0.6666666666666666,
                    0.6666666666666666,
                    0.8611111111111112,
                ],
            ),
            (
                Average::Weighted,
                [
                    0.6666666666666666,
                    0.888888888888889,
                    0.6666666666666666,
                    0.7055555555555556,
                    0.9583333333333334,
                ],
            ),
        ];
        let mut wrong = Vec::new();
        for (average, want) in table {
            let r = classification_report(&scores(), &labels, average).unwrap();
            let got = [r.accuracy, r.precision, r.recall, r.f1, r.roc_auc.unwrap()];
            if got.iter().zip(&want).any(|(g, w)| (g - w).abs() > 1e-12) {
                wrong.push((average, got, want));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_class_without_labels_has_rates_but_no_area() {
        let labels = Tensor::new(&[0f32, 1.0, 0.0, 0.0, 1.0, 1.0], &Device::Cpu).unwrap();
        let report = classification_report(&scores(), &labels, Average::Macro).unwrap();
        assert_eq!((report.roc_auc, report.n), (None, 6));
        assert!((report.accuracy - 4.0 / 6.0).abs() < 1e-15);
    }

    #[test]
    fn bad_labels_and_shapes_are_typed_errors() {
        let of = |labels: &[f32]| {
            let labels = Tensor::from_slice(labels, labels.len(), &Device::Cpu).unwrap();
            classification_report(&scores(), &labels, Average::Macro)
        };
        for bad in [0.5, -1.0, 3.0, f32::NAN, f32::INFINITY] {
            let e = of(&[0.0, 1.0, 2.0, bad, 0.0, 0.0]).unwrap_err();
            assert!(matches!(e, Error::Value { index: 3, .. }), "{bad}: {e}");
        }
        assert!(matches!(of(&[0.0; 5]), Err(Error::Shape { .. })));
        let labels = Tensor::zeros(6, DType::U32, &Device::Cpu).unwrap();
        let flat = scores().flatten_all().unwrap();
        assert!(classification_report(&flat, &labels, Average::Macro).is_err());
        assert!(classification_report(&scores(), &labels, Average::Binary).is_err());
        let one = Tensor::zeros((6, 1), DType::F64, &Device::Cpu).unwrap();
        assert!(classification_report(&one, &labels, Average::Macro).is_err());
        let none = Tensor::zeros((0, 2), DType::F64, &Device::Cpu).unwrap();
        let no_labels = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
        assert!(classification_report(&none, &no_labels, Average::Macro).is_err());
    }
}
