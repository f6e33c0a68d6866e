//! The soft codebook that the paper on faithfulness calls ProtoPool.

use crate::{AddOn, Assignment, Head, PrototypeConfig, Similarity};

/// The soft codebook of Dey & Saikia (2025, Eq. 9) over features as they are: z_i = Σ_j α_ij p_j with
/// α_ij = softmax_j(−‖f_i − p_j‖²), no add-on layers, no classes.
///
/// The paper calls it ProtoPool, but it has neither slots nor a Gumbel-softmax nor the focal similarity:
/// that is [`protopool`](crate::protopool). Its influences are [`Codes::influence`](crate::Codes::influence),
/// since the softmax of g is undefined where all prototypes answer together.
///
/// With [`Head::Pooled`] it tells classes apart.
pub fn soft_codebook(channels: usize, prototypes: usize) -> PrototypeConfig {
    PrototypeConfig {
        channels,
        prototypes,
        width: channels,
        add_on: AddOn::None,
        similarity: Similarity::Linear,
        assignment: Assignment::SoftCodebook,
        head: Head::None,
    }
}
