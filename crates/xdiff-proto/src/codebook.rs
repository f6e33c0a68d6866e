//! Patches as averages of prototypes.

use candle_core::Tensor;
use xdiff_nn::layers::{linear, softmax_last_dim};

use crate::Result;

/// What a soft codebook finds in images (Dey & Saikia 2025, Eq. 9): each patch f_i is written as an
/// average z_i = Σ_j α_ij p_j of all prototypes, with weights α_ij = softmax_j(−‖f_i − p_j‖²).
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_proto::{PrototypeNetwork, soft_codebook};
///
/// // Four prototypes over features that are there already.
/// let network = PrototypeNetwork::new(&soft_codebook(6, 4), (), &Params::fresh(0, &Device::Cpu))?;
/// let features = Rng::new(1).randn((2, 6, 3, 5), &Device::Cpu)?;
/// if let Some(codes) = network.read(&features)?.codes {
///     assert_eq!((codes.alpha.dims(), codes.z.dims()), (&[2, 4, 3, 5][..], &[2, 6, 3, 5][..]));
///     assert_eq!(codes.influence()?.dims(), [2, 4]);
/// }
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Codes {
    /// The weight of each prototype at each position (B, P, h, w); they sum to 1 over P.
    pub alpha: Tensor,
    /// What they average to (B, D, h, w).
    pub z: Tensor,
}

impl Codes {
    /// `space` are the prototypes where the distance is taken, `vectors` those that are averaged.
    pub(crate) fn new(patches: &Tensor, space: &Tensor, vectors: &Tensor) -> Result<Self> {
        let (b, _, h, w) = patches.dims4()?;
        let rows = patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        // ‖f‖² is the same for all prototypes, and left out: −‖f − p‖² = 2 f·p − ‖p‖² − ‖f‖².
        let scores = (linear(&rows, space, None)? * 2.0)?.broadcast_sub(&space.sqr()?.sum(1)?)?;
        let alpha = softmax_last_dim(&scores)?;
        let z = linear(&alpha, &vectors.t()?.contiguous()?, None)?;
        let maps = |rows: Tensor| -> Result<Tensor> {
            let width = rows.dim(2)?;
            Ok(rows.transpose(1, 2)?.contiguous()?.reshape((b, width, h, w))?)
        };
        Ok(Self { alpha: maps(alpha)?, z: maps(z)? })
    }

    /// The share of each prototype in each image, mean_i α_ij (B, P): what stands for normalised influence
    /// where prototypes work together.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn influence(&self) -> Result<Tensor> {
        Ok(self.alpha.flatten_from(2)?.mean(2)?)
    }

    /// The average of z over all positions (B, D).
    ///
    /// # Errors
    /// When the device refuses.
    pub fn pooled(&self) -> Result<Tensor> {
        Ok(self.z.flatten_from(2)?.mean(2)?)
    }
}
