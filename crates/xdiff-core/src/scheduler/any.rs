//! The scheduler that a file or a configuration names.

use std::{ops::Deref, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Ddim, DdimConfig, DdimInverse, DdimInverseConfig, Ddpm, DdpmConfig, Dpmpp2m, Dpmpp2mConfig, Euler,
    EulerConfig, Heun, HeunConfig, Pndm, PndmConfig, Scheduler, UniPc, UniPcConfig,
};
use crate::{Error, Result};

/// The schedulers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerKind {
    /// [`Ddpm`].
    Ddpm,
    /// [`Ddim`].
    Ddim,
    /// [`DdimInverse`].
    DdimInverse,
    /// [`Pndm`].
    Pndm,
    /// [`Euler`].
    Euler,
    /// [`Heun`].
    Heun,
    /// [`Dpmpp2m`].
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    /// [`UniPc`].
    #[serde(rename = "unipc")]
    UniPc,
}

impl SchedulerKind {
    /// Every kind, with the class of diffusers that it stands for.
    pub const ALL: [(Self, &str); 8] = [
        (Self::Ddpm, "DDPMScheduler"),
        (Self::Ddim, "DDIMScheduler"),
        (Self::DdimInverse, "DDIMInverseScheduler"),
        (Self::Pndm, "PNDMScheduler"),
        (Self::Euler, "EulerDiscreteScheduler"),
        (Self::Heun, "HeunDiscreteScheduler"),
        (Self::Dpmpp2m, "DPMSolverMultistepScheduler"),
        (Self::UniPc, "UniPCMultistepScheduler"),
    ];

    /// The kind that stands for a class of diffusers.
    ///
    /// # Errors
    /// [`Error::Config`] when none does.
    pub fn of_class(class: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == class).map(|(kind, _)| *kind).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::config("_class_name", format!("is {class}; supported: {}", names.join(", ")))
        })
    }
}

/// A scheduler whose kind is known at run time only. It can be used wherever a `&dyn Scheduler`
/// is taken.
///
/// ```
/// use xdiff_core::scheduler::{AnyScheduler, Scheduler, SchedulerKind};
///
/// let json = serde_json::json!({"_class_name": "DDIMScheduler", "steps_offset": 1, "beta_end": 0.012});
/// let scheduler = AnyScheduler::from_diffusers(&json)?;
/// assert_eq!(scheduler.kind(), SchedulerKind::Ddim);
/// assert_eq!(scheduler.timesteps(4)?, [751., 501., 251., 1.]);
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AnyScheduler {
    kind: SchedulerKind,
    scheduler: Arc<dyn Scheduler>,
}

impl AnyScheduler {
    /// Builds a scheduler of a kind from the keys of a diffusers `scheduler_config.json`; a key
    /// that is missing takes the default of that class, `_class_name` and keys that do not
    /// concern the kind are passed over.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit or asks for what is not built.
    pub fn from_config(kind: SchedulerKind, json: &Value) -> Result<Self> {
        let scheduler: Arc<dyn Scheduler> = match kind {
            SchedulerKind::Ddpm => Arc::new(Ddpm::new(DdpmConfig::from_diffusers(json)?)?),
            SchedulerKind::Ddim => Arc::new(Ddim::new(DdimConfig::from_diffusers(json)?)?),
            SchedulerKind::DdimInverse => {
                Arc::new(DdimInverse::new(DdimInverseConfig::from_diffusers(json)?)?)
            }
            SchedulerKind::Pndm => Arc::new(Pndm::new(PndmConfig::from_diffusers(json)?)?),
            SchedulerKind::Euler => Arc::new(Euler::new(EulerConfig::from_diffusers(json)?)?),
            SchedulerKind::Heun => Arc::new(Heun::new(HeunConfig::from_diffusers(json)?)?),
            SchedulerKind::Dpmpp2m => Arc::new(Dpmpp2m::new(Dpmpp2mConfig::from_diffusers(json)?)?),
            SchedulerKind::UniPc => Arc::new(UniPc::new(UniPcConfig::from_diffusers(json)?)?),
        };
        Ok(Self { kind, scheduler })
    }

    /// Builds the scheduler that the `_class_name` of a diffusers `scheduler_config.json` names.
    ///
    /// # Errors
    /// As [`from_config`](Self::from_config); also when `_class_name` is missing or unknown.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        let class = json.get("_class_name").and_then(Value::as_str).ok_or_else(|| {
            Error::config("_class_name", "is missing; name the kind of scheduler and use `from_config`")
        })?;
        Self::from_config(SchedulerKind::of_class(class)?, json)
    }

    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file cannot be read or is not JSON; otherwise as
    /// [`from_diffusers`](Self::from_diffusers).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
            hint: "give the scheduler_config.json of a diffusers folder",
        };
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        // Python writes an absent bound as an infinity, which JSON does not have.
        let text = text.replace(": -Infinity", ": null").replace(": Infinity", ": null");
        let json = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        Self::from_diffusers(&json)
    }

    /// Which scheduler it is.
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }
}

impl Deref for AnyScheduler {
    type Target = dyn Scheduler;

    fn deref(&self) -> &Self::Target {
        &*self.scheduler
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use serde_json::json;

    use super::*;
    use crate::scheduler::{State, StepInput};

    #[test]
    fn names_are_those_of_the_case_format() {
        let names: Vec<String> = SchedulerKind::ALL
            .iter()
            .map(|(kind, _)| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["ddpm", "ddim", "ddim_inverse", "pndm", "euler", "heun", "dpmpp_2m", "unipc"]);
    }

    #[test]
    fn every_class_is_built_from_an_empty_configuration() {
        for (kind, class) in SchedulerKind::ALL {
            let scheduler = AnyScheduler::from_diffusers(&json!({"_class_name": class})).unwrap();
            assert_eq!(scheduler.kind(), kind);
            assert!(scheduler.plan(10).unwrap().len() >= 10, "{class}");
            assert!(scheduler.plan(0).is_err(), "{class}");
            assert!(scheduler.plan(1001).is_err(), "{class}");
        }
    }

    #[test]
    fn one_class_reads_the_file_of_another() {
        let unipc = json!({"solver_type": "bh2", "thresholding": false, "disable_corrector": [0]});
        assert!(AnyScheduler::from_config(SchedulerKind::Dpmpp2m, &unipc).is_ok());
        let dpm = json!({"solver_type": "midpoint", "algorithm_type": "dpmsolver++", "sigma_min": null});
        assert!(AnyScheduler::from_config(SchedulerKind::UniPc, &dpm).is_ok());
        let ddpm = json!({"variance_type": "fixed_small", "clip_sample": true});
        assert!(AnyScheduler::from_config(SchedulerKind::Dpmpp2m, &ddpm).is_ok());
        let learned = json!({"variance_type": "learned_range"});
        assert!(AnyScheduler::from_config(SchedulerKind::Dpmpp2m, &learned).is_err());
    }

    #[test]
    fn a_state_of_another_run_is_an_error() {
        let x = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        for kind in [SchedulerKind::Heun, SchedulerKind::Dpmpp2m, SchedulerKind::UniPc] {
            let scheduler = AnyScheduler::from_config(kind, &json!({})).unwrap();
            let plan = scheduler.plan(5).unwrap();
            let at = StepInput { plan: &plan, index: 0, prediction: &x, sample: &x };
            let mut state = State::default();
            assert!(scheduler.step(&at, &mut (), &mut state).is_ok(), "{kind:?}");
            let again = scheduler.step(&at, &mut (), &mut state);
            assert!(matches!(again, Err(Error::Input { what: "state", .. })), "{kind:?}");
        }
    }

    #[test]
    fn a_plan_of_another_family_is_an_error() {
        let x = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let build = |kind| AnyScheduler::from_config(kind, &json!({"skip_prk_steps": true})).unwrap();
        for (kind, class) in SchedulerKind::ALL {
            let of_levels = matches!(class, c if c.contains("Discrete") || c.contains("Multistep"));
            let other = if of_levels { SchedulerKind::Ddim } else { SchedulerKind::Euler };
            let plan = build(other).plan(5).unwrap();
            let at = StepInput { plan: &plan, index: 0, prediction: &x, sample: &x };
            let result = build(kind).step(&at, &mut (), &mut State::default());
            assert!(
                matches!(result, Err(Error::Input { what: "plan" | "index", .. })),
                "{class}: {result:?}"
            );
        }
    }

    #[test]
    fn bad_files_and_classes_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        for text in ["", "[]", "{}", r#"{"_class_name": "Unknown"}"#, r#"{"_class_name": 3}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(AnyScheduler::from_file(&path).is_err(), "{text}");
        }
        assert!(AnyScheduler::from_file(folder.path().join("none.json")).is_err());
        std::fs::write(&path, r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#)
            .unwrap();
        assert_eq!(AnyScheduler::from_file(&path).unwrap().kind(), SchedulerKind::Ddpm);
        let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(AnyScheduler::from_file(&path).unwrap().kind(), SchedulerKind::Dpmpp2m);
    }
}
