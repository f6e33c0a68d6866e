//! Consistency and stability of prototypes (Huang et al. 2023, "Evaluation and Improvement of
//! Interpretability for Self-Explainable Part-Prototype Networks").

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::ImageParts;
use super::peak::{checked, peaks};
use crate::window::Window;
use crate::{Error, Result};

/// When a prototype corresponds to a part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorrespondenceConfig {
    /// How far the window around the peak of the activation reaches to each side, as a share of the
    /// image's height and width: 36/224 as published (72 of 224 pixels in all).
    pub reach: f64,
    /// What share of the smaller of window and region they must have in common; see
    /// [`ImageParts::shown`]. Points do not look at it.
    pub overlap: f64,
    /// In what share of its images a prototype must correspond to the same part to be consistent: 0.8 as
    /// published.
    pub threshold: f64,
}

impl Default for CorrespondenceConfig {
    fn default() -> Self {
        Self { reach: 36.0 / 224.0, overlap: 0.5, threshold: 0.8 }
    }
}

impl CorrespondenceConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] for a number outside [0, 1], or 0 for the reach or the threshold.
    pub fn validate(&self) -> Result<()> {
        let values =
            [("reach", self.reach, 0.0), ("overlap", self.overlap, -1.0), ("threshold", self.threshold, 0.0)];
        for (field, value, above) in values {
            if !(value > above && (0.0..=1.0).contains(&value)) {
                return Err(Error::config(field, format!("is {value}, must lie between 0 and 1")));
            }
        }
        Ok(())
    }

    /// The window around a peak: `reach` of the image to each side, cut off at its border.
    fn window(&self, peak: (usize, usize), size: (usize, usize)) -> Window {
        let reach = |pixels: usize| ((self.reach * pixels as f64).round() as usize).max(1);
        let (down, across) = (reach(size.0), reach(size.1));
        Window {
            top: peak.0.saturating_sub(down),
            left: peak.1.saturating_sub(across),
            bottom: (peak.0 + down).min(size.0),
            right: (peak.1 + across).min(size.1),
        }
    }
}

/// Gathers, batch by batch, which parts prototypes correspond to: those shown by the window around the
/// peak of the prototype's activation map, enlarged to the image.
///
/// A prototype with a class is looked at in images of its class alone, as published; one without in all.
/// The published window holds points on its border too, and so does this one.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::evaluation::{Correspondence, CorrespondenceConfig, ImageParts};
///
/// // One prototype, active at the top left of a map of 2 × 2; the part is at the top left of one image
/// // and at the bottom right of another.
/// let map = Tensor::new(&[[[[1f32, 0.], [0., 0.]]]], &Device::Cpu)?;
/// let mut seen = Correspondence::new(1, None, 1, CorrespondenceConfig::default())?;
/// for at in [(4.0, 4.0), (28.0, 28.0)] {
///     seen.update(&map, &[0], &[ImageParts::from_points((32, 32), &[Some(at)])?])?;
/// }
/// let consistency = seen.consistency()?;
/// assert_eq!((consistency.parts[0], consistency.score), (Some((0, 0.5)), 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Correspondence {
    config: CorrespondenceConfig,
    class_of: Option<Vec<usize>>,
    prototypes: usize,
    parts: usize,
    /// For each prototype and part: images in which it corresponds, images in which it is to be seen.
    found: Vec<(u64, u64)>,
    /// For each prototype: images in which it kept its parts under a perturbation, images compared.
    kept: Vec<(u64, u64)>,
    /// For each prototype: images looked at.
    images: Vec<u64>,
}

/// Which parts a prototype corresponds to in an image.
#[derive(Debug)]
struct Shown {
    image: usize,
    prototype: usize,
    parts: Vec<bool>,
}

/// The share of consistent prototypes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// The share of prototypes that correspond to one part in at least the threshold's share of the
    /// images that show it (published in percent).
    pub score: f64,
    /// For each prototype the part it corresponds to most often, with the share of images; none when no
    /// image shows a part.
    pub parts: Vec<Option<(usize, f64)>>,
}

/// How often prototypes keep their parts when images are perturbed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stability {
    /// The mean over prototypes (published in percent).
    pub score: f64,
    /// For each prototype the share of its images in which it corresponds to exactly the same parts.
    pub prototypes: Vec<f64>,
}

impl Correspondence {
    /// For `prototypes` prototypes, of these classes if they have any, and images with `parts` parts.
    ///
    /// # Errors
    /// [`Error::Config`] when a number is 0 or the classes are of other prototypes; those of
    /// [`CorrespondenceConfig::validate`].
    pub fn new(
        prototypes: usize,
        class_of: Option<Vec<usize>>,
        parts: usize,
        config: CorrespondenceConfig,
    ) -> Result<Self> {
        config.validate()?;
        if prototypes == 0 || parts == 0 {
            return Err(Error::config(
                "parts",
                format!("are {parts} for {prototypes} prototypes, at least 1"),
            ));
        }
        if let Some(n) = class_of.as_ref().map(Vec::len).filter(|n| *n != prototypes) {
            return Err(Error::config("class_of", format!("names {n} classes of {prototypes} prototypes")));
        }
        let found = vec![(0, 0); prototypes * parts];
        let (kept, images) = (vec![(0, 0); prototypes], vec![0; prototypes]);
        Ok(Self { config, class_of, prototypes, parts, found, kept, images })
    }

    /// Adds images.
    ///
    /// # Shapes
    /// `activation` (B, P, h, w), with B classes and B annotations.
    ///
    /// # Errors
    /// [`Error::Input`] when numbers do not fit, [`Error::NonFinite`] for a map with NaN; nothing is added
    /// then.
    pub fn update(&mut self, activation: &Tensor, classes: &[u32], parts: &[ImageParts]) -> Result<()> {
        let shown = self.shown(activation, classes, parts)?;
        self.add(&shown, parts);
        Ok(())
    }

    fn add(&mut self, shown: &[Shown], parts: &[ImageParts]) {
        for Shown { image, prototype, parts: shown } in shown {
            self.images[*prototype] += 1;
            let rows = &mut self.found[prototype * self.parts..][..self.parts];
            for (k, ((found, visible), shown)) in rows.iter_mut().zip(shown).enumerate() {
                *found += u64::from(*shown);
                *visible += u64::from(parts[*image].visible(k));
            }
        }
    }

    /// Adds images together with their perturbed copies, such as [`perturb`] makes: what
    /// [`update`](Self::update) adds for the first, and whether the second correspond to the same parts.
    ///
    /// # Shapes
    /// `activation`, `perturbed` (B, P, h, w), with B classes and B annotations.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_pair(
        &mut self,
        activation: &Tensor,
        perturbed: &Tensor,
        classes: &[u32],
        parts: &[ImageParts],
    ) -> Result<()> {
        let before = self.shown(activation, classes, parts)?;
        let after = self.shown(perturbed, classes, parts)?;
        for (before, after) in before.iter().zip(&after) {
            let (kept, compared) = &mut self.kept[before.prototype];
            *kept += u64::from(before.parts == after.parts);
            *compared += 1;
        }
        self.add(&before, parts);
        Ok(())
    }

    /// For each image and each prototype that is looked at in it, which parts it corresponds to.
    fn shown(&self, activation: &Tensor, classes: &[u32], parts: &[ImageParts]) -> Result<Vec<Shown>> {
        let maps = checked(activation)?;
        let (count, prototypes, _, _) = maps.dims4()?;
        if prototypes != self.prototypes || classes.len() != count || parts.len() != count {
            let (c, a) = (classes.len(), parts.len());
            let reason = format!("have shape {:?}, with {c} classes and {a} annotations", maps.dims());
            return Err(Error::input(
                "activation maps",
                reason + &format!(", for {} prototypes", self.prototypes),
            ));
        }
        if let Some(other) = parts.iter().find(|p| p.len() != self.parts) {
            let reason = format!("are {} in an image, {} were announced", other.len(), self.parts);
            return Err(Error::input("parts", reason));
        }
        let mut shown = Vec::new();
        for (b, parts) in parts.iter().enumerate() {
            let own = |j: &usize| self.class_of.as_ref().is_none_or(|of| of[*j] == classes[b] as usize);
            let own: Vec<usize> = (0..prototypes).filter(own).collect();
            if own.is_empty() {
                continue;
            }
            let rows: Vec<u32> = own.iter().map(|j| *j as u32).collect();
            let maps = maps.get(b)?.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
            for (j, peak) in own.into_iter().zip(peaks(&maps, parts.size())?) {
                let window = self.config.window(peak, parts.size());
                let parts = (0..self.parts).map(|k| parts.shown(k, &window, self.config.overlap)).collect();
                shown.push(Shown { image: b, prototype: j, parts });
            }
        }
        Ok(shown)
    }

    /// The consistency score of what was added.
    ///
    /// # Errors
    /// [`Error::EmptyClass`] when no image of a prototype's class was added, [`Error::Input`] when no image
    /// was.
    pub fn consistency(&self) -> Result<Consistency> {
        self.check_seen(&self.images)?;
        let part = |of: &[(u64, u64)]| {
            let share = |(k, (found, visible)): (usize, &(u64, u64))| {
                (*visible > 0).then(|| (k, *found as f64 / *visible as f64))
            };
            let shares = of.iter().enumerate().filter_map(share);
            shares.reduce(|best, next| if next.1 > best.1 { next } else { best })
        };
        let parts: Vec<Option<(usize, f64)>> = self.found.chunks_exact(self.parts).map(part).collect();
        let consistent =
            |p: &&Option<(usize, f64)>| p.is_some_and(|(_, share)| share >= self.config.threshold);
        let score = parts.iter().filter(consistent).count() as f64 / self.prototypes as f64;
        Ok(Consistency { score, parts })
    }

    /// The stability score of the pairs that were added.
    ///
    /// # Errors
    /// As [`consistency`](Self::consistency).
    pub fn stability(&self) -> Result<Stability> {
        self.check_seen(&self.kept.iter().map(|(_, n)| *n).collect::<Vec<_>>())?;
        let prototypes: Vec<f64> = self.kept.iter().map(|(kept, n)| *kept as f64 / *n as f64).collect();
        Ok(Stability { score: prototypes.iter().sum::<f64>() / prototypes.len() as f64, prototypes })
    }

    fn check_seen(&self, images: &[u64]) -> Result<()> {
        match (images.iter().position(|n| *n == 0), &self.class_of) {
            (None, _) => Ok(()),
            (Some(j), Some(class_of)) => {
                let hint = "add images of it, or leave its prototypes out";
                Err(Error::EmptyClass { class: class_of[j], what: "image", hint })
            }
            (Some(_), None) => Err(Error::input("images", "were not added: there is nothing to score")),
        }
    }
}

/// The noise of the stability score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerturbationConfig {
    /// The noise's standard deviation, 0.2 as published for images of standard deviation 1.
    pub deviation: f64,
    /// The most that a pixel changes, 0.25 as published.
    pub bound: f64,
}

impl Default for PerturbationConfig {
    fn default() -> Self {
        Self { deviation: 0.2, bound: 0.25 }
    }
}

/// Images with normal noise, clipped at ±bound. Published for images normalised to mean 0 and standard
/// deviation 1; scale both numbers for images in another range. The result is not clipped.
///
/// The noise depends on the random generator and on `first`, the number of the first image, not on the
/// batch.
///
/// # Shapes
/// `images` (B, C, H, W) → the same, f32.
///
/// # Errors
/// [`Error::Config`] when a number is negative or not finite, [`Error::Input`] for another shape.
pub fn perturb(images: &Tensor, first: u64, config: PerturbationConfig, rng: &Rng) -> Result<Tensor> {
    let sound = |v: f64| v.is_finite() && v >= 0.0;
    if !sound(config.deviation) || !sound(config.bound) {
        return Err(Error::config("perturbation", format!("is {config:?}, numbers of at least 0")));
    }
    let &[count, c, h, w] = images.dims() else {
        return Err(Error::input("images", format!("have shape {:?}, not (B, C, H, W)", images.dims())));
    };
    if images.elem_count() == 0 {
        return Err(Error::input("images", format!("have shape {:?}: there is none", images.dims())));
    }
    let mut noise = Vec::with_capacity(images.elem_count());
    for image in 0..count as u64 {
        let mut rng = rng.fork("perturbation").sample(first + image);
        let one = |_| (config.deviation * rng.normal()).clamp(-config.bound, config.bound) as f32;
        noise.extend((0..c * h * w).map(one));
    }
    let noise = Tensor::from_vec(noise, (count, c, h, w), &Device::Cpu)?.to_device(images.device())?;
    Ok((images.to_dtype(DType::F32)? + noise)?)
}
