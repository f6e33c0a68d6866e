//! Learning rates over time.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The learning rate as a function of how many steps have been done, so that resuming needs no
/// state. The formulas are those of diffusers' `optimization.py`; after `total` the decaying ones
/// stay where they ended, where diffusers' cosine would rise again.
///
/// ```
/// use xdiff_nn::optim::LrSchedule;
///
/// let schedule = LrSchedule::WarmupCosine { warmup: 10, total: 110, cycles: 0.5 };
/// assert_eq!(schedule.lr(1e-4, 5), 0.5e-4);
/// assert_eq!(schedule.lr(1e-4, 10), 1e-4);
/// assert!((schedule.lr(1e-4, 60) - 0.5e-4).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum LrSchedule {
    /// The base rate throughout.
    #[default]
    Constant,
    /// From 0 up to the base rate over `warmup` steps, then constant.
    WarmupConstant {
        /// Steps of the rise.
        warmup: u64,
    },
    /// From 0 up over `warmup` steps, then straight down to 0 at `total`.
    WarmupLinear {
        /// Steps of the rise.
        warmup: u64,
        /// All steps.
        total: u64,
    },
    /// From 0 up over `warmup` steps, then ½(1 + cos(2π·cycles·progress)) until `total`.
    WarmupCosine {
        /// Steps of the rise.
        warmup: u64,
        /// All steps.
        total: u64,
        /// Cosine periods after the rise; ½ ends at 0.
        cycles: f64,
    },
}

impl LrSchedule {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] when `total` is not above `warmup`, or `cycles` is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        if let Self::WarmupLinear { warmup, total } | Self::WarmupCosine { warmup, total, .. } = *self
            && total <= warmup
        {
            let reason = format!("{total} steps in all leave none after a warm-up of {warmup}");
            return Err(Error::argument("total", reason));
        }
        match *self {
            Self::WarmupCosine { cycles, .. } => {
                super::engine::in_range("cycles", cycles, 0.0, f64::INFINITY)
            }
            _ => Ok(()),
        }
    }

    /// The rate for the step that follows `done` steps, as a share of the base rate. With a warm-up
    /// the very first step has rate 0, as in diffusers.
    pub fn factor(&self, done: u64) -> f64 {
        let (Self::WarmupConstant { warmup }
        | Self::WarmupLinear { warmup, .. }
        | Self::WarmupCosine { warmup, .. }) = *self
        else {
            return 1.0;
        };
        if done < warmup {
            return done as f64 / warmup as f64;
        }
        let progress = |total: u64| {
            let all = total.saturating_sub(warmup).max(1) as f64;
            ((done - warmup) as f64 / all).min(1.0)
        };
        match *self {
            Self::WarmupLinear { total, .. } => 1.0 - progress(total),
            Self::WarmupCosine { total, cycles, .. } => {
                (0.5 * (1.0 + (2.0 * PI * cycles * progress(total)).cos())).max(0.0)
            }
            _ => 1.0,
        }
    }

    /// The learning rate for the step that follows `done` steps.
    pub fn lr(&self, base: f64, done: u64) -> f64 {
        base * self.factor(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_diffusers() {
        // diffusers 0.42, get_*_schedule_with_warmup(warmup 4, total 20) at these steps.
        let steps = [0, 1, 4, 5, 12, 19, 20, 25];
        let c = LrSchedule::WarmupCosine { warmup: 4, total: 20, cycles: 0.5 };
        let cases = [
            (c, [0.0, 0.25, 1.0, 0.9903926402016152, 0.5, 0.009607359798384785, 0.0, 0.0]),
            (LrSchedule::WarmupConstant { warmup: 4 }, [0.0, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (
                LrSchedule::WarmupLinear { warmup: 4, total: 20 },
                [0.0, 0.25, 1.0, 0.9375, 0.5, 0.0625, 0.0, 0.0],
            ),
            (LrSchedule::Constant, [1.0; 8]),
        ];
        let mut wrong = Vec::new();
        for (schedule, expected) in cases {
            assert!(schedule.validate().is_ok());
            for (step, e) in steps.into_iter().zip(expected) {
                let f = schedule.factor(step);
                if (f - e).abs() > 1e-15 {
                    wrong.push(format!("{schedule:?} at {step}: {f}, expected {e}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn values_out_of_range_are_refused_and_never_panic() {
        let bad = [
            LrSchedule::WarmupLinear { warmup: 5, total: 5 },
            LrSchedule::WarmupCosine { warmup: 5, total: 2, cycles: 0.5 },
            LrSchedule::WarmupCosine { warmup: 0, total: 2, cycles: f64::NAN },
        ];
        for schedule in bad {
            assert!(matches!(schedule.validate(), Err(Error::Argument { .. })), "{schedule:?}");
            for done in [0, 3, u64::MAX] {
                assert!(schedule.factor(done).is_nan() || schedule.factor(done) <= 1.0);
            }
        }
    }

    #[test]
    fn the_text_form_is_strict() {
        let text = r#"{"kind":"warmup_constant","warmup":3}"#;
        let read: LrSchedule = serde_json::from_str(text).unwrap();
        assert_eq!(read, LrSchedule::WarmupConstant { warmup: 3 });
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert!(
            serde_json::from_str::<LrSchedule>(r#"{"kind":"warmup_constant","warmup":3,"x":1}"#).is_err()
        );
    }
}
