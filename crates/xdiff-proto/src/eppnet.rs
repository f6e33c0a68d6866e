//! The enhanced ProtoPNet, as the paper on faithfulness reads it.

use crate::{PrototypeConfig, Similarity, ppnet};

/// EPPNet in the reading of Dey & Saikia (2025, Eq. 5, 7 and 8): [`ppnet`] with the similarity −d² of the
/// paper, to which belong the normalised influence softmax_j g_j and a loss that keeps prototypes apart,
/// Σ_{i≠j} exp(−‖p_i − p_j‖²).
///
/// This is not meant to be the model of the same name of 2024: its publication gives no formulas, and
/// what is known of it is what the paper says.
pub fn eppnet(channels: usize, classes: usize) -> PrototypeConfig {
    PrototypeConfig { similarity: Similarity::Linear, ..ppnet(channels, classes) }
}
