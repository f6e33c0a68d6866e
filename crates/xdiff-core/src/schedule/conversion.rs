//! From what a network predicts to what a step needs.

use candle_core::Tensor;

use crate::{Error, Prediction, Result};

/// Weights (w_x, w_o) with which `to` = w_x·x_t + w_o·output, where `output` is a prediction of
/// kind `from` at a step whose cumulative product is ᾱ.
///
/// With x_t = √ᾱ·x0 + √(1−ᾱ)·ε and v = √ᾱ·ε − √(1−ᾱ)·x0 (Salimans and Ho 2022):
///
/// | from | x0 | ε |
/// |---|---|---|
/// | ε | (x_t − √(1−ᾱ)·ε)/√ᾱ | ε |
/// | x0 | x0 | (x_t − √ᾱ·x0)/√(1−ᾱ) |
/// | v | √ᾱ·x_t − √(1−ᾱ)·v | √ᾱ·v + √(1−ᾱ)·x_t |
///
/// # Errors
/// [`Error::Input`] where the equation divides by zero: x0 from ε at ᾱ = 0 (a step without
/// signal), ε from x0 at ᾱ = 1 (a step without noise); and when ᾱ lies outside [0, 1].
///
/// ```
/// use xdiff_core::{Prediction, schedule::conversion_weights};
///
/// let (x, output) = conversion_weights(Prediction::Epsilon, Prediction::Sample, 0.64)?;
/// assert!((x - 1.25).abs() < 1e-12 && (output + 0.75).abs() < 1e-12);
/// # Ok::<(), xdiff_core::Error>(())
/// ```
pub fn conversion_weights(from: Prediction, to: Prediction, alpha_bar: f64) -> Result<(f64, f64)> {
    if !(0. ..=1.).contains(&alpha_bar) {
        return Err(Error::input("alpha_bar", format!("is {alpha_bar}; it must lie in [0, 1]")));
    }
    if from == to {
        return Ok((0., 1.));
    }
    let (signal, noise) = (alpha_bar.sqrt(), (1. - alpha_bar).sqrt());
    match to {
        Prediction::Sample => x0_weights(from, signal, noise),
        Prediction::Epsilon => epsilon_weights(from, signal, noise),
        Prediction::Velocity => {
            let x0 = x0_weights(from, signal, noise)?;
            let epsilon = epsilon_weights(from, signal, noise)?;
            Ok((signal * epsilon.0 - noise * x0.0, signal * epsilon.1 - noise * x0.1))
        }
    }
}

fn x0_weights(from: Prediction, signal: f64, noise: f64) -> Result<(f64, f64)> {
    match from {
        Prediction::Epsilon if signal == 0. => Err(Error::input(
            "prediction",
            "x0 cannot be found from ε at a step without signal (ᾱ = 0); use a model that predicts v or x0, \
             or a spacing that leaves out the last training step",
        )),
        Prediction::Epsilon => Ok((1. / signal, -noise / signal)),
        Prediction::Sample => Ok((0., 1.)),
        Prediction::Velocity => Ok((signal, -noise)),
    }
}

fn epsilon_weights(from: Prediction, signal: f64, noise: f64) -> Result<(f64, f64)> {
    match from {
        Prediction::Epsilon => Ok((0., 1.)),
        Prediction::Sample if noise == 0. => Err(Error::input(
            "prediction",
            "ε cannot be found from x0 at a step without noise (ᾱ = 1); use a model that predicts ε or v, \
             or leave `set_alpha_to_one` off",
        )),
        Prediction::Sample => Ok((1. / noise, -signal / noise)),
        Prediction::Velocity => Ok((noise, signal)),
    }
}

/// Turns a prediction at one ᾱ into another kind; see [`conversion_weights`].
pub(crate) fn convert(
    from: Prediction,
    to: Prediction,
    alpha_bar: f64,
    x_t: &Tensor,
    output: &Tensor,
) -> Result<Tensor> {
    let (x, o) = conversion_weights(from, to, alpha_bar)?;
    weighted_sum(&[(x, x_t), (o, output)])
}

/// Σ w·x; terms of weight 0 are left out, so that what they hold has no say.
pub(crate) fn weighted_sum(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (weight, x) in terms.iter().filter(|(weight, _)| *weight != 0.) {
        let term = if *weight == 1. { (*x).clone() } else { (*x * *weight)? };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    match (sum, terms.first()) {
        (Some(sum), _) => Ok(sum),
        (None, Some((_, x))) => Ok(x.zeros_like()?),
        (None, None) => Err(Error::input("weighted sum", "has no terms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity];

    #[test]
    fn every_kind_is_found_from_every_other() {
        let (x0, noise) = (0.3, -1.7);
        for alpha_bar in [0.01, 0.5, 0.98f64] {
            let (a, s) = (alpha_bar.sqrt(), (1. - alpha_bar).sqrt());
            let x_t = a * x0 + s * noise;
            let value = |kind| match kind {
                Prediction::Epsilon => noise,
                Prediction::Sample => x0,
                Prediction::Velocity => a * noise - s * x0,
            };
            for from in KINDS {
                for to in KINDS {
                    let (w, o) = conversion_weights(from, to, alpha_bar).unwrap();
                    let got = w * x_t + o * value(from);
                    assert!((got - value(to)).abs() < 1e-12, "{from:?} → {to:?} at {alpha_bar}: {got}");
                }
            }
        }
    }

    #[test]
    fn a_division_by_zero_is_an_error() {
        assert!(conversion_weights(Prediction::Epsilon, Prediction::Sample, 0.).is_err());
        assert!(conversion_weights(Prediction::Sample, Prediction::Epsilon, 1.).is_err());
        assert!(conversion_weights(Prediction::Velocity, Prediction::Sample, f64::NAN).is_err());
        assert_eq!(conversion_weights(Prediction::Velocity, Prediction::Sample, 0.).unwrap(), (0., -1.));
    }
}
