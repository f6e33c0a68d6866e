//! Training the network, and what it answers to images that were held out.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::json;
use xdiff::core::cancel::CancelToken;
use xdiff::data::{
    Augment, Augmented, Batch, DataLoader, Dataset, LoaderConfig, MaskKind, Position, SplitConfig, Subset,
    infos, split,
};
use xdiff::nn::Params;
use xdiff::vision::segment::{Decision, Masked, SegUNet, Segmentation, predict};
use xdiff::vision::train::{Feed, Fit, FitData, FitOutcome, Fitted, Progress};

use super::scores::Case;
use super::settings::Settings;
use crate::AnyError;
use crate::mri::source::MriData;

/// A trained network, and how it came to be.
pub type Trained = Fitted<Segmentation<SegUNet>>;

fn loader(data: Arc<dyn Dataset>, settings: &Settings, shuffle: bool) -> Result<DataLoader, AnyError> {
    let (batch_size, seed) = (settings.batch, settings.fit.seed);
    Ok(DataLoader::new(data, LoaderConfig { batch_size, seed, shuffle, ..Default::default() })?)
}

/// Inside is what the mask marks with any label.
fn masked(batch: Batch, mask: &MaskKind) -> Result<Masked, AnyError> {
    let inside = batch.mask(mask)?.gt(0.5)?.to_dtype(DType::U8)?;
    Ok(Masked::new(batch.images, &inside, batch.ids)?)
}

fn feed(loader: DataLoader, mask: MaskKind) -> Feed<'static, Masked> {
    Feed::new(loader.batches(), move |epoch, batch| {
        let mask = mask.clone();
        loader
            .rest_of_epoch(Position { epoch, batch })
            .map(move |batch| -> Result<_, AnyError> { Ok(vec![masked(batch?, &mask)?]) })
    })
}

/// Trains, or goes on with a training, in the folder `out`; `None` when it was cancelled. A seventh of
/// the training patients is set apart to choose the best epoch on.
///
/// # Errors
/// When the folder holds another training, or the training fails.
pub fn train(
    settings: &Settings,
    data: &MriData,
    out: &Path,
    cancel: &CancelToken,
) -> Result<Option<Trained>, AnyError> {
    let seed = settings.fit.seed;
    let shares = SplitConfig { train: 6.0 / 7.0, val: 1.0 / 7.0, test: 0.0, seed };
    let parts = split(&infos(&*data.train)?, &shares)?;
    let part = |indices| -> Result<Arc<dyn Dataset>, AnyError> {
        Ok(Arc::new(Subset::new(data.train.clone(), indices)?))
    };
    let (train, validation) = (part(parts.train)?, part(parts.val)?);
    let (seen, chosen_on) = (train.len(), validation.len());
    let train = if settings.augment { Arc::new(Augmented::new(train, Augment::default())?) } else { train };

    let params = Params::fresh(seed, &Device::Cpu);
    let network = SegUNet::new(settings.network.clone(), &params)?;
    let params = params.finish()?;
    eprintln!(
        "{:.2} M parameters, {seen} images to train on and {chosen_on} to choose on, {} epochs",
        params.count() as f64 / 1e6,
        settings.fit.epochs,
    );
    let description = json!({ "settings": settings, "mask": data.mask, "data": data.about });
    let objective = Segmentation::new(network, settings.loss.clone())?;
    let mut fit = Fit::new(objective, params, settings.fit.clone(), description)?;
    if fit.resume_in(out)? {
        eprintln!("going on after {} steps in {}", fit.step(), out.display());
    }
    let data = FitData::new(feed(loader(train, settings, true)?, data.mask.clone()))
        .validated_on(feed(loader(validation, settings, false)?, data.mask.clone()));
    Ok(match fit.run(&data, Some(out), cancel, &mut Progress::new())? {
        FitOutcome::Cancelled => None,
        FitOutcome::Finished | FitOutcome::StoppedEarly => Some(fit.into_best()?),
    })
}

/// What the network finds in every image that was held out, batch by batch.
///
/// # Errors
/// When an image cannot be read or does not fit the network.
pub fn test(
    trained: &Trained,
    settings: &Settings,
    data: &MriData,
    cancel: &CancelToken,
) -> Result<Option<Vec<Case>>, AnyError> {
    let mut cases = Vec::with_capacity(data.held_out.len());
    for batch in loader(data.held_out.clone(), settings, false)?.epoch(0) {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let batch = batch?;
        let (ids, groups) = (batch.ids.clone(), batch.groups.clone());
        let batch = masked(batch, &data.mask)?;
        let found = predict(trained.objective.network(), batch.images(), Decision::MostProbable)?;
        let (found, images) = (found.flatten_from(1)?.to_vec2::<u8>()?, batch.images().flatten_from(1)?);
        let truth = batch.labels().chunks_exact(settings.size * settings.size);
        let rows = images.affine(0.5, 0.5)?.to_vec2::<f32>()?.into_iter().zip(truth).zip(found);
        for ((id, group), ((image, truth), found)) in ids.into_iter().zip(groups).zip(rows) {
            let truth = truth.iter().map(|label| *label as u8).collect();
            cases.push(Case { id, group, image, truth, found });
        }
    }
    Ok(Some(cases))
}
