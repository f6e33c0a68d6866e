//! Looking inside a running model.
//!
//! A model calls its [`Tap`] at each named site. The name is the path of the weight that produced
//! the activation (`down_blocks.1.resnets.0`, `mid_block.attentions.0`), so that a weight and its
//! activation share a name. `()` is the tap that sees nothing and costs nothing.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};

use crate::{Error, Result};

/// Sees, and may replace, named activations and attention maps while a model runs.
pub trait Tap {
    /// Whether the activation of this site is wanted. A model skips the call when it is not.
    fn wants(&self, _site: &str) -> bool {
        false
    }

    /// Receives the activation of a site (most often (B, C, H, W)) and returns what the model goes
    /// on with: the same tensor, or another of its shape.
    ///
    /// # Errors
    /// Whatever the tap finds wrong; the model's run ends with it.
    fn activation(&mut self, _site: &str, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }

    /// Whether the attention probabilities of this site are wanted. They are only materialised
    /// when they are: that costs memory of the order of queries × keys.
    fn wants_attention(&self, _site: &str) -> bool {
        false
    }

    /// Receives attention probabilities (B, heads, queries, keys), rows summing to 1, and returns
    /// what the model goes on with.
    ///
    /// # Errors
    /// Whatever the tap finds wrong; the model's run ends with it.
    fn attention(&mut self, _site: &str, probabilities: Tensor) -> Result<Tensor> {
        Ok(probabilities)
    }
}

impl Tap for () {}

/// Offers an activation to a tap that wants it, and passes it through otherwise.
///
/// # Errors
/// Those of the tap; [`Error::Shape`] when it returns another shape.
pub fn visit(tap: &mut dyn Tap, site: &str, x: Tensor) -> Result<Tensor> {
    if !tap.wants(site) {
        return Ok(x);
    }
    let shape = x.shape().clone();
    let y = tap.activation(site, x)?;
    if y.shape() != &shape {
        return Err(Error::shape(
            "tap",
            format!("an activation of shape {shape:?} from site {site}"),
            y.dims(),
        ));
    }
    Ok(y)
}

/// Which sites a recorder listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sites {
    /// Every site.
    #[default]
    All,
    /// The sites of these names.
    Named(Vec<String>),
}

impl Sites {
    /// The sites of these names.
    pub fn named<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Sites::Named(names.into_iter().map(Into::into).collect())
    }

    fn has(&self, site: &str) -> bool {
        match self {
            Sites::All => true,
            Sites::Named(names) => names.iter().any(|n| n == site),
        }
    }
}

/// Keeps the activations of its sites.
#[derive(Debug, Default)]
pub struct Recorder {
    sites: Sites,
    seen: BTreeMap<String, Tensor>,
}

impl Recorder {
    /// A recorder of these sites.
    pub fn new(sites: Sites) -> Self {
        Self { sites, seen: BTreeMap::new() }
    }

    /// The activations by site; the last one where a site ran more than once.
    pub fn seen(&self) -> &BTreeMap<String, Tensor> {
        &self.seen
    }
}

impl Tap for Recorder {
    fn wants(&self, site: &str) -> bool {
        self.sites.has(site)
    }

    fn activation(&mut self, site: &str, x: Tensor) -> Result<Tensor> {
        self.seen.insert(site.to_owned(), x.clone());
        Ok(x)
    }
}

/// Keeps the activations of its sites and, after a backward pass, their gradients.
///
/// candle drops the gradients of intermediate tensors. Adding a zero-valued leaf to an activation
/// leaves the number as it is, and the leaf's gradient is the activation's: one backward pass
/// serves any number of sites, and the weights need not be variables.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::tap::{GradRecorder, Sites, Tap, visit};
///
/// let mut tap = GradRecorder::new(Sites::named(["h"]));
/// let x = Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?;
/// let h = visit(&mut tap, "h", (x * 2.)?)?;
/// let grads = h.sqr()?.sum_all()?.backward()?;
/// assert_eq!(tap.gradient(&grads, "h")?.to_vec1::<f32>()?, [4., 8., 12.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct GradRecorder {
    sites: Sites,
    seen: BTreeMap<String, (Tensor, Var)>,
}

impl GradRecorder {
    /// A recorder of these sites.
    pub fn new(sites: Sites) -> Self {
        Self { sites, seen: BTreeMap::new() }
    }

    /// The sites that ran, in order of name.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.seen.keys().map(String::as_str)
    }

    /// The activation of a site.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when the site did not run.
    pub fn activation_of(&self, site: &str) -> Result<&Tensor> {
        self.entry(site).map(|(x, _)| x)
    }

    /// The gradient of the differentiated value with respect to the activation of a site.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when the site did not run or the value does not depend on it.
    pub fn gradient(&self, grads: &GradStore, site: &str) -> Result<Tensor> {
        let (_, leaf) = self.entry(site)?;
        grads.get(leaf).cloned().ok_or_else(|| Error::MissingGradient { name: site.to_owned() })
    }

    fn entry(&self, site: &str) -> Result<&(Tensor, Var)> {
        self.seen.get(site).ok_or_else(|| Error::MissingGradient { name: site.to_owned() })
    }
}

impl Tap for GradRecorder {
    fn wants(&self, site: &str) -> bool {
        self.sites.has(site)
    }

    fn activation(&mut self, site: &str, x: Tensor) -> Result<Tensor> {
        let leaf = Var::from_tensor(&x.zeros_like()?)?;
        let y = (&x + leaf.as_tensor())?;
        self.seen.insert(site.to_owned(), (x.detach(), leaf));
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn gradients_of_several_sites_in_one_pass() {
        let mut tap = GradRecorder::new(Sites::All);
        let x = Tensor::new(&[1f32, -2.], &Device::Cpu).unwrap();
        let a = visit(&mut tap, "a", x.affine(3., 0.).unwrap()).unwrap();
        let b = visit(&mut tap, "b", a.sqr().unwrap()).unwrap();
        let grads = (b * 0.5).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(tap.gradient(&grads, "b").unwrap().to_vec1::<f32>().unwrap(), [0.5, 0.5]);
        assert_eq!(tap.gradient(&grads, "a").unwrap().to_vec1::<f32>().unwrap(), [3., -6.]);
        assert_eq!(tap.sites().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_site_that_did_not_run_is_an_error() {
        let tap = GradRecorder::new(Sites::All);
        assert!(matches!(tap.activation_of("x"), Err(Error::MissingGradient { name }) if name == "x"));
    }

    #[test]
    fn a_tap_may_not_change_the_shape() {
        struct Crop;
        impl Tap for Crop {
            fn wants(&self, _: &str) -> bool {
                true
            }
            fn activation(&mut self, _: &str, x: Tensor) -> Result<Tensor> {
                Ok(x.narrow(0, 0, 1)?)
            }
        }
        let x = Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap();
        assert!(matches!(visit(&mut Crop, "s", x), Err(Error::Shape { .. })));
    }
}
