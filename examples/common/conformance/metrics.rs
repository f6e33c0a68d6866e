//! Metrics.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use xdiff::core::PixelRange;
use xdiff::metrics::{
    Average, AverageSurfaceDistance, Dice, Empty, Features, Hausdorff, Lpips, LpipsHeads, LpipsNet, MsSsim,
    PairMetric, Psnr, Ssim, SsimPreset, SurfacePreset, classification_report, frechet_distance,
    kernel_distance,
};
use xdiff::vision::{Architecture, Network};

use super::{Case, Outputs};
use crate::AnyError;

fn value(values: Vec<f64>) -> Result<Outputs, AnyError> {
    let n = values.len();
    Ok(vec![("value".to_owned(), Tensor::from_vec(values, n, &Device::Cpu)?)])
}

fn pairs(case: &Case, metric: &dyn PairMetric) -> Result<Outputs, AnyError> {
    value(metric.values(case.input("a")?, case.input("b")?)?)
}

pub(super) fn psnr(case: &Case) -> Result<Outputs, AnyError> {
    pairs(case, &Psnr::new(case.need("data_range")?)?)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PresetName {
    Wang,
    SkimageDefault,
    Torchmetrics,
}

pub(super) fn ssim(case: &Case) -> Result<Outputs, AnyError> {
    let preset = match case.get("preset")?.unwrap_or(PresetName::Wang) {
        PresetName::Wang => SsimPreset::Wang,
        PresetName::SkimageDefault => SsimPreset::SkimageDefault,
        PresetName::Torchmetrics => SsimPreset::Torchmetrics,
    };
    pairs(case, &Ssim::new(preset, case.need("data_range")?)?)
}

pub(super) fn ms_ssim(case: &Case) -> Result<Outputs, AnyError> {
    pairs(case, &MsSsim::new(case.need("data_range")?)?)
}

pub(super) fn lpips(case: &Case) -> Result<Outputs, AnyError> {
    let net: LpipsNet = case.need("net")?;
    let params = case.params().freeze(|_| true);
    let architecture: Architecture = net.architecture().parse()?;
    let backbone = architecture.build_without_head(3, &params)?;
    let heads = (0..net.sites().len()).map(|i| Ok(case.weight(&format!("head.{i}"))?.clone()));
    let heads = LpipsHeads::new(net, heads.collect::<Result<_, AnyError>>()?)?;
    let lpips = Lpips::new(Network::from_box(backbone, "synthetic"), heads, PixelRange::Signed);
    let values = lpips.values(case.input("a")?, case.input("b")?)?;
    // A case may keep the (B, 1, 1, 1) of the authors' package.
    let shape = case.expected().next().map(|(_, want)| want.shape().clone());
    let values = Tensor::new(values, &Device::Cpu)?;
    let shape = shape.filter(|s| s.elem_count() == values.elem_count());
    Ok(vec![("value".to_owned(), shape.map_or(Ok(values.clone()), |s| values.reshape(s))?)])
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EmptyName {
    One,
    Nan,
}

pub(super) fn dice(case: &Case) -> Result<Outputs, AnyError> {
    let empty = match case.get("empty")?.unwrap_or(EmptyName::One) {
        EmptyName::One => Empty::One,
        EmptyName::Nan => Empty::Nan,
    };
    let (a, b) = (case.input("a")?, case.input("b")?);
    // A case with one number for masks without a batch compares them as a whole.
    let whole = case.expected().any(|(_, t)| t.elem_count() == 1) && a.dims().first() != Some(&1);
    let (a, b) = if whole { (a.unsqueeze(0)?, b.unsqueeze(0)?) } else { (a.clone(), b.clone()) };
    value(Dice { empty }.values(&a, &b)?)
}

/// Distances between the surfaces of masks (B, …), with a `spacing` for each spatial dimension.
pub(super) fn surface(case: &Case) -> Result<Outputs, AnyError> {
    let spacing: Vec<f64> = case.need("spacing")?;
    let preset: SurfacePreset = case.get("preset")?.unwrap_or_default();
    let (a, b) = (case.input("a")?, case.input("b")?);
    let metrics: [(&str, Box<dyn PairMetric>); 3] = [
        ("hausdorff", Box::new(Hausdorff::new(spacing.clone())?)),
        ("hd95", Box::new(Hausdorff { preset, ..Hausdorff::hd95(spacing.clone())? })),
        ("average", Box::new(AverageSurfaceDistance { preset, ..AverageSurfaceDistance::new(spacing)? })),
    ];
    let output = |(name, metric): &(&str, Box<dyn PairMetric>)| {
        let values = metric.values(a, b)?;
        let n = values.len();
        Ok(((*name).to_owned(), Tensor::from_vec(values, n, &Device::Cpu)?))
    };
    metrics.iter().map(output).collect()
}

fn features(case: &Case) -> Result<(Features, Features), AnyError> {
    let read =
        |name: &str| -> Result<Features, AnyError> { Ok(Features::from_tensor(case.input(name)?, "given")?) };
    Ok((read("a")?, read("b")?))
}

pub(super) fn frechet(case: &Case) -> Result<Outputs, AnyError> {
    let (a, b) = features(case)?;
    value(vec![frechet_distance(&a, &b)?.value])
}

pub(super) fn kid(case: &Case) -> Result<Outputs, AnyError> {
    let (a, b) = features(case)?;
    value(vec![kernel_distance(&a, &b, None)?.value])
}

pub(super) fn classification(case: &Case) -> Result<Outputs, AnyError> {
    let average = case.get("average")?.unwrap_or(Average::Macro);
    let report = classification_report(case.input("scores")?, case.input("labels")?, average)?;
    let rates = [
        ("accuracy", report.accuracy),
        ("precision", report.precision),
        ("recall", report.recall),
        ("f1", report.f1),
        ("roc_auc", report.roc_auc.unwrap_or(f64::NAN)),
    ];
    rates.into_iter().map(|(name, rate)| Ok((name.to_owned(), Tensor::new(&[rate], &Device::Cpu)?))).collect()
}
