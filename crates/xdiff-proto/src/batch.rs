//! Images with what is known of them.

use candle_core::Tensor;

use crate::{Error, Result};

/// Some images, their names and their classes.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_proto::Batch;
///
/// let images = Tensor::zeros((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let batch = Batch::new(images, vec!["a".into(), "b".into()], vec![0, 1])?;
/// assert_eq!(batch.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    images: Tensor,
    ids: Vec<String>,
    classes: Vec<u32>,
}

impl Batch {
    /// # Shapes
    /// `images` (B, C, H, W) with B names and B classes; all 0 where there is one class.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no image or the numbers differ.
    pub fn new(images: Tensor, ids: Vec<String>, classes: Vec<u32>) -> Result<Self> {
        let &[count, _, _, _] = images.dims() else {
            return Err(Error::input("images", format!("have shape {:?}, not (B, C, H, W)", images.dims())));
        };
        if count == 0 || images.elem_count() == 0 {
            return Err(Error::input("images", format!("have shape {:?}: there is none", images.dims())));
        }
        if ids.len() != count || classes.len() != count {
            let reason = format!("{count} images, {} names, {} classes", ids.len(), classes.len());
            return Err(Error::input("batch", reason));
        }
        Ok(Self { images, ids, classes })
    }

    /// Images of one class.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn unlabelled(images: Tensor, ids: Vec<String>) -> Result<Self> {
        let classes = vec![0; ids.len()];
        Self::new(images, ids, classes)
    }

    /// The images (B, C, H, W).
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// Their names.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Their classes.
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// How many there are; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}
