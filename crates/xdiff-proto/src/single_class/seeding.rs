//! Where prototypes start.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::k_means::Points;
use crate::{Error, Result};

/// Which patches prototypes, or centres, start from. No two start from equal patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seeding {
    /// One after another, each patch with a chance proportional to its squared distance from the
    /// nearest one taken before (k-means++, Arthur & Vassilvitskii 2007).
    #[default]
    PlusPlus,
    /// Each with the same chance.
    Uniform,
}

/// A uniform sample of points, in their order.
pub(super) struct PointSample {
    width: usize,
    values: Vec<f32>,
    /// The place of each among all points.
    places: Vec<usize>,
}

impl PointSample {
    /// `most` points, or all where there are no more.
    pub(super) fn new(points: &dyn Points, most: usize, rng: &Rng) -> Result<Self> {
        let mut rng = rng.fork("sample");
        let (mut left, mut wanted) = (points.count(), most.min(points.count()));
        let mut sample = Self { width: 0, values: Vec::new(), places: Vec::new() };
        let mut place = 0;
        points.each(&mut |block| {
            let (n, width) = block.dims2()?;
            sample.width = width;
            // Of the points that are left each is as likely to be among those still wanted.
            let mut taken = Vec::new();
            for i in 0..n {
                if wanted > 0 && rng.below(left) < wanted {
                    wanted -= 1;
                    taken.push(i);
                }
                left -= 1;
            }
            if !taken.is_empty() {
                let values = block.flatten_all()?.to_vec1::<f32>()?;
                for i in taken {
                    sample.values.extend_from_slice(&values[i * width..][..width]);
                    sample.places.push(place + i);
                }
            }
            place += n;
            Ok(())
        })?;
        Ok(sample)
    }

    fn point(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..][..self.width]
    }

    /// `count` different points of those whose place satisfies a rule, (count, D) row by row.
    fn seeds(
        &self,
        count: usize,
        seeding: Seeding,
        rng: &mut Rng,
        allowed: impl Fn(usize) -> bool,
    ) -> Result<Vec<f32>> {
        let among: Vec<usize> = (0..self.places.len()).filter(|i| allowed(self.places[*i])).collect();
        let mut nearest = vec![f64::INFINITY; among.len()];
        let mut seeds = Vec::with_capacity(count * self.width);
        for taken in 0..count {
            // Points that equal one taken before are at distance 0.
            let weight = |d: f64| match seeding {
                _ if d == 0.0 => 0.0,
                Seeding::PlusPlus if d.is_finite() => d,
                _ => 1.0,
            };
            let total: f64 = nearest.iter().map(|d| weight(*d)).sum();
            let mut at = rng.uniform() * total;
            let mut chosen = None;
            for (i, d) in nearest.iter().enumerate().filter(|(_, d)| **d > 0.0) {
                chosen = Some(i);
                at -= weight(*d);
                if at < 0.0 {
                    break;
                }
            }
            let Some(chosen) = chosen else {
                return Err(Error::TooFewPatches { prototypes: count, patches: taken });
            };
            let seed = self.point(among[chosen]);
            seeds.extend_from_slice(seed);
            for (nearest, i) in nearest.iter_mut().zip(&among) {
                let apart = self.point(*i).iter().zip(seed);
                let distance: f64 = apart.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
                *nearest = nearest.min(distance);
            }
        }
        Ok(seeds)
    }

    /// (count, D) different points.
    pub(super) fn start(&self, count: usize, seeding: Seeding, rng: &Rng) -> Result<Tensor> {
        let seeds = self.seeds(count, seeding, &mut rng.fork("seeds"), |_| true)?;
        Ok(Tensor::from_vec(seeds, (count, self.width), &Device::Cpu)?)
    }

    /// For each prototype a point whose class, told by its place, is its own.
    pub(super) fn start_of_classes(
        &self,
        class_of: &[usize],
        class_at: impl Fn(usize) -> u32,
        seeding: Seeding,
        rng: &Rng,
    ) -> Result<Tensor> {
        let classes = class_of.iter().max().map_or(0, |c| c + 1);
        let mut rows = vec![0f32; class_of.len() * self.width];
        for class in 0..classes {
            let own: Vec<usize> = (0..class_of.len()).filter(|j| class_of[*j] == class).collect();
            let mut rng = rng.fork("seeds of class").sample(class as u64);
            let seeds =
                self.seeds(own.len(), seeding, &mut rng, |place| class_at(place) as usize == class)?;
            for (j, seed) in own.into_iter().zip(seeds.chunks_exact(self.width)) {
                rows[j * self.width..][..self.width].copy_from_slice(seed);
            }
        }
        Ok(Tensor::from_vec(rows, (class_of.len(), self.width), &Device::Cpu)?)
    }
}
