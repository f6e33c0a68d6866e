//! The prototype vectors.

use candle_core::Tensor;
use xdiff_nn::{Init, Params};

use crate::{Error, Result};

/// P vectors of width D in the space of the features, each the likeness of a patch.
#[derive(Clone, Debug)]
pub struct Prototypes {
    vectors: Tensor,
}

impl Prototypes {
    /// The parameter `prototype_vectors` (P, D, 1, 1), drawn uniformly from [0, 1) where it is fresh, as
    /// published (the released add-on layers end in a sigmoid).
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0; those of [`Params::weight`].
    pub fn new(count: usize, width: usize, params: &Params) -> Result<Self> {
        if count == 0 || width == 0 {
            return Err(Error::config(
                "prototypes",
                format!("are {count} of width {width}, at least 1 of 1"),
            ));
        }
        let vectors = params.weight("prototype_vectors", (count, width, 1, 1), Init::Unit)?;
        Ok(Self { vectors: vectors.reshape((count, width))? })
    }

    /// Given vectors (P, D) or (P, D, 1, 1).
    ///
    /// # Errors
    /// [`Error::Input`] for another shape: prototypes of several positions are not supported.
    pub fn from_vectors(vectors: &Tensor) -> Result<Self> {
        let vectors = match *vectors.dims() {
            [p, d] if p * d > 0 => vectors.clone(),
            [p, d, 1, 1] if p * d > 0 => vectors.reshape((p, d))?,
            _ => {
                let reason = format!("have shape {:?}, not (P, D) or (P, D, 1, 1)", vectors.dims());
                return Err(Error::input("prototype vectors", reason));
            }
        };
        Ok(Self { vectors })
    }

    /// The vectors (P, D).
    pub fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// How many there are; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.vectors.dims()[0]
    }

    /// Their width D.
    pub fn width(&self) -> usize {
        self.vectors.dims()[1]
    }
}
