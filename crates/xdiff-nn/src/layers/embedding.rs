//! Tables of learnt vectors.

use candle_core::{DType, Tensor};

use crate::params::{Init, Params};
use crate::{Error, Result};

/// A table of learnt vectors, looked up by number.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::Params;
/// use xdiff_nn::layers::Embedding;
///
/// let table = Embedding::new(10, 4, &Params::fresh(0, &Device::Cpu))?;
/// let ids = Tensor::new(&[[1u32, 9], [1, 0]], &Device::Cpu)?;
/// assert_eq!(table.forward(&ids)?.dims(), [2, 2, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Asks for `weight` (count, width), at first standard normal.
    ///
    /// # Errors
    /// Those of [`Params::weight`].
    pub fn new(count: usize, width: usize, params: &Params) -> Result<Self> {
        Ok(Self { weight: params.weight("weight", (count, width), Init::Normal(1.0))? })
    }

    /// The table (count, width).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Looks up vectors.
    ///
    /// # Shapes
    /// ids (…), u8, u32 or i64 → (…, width).
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first id that is not in the table, or for ids that are not
    /// integers.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (count, width) = self.weight.dims2()?;
        if !matches!(ids.dtype(), DType::U8 | DType::U32 | DType::I64) {
            let reason = format!("ids must be u8, u32 or i64, got {:?}", ids.dtype());
            return Err(Error::argument("embedding", reason));
        }
        let flat = ids.flatten_all()?;
        let numbers = flat.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let known = |id: &i64| usize::try_from(*id).is_ok_and(|id| id < count);
        if let Some((place, id)) = numbers.iter().enumerate().find(|(_, id)| !known(id)) {
            let reason = format!("id {id} at place {place} is not in a table of {count}");
            return Err(Error::argument("embedding", reason));
        }
        let shape: Vec<usize> = ids.dims().iter().copied().chain([width]).collect();
        Ok(self.weight.index_select(&flat.contiguous()?, 0)?.reshape(shape)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Rng;
    use crate::gradcheck::{Options, check};

    #[test]
    fn repeated_ids_add_their_gradients() {
        let weight = Rng::new(1).randn((5, 3), &Device::Cpu).unwrap();
        let ids = Tensor::new(&[[4u32, 1, 4], [0, 4, 1]], &Device::Cpu).unwrap();
        for ids in [ids.clone(), ids.to_dtype(DType::I64).unwrap(), ids.t().unwrap()] {
            let run = |x: &[Tensor]| Embedding { weight: x[0].clone() }.forward(&ids);
            check(run, std::slice::from_ref(&weight), Options::default()).unwrap();
        }
    }

    #[test]
    fn vectors_are_rows_of_the_table() {
        let table = Embedding::new(4, 2, &Params::fresh(3, &Device::Cpu)).unwrap();
        let rows = table.weight().to_vec2::<f32>().unwrap();
        let ids = Tensor::new(&[[3i64, 0], [1, 2]], &Device::Cpu).unwrap().t().unwrap();
        let got = table.forward(&ids).unwrap().flatten_to(1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(got, [3, 1, 0, 2].map(|i: usize| rows[i].clone()));
        let one = table.forward(&Tensor::new(2u32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(one.to_vec1::<f32>().unwrap(), rows[2]);
    }

    #[test]
    fn unknown_ids_are_named() {
        let table = Embedding::new(4, 2, &Params::fresh(3, &Device::Cpu)).unwrap();
        for id in [4i64, -1, i64::MAX] {
            let error = table.forward(&Tensor::new(&[0, id], &Device::Cpu).unwrap()).unwrap_err();
            assert!(error.to_string().contains(&format!("id {id} at place 1")), "{error}");
        }
        let error = table.forward(&Tensor::new(&[0f32], &Device::Cpu).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }));
    }
}
