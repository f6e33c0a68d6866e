//! k-means.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, nearest};

/// Points that are passed through block by block, in one order.
pub trait Points {
    /// How many there are.
    fn count(&self) -> usize;

    /// Calls `f` with each block (n, D).
    ///
    /// # Errors
    /// Those of `f`, and when a block cannot be made.
    fn each(&self, f: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()>;
}

/// The rows of one tensor (n, D).
impl Points for Tensor {
    fn count(&self) -> usize {
        self.dims().first().copied().unwrap_or(0)
    }

    fn each(&self, f: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        f(self)
    }
}

/// When k-means ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KMeansConfig {
    /// Most iterations. It ends before when no point changes its cluster.
    pub iterations: usize,
}

impl Default for KMeansConfig {
    /// 100 iterations.
    fn default() -> Self {
        Self { iterations: 100 }
    }
}

/// Clusters of points.
#[derive(Clone, Debug)]
pub struct KMeans {
    /// The mean of each cluster (k, D).
    pub centres: Tensor,
    /// The cluster of each point.
    pub cluster_of: Vec<u32>,
    /// The sum of the squared distances of all points to the centre they were nearest to, before each
    /// iteration; it does not grow.
    pub inertia: Vec<f64>,
}

/// Lloyd's algorithm from given centres (k, D): each point joins its nearest centre, the first of equals,
/// and each centre becomes the mean of its points, in f64. A cluster that lost all its points takes the
/// point that is farthest from its own centre. The result depends on the order of the points by rounding
/// alone, and not at all on blocks or threads.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::single_class::{KMeansConfig, k_means};
///
/// let points = Tensor::new(&[[0f32], [1.], [9.], [11.]], &Device::Cpu)?;
/// let start = Tensor::new(&[[0f32], [1.]], &Device::Cpu)?;
/// let found = k_means(&points, &start, KMeansConfig::default())?;
/// assert_eq!(found.centres.to_vec2::<f32>()?, [[0.5], [10.]]);
/// assert_eq!(found.cluster_of, [0, 0, 1, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Config`] for no iteration, [`Error::TooFewPatches`] when there are fewer points than centres,
/// [`Error::NonFinite`] when a distance is; those of the points.
pub fn k_means(points: &dyn Points, start: &Tensor, config: KMeansConfig) -> Result<KMeans> {
    let (k, width) = start.dims2()?;
    if config.iterations == 0 || k == 0 {
        return Err(Error::config("iterations", "and clusters must be at least 1"));
    }
    if points.count() < k {
        return Err(Error::TooFewPatches { prototypes: k, patches: points.count() });
    }
    let mut found = KMeans { centres: start.detach(), cluster_of: Vec::new(), inertia: Vec::new() };
    for _ in 0..config.iterations {
        let mut round = Round::new(k, width, points.count());
        points.each(&mut |block| round.add(block, &found.centres))?;
        found.inertia.push(round.distances.iter().map(|d| f64::from(*d)).sum());
        round.fill_empty(points)?;
        let settled = round.cluster_of == found.cluster_of;
        found.cluster_of = std::mem::take(&mut round.cluster_of);
        found.centres = round.centres(start.device())?;
        if settled {
            break;
        }
    }
    Ok(found)
}

/// One iteration.
struct Round {
    width: usize,
    sums: Vec<f64>,
    counts: Vec<usize>,
    cluster_of: Vec<u32>,
    distances: Vec<f32>,
}

impl Round {
    fn new(k: usize, width: usize, points: usize) -> Self {
        Self {
            width,
            sums: vec![0.0; k * width],
            counts: vec![0; k],
            cluster_of: Vec::with_capacity(points),
            distances: Vec::with_capacity(points),
        }
    }

    fn add(&mut self, block: &Tensor, centres: &Tensor) -> Result<()> {
        let (k, width) = centres.dims2()?;
        // The nearest of k patches to each point, in an image of one row.
        let row = centres.t()?.contiguous()?.reshape((1, width, 1, k))?;
        let near = nearest(&row, block)?;
        let clusters = near.position.flatten_all()?.to_vec1::<u32>()?;
        let distances = near.distance.detach().flatten_all()?.to_vec1::<f32>()?;
        let values = block.flatten_all()?.to_vec1::<f32>()?;
        if distances.iter().chain(&values).any(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                what: "a point, or its distance to a centre,",
                of: "k-means".to_owned(),
                hint: "look at the features for NaN",
            });
        }
        for (point, cluster) in values.chunks_exact(width).zip(&clusters) {
            self.join(*cluster as usize, point, 1.0);
        }
        self.cluster_of.extend(clusters);
        self.distances.extend(distances);
        Ok(())
    }

    /// Counts a point in a cluster with a sign.
    fn join(&mut self, cluster: usize, point: &[f32], sign: f64) {
        let sums = &mut self.sums[cluster * self.width..][..self.width];
        sums.iter_mut().zip(point).for_each(|(sum, v)| *sum += sign * f64::from(*v));
        if sign > 0.0 {
            self.counts[cluster] += 1;
        } else {
            self.counts[cluster] -= 1;
        }
    }

    /// Gives each empty cluster the point that is farthest from its centre, of those whose cluster keeps
    /// another one.
    fn fill_empty(&mut self, points: &dyn Points) -> Result<()> {
        let empty: Vec<usize> = (0..self.counts.len()).filter(|c| self.counts[*c] == 0).collect();
        if empty.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..self.distances.len()).collect();
        order.sort_by(|a, b| self.distances[*b].total_cmp(&self.distances[*a]).then(a.cmp(b)));
        let mut left = self.counts.clone();
        let mut moves = Vec::with_capacity(empty.len());
        let mut to = empty.into_iter();
        for point in order {
            let from = self.cluster_of[point] as usize;
            if left[from] < 2 {
                continue;
            }
            let Some(cluster) = to.next() else { break };
            left[from] -= 1;
            moves.push((point, from, cluster));
        }
        let mut start = 0;
        points.each(&mut |block| {
            let n = block.dim(0)?;
            for (point, from, cluster) in &moves {
                if (start..start + n).contains(point) {
                    let vector = block.get(point - start)?.to_vec1::<f32>()?;
                    self.join(*from, &vector, -1.0);
                    self.join(*cluster, &vector, 1.0);
                    self.cluster_of[*point] = *cluster as u32;
                }
            }
            start += n;
            Ok(())
        })
    }

    fn centres(&self, device: &Device) -> Result<Tensor> {
        let mean = |(i, sum): (usize, &f64)| (sum / self.counts[i / self.width].max(1) as f64) as f32;
        let means: Vec<f32> = self.sums.iter().enumerate().map(mean).collect();
        Ok(Tensor::from_vec(means, (self.counts.len(), self.width), device)?)
    }
}
