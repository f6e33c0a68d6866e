//! What the networks are made of: layers that are sites of a tap, and modules of them.

mod conv_unit;
mod fire;
mod head;
mod init;
mod mixed;
mod sequence;
mod site;
pub(crate) mod transform_input;

pub(crate) use conv_unit::{ConvUnit, StageNames, UnitStyle};
pub(crate) use fire::FireWidths;
pub(crate) use head::{PooledHead, SequenceHead, head_of};
pub(crate) use init::{ConvInit, kaiming_uniform, normal_or_default, torch_default};
pub(crate) use mixed::{Mixed, Pooling, Step, Window};
pub(crate) use sequence::{Layer, Sequence};
pub(crate) use site::{ConvSite, LinearSite, NormSite, relu};
