//! How good the images are: the scores of the paper's Table 1 and text, beside the paper's numbers.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Serialize;
use xdiff::core::cancel::CancelToken;
use xdiff::core::{FeatureExtractor, PixelRange};
use xdiff::data::Dataset;
use xdiff::metrics::{
    BootstrapConfig, Design, Dice, Empty, Features, Interval, Lpips, LpipsHeads, LpipsNet, PairMetric,
    bootstrap_mean, frechet_distance,
};
use xdiff::nn::Rng;
use xdiff::nn::Tap;
use xdiff::nn::tap::{Recorder, Sites};
use xdiff::vision::segment::{Decision, SegUNet, Segmenter, predict};
use xdiff::vision::{Adaptation, Architecture, FidInception, FidInput, FidResize, Pass, Pretrained};
use xdiff::viz::{Cell, Table};

use super::report::Scores;
use super::sampling::{Case, Sampled};
use super::scores::mean_sd;
use super::source::MriData;
use crate::AnyError;
use crate::segment::model::{self as segmentation, Trained};
use crate::segment::settings::Settings;

/// Weights of published networks, which not everybody has.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// torchvision's AlexNet with ImageNet weights.
    pub alexnet: Option<PathBuf>,
    /// The LPIPS heads for AlexNet.
    pub lpips: Option<PathBuf>,
    /// The Inception network of the FID.
    pub inception: Option<PathBuf>,
}

/// One score, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub enum Measured {
    /// The mean over samples with its spread.
    Mean {
        /// With a 95 % interval by bootstrap.
        interval: Interval,
        /// The standard deviation over samples.
        sd: f64,
        /// How many samples.
        n: usize,
    },
    /// One number for all samples.
    Single(f64),
    /// Why it was not computed.
    Not(String),
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was measured, and how.
    pub name: String,
    /// The result.
    pub measured: Measured,
    /// The paper's number, where it has one.
    pub paper: Option<&'static str>,
    /// What differs from the paper.
    pub differs: String,
}

/// The lines in the paper's order, and its lines of the text after them.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// All of them.
    pub lines: Vec<Line>,
}

fn mean(values: &[f64]) -> Result<Measured, AnyError> {
    let interval = bootstrap_mean(values, &Design::samples(values.len())?, &BootstrapConfig::default())?;
    Ok(Measured::Mean { interval, sd: mean_sd(values).1, n: values.len() })
}

/// The deepest maps of the segmentation network: a stand-in where a published network is not at hand,
/// and never called by its name.
struct SegmentationFeatures<'a> {
    network: &'a SegUNet,
    site: String,
}

impl<'a> SegmentationFeatures<'a> {
    fn new(network: &'a SegUNet) -> Self {
        Self { network, site: format!("encoder.{}", network.config().widths.len() - 1) }
    }
}

impl FeatureExtractor for SegmentationFeatures<'_> {
    fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff::core::Result<Tensor> {
        let mut tap = Recorder::new(Sites::named([&self.site]));
        self.network
            .logits(images, &mut Pass::eval(&mut tap))
            .map_err(|e| xdiff::core::Error::input("images", e.to_string()))?;
        tap.seen()
            .get(&self.site)
            .cloned()
            .ok_or_else(|| xdiff::core::Error::input("segmentation network", format!("has no {}", self.site)))
    }

    fn identity(&self) -> String {
        format!("{} of the segmentation U-Net that was trained on these training images", self.site)
    }
}

/// Images of one side in [−1, 1].
fn signed<'a>(images: impl Iterator<Item = &'a Vec<f32>>, side: usize) -> Result<Tensor, AnyError> {
    let values: Vec<f32> = images.flatten().map(|v| 2.0 * v - 1.0).collect();
    Ok(Tensor::from_vec(values, ((), 1, side, side), &Device::Cpu)?)
}

/// Dice of what the network finds in images with masks.
fn dice<'a>(
    network: &SegUNet,
    images: &Tensor,
    masks: impl Iterator<Item = &'a Vec<u8>>,
) -> Result<Vec<f64>, AnyError> {
    let found = predict(network, images, Decision::MostProbable)?.flatten_from(1)?.to_vec2::<u8>()?;
    let inside = |mask: &[u8]| mask.iter().map(|m| *m != 0).collect::<Vec<bool>>();
    let dice = Dice { empty: Empty::One };
    found.iter().zip(masks).map(|(a, b)| Ok(dice.of_slices(&inside(a), &inside(b))?)).collect()
}

/// Training images that the Fréchet distances compare with, at most.
const REFERENCES: usize = 500;

struct Sets {
    training: Tensor,
    real: Tensor,
    made: Tensor,
}

impl Sets {
    fn read(data: &MriData, sampled: &Sampled) -> Result<Self, AnyError> {
        let n = data.train.len().min(REFERENCES);
        let images = (0..n)
            .map(|k| {
                let sample = data.train.get(k * data.train.len() / n, &mut Rng::new(0))?;
                Ok(sample.image.into_data())
            })
            .collect::<Result<Vec<_>, AnyError>>()?;
        let side = sampled.size;
        let of = |pick: fn(&Case) -> &Vec<f32>| signed(sampled.cases.iter().map(pick), side);
        Ok(Self { training: signed(images.iter(), side)?, real: of(|c| &c.real)?, made: of(|c| &c.sample)? })
    }

    /// Distance of samples and of real held-out images to the training images.
    fn frechet(&self, network: &dyn FeatureExtractor) -> Result<[f64; 2], AnyError> {
        let features = |images: &Tensor| -> Result<Features, AnyError> {
            let n = images.dim(0)?;
            let mut rows = Vec::new();
            for start in (0..n).step_by(16) {
                let batch = images.narrow(0, start, 16.min(n - start))?;
                rows.extend_from_slice(Features::extract(network, &batch)?.rows());
            }
            Ok(Features::new(rows.clone(), rows.len() / n, network.identity())?)
        };
        let training = features(&self.training)?;
        let to = |images: &Tensor| -> Result<f64, AnyError> {
            Ok(frechet_distance(&training, &features(images)?)?.value)
        };
        Ok([to(&self.made)?, to(&self.real)?])
    }
}

fn lpips(weights: &Weights, sets: &Sets) -> Result<Measured, AnyError> {
    let (Some(backbone), Some(heads)) = (&weights.alexnet, &weights.lpips) else {
        let why = "needs AlexNet's ImageNet weights and the LPIPS heads: give --alexnet and --lpips";
        return Ok(Measured::Not(why.to_owned()));
    };
    let adapted = Pretrained::read(backbone)?.adapt(
        &*Architecture::AlexNet.config(3, 1000),
        &Adaptation::default(),
        &Device::Cpu,
    )?;
    let lpips = Lpips::new(adapted.network, LpipsHeads::load(LpipsNet::Alex, heads)?, PixelRange::Signed);
    if lpips.name().starts_with("LPIPS (") {
        mean(&lpips.values(&sets.made.clamp(-1.0, 1.0)?, &sets.real)?)
    } else {
        Ok(Measured::Not(format!("the weights given are not the published ones: {}", lpips.name())))
    }
}

/// Trains the segmentation network in `out`, or takes the one that is there; `None` when cancelled.
///
/// # Errors
/// When the training fails.
pub fn segmentation(
    settings: &Settings,
    data: &MriData,
    out: &Path,
    cancel: &CancelToken,
) -> Result<Option<Trained>, AnyError> {
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    segmentation::train(settings, data, out, cancel)
}

/// Measures all lines.
///
/// # Errors
/// When weights that were given cannot be used.
pub fn measure(
    sampled: &Sampled,
    scores: &Scores,
    data: &MriData,
    trained: &Trained,
    weights: &Weights,
) -> Result<Quality, AnyError> {
    let sets = Sets::read(data, sampled)?;
    let network = trained.objective.network();
    let masks = || sampled.cases.iter().map(|c| &c.mask);
    let others = sampled.cases.iter().map(|c| &c.mask).cycle().skip(1).take(sampled.cases.len());
    let side = sampled.size;
    let of = |pick: fn(&super::report::CaseScores) -> f64| scores.cases.iter().map(pick).collect::<Vec<_>>();
    let conditioned =
        format!("{side}², masks mark: {}; the paper: Duke breast MRI, 256², breast region", data.mask);
    let mut lines = Vec::new();
    let mut push = |name: &str, measured, paper, differs: &str| {
        lines.push(Line { name: name.to_owned(), measured, paper, differs: differs.to_owned() });
    };
    push("PSNR (dB) to the mask's own image", mean(&of(|c| c.psnr))?, Some("19.37 ± 1.67"), &conditioned);
    let window = "window 11, σ 1.5; the paper does not say which";
    push("SSIM to the mask's own image", mean(&of(|c| c.ssim))?, Some("0.6530 ± 0.1052"), window);
    let backbone = "AlexNet; the paper does not say which network";
    push("LPIPS to the mask's own image", lpips(weights, &sets)?, Some("0.2893 ± 0.1050"), backbone);
    let found = "the segmentation network is this project's, trained on the same training images";
    let dice_of = |images, masks: &mut dyn Iterator<Item = &Vec<u8>>| dice(network, images, masks);
    push(
        "Dice: anatomy found in the sample, conditioning mask",
        mean(&dice_of(&sets.made, &mut masks())?)?,
        Some("0.9478"),
        found,
    );
    push(
        "Dice: anatomy found in the real image, its mask",
        mean(&dice_of(&sets.real, &mut masks())?)?,
        None,
        "what the network reaches on real images",
    );
    push(
        "Dice: anatomy found in the sample, another's mask",
        mean(&dice_of(&sets.made, &mut others.into_iter())?)?,
        None,
        "what chance gives",
    );
    let (fid, fid_real) = match &weights.inception {
        None => {
            let not = Measured::Not("needs the FID's Inception weights: give --inception".to_owned());
            (not.clone(), not)
        }
        Some(path) => {
            let input = FidInput::resized_as(PixelRange::Signed, FidResize::PytorchFid);
            let inception = FidInception::read(path, input, &Device::Cpu)?;
            if xdiff::metrics::is_fid_network(&inception.identity()) {
                let [made, real] = sets.frechet(&inception)?;
                (Measured::Single(made), Measured::Single(real))
            } else {
                let not = Measured::Not(format!("other weights: {}", inception.identity()));
                (not.clone(), not)
            }
        }
    };
    let few = format!(
        "{} samples against {} training images: far too few for a small bias",
        sampled.cases.len(),
        sets.training.dim(0)?
    );
    push("FID of the samples", fid, Some("1.39"), &few);
    push("FID of real held-out images", fid_real, None, "what as many real images give");
    let stand_in = SegmentationFeatures::new(network);
    let [made, real] = sets.frechet(&stand_in)?;
    let name = |of: &str| format!("Fréchet distance of {of}, features: {}", stand_in.identity());
    push(&name("the samples"), Measured::Single(made), None, "not an FID; compare with the next line only");
    push(&name("real held-out images"), Measured::Single(real), None, "what as many real images give");
    Ok(Quality { lines })
}

impl Quality {
    /// One row a line.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new(["measure", "mean", "95 % interval", "sd", "n", "paper", "what differs"]);
        for line in &self.lines {
            let [value, interval, sd, n] = match &line.measured {
                Measured::Mean { interval, sd, n } => [
                    Cell::number(interval.value, 3),
                    Cell::from(format!("{:.3} to {:.3}", interval.low, interval.high)),
                    Cell::number(*sd, 3),
                    Cell::from(*n),
                ],
                Measured::Single(v) => [Cell::number(*v, 3), Cell::Missing, Cell::Missing, Cell::Missing],
                Measured::Not(why) => {
                    [Cell::from(format!("not computed: {why}")), Cell::Missing, Cell::Missing, Cell::Missing]
                }
            };
            let paper = line.paper.map_or(Cell::Missing, Cell::from);
            let name = Cell::from(line.name.as_str());
            table.push([name, value, interval, sd, n, paper, Cell::from(line.differs.as_str())])?;
        }
        Ok(table)
    }
}
