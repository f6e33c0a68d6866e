//! Whether the right source is found, on images whose making is known.

use xdiff::viz::{Cell, Table};

use super::method::Method;
use crate::AnyError;

/// What one method found.
#[derive(Clone, Debug)]
pub struct Hits {
    /// The method.
    pub method: Method,
    /// For each seed the share of composites with a right source among the top five prototypes.
    pub top_five: Vec<f64>,
    /// For each seed the same of five prototypes drawn at random.
    pub random: Vec<f64>,
    /// For each seed the mean rank correlation of influence and contribution.
    pub ground_truth: Vec<f64>,
}

/// All methods.
#[derive(Clone, Debug)]
pub struct Truth {
    /// By method.
    pub hits: Vec<Hits>,
    /// How it was measured.
    pub about: String,
}

impl Truth {
    /// One row a method.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new([
            "method",
            "right source among the top five",
            "five prototypes at random",
            "rank correlation of NIS and contribution",
            "seeds",
        ]);
        let spread = |values: &[f64]| {
            let (mean, sd) = crate::mri::scores::mean_sd(values);
            Cell::from(format!("{mean:.3} ± {sd:.3}"))
        };
        for hits in &self.hits {
            table.push([
                Cell::from(hits.method.name()),
                spread(&hits.top_five),
                spread(&hits.random),
                spread(&hits.ground_truth),
                Cell::from(hits.top_five.len()),
            ])?;
        }
        Ok(table)
    }
}
