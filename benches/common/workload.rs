//! A piece of work that is timed: its name, its cost and how it is made ready.

use std::time::{Duration, Instant};

use serde::Serialize;
use xdiff_examples::AnyError;

use crate::metric::Metric;
use crate::op::{self, Op, Pass};
use crate::precision::Precision;
use crate::push::Push;
use crate::stack::Stack;
use crate::unet::Unet;
use crate::vision::Vision;

/// What is timed, and in which table it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// What it is, and what is done with it, with slashes between; no two have the same.
    pub name: String,
    /// Its table.
    pub table: Table,
    /// In which type it computes.
    pub precision: Precision,
    /// What is done.
    pub work: Work,
    /// Floating-point operations, two a multiply-add; 0 where memory is the limit.
    pub flops: u64,
    /// Bytes that go through memory at least; 0 for whole models.
    pub bytes: u64,
}

/// A table of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Networks, and all layers of larger ones.
    Models,
    /// Convolutions.
    Convolutions,
    /// Other single operations.
    Operations,
    /// What computes in bf16.
    Bf16,
    /// Networks for classification.
    Vision,
    /// Metrics.
    Metrics,
    /// Nearest patches, and prototypes that become theirs.
    Prototypes,
}

/// What is done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Work {
    /// A pass of one operation.
    Op {
        /// The operation.
        op: Op,
        /// The pass.
        pass: Pass,
    },
    /// All layers of a network, one after another, forward.
    Stack(Stack),
    /// A pixel U-Net.
    Unet(Box<Unet>),
    /// A metric.
    Metric(Metric),
    /// A network for classification.
    Vision(Vision),
    /// A projection of prototypes.
    Push(Push),
}

/// Does the work once at each call and says how long it took.
pub type Runner = Box<dyn FnMut() -> Result<Duration, AnyError>>;

/// A workload that can be run.
pub struct Prepared {
    /// Runs it.
    pub run: Runner,
    /// How many numbers it has learnt or is to learn.
    pub parameters: usize,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

/// How long `work` takes. What it returns is dropped after the clock has stopped.
///
/// # Errors
/// Those of `work`.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T, AnyError>) -> Result<Duration, AnyError> {
    let start = Instant::now();
    let result = work()?;
    let time = start.elapsed();
    drop(result);
    Ok(time)
}

impl Workload {
    /// A pass of an operation in f32.
    pub fn op(op: Op, pass: Pass) -> Self {
        let table = match op {
            Op::Conv2d { .. } => Table::Convolutions,
            Op::NearestPatch { .. } => Table::Prototypes,
            _ => Table::Operations,
        };
        let (flops, bytes) = (op.flops(pass), op.bytes(pass));
        let name = format!("{}/{}", op.name(), pass.name());
        Self { name, table, precision: Precision::F32, work: Work::Op { op, pass }, flops, bytes }
    }

    /// All layers of a network, forward.
    pub fn stack(name: &str, stack: Stack) -> Self {
        let flops = stack.flops();
        Self::model(format!("{name}/forward"), Work::Stack(stack), flops)
    }

    /// A U-Net by that name, and what is done with it.
    pub fn unet(network: &str, unet: Unet) -> Self {
        let (name, flops) = (format!("{network}/{}", unet.run.name()), unet.flops());
        Self::model(name, Work::Unet(Box::new(unet)), flops)
    }

    /// A network for classification.
    pub fn vision(vision: Vision) -> Self {
        let (name, flops) = (vision.name(), vision.flops());
        Self { table: Table::Vision, ..Self::model(name, Work::Vision(vision), flops) }
    }

    /// A metric.
    pub fn metric(metric: Metric) -> Self {
        let (name, flops, bytes) = (metric.name(), metric.flops(), metric.bytes());
        let (table, precision, work) = (Table::Metrics, Precision::F32, Work::Metric(metric));
        Self { name, table, precision, work, flops, bytes }
    }

    /// A projection of prototypes.
    pub fn push(push: Push) -> Self {
        let (name, flops) = (push.name(), push.flops());
        Self { table: Table::Prototypes, ..Self::model(name, Work::Push(push), flops) }
    }

    fn model(name: String, work: Work, flops: u64) -> Self {
        Self { name, table: Table::Models, precision: Precision::F32, work, flops, bytes: 0 }
    }

    /// The same in bf16.
    pub fn bf16(self) -> Self {
        Self {
            name: self.name + "/bf16",
            table: Table::Bf16,
            precision: Precision::Bf16,
            bytes: self.bytes / 2,
            ..self
        }
    }

    /// Builds what it needs, with seeded weights and inputs.
    ///
    /// # Errors
    /// When the precision is not to be had, or the memory does not suffice.
    pub fn prepare(&self) -> Result<Prepared, AnyError> {
        let precision = self.precision;
        let Prepared { mut run, parameters } = precision.within(|| match &self.work {
            Work::Op { op, pass } => op::prepare(op, *pass),
            Work::Stack(stack) => stack.prepare(),
            Work::Unet(unet) => unet.prepare(),
            Work::Metric(metric) => metric.prepare(),
            Work::Vision(vision) => vision.prepare(),
            Work::Push(push) => push.prepare(),
        })?;
        Ok(Prepared { run: Box::new(move || precision.within(&mut run)), parameters })
    }
}
