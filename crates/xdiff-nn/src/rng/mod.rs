//! Seeded randomness that forks by label and by sample.
//!
//! Nothing in xdiff draws from a global generator. A function that needs chance takes an [`Rng`];
//! a caller forks one per purpose and per sample, so that a sample is the same whatever its batch,
//! its place in the batch or the number of threads.

mod torch;

use candle_core::{Device, Shape, Tensor};
use rand::{Rng as _, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

pub use torch::TorchRng;

use crate::Result;

/// A seeded random generator whose forks do not depend on what was drawn before.
///
/// The stream is ChaCha8; a fork's key is derived from the parent's key and the label alone.
///
/// ```
/// use xdiff_nn::Rng;
///
/// let root = Rng::new(7);
/// let mut a = root.fork("noise").sample(3);
/// let mut root2 = Rng::new(7);
/// root2.uniform(); // drawing from the parent changes no fork
/// let mut b = root2.fork("noise").sample(3);
/// assert_eq!(a.normal(), b.normal());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rng {
    key: u64,
    stream: ChaCha8Rng,
}

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self::from_key(splitmix64(seed))
    }

    fn from_key(key: u64) -> Self {
        Self { key, stream: ChaCha8Rng::seed_from_u64(key) }
    }

    /// An independent generator for a purpose, the same wherever in the stream it is asked for.
    pub fn fork(&self, label: &str) -> Self {
        Self::from_key(splitmix64(self.key ^ fnv1a64(label.as_bytes()).rotate_left(17)))
    }

    /// An independent generator for the sample of that index.
    pub fn sample(&self, index: u64) -> Self {
        Self::from_key(splitmix64(
            splitmix64(self.key).wrapping_add(splitmix64(index ^ 0x5851_F42D_4C95_7F2D)),
        ))
    }

    /// A seed for somebody else's generator.
    pub fn next_seed(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.stream.random::<f64>()
    }

    /// A number uniform in [lo, hi).
    pub fn range(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.uniform()
    }

    /// An integer uniform in 0..n; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n < 2 { 0 } else { self.stream.random_range(0..n as u64) as usize }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        self.stream.sample(StandardNormal)
    }

    /// `n` standard normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal() as f32).collect()
    }

    /// Puts a slice in a random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A tensor of standard normal f32 numbers, made on the CPU and moved.
    ///
    /// # Errors
    /// When the device cannot hold the tensor.
    pub fn randn(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        Ok(Tensor::from_vec(self.normals(shape.elem_count()), shape, device)?)
    }

    /// A tensor of f32 numbers uniform in [lo, hi), made on the CPU and moved.
    ///
    /// # Errors
    /// When the device cannot hold the tensor.
    pub fn rand(&mut self, lo: f64, hi: f64, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.range(lo, hi) as f32).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// A PyTorch-compatible generator seeded from this one.
    pub fn torch(&mut self) -> TorchRng {
        TorchRng::new(self.next_seed())
    }
}

/// The finaliser of Steele, Lea and Flood's SplitMix64.
pub fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The 64-bit FNV-1a hash.
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_stable_distinct_and_independent_of_position() {
        let root = Rng::new(1);
        let mut moved = Rng::new(1);
        moved.normals(100);
        assert_eq!(root.fork("a"), moved.fork("a"));
        assert_ne!(root.fork("a"), root.fork("b"));
        assert_ne!(root.sample(0), root.sample(1));
        assert_ne!(root.fork("a").sample(1), root.sample(1).fork("a"));
        assert_ne!(Rng::new(1), Rng::new(2));
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let x = Rng::new(3).normals(100_000);
        let n = x.len() as f64;
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.015, "{mean}");
        assert!((var - 1.0).abs() < 0.02, "{var}");
    }

    #[test]
    fn state_survives_serialisation() {
        let mut a = Rng::new(9).fork("x");
        a.normals(13);
        let mut b: Rng = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert_eq!(a.normals(7), b.normals(7));
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut v: Vec<usize> = (0..50).collect();
        Rng::new(5).shuffle(&mut v);
        assert_ne!(v, (0..50).collect::<Vec<_>>());
        v.sort_unstable();
        assert_eq!(v, (0..50).collect::<Vec<_>>());
        assert_eq!(Rng::new(5).below(0), 0);
    }

    #[test]
    fn hashes_agree_with_their_published_values() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
    }
}
