//! What accompanies one run of a network.

use std::fmt;

use candle_core::Tensor;
use xdiff_nn::layers::Mode;
use xdiff_nn::tap::visit;
use xdiff_nn::{Rng, Tap};

use crate::Result;

/// Whether a parameter or layer is that of this path or lies below it: `layer1.0.conv1` lies below
/// `layer1`, and `layer10` does not. Everything lies below the empty path.
pub fn is_below(name: &str, path: &str) -> bool {
    path.is_empty() || name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// One run of a network: whether it learns, where its dropout comes from, and who looks on.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::tap::{Recorder, Sites};
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Architecture, Pass};
///
/// let network = Architecture::SmallCnn.build(1, 2, &Params::fresh(0, &Device::Cpu))?;
/// let images = Rng::new(1).randn((2, 1, 16, 16), &Device::Cpu)?;
/// // A prediction of which one activation is kept, and a step of training with dropout.
/// let mut tap = Recorder::new(Sites::named(["layer1.0"]));
/// network.forward(&images, &mut Pass::eval(&mut tap))?;
/// assert_eq!(tap.seen()["layer1.0"].dims(), [2, 32, 16, 16]);
/// let rng = Rng::new(2);
/// network.forward(&images, &mut Pass::train(&mut ()).with_dropout(&rng))?;
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
pub struct Pass<'a> {
    mode: Mode,
    dropout: Option<&'a Rng>,
    frozen: &'a [String],
    tap: &'a mut dyn Tap,
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("mode", &self.mode)
            .field("dropout", &self.dropout)
            .field("frozen", &self.frozen)
            .finish_non_exhaustive()
    }
}

impl<'a> Pass<'a> {
    /// A prediction: running statistics, no dropout.
    pub fn eval(tap: &'a mut dyn Tap) -> Self {
        Self { mode: Mode::Eval, dropout: None, frozen: &[], tap }
    }

    /// A step of training: statistics of the batch, and no dropout unless
    /// [`with_dropout`](Self::with_dropout) is called.
    pub fn train(tap: &'a mut dyn Tap) -> Self {
        Self { mode: Mode::Train, ..Self::eval(tap) }
    }

    /// Draws dropout from forks of this generator by the path of the layer.
    #[must_use]
    pub fn with_dropout(self, rng: &'a Rng) -> Self {
        Self { dropout: Some(rng), ..self }
    }

    /// Keeps the running statistics of every batch norm that lies [below](is_below) one of these
    /// paths, as befits layers whose weights are frozen.
    #[must_use]
    pub fn with_frozen(self, paths: &'a [String]) -> Self {
        Self { frozen: paths, ..self }
    }

    /// Whether the run is one of training.
    pub fn is_training(&self) -> bool {
        self.mode == Mode::Train
    }

    /// The mode of the batch norm at this path.
    pub(crate) fn norm_mode(&self, path: &str) -> Mode {
        if self.frozen.iter().any(|frozen| is_below(path, frozen)) { Mode::Eval } else { self.mode }
    }

    /// Whether the activation of this site is wanted.
    pub(crate) fn wants(&self, site: &str) -> bool {
        self.tap.wants(site)
    }

    /// Offers the activation of a site to the tap.
    pub(crate) fn visit(&mut self, site: &str, x: Tensor) -> Result<Tensor> {
        Ok(visit(self.tap, site, x)?)
    }

    /// Dropout with probability `p` at this path; the identity in a prediction, or when no generator
    /// was given.
    pub(crate) fn dropout(&self, path: &str, x: Tensor, p: f64) -> Result<Tensor> {
        match self.dropout {
            Some(rng) if self.mode == Mode::Train && p > 0.0 => {
                Ok(xdiff_nn::layers::dropout(&x, p, &mut rng.fork(path))?)
            }
            _ => Ok(x),
        }
    }
}
