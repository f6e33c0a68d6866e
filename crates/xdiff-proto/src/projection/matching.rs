//! Pairs of prototypes and patches, nearest first, while patches come one by one.

use crate::Result;

/// Where a patch stands in the stream: image and position. Of equal distances the earlier patch counts
/// as the nearer.
pub(super) type Place = (usize, usize);

/// Joins prototypes and patches greedily: of all pairs the nearest is joined, then the nearest of those
/// whose prototype and patch are still free, and so on.
///
/// Both sides agree on which pair is nearer, so that this is the only stable matching (Gale & Shapley
/// 1962), and patches may propose in any order: each is taken by the nearest prototype that prefers it
/// to what it has, and what it had goes on to its next choice. A patch that no prototype prefers is
/// never needed again.
#[derive(Debug)]
pub(super) struct Matching<T> {
    held: Vec<Option<Held<T>>>,
    /// How near each prototype's patch is.
    least: Vec<f32>,
}

#[derive(Debug)]
struct Held<T> {
    distances: Vec<f32>,
    place: Place,
    item: T,
}

impl<T> Matching<T> {
    pub(super) fn new(prototypes: usize) -> Self {
        Self {
            held: std::iter::repeat_with(|| None).take(prototypes).collect(),
            least: vec![f32::INFINITY; prototypes],
        }
    }

    /// The nearest prototype that prefers this patch to what it has; the first of equals.
    fn choice(&self, distances: &[f32], place: Place) -> Option<usize> {
        let mut nearest = f32::INFINITY;
        let mut choice = None;
        for (j, (distance, least)) in distances.iter().zip(&self.least).enumerate() {
            let later = || self.held[j].as_ref().is_some_and(|held| held.place < place);
            if *distance < nearest && (distance < least || (distance == least && !later())) {
                (nearest, choice) = (*distance, Some(j));
            }
        }
        choice
    }

    /// Offers a patch with its finite distances to all prototypes; `make` is asked for it if it is taken.
    pub(super) fn offer(
        &mut self,
        distances: &[f32],
        place: Place,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        let Some(mut to) = self.choice(distances, place) else { return Ok(()) };
        let mut mine = Held { distances: distances.to_vec(), place, item: make()? };
        loop {
            self.least[to] = mine.distances[to];
            let Some(displaced) = self.held[to].replace(mine) else { return Ok(()) };
            let Some(next) = self.choice(&displaced.distances, displaced.place) else { return Ok(()) };
            (mine, to) = (displaced, next);
        }
    }

    /// The patch of each prototype; none where there were too few.
    pub(super) fn finish(self) -> impl Iterator<Item = Option<T>> {
        self.held.into_iter().map(|held| Some(held?.item))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All pairs sorted, then joined from the first on.
    fn greedy(patches: &[Vec<f32>], prototypes: usize) -> Vec<Option<usize>> {
        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (i, distances) in patches.iter().enumerate() {
            pairs.extend(distances.iter().enumerate().map(|(j, d)| (*d, i, j)));
        }
        pairs.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let mut joined = vec![None; prototypes];
        for (_, i, j) in pairs {
            if joined[j].is_none() && !joined.contains(&Some(i)) {
                joined[j] = Some(i);
            }
        }
        joined
    }

    proptest! {
        #[test]
        fn a_stream_gives_the_greedy_pairs(
            patches in prop::collection::vec(prop::collection::vec(0u8..6, 5), 0..40),
        ) {
            let patches: Vec<Vec<f32>> =
                patches.into_iter().map(|p| p.into_iter().map(f32::from).collect()).collect();
            let mut matching = Matching::new(5);
            for (i, distances) in patches.iter().enumerate() {
                matching.offer(distances, (i / 4, i % 4), || Ok(i)).unwrap();
            }
            prop_assert_eq!(matching.finish().collect::<Vec<_>>(), greedy(&patches, 5));
        }
    }
}
