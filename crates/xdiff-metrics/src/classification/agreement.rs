//! Rates of a confusion matrix that weigh all classes at once.

use super::ConfusionMatrix;
use crate::{Error, Result};

impl ConfusionMatrix {
    /// Balanced accuracy: the mean recall of the classes that occur among the labels. With two
    /// classes it is (sensitivity + specificity)/2.
    ///
    /// # Errors
    /// When nothing was counted.
    pub fn balanced_accuracy(&self) -> Result<f64> {
        self.check_not_empty()?;
        let labelled = self.class_counts().into_iter().filter(|c| c.support() > 0);
        let recalls: Vec<f64> = labelled.map(|c| c.recall()).collect();
        Ok(crate::pair::mean(&recalls))
    }

    /// The correlation coefficient of Matthews (1975), for several classes that of Gorodkin (2004):
    /// (c·n − Σ tₖpₖ) / √((n² − Σ pₖ²)(n² − Σ tₖ²)), where c samples are right, class k has tₖ labels
    /// and pₖ predictions. From −1 to 1; 0 when all labels or all predictions are one class, as in
    /// scikit-learn.
    ///
    /// # Errors
    /// When nothing was counted.
    pub fn matthews(&self) -> Result<f64> {
        self.check_not_empty()?;
        let sums = self.margins();
        let n = self.n() as f64;
        let spread = (n * n - sums.predicted_squares) * (n * n - sums.label_squares);
        Ok(if spread == 0.0 { 0.0 } else { (sums.right * n - sums.products) / spread.sqrt() })
    }

    /// Cohen's κ (1960): (pₒ − pₑ)/(1 − pₑ), the agreement pₒ (the accuracy) beyond the pₑ = Σ tₖpₖ/n²
    /// that independent labels and predictions with these frequencies have.
    ///
    /// # Errors
    /// When nothing was counted, or all labels and predictions are one class, so that it is 0/0.
    pub fn cohen_kappa(&self) -> Result<f64> {
        self.check_not_empty()?;
        let sums = self.margins();
        let n = self.n() as f64;
        if sums.products == n * n {
            let reason = "all labels and predictions are one class";
            return Err(Error::Undefined { metric: "Cohen's kappa", reason });
        }
        Ok((sums.right * n - sums.products) / (n * n - sums.products))
    }

    fn margins(&self) -> Margins {
        let mut sums = Margins::default();
        for class in self.class_counts() {
            let labels = class.support() as f64;
            let predicted = (class.true_positive + class.false_positive) as f64;
            sums.right += class.true_positive as f64;
            sums.products += labels * predicted;
            sums.label_squares += labels * labels;
            sums.predicted_squares += predicted * predicted;
        }
        sums
    }
}

#[derive(Default)]
struct Margins {
    right: f64,
    products: f64,
    label_squares: f64,
    predicted_squares: f64,
}

#[cfg(test)]
mod tests {
    use xdiff_core::Metric;

    use super::*;

    fn matrix(classes: usize, labels: &[usize], predicted: &[usize]) -> ConfusionMatrix {
        let mut m = ConfusionMatrix::new(classes).unwrap();
        m.update((labels, predicted)).unwrap();
        m
    }

    #[test]
    fn rates_agree_with_scikit_learn() {
        // scikit-learn 1.9.1: balanced_accuracy_score, matthews_corrcoef, cohen_kappa_score.
        type Row = (usize, &'static [usize], &'static [usize], [f64; 3]);
        let table: [Row; 4] = [
            (2, &[1, 1, 1, 1, 0, 0, 0, 0, 0], &[1, 1, 1, 0, 0, 0, 0, 0, 1], [0.775, 0.55, 0.55]),
            (
                3,
                &[0, 0, 0, 1, 1, 2, 2, 2, 2, 0],
                &[0, 1, 0, 1, 1, 2, 0, 2, 1, 0],
                [0.75, 0.59375, 0.5588235294117647],
            ),
            (
                5,
                &[0, 0, 0, 1, 1, 2, 2, 2, 2, 0],
                &[0, 1, 0, 1, 1, 2, 0, 2, 1, 4],
                [0.6666666666666666, 0.47809144373375745, 0.4444444444444444],
            ),
            (2, &[0, 1, 0, 1], &[1, 1, 1, 1], [0.5, 0.0, 0.0]),
        ];
        let mut wrong = Vec::new();
        for (classes, labels, predicted, want) in table {
            let m = matrix(classes, labels, predicted);
            let got = [m.balanced_accuracy().unwrap(), m.matthews().unwrap(), m.cohen_kappa().unwrap()];
            if got.iter().zip(want).any(|(g, w)| (g - w).abs() > 1e-14) {
                wrong.push((labels, got, want));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn one_class_has_no_kappa_and_no_correlation() {
        let m = matrix(2, &[1, 1, 1], &[1, 1, 1]);
        assert!(matches!(m.cohen_kappa(), Err(Error::Undefined { .. })));
        assert_eq!((m.matthews().unwrap(), m.balanced_accuracy().unwrap()), (0.0, 1.0));
        let none = ConfusionMatrix::new(3).unwrap();
        for rate in [none.balanced_accuracy(), none.matthews(), none.cohen_kappa()] {
            assert!(matches!(rate, Err(Error::TooFew { .. })));
        }
    }
}
