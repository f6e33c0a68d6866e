//! What is drawn with replacement: samples or groups, from all or within strata.

use std::collections::BTreeMap;

use xdiff_nn::Rng;

use crate::classification::check_classes;
use crate::{Error, Result};

const METRIC: &str = "bootstrap";

/// The units that a bootstrap draws (samples, or groups of them such as the images of a patient), and
/// the strata within which it draws them.
///
/// ```
/// use xdiff_metrics::Design;
///
/// let by_patient = Design::groups(&["ann", "bob", "ann", "cid"])?;
/// assert_eq!((by_patient.n(), by_patient.units()), (4, 3));
/// assert!(by_patient.stratified(&[0, 1, 1, 0], 2).is_err()); // ann has images of both classes
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Design {
    /// The samples, unit by unit.
    members: Vec<usize>,
    /// Where each unit begins in `members`, and the end.
    starts: Vec<usize>,
    /// The units of each stratum.
    strata: Vec<Vec<usize>>,
    grouped: bool,
}

impl Design {
    /// Draws each of `n` samples by itself.
    ///
    /// # Errors
    /// When there are fewer than two.
    pub fn samples(n: usize) -> Result<Self> {
        let design =
            Self { members: (0..n).collect(), starts: (0..=n).collect(), strata: Vec::new(), grouped: false };
        design.one_stratum("samples")
    }

    /// Draws whole groups: entry i names the group of sample i.
    ///
    /// # Errors
    /// When there are fewer than two groups.
    pub fn groups<S: AsRef<str>>(groups: &[S]) -> Result<Self> {
        // Sorted by name, so that the draw does not depend on the order of the samples.
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, name) in groups.iter().enumerate() {
            by_name.entry(name.as_ref()).or_default().push(i);
        }
        let mut design = Self {
            members: Vec::with_capacity(groups.len()),
            starts: vec![0],
            strata: Vec::new(),
            grouped: true,
        };
        for samples in by_name.values() {
            design.members.extend(samples);
            design.starts.push(design.members.len());
        }
        design.one_stratum("groups")
    }

    fn one_stratum(mut self, unit: &'static str) -> Result<Self> {
        if self.units() < 2 {
            return Err(Error::TooFew { metric: METRIC, unit, need: 2, got: self.units() });
        }
        self.strata = vec![(0..self.units()).collect()];
        Ok(self)
    }

    /// Draws within each class, so that every replicate has as many units of each as the data.
    ///
    /// # Errors
    /// When there is not one label for each sample, a label is no class, or a group holds samples of
    /// different classes.
    pub fn stratified(mut self, labels: &[usize], classes: usize) -> Result<Self> {
        if labels.len() != self.n() {
            return Err(Error::Mismatch { metric: METRIC, a: vec![self.n()], b: vec![labels.len()] });
        }
        check_classes(METRIC, "the labels", labels, classes)?;
        let mut strata: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for unit in 0..self.units() {
            let samples = self.unit(unit);
            let class = labels[samples[0]];
            if samples.iter().any(|i| labels[*i] != class) {
                let reason = format!(
                    "the group of sample {} holds samples of different classes, so groups cannot be \
                     drawn class by class: do not stratify, or draw samples",
                    samples[0]
                );
                return Err(Error::config("stratify", reason));
            }
            strata.entry(class).or_default().push(unit);
        }
        self.strata = strata.into_values().collect();
        Ok(self)
    }

    /// Two sets of samples that are drawn apart; those of the second are numbered after the first.
    pub(super) fn join(&self, other: &Self) -> Self {
        let (n, units) = (self.n(), self.units());
        let mut joined = self.clone();
        joined.members.extend(other.members.iter().map(|i| i + n));
        joined.starts.extend(other.starts[1..].iter().map(|i| i + n));
        joined.strata.extend(other.strata.iter().map(|s| s.iter().map(|u| u + units).collect()));
        joined.grouped |= other.grouped;
        joined
    }

    /// How many samples there are.
    pub fn n(&self) -> usize {
        self.members.len()
    }

    /// How many units are drawn.
    pub fn units(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many groups there are, when groups are drawn.
    pub(crate) fn group_count(&self) -> Option<usize> {
        self.grouped.then(|| self.units())
    }

    fn unit(&self, unit: usize) -> &[usize] {
        &self.members[self.starts[unit]..self.starts[unit + 1]]
    }

    /// Draws once: how often each sample occurs.
    pub(super) fn draw(&self, rng: &mut Rng, counts: &mut [u32]) {
        counts.fill(0);
        for stratum in &self.strata {
            for _ in 0..stratum.len() {
                for sample in self.unit(stratum[rng.below(stratum.len())]) {
                    counts[*sample] += 1;
                }
            }
        }
    }

    /// How many blocks of units each stratum is left out in, at most `limit`; a stratum of one unit
    /// cannot do without it.
    pub(super) fn blocks(&self, limit: usize) -> Vec<usize> {
        let blocks = |stratum: &Vec<usize>| if stratum.len() < 2 { 0 } else { stratum.len().min(limit) };
        self.strata.iter().map(blocks).collect()
    }

    /// Leaves out one block of a stratum, of `blocks`: every unit whose place is `block` modulo
    /// `blocks`.
    pub(super) fn leave_out(&self, stratum: usize, block: usize, blocks: usize, counts: &mut [u32]) {
        counts.fill(1);
        for unit in self.strata[stratum].iter().skip(block).step_by(blocks) {
            for sample in self.unit(*unit) {
                counts[*sample] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(counts: &[u32], of: &[usize]) -> u32 {
        of.iter().map(|i| counts[*i]).sum()
    }

    #[test]
    fn draws_keep_what_the_design_holds_fixed() {
        let labels = [0, 1, 1, 0, 1, 1, 0, 1];
        let groups = ["d", "a", "a", "c", "b", "b", "d", "a"];
        let plain = Design::samples(8).unwrap();
        let classes = plain.clone().stratified(&labels, 2).unwrap();
        let patients = Design::groups(&groups).unwrap();
        let both = patients.clone().stratified(&labels, 2).unwrap();
        let mut counts = [0; 8];
        for r in 0..200 {
            let rng = Rng::new(3).sample(r);
            plain.draw(&mut rng.clone(), &mut counts);
            assert_eq!(counts.iter().sum::<u32>(), 8);
            classes.draw(&mut rng.clone(), &mut counts);
            assert_eq!((total(&counts, &[0, 3, 6]), total(&counts, &[1, 2, 4, 5, 7])), (3, 5));
            patients.draw(&mut rng.clone(), &mut counts);
            assert_eq!(counts[0] + counts[1] + counts[3] + counts[4], 4);
            assert!(counts[0] == counts[6] && counts[1] == counts[2] && counts[2] == counts[7]);
            both.draw(&mut rng.clone(), &mut counts);
            assert_eq!((counts[0] + counts[3], counts[1] + counts[4]), (2, 2));
        }
    }

    #[test]
    fn blocks_leave_out_each_unit_once() {
        let design = Design::samples(7).unwrap().stratified(&[0, 0, 0, 0, 0, 1, 0], 2).unwrap();
        assert_eq!(design.blocks(4), [4, 0]);
        let mut left_out = [0; 7];
        let mut counts = [0; 7];
        for block in 0..4 {
            design.leave_out(0, block, 4, &mut counts);
            left_out.iter_mut().zip(&counts).for_each(|(l, c)| *l += 1 - c);
        }
        assert_eq!(left_out, [1, 1, 1, 1, 1, 0, 1]);
    }

    #[test]
    fn joined_sets_are_drawn_apart() {
        let joined = Design::samples(3).unwrap().join(&Design::groups(&["x", "y", "x"]).unwrap());
        assert_eq!((joined.n(), joined.units(), joined.group_count()), (6, 5, Some(5)));
        let mut counts = [0; 6];
        for r in 0..50 {
            joined.draw(&mut Rng::new(1).sample(r), &mut counts);
            assert_eq!((counts[..3].iter().sum::<u32>(), counts[3] + counts[4]), (3, 2));
            assert_eq!(counts[3], counts[5]);
        }
    }

    #[test]
    fn too_little_to_draw_from_is_a_typed_error() {
        assert!(matches!(Design::samples(1), Err(Error::TooFew { unit: "samples", got: 1, .. })));
        assert!(matches!(Design::groups(&["a", "a"]), Err(Error::TooFew { unit: "groups", got: 1, .. })));
        assert!(matches!(Design::groups::<&str>(&[]), Err(Error::TooFew { .. })));
        let design = || Design::samples(2).unwrap();
        assert!(matches!(design().stratified(&[0], 1), Err(Error::Mismatch { .. })));
        assert!(matches!(design().stratified(&[0, 2], 2), Err(Error::Value { index: 1, .. })));
        let mixed = Design::groups(&["a", "b", "a"]).unwrap().stratified(&[0, 1, 1], 2);
        assert!(matches!(mixed, Err(Error::Config { field: "stratify", .. })));
    }
}
