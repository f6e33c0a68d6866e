//! Influence along a run of sampling.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_core::sample::{Flow, Keep, Observer, StepView};
use xdiff_nn::Tap;
use xdiff_nn::tap::{Recorder, Sites};

use super::sites::SiteMap;
use super::standardised::Scaling;
use super::statistics::FeatureStatistics;
use crate::influence::normalised_influence;
use crate::{Error, Prototypes, Result, Similarity, nearest};

/// How much each prototype weighs at a step, for all samples of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct InfluenceStep {
    /// The call's place in the run, from 0.
    pub step: usize,
    /// The time step.
    pub t: f64,
    /// The similarity g of each sample's nearest patch to each prototype (samples, P).
    pub similarity: Vec<Vec<f64>>,
    /// The normalised influence (samples, P): the softmax of g over the prototypes (Dey & Saikia 2025,
    /// Eq. 7).
    pub influence: Vec<Vec<f64>>,
    /// Where that patch is on the feature map (samples, P): row and column.
    pub position: Vec<Vec<(usize, usize)>>,
    /// The height and width of the feature map.
    pub map_size: (usize, usize),
}

/// One number of an [`InfluenceStep`], with all that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfluenceRow {
    /// The call's place in the run, from 0.
    pub step: usize,
    /// The time step.
    pub t: f64,
    /// The sample's place in the run.
    pub sample: usize,
    /// The prototype.
    pub prototype: usize,
    /// g.
    pub similarity: f64,
    /// The normalised influence.
    pub influence: f64,
    /// The row of the nearest patch on the feature map.
    pub row: usize,
    /// Its column.
    pub column: usize,
}

/// Watches a run of sampling and tells how the influence of the prototypes moves as an image comes about.
///
/// Two looks are offered. [`running`](Self::running) takes the features of the network that samples, at each
/// step's own x_t and t: no pass is added, but features at another t than the prototypes' are of another
/// distribution, so that distances (and the temperature of the influence) drift with t. Under
/// [guidance](xdiff_core::guidance::Guided) the half with the condition is looked at.
/// [`predicted`](Self::predicted) gives the clean image x̂0 that each step predicts to the extractor that the
/// prototypes were made with, which noises it to its own t: features are comparable over the run, for the
/// price of a pass per step that is kept.
///
/// A run that begins anew (step 0 of sample 0) replaces what was seen before.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_core::Cond;
/// use xdiff_core::sample::{SampleOptions, Sampler};
/// use xdiff_core::scheduler::{Ddim, DdimConfig};
/// use xdiff_core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
/// use xdiff_nn::{Params, Rng};
/// use xdiff_proto::diffusion::{InfluenceOverTime, SiteMap};
/// use xdiff_proto::{Prototypes, Similarity};
///
/// let unet = UNet2D::new(
///     &UNet2DConfig {
///         in_channels: 1,
///         out_channels: 1,
///         block_out_channels: vec![8, 16],
///         down_block_types: vec![DownBlock::Plain, DownBlock::Plain],
///         up_block_types: vec![UpBlock::Plain, UpBlock::Plain],
///         norm_num_groups: 4,
///         ..Default::default()
///     },
///     &Params::fresh(0, &Device::Cpu).freeze(|_| true),
/// )?;
/// let prototypes = Prototypes::from_vectors(&Rng::new(0).randn((5, 16), &Device::Cpu)?)?;
/// let mut watch = InfluenceOverTime::running(&prototypes, Similarity::Linear, SiteMap::one("mid_block"))?;
/// let scheduler = Ddim::new(DdimConfig::default())?;
/// let options = SampleOptions { samples: 3, batch_size: 2, shape: (1, 16, 16), steps: 4, ..Default::default() };
/// Sampler::new(&unet, &scheduler).observe(&mut watch).run(&Cond::default(), &options)?;
/// for step in watch.steps()? {
///     println!("t = {}: sample 2 draws on {:?}", step.t, step.influence[2]);
/// }
/// assert_eq!(watch.rows()?.len(), 4 * 3 * 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct InfluenceOverTime<'a> {
    prototypes: Prototypes,
    similarity: Similarity,
    keep: Keep,
    look: Look<'a>,
    /// By step, then by the first sample of a batch.
    seen: BTreeMap<usize, BTreeMap<usize, InfluenceStep>>,
}

enum Look<'a> {
    Running { map: SiteMap, scaling: Option<Scaling>, tap: Recorder },
    Predicted { extractor: &'a dyn FeatureExtractor, condition: Option<Tensor> },
}

impl std::fmt::Debug for InfluenceOverTime<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InfluenceOverTime")
            .field("prototypes", &self.prototypes.len())
            .field("similarity", &self.similarity)
            .field("keep", &self.keep)
            .field("seen", &self.seen.keys())
            .finish_non_exhaustive()
    }
}

impl<'a> InfluenceOverTime<'a> {
    /// Looks into the network that samples, at each step's own noise. The prototypes are of these sites at
    /// one time step.
    ///
    /// # Errors
    /// [`Error::Config`] when the sites or the similarity cannot be used.
    pub fn running(prototypes: &Prototypes, similarity: Similarity, map: SiteMap) -> Result<Self> {
        map.validate()?;
        let tap = recorder(&map);
        Self::new(prototypes, similarity, Look::Running { map, scaling: None, tap })
    }

    /// Looks at the clean image that each step predicts, with the extractor of the prototypes.
    ///
    /// # Errors
    /// [`Error::Config`] when the similarity cannot be used.
    pub fn predicted(
        prototypes: &Prototypes,
        similarity: Similarity,
        extractor: &'a dyn FeatureExtractor,
    ) -> Result<Self> {
        Self::new(prototypes, similarity, Look::Predicted { extractor, condition: None })
    }

    fn new(prototypes: &Prototypes, similarity: Similarity, look: Look<'a>) -> Result<Self> {
        similarity.validate()?;
        let prototypes = Prototypes::from_vectors(&prototypes.vectors().detach().to_dtype(DType::F32)?)?;
        Ok(Self { prototypes, similarity, keep: Keep::All, look, seen: BTreeMap::new() })
    }

    /// Only these steps.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// Puts the features of the running network on the scale of prototypes that were made with
    /// [`Standardised`](super::Standardised) features; the statistics are those of the prototypes' own t.
    ///
    /// # Errors
    /// [`Error::Config`] for a spread that is not positive, and where the extractor standardises by itself
    /// ([`predicted`](Self::predicted)).
    pub fn standardised(mut self, statistics: &FeatureStatistics, spread: f64) -> Result<Self> {
        match &mut self.look {
            Look::Running { scaling, .. } => *scaling = Some(Scaling::new(statistics, spread)?),
            Look::Predicted { .. } => {
                let reason =
                    "is for the features of the running network; give an extractor that standardises";
                return Err(Error::config("standardised", reason));
            }
        }
        Ok(self)
    }

    /// The condition of each sample of the run (samples, C, H, W), which the extractor takes as channels
    /// behind those of the image.
    ///
    /// # Errors
    /// [`Error::Config`] for the [`running`](Self::running) network, which has its condition already.
    pub fn conditioned_on(mut self, images: &Tensor) -> Result<Self> {
        match &mut self.look {
            Look::Predicted { condition, .. } => *condition = Some(images.detach()),
            Look::Running { .. } => {
                return Err(Error::config("condition", "is known to the running network; leave it out"));
            }
        }
        Ok(self)
    }

    /// The kept steps in order, each with all samples.
    ///
    /// # Errors
    /// [`Error::Input`] when a run ended before all samples had reached a step.
    pub fn steps(&self) -> Result<Vec<InfluenceStep>> {
        let samples = |parts: &BTreeMap<usize, InfluenceStep>| {
            parts.values().map(|part| part.influence.len()).sum::<usize>()
        };
        let all = self.seen.values().map(samples).max().unwrap_or(0);
        let whole = |(step, parts): (&usize, &BTreeMap<usize, InfluenceStep>)| {
            if samples(parts) != all {
                let reason = format!("step {step} was seen of {} of {all} samples", samples(parts));
                return Err(Error::input("the run", reason));
            }
            let mut parts = parts.values().cloned();
            let Some(mut whole) = parts.next() else {
                return Err(Error::input("the run", format!("step {step} has no sample")));
            };
            for part in parts {
                whole.similarity.extend(part.similarity);
                whole.influence.extend(part.influence);
                whole.position.extend(part.position);
            }
            Ok(whole)
        };
        self.seen.iter().map(whole).collect()
    }

    /// The same as a table: by step, then sample, then prototype.
    ///
    /// # Errors
    /// As [`steps`](Self::steps).
    pub fn rows(&self) -> Result<Vec<InfluenceRow>> {
        let mut rows = Vec::new();
        for at in self.steps()? {
            for (sample, influences) in at.influence.iter().enumerate() {
                for (prototype, influence) in influences.iter().enumerate() {
                    let (row, column) = at.position[sample][prototype];
                    rows.push(InfluenceRow {
                        step: at.step,
                        t: at.t,
                        sample,
                        prototype,
                        similarity: at.similarity[sample][prototype],
                        influence: *influence,
                        row,
                        column,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// The features of a batch at a step, (b, D, h, w).
    fn features(&mut self, view: &StepView<'_>) -> Result<Tensor> {
        let batch = view.x_t.dim(0)?;
        match &mut self.look {
            Look::Running { map, scaling, tap } => {
                let seen = map.sites.iter().map(|site| tap.seen().get(site).cloned()).collect();
                let features = map.join(&map.maps(seen, batch)?)?.detach().to_dtype(DType::F32)?;
                *tap = recorder(map);
                scaling.as_ref().map_or(Ok(features.clone()), |scaling| scaling.apply(&features))
            }
            Look::Predicted { extractor, condition } => {
                let images = match condition {
                    None => view.pred_x0.clone(),
                    Some(condition) if condition.dims().first() == Some(&view.samples) => {
                        let own = condition.narrow(0, view.first_sample, batch)?;
                        let own = own.to_device(view.pred_x0.device())?.to_dtype(view.pred_x0.dtype())?;
                        Tensor::cat(&[view.pred_x0, &own], 1)?
                    }
                    Some(condition) => {
                        let reason = format!("has shape {:?} for {} samples", condition.dims(), view.samples);
                        return Err(Error::input("condition", reason));
                    }
                };
                Ok(extractor.features(&images, &mut ())?.detach().to_dtype(DType::F32)?)
            }
        }
    }

    fn look(&mut self, view: &StepView<'_>) -> Result<()> {
        if view.step == 0 && view.first_sample == 0 {
            self.seen.clear();
        }
        if !self.keep.keeps(view.step, view.steps)? {
            return Ok(());
        }
        let features = self.features(view)?;
        let (_, width, h, w) = features.dims4()?;
        if width != self.prototypes.width() {
            let reason = format!(
                "of a step have {width} channels, prototypes {}: give the prototypes' own sites (for prototypes of \
                 several time steps, InfluenceOverTime::predicted)",
                self.prototypes.width()
            );
            return Err(Error::input("features", reason));
        }
        let (patches, prototypes) = self.similarity.space(&features, self.prototypes.vectors())?;
        let near = nearest(&patches, &prototypes)?;
        let similarity = self.similarity.of_distance(&near.distance)?;
        let position = near
            .position
            .to_vec2::<u32>()?
            .into_iter()
            .map(|row| row.into_iter().map(|at| (at as usize / w, at as usize % w)).collect());
        let part = InfluenceStep {
            step: view.step,
            t: view.t,
            influence: normalised_influence(&similarity)?,
            similarity: similarity.to_dtype(DType::F64)?.to_vec2()?,
            position: position.collect(),
            map_size: (h, w),
        };
        self.seen.entry(view.step).or_default().insert(view.first_sample, part);
        Ok(())
    }
}

fn recorder(map: &SiteMap) -> Recorder {
    Recorder::new(Sites::named(map.sites.iter().cloned()))
}

impl Observer for InfluenceOverTime<'_> {
    fn observe(&mut self, view: &StepView<'_>) -> xdiff_core::Result<Flow> {
        self.look(view)?;
        Ok(Flow::Continue)
    }

    fn tap(&mut self, _step: usize) -> Option<&mut dyn Tap> {
        match &mut self.look {
            Look::Running { tap, .. } => Some(tap),
            Look::Predicted { .. } => None,
        }
    }
}
