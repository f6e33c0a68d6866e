//! The rates of each class, as a table.

use std::fmt;

use serde::Serialize;

use super::{Average, ConfusionMatrix};
use crate::{Error, Result};

/// The rates of one class against all others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassRow {
    /// The name of the class.
    pub class: String,
    /// TP / (TP + FP), 0 when the class was never predicted.
    pub precision: f64,
    /// TP / (TP + FN) (sensitivity), 0 when the class has no label.
    pub recall: f64,
    /// TN / (TN + FP), 0 when every label is this class.
    pub specificity: f64,
    /// 2·TP / (2·TP + FP + FN).
    pub f1: f64,
    /// How often the class occurs among the labels.
    pub support: u64,
}

/// The rates of every class, and their means. Printed, it is a table in the manner of scikit-learn's
/// `classification_report`.
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{ClassTable, ConfusionMatrix};
///
/// let mut matrix = ConfusionMatrix::new(2)?;
/// matrix.update((&[0, 1, 1, 1], &[0, 1, 0, 1]))?;
/// let table = ClassTable::new(&matrix, Some(&["benign", "malignant"]))?;
/// assert_eq!(table.rows[1].precision, 1.0);
/// assert!(table.to_string().contains("malignant"));
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassTable {
    /// One row a class.
    pub rows: Vec<ClassRow>,
    /// The plain mean over the classes that occur among the labels or the predictions.
    pub macro_average: ClassRow,
    /// The mean weighted by the support.
    pub weighted_average: ClassRow,
    /// The share of samples whose prediction is their label.
    pub accuracy: f64,
}

impl ClassTable {
    /// Tabulates a matrix; without names the classes are called by their number.
    ///
    /// # Errors
    /// When nothing was counted, or there is not one name for each class.
    pub fn new(matrix: &ConfusionMatrix, names: Option<&[&str]>) -> Result<Self> {
        let counts = matrix.class_counts();
        if let Some(names) = names.filter(|names| names.len() != counts.len()) {
            let expected = format!("{} names of classes", counts.len());
            return Err(Error::shape("table of classes", expected, &[names.len()]));
        }
        let name = |class: usize| names.map_or_else(|| class.to_string(), |names| names[class].to_owned());
        let row = |(class, c): (usize, &super::ClassCounts)| ClassRow {
            class: name(class),
            precision: c.precision(),
            recall: c.recall(),
            specificity: c.specificity(),
            f1: c.f1(),
            support: c.support(),
        };
        let average = |class: &str, average| -> Result<ClassRow> {
            Ok(ClassRow {
                class: class.to_owned(),
                precision: matrix.precision(average)?,
                recall: matrix.recall(average)?,
                specificity: matrix.specificity(average)?,
                f1: matrix.f1(average)?,
                support: matrix.n(),
            })
        };
        Ok(Self {
            rows: counts.iter().enumerate().map(row).collect(),
            macro_average: average("macro average", Average::Macro)?,
            weighted_average: average("weighted average", Average::Weighted)?,
            accuracy: matrix.accuracy()?,
        })
    }
}

impl fmt::Display for ClassTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let averages = [&self.macro_average, &self.weighted_average];
        let width = self.rows.iter().chain(averages).map(|r| r.class.chars().count()).max().unwrap_or(0);
        let heads = ["precision", "recall", "specificity", "f1", "support"];
        write!(f, "{:width$}", "")?;
        heads.iter().try_for_each(|head| write!(f, "  {head:>11}"))?;
        for ClassRow { class, precision, recall, specificity, f1, support } in
            self.rows.iter().chain(averages)
        {
            write!(f, "\n{class:width$}  {precision:>11.4}  {recall:>11.4}  {specificity:>11.4}")?;
            write!(f, "  {f1:>11.4}  {support:>11}")?;
        }
        write!(f, "\naccuracy {:.4}", self.accuracy)
    }
}

#[cfg(test)]
mod tests {
    use xdiff_core::Metric;

    use super::*;

    #[test]
    fn the_table_agrees_with_scikit_learn() {
        let mut m = ConfusionMatrix::new(3).unwrap();
        m.update((&[0, 0, 0, 1, 1, 2, 2, 2, 2, 0], &[0, 1, 0, 1, 1, 2, 0, 2, 1, 0])).unwrap();
        let table = ClassTable::new(&m, None).unwrap();
        // scikit-learn 1.9.1: classification_report(output_dict=True).
        let want = [
            (0.75, 0.75, 0.75, 4),
            (0.5, 1.0, 0.6666666666666666, 2),
            (1.0, 0.5, 0.6666666666666666, 4),
            (0.75, 0.75, 0.6944444444444443, 10),
            (0.8, 0.7, 0.7, 10),
        ];
        let rows = table.rows.iter().chain([&table.macro_average, &table.weighted_average]);
        for (row, (precision, recall, f1, support)) in rows.zip(want) {
            let close = |a: f64, b: f64| (a - b).abs() < 1e-14;
            assert!(close(row.precision, precision) && close(row.recall, recall), "{row:?}");
            assert!(close(row.f1, f1) && row.support == support, "{row:?}");
        }
        let text = table.to_string();
        assert_eq!(text.lines().count(), 7);
        assert!(text.ends_with("accuracy 0.7000"), "{text}");
    }

    #[test]
    fn an_empty_matrix_or_too_few_names_are_typed_errors() {
        let none = ConfusionMatrix::new(2).unwrap();
        assert!(matches!(ClassTable::new(&none, None), Err(Error::TooFew { .. })));
        assert!(matches!(ClassTable::new(&none, Some(&["one"])), Err(Error::Shape { .. })));
    }
}
