//! corr(p_j, x): how much an image looks like the source of a prototype.
//!
//! Dey & Saikia 2025 call it the spatial correlation between a prototype and the corresponding region of
//! the image and do not define it further; [`Correlation`] names the readings.

mod queries;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use queries::Queries;

/// What is compared. Each is Pearson's correlation, in [−1, 1], and 0 when either side has no variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// Pixels of the prototype's source window against those of the window around the patch of the image
    /// that is nearest to the prototype, over all pixels and channels. Where the second window has
    /// another size (at the border, or a percentile's box) it is resized to the first by
    /// [`Resize::AntialiasedBilinear`](xdiff_nn::layers::Resize::AntialiasedBilinear).
    #[default]
    PatchPixel,
    /// The map of similarities between the prototype and all patches of the image, against that between
    /// the prototype and all patches of its source image, position by position: whether the prototype is
    /// seen at the same places. Maps of different size are not compared.
    ActivationMap,
    /// The features of the patch that is nearest to the prototype against the prototype, over the D
    /// channels.
    Latent,
    /// All pixels of the image against all pixels of the prototype's source image, over channels too.
    /// It does not depend on the patch.
    WholeImage,
}

impl Correlation {
    /// All of them.
    pub const ALL: [Correlation; 4] =
        [Correlation::PatchPixel, Correlation::ActivationMap, Correlation::Latent, Correlation::WholeImage];

    /// The name under which it is written.
    pub fn name(self) -> &'static str {
        match self {
            Correlation::PatchPixel => "patch_pixel",
            Correlation::ActivationMap => "activation_map",
            Correlation::Latent => "latent",
            Correlation::WholeImage => "whole_image",
        }
    }
}

impl std::fmt::Display for Correlation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
