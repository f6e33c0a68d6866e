//! Images, held against projected prototypes.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use xdiff_core::statistics::pearson;
use xdiff_nn::layers::{Resize, resize2d};

use super::Correlation;
use crate::host::{finite_images, first_largest, host};
use crate::projection::{Projected, ProjectionConfig};
use crate::window::Window;
use crate::{Error, Result, squared_distances};

/// Images, held against projected prototypes.
#[derive(Clone, Debug)]
pub struct Queries<'a> {
    projected: &'a Projected,
    config: &'a ProjectionConfig,
    images: Tensor,
    /// (B, D, h, w).
    embedded: Tensor,
    /// Similarities (B, P, h, w).
    maps: Tensor,
    /// The nearest position of each image to each prototype.
    nearest: Vec<Vec<usize>>,
    sources: Option<&'a [Tensor]>,
    /// How many channels of the images are compared, from the first on.
    channels: usize,
}

impl<'a> Queries<'a> {
    /// `config` is the one that the prototypes were projected with: its similarity says which patch is
    /// the nearest and its window rule what pixels stand for it.
    ///
    /// # Shapes
    /// `images` (B, C, H, W), `embedded` (B, D, h, w): their features, from the extractor of the
    /// projection.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes do not fit the projection, [`Error::NonFinite`] naming an image with
    /// NaN or infinite pixels or features.
    pub fn new(
        images: &Tensor,
        embedded: &Tensor,
        projected: &'a Projected,
        config: &'a ProjectionConfig,
    ) -> Result<Self> {
        let record = &projected.projection;
        let (height, width) = record.image_size;
        let count = images.dims().first().copied().unwrap_or(0);
        if count == 0 || *images.dims() != [count, record.channels, height, width] {
            let wanted = format!("(B, {}, {height}, {width})", record.channels);
            let reason = format!("have shape {:?}, prototypes come from {wanted}", images.dims());
            return Err(Error::input("images", reason));
        }
        let prototypes = projected.prototypes()?;
        if !matches!(*embedded.dims(), [b, d, h, w] if b == count && d == prototypes.width() && h * w > 0) {
            let wanted = format!("({count}, {}, h, w)", prototypes.width());
            let reason = format!("have shape {:?}, not {wanted}", embedded.dims());
            return Err(Error::input("features", reason));
        }
        let (images, embedded) = (host(images)?, host(embedded)?);
        finite_images("pixels", &images)?;
        finite_images("features", &embedded)?;
        let (patches, vectors) = config.similarity.space(&embedded, &host(prototypes.vectors())?)?;
        let distances = squared_distances(&patches, &vectors)?;
        let maps = config.similarity.of_distance(&distances)?;
        // Similarities of far patches may round to one number, their distances do not.
        let nearness = distances.neg()?.flatten_from(2)?.to_vec3::<f32>()?;
        let nearest = nearness.iter().map(|maps| maps.iter().map(|map| first_largest(map)).collect());
        let nearest = nearest.collect();
        let channels = record.channels;
        Ok(Self { projected, config, images, embedded, maps, nearest, sources: None, channels })
    }

    /// Adds the source image (C, H, W) of each prototype, in the order of the prototypes, for
    /// [`Correlation::WholeImage`].
    ///
    /// # Errors
    /// [`Error::Input`] when there are more or fewer than prototypes or one has another shape,
    /// [`Error::Stale`] when one is not the image that the prototype was projected onto,
    /// [`Error::NonFinite`].
    pub fn with_sources(mut self, images: &'a [Tensor]) -> Result<Self> {
        let record = &self.projected.projection;
        if images.len() != record.sources.len() {
            let reason = format!("are {} for {} prototypes", images.len(), record.sources.len());
            return Err(Error::input("source images", reason));
        }
        let shape = [record.channels, record.image_size.0, record.image_size.1];
        for (source, image) in record.sources.iter().zip(images) {
            if *image.dims() != shape {
                let reason = format!("hold one of shape {:?}, not {shape:?}", image.dims());
                return Err(Error::input("source images", reason));
            }
            record.check_image(&source.image, image)?;
        }
        self.sources = Some(images);
        Ok(self)
    }

    /// Compares only the first channels of the images, where the others are a condition that the network
    /// was given (a mask) and nothing that it drew.
    ///
    /// # Errors
    /// [`Error::Input`] when there are not so many, or for none.
    pub fn of_channels(mut self, channels: usize) -> Result<Self> {
        let all = self.projected.projection.channels;
        if !(1..=all).contains(&channels) {
            let reason = format!("{channels} are to be compared, images have {all}");
            return Err(Error::input("channels", reason));
        }
        self.channels = channels;
        Ok(self)
    }

    /// The pixels of an image that stand for its patch nearest to a prototype.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such image or prototype; those of the window rule.
    pub fn window(&self, image: usize, prototype: usize) -> Result<Window> {
        let Some(at) = self.nearest.get(image).and_then(|nearest| nearest.get(prototype)) else {
            let reason = format!("there is no image {image} with a prototype {prototype}");
            return Err(Error::input("window", reason));
        };
        let map = self.maps.get(image)?.get(prototype)?;
        let w = map.dim(1)?;
        self.config.window.window((at / w, at % w), &map, self.projected.projection.image_size)
    }

    /// The similarities of all patches to all prototypes (B, P, h, w).
    pub fn maps(&self) -> &Tensor {
        &self.maps
    }

    /// The similarity g (B, P) of the nearest patch.
    ///
    /// # Errors
    /// When the tensor engine refuses.
    pub fn similarity(&self) -> Result<Tensor> {
        Ok(self.maps.flatten_from(2)?.max(2)?)
    }

    /// corr(p_j, x) for each image and prototype: B rows of P numbers in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Input`] when maps differ in size or [source images](Self::with_sources) are missing where
    /// they are asked for; those of the window rule.
    pub fn correlation(&self, correlation: Correlation) -> Result<Vec<Vec<f64>>> {
        match correlation {
            Correlation::PatchPixel => self.patch_pixel(),
            Correlation::ActivationMap => self.activation_map(),
            Correlation::Latent => self.latent(),
            Correlation::WholeImage => self.whole_image(),
        }
    }

    fn patch_pixel(&self) -> Result<Vec<Vec<f64>>> {
        let patches: Vec<(Vec<f64>, (usize, usize))> = self
            .projected
            .patches
            .iter()
            .map(|patch| Ok((numbers(&self.compared(patch)?)?, (patch.dim(1)?, patch.dim(2)?))))
            .collect::<Result<_>>()?;
        let row = |b: usize| {
            let image = self.compared(&self.images.get(b)?)?;
            let one = |j: usize| {
                let (patch, shape) = &patches[j];
                let window = self.window(b, j)?;
                let mut pixels = window.crop(&image)?;
                if (window.height(), window.width()) != *shape {
                    let resized = resize2d(&pixels.unsqueeze(0)?, *shape, Resize::AntialiasedBilinear)?;
                    pixels = resized.squeeze(0)?;
                }
                Ok(pearson(patch, &numbers(&pixels)?).unwrap_or(0.0))
            };
            (0..patches.len()).map(one).collect::<Result<Vec<f64>>>()
        };
        (0..self.nearest.len()).into_par_iter().map(row).collect()
    }

    /// The channels of an image (C, height, width) that are compared.
    fn compared(&self, image: &Tensor) -> Result<Tensor> {
        Ok(image.narrow(0, 0, self.channels)?)
    }

    fn activation_map(&self) -> Result<Vec<Vec<f64>>> {
        let source = self.config.similarity.of_distance(&host(&self.projected.maps)?)?;
        if self.maps.dims()[1..] != *source.dims() {
            let reason =
                format!("have shape {:?}, those of the sources {:?}", self.maps.dims(), source.dims());
            return Err(Error::input("similarity maps", reason));
        }
        let source: Vec<Vec<f64>> = source.to_dtype(DType::F64)?.flatten_from(1)?.to_vec2()?;
        let maps: Vec<Vec<Vec<f64>>> = self.maps.to_dtype(DType::F64)?.flatten_from(2)?.to_vec3()?;
        let of = |maps: &Vec<Vec<f64>>| maps.iter().zip(&source).map(|(a, b)| or_zero(a, b)).collect();
        Ok(maps.par_iter().map(of).collect())
    }

    fn latent(&self) -> Result<Vec<Vec<f64>>> {
        let prototypes: Vec<Vec<f64>> = host(&self.projected.vectors)?.to_dtype(DType::F64)?.to_vec2()?;
        let patches = self.embedded.flatten_from(2)?.transpose(1, 2)?.to_dtype(DType::F64)?;
        let patches: Vec<Vec<Vec<f64>>> = patches.to_vec3()?;
        let of = |(patches, nearest): (&Vec<Vec<f64>>, &Vec<usize>)| {
            prototypes.iter().zip(nearest).map(|(p, at)| or_zero(&patches[*at], p)).collect()
        };
        Ok(patches.par_iter().zip(&self.nearest).map(of).collect())
    }

    fn whole_image(&self) -> Result<Vec<Vec<f64>>> {
        let Some(sources) = self.sources else {
            let reason = "are not given: `whole_image` compares with them, see `Queries::with_sources`";
            return Err(Error::input("source images", reason));
        };
        let sources = sources.iter().map(|s| numbers(&self.compared(s)?)).collect::<Result<Vec<_>>>()?;
        let images = self.images.narrow(1, 0, self.channels)?;
        let images: Vec<Vec<f64>> = images.to_dtype(DType::F64)?.flatten_from(1)?.to_vec2()?;
        let of = |image: &Vec<f64>| sources.iter().map(|source| or_zero(image, source)).collect();
        Ok(images.par_iter().map(of).collect())
    }
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(host(x)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn or_zero(a: &[f64], b: &[f64]) -> f64 {
    pearson(a, b).unwrap_or(0.0)
}
