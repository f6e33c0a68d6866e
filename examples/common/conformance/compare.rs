//! Comparing what was computed with what was expected.

use std::fmt;

use candle_core::{DType, Tensor};

use super::{Case, Outputs};
use crate::AnyError;

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The case.
    pub name: String,
    /// Its op.
    pub op: String,
    /// Largest |a − b|.
    pub max_abs: f64,
    /// Largest |a − b| / |b| where b is not 0.
    pub max_rel: f64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Verdict {
    pub(super) fn failed(name: String, op: String, why: String) -> Self {
        Self { name, op, max_abs: f64::NAN, max_rel: f64::NAN, failure: Some(why) }
    }

    /// Whether every number was within the tolerance.
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {:.3e}  {:.3e}  ", self.name, self.op, self.max_abs, self.max_rel)?;
        match &self.failure {
            None => write!(f, "pass"),
            Some(why) => write!(f, "FAIL: {why}"),
        }
    }
}

pub(super) fn compare(name: String, case: &Case, outputs: &Outputs) -> Verdict {
    let mut verdict = Verdict { name, op: case.op.clone(), max_abs: 0.0, max_rel: 0.0, failure: None };
    let mut compared = 0;
    for (key, want) in case.expected() {
        compared += 1;
        let outcome = match outputs.iter().find(|(k, _)| k == key) {
            None => Err(format!("out.{key} was not computed").into()),
            Some((_, got)) => one(case, got, want, &mut verdict),
        };
        if let Err(e) = outcome
            && verdict.failure.is_none()
        {
            verdict.failure = Some(format!("out.{key}: {e}"));
        }
    }
    if compared == 0 {
        verdict.failure = Some("the case expects no output".to_owned());
    }
    verdict
}

fn one(case: &Case, got: &Tensor, want: &Tensor, verdict: &mut Verdict) -> Result<(), AnyError> {
    let scalars = got.elem_count() == 1 && want.elem_count() == 1;
    if got.dims() != want.dims() && !scalars {
        return Err(format!("shape {:?}, expected {:?}", got.dims(), want.dims()).into());
    }
    let flat =
        |t: &Tensor| -> Result<Vec<f64>, AnyError> { Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?) };
    let mut outside = 0usize;
    let mut first = None;
    for (i, (a, b)) in flat(got)?.into_iter().zip(flat(want)?).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let abs = (a - b).abs();
        // A NaN or an infinity on one side only must not pass.
        if abs.is_nan() || abs > case.atol + case.rtol * b.abs() || b.is_infinite() {
            outside += 1;
            first.get_or_insert((i, a, b));
        }
        verdict.max_abs = verdict.max_abs.max(if abs.is_nan() { f64::INFINITY } else { abs });
        if b != 0.0 {
            let rel = abs / b.abs();
            verdict.max_rel = verdict.max_rel.max(if rel.is_nan() { f64::INFINITY } else { rel });
        }
    }
    match first {
        None => Ok(()),
        Some((i, a, b)) => Err(format!(
            "{outside} of {} outside the tolerance, first at {i}: {a:e}, expected {b:e}",
            want.elem_count()
        )
        .into()),
    }
}
