//! Prototype networks: which patches of which training images an image looks like, how much each of
//! them weighs, and how far that answer can be trusted.

mod add_on;
mod assignment;
mod batch;
mod codebook;
pub mod correlation;
pub mod diffusion;
mod distance;
mod eppnet;
pub mod error;
pub mod evaluation;
pub mod faithfulness;
mod head;
mod host;
pub mod influence;
pub mod loss;
mod network;
mod ppnet;
pub mod projection;
mod protopool;
mod prototypes;
pub mod provenance;
mod pruning;
mod similarity;
pub mod single_class;
mod slots;
mod soft_codebook;
pub mod stage;
mod state_dict;
#[cfg(test)]
mod testing;
pub mod train;
pub mod window;

pub use add_on::AddOn;
pub use assignment::{Assignment, Mixing};
pub use batch::Batch;
pub use codebook::Codes;
pub use distance::{Nearest, nearest, squared_distances};
pub use eppnet::eppnet;
pub use error::{Error, Result};
pub use head::Head;
pub use network::{PrototypeConfig, PrototypeNetwork, Reading};
pub use ppnet::ppnet;
pub use protopool::{Preset, protopool};
pub use prototypes::Prototypes;
pub use pruning::{Neighbour, PruneConfig, Pruned, Pruning, prune};
pub use similarity::Similarity;
pub use slots::{Annealing, Gumbel, OneHot, SlotReading, SlotSampling};
pub use soft_codebook::soft_codebook;
pub use state_dict::StateDict;
