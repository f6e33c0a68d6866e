//! ProtoPNet.

use crate::{AddOn, Assignment, Head, PrototypeConfig, Similarity};

/// Prototypes of each class in ProtoPNet.
const EACH: usize = 10;
/// Numbers of a prototype in ProtoPNet's released settings.
const WIDTH: usize = 128;

/// ProtoPNet (Chen, Li et al., *This looks like that*, 2019) with its released settings: ten prototypes a
/// class, 128 wide, `regular` add-on layers, logarithmic similarity with ε = 1e-4, and a last layer that
/// begins with 1 for a class's own prototypes and −0.5 for the others.
///
/// `channels` are those of the features: 512 for VGG and ResNet-18, 2048 for ResNet-50, 1024 for
/// DenseNet-121.
///
/// ```
/// use xdiff_proto::{AddOn, Similarity, ppnet};
///
/// let birds = ppnet(512, 200);
/// assert_eq!((birds.prototypes, birds.width), (2000, 128));
/// // The other choices of the released code.
/// let mut other = ppnet(512, 200);
/// (other.width, other.add_on, other.similarity) = (512, AddOn::Bottleneck, Similarity::Linear);
/// other.validate()?;
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
pub fn ppnet(channels: usize, classes: usize) -> PrototypeConfig {
    PrototypeConfig {
        channels,
        prototypes: EACH.saturating_mul(classes),
        width: WIDTH,
        add_on: AddOn::Regular,
        similarity: Similarity::default(),
        assignment: Assignment::Fixed { classes },
        head: Head::PPNET,
    }
}
