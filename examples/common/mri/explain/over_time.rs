//! Influence along the denoising.

use xdiff::viz::{Cell, Table};

use crate::AnyError;

/// NIS of each prototype at each step of a run of sampling.
#[derive(Clone, Debug)]
pub struct OverTime {
    /// The time steps, from noise to image.
    pub timesteps: Vec<f64>,
    /// By step and prototype.
    pub influence: Vec<Vec<f64>>,
    /// What was watched.
    pub about: String,
}

impl OverTime {
    /// One row a step and prototype.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new(["t", "prototype", "nis"]);
        for (t, row) in self.timesteps.iter().zip(&self.influence) {
            for (j, nis) in row.iter().enumerate() {
                table.push([Cell::number(*t, 0), Cell::from(j), Cell::number(*nis, 6)])?;
            }
        }
        Ok(table)
    }
}
