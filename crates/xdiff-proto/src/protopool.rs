//! ProtoPool.

use serde::{Deserialize, Serialize};

use crate::{AddOn, Assignment, Gumbel, Head, Mixing, OneHot, PrototypeConfig, Similarity, SlotSampling};

/// Slots of each class in ProtoPool.
const SLOTS: usize = 10;
/// Numbers of a prototype in ProtoPool's released settings.
const WIDTH: usize = 128;

/// Which of several accounts of one method is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The formulas of the paper.
    Paper,
    /// What the released code does.
    #[default]
    Released,
    /// What we would do.
    Careful,
}

/// ProtoPool (Rymarczyk et al., *Interpretable image classification with differentiable prototypes
/// assignment*, 2022): `prototypes` are shared by the classes, each of which has ten slots.
///
/// | preset | a slot averages | Gumbel-softmax |
/// |---|---|---|
/// | `Paper` | similarities | one temperature for scores and noise |
/// | `Released` | distances | noise is not scaled |
/// | `Careful` | similarities | as `Paper`, and one prototype a slot outside of training |
///
/// All have one convolution as add-on layer, are 128 wide, and after training as sharp as [`Gumbel`] says.
/// Without training there is no noise, unlike in the released code. Published are 202 prototypes, 256
/// wide, for 200 kinds of birds on features trained with iNaturalist, and 195 prototypes for 196 makes of
/// cars. `channels` are those of the features.
///
/// ```
/// use xdiff_proto::{Assignment, Preset, SlotSampling, protopool};
///
/// let mut birds = protopool(Preset::Released, 2048, 200, 202);
/// birds.width = 256;
/// // The same without noise, at one temperature.
/// if let Assignment::Slots { sampling, .. } = &mut birds.assignment {
///     *sampling = SlotSampling::Softmax { temperature: 0.1 };
/// }
/// birds.validate()?;
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
pub fn protopool(preset: Preset, channels: usize, classes: usize, prototypes: usize) -> PrototypeConfig {
    let (mixing, gumbel) = match preset {
        Preset::Paper => (Mixing::Similarities, Gumbel::paper()),
        Preset::Released => (Mixing::Distances, Gumbel::released()),
        Preset::Careful => (Mixing::Similarities, Gumbel { one_hot: OneHot::Inference, ..Gumbel::paper() }),
    };
    PrototypeConfig {
        channels,
        prototypes,
        width: WIDTH,
        add_on: AddOn::Single,
        similarity: Similarity::default(),
        assignment: Assignment::Slots {
            classes,
            slots: SLOTS,
            sampling: SlotSampling::Gumbel(gumbel),
            mixing,
        },
        head: Head::PROTOPOOL,
    }
}
