//! Where images and masks come from.

use std::path::Path;
use std::sync::Arc;

use xdiff::data::folder::{PairLayout, flat, pairs};
use xdiff::data::phantom::{PhantomConfig, PhantomDataset, PhantomKind};
use xdiff::data::{
    Cached, Colour, Dataset, FileDataset, Geometry, Listing, ManifestConfig, MaskKind, PairKind, Part,
    ReadOptions, RegionConfig, SplitConfig, Subset, Window, WithRegion, infos, read_manifest, split,
};

use crate::AnyError;
use crate::manifest::manifest_above;

/// Images with masks, parted into those to train on and those held out.
#[derive(Clone)]
pub struct MriData {
    /// To train on.
    pub train: Arc<dyn Dataset>,
    /// Held out.
    pub held_out: Arc<dyn Dataset>,
    /// What the conditioning mask marks.
    pub mask: MaskKind,
    /// One sentence on where it all comes from, for reports.
    pub about: String,
}

impl std::fmt::Debug for MriData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MriData")
            .field("train", &self.train.len())
            .field("held_out", &self.held_out.len())
            .field("mask", &self.mask)
            .field("about", &self.about)
            .finish()
    }
}

/// Breast phantoms conditioned on the breast region, as in the paper.
///
/// # Errors
/// When the size is below what phantoms can be drawn at.
pub fn phantoms(patients: usize, size: usize, seed: u64) -> Result<MriData, AnyError> {
    let config = PhantomConfig { kind: PhantomKind::BreastMri, patients, size, seed, ..Default::default() };
    phantoms_of("breast", config, MaskKind::Breast)
}

/// Phantoms of any kind with masks of one kind; a fifth of the patients are held out.
///
/// # Errors
/// When the configuration is wrong.
pub fn phantoms_of(name: &str, config: PhantomConfig, mask: MaskKind) -> Result<MriData, AnyError> {
    let PhantomConfig { patients, size, seed, .. } = config;
    let all = Arc::new(PhantomDataset::new(config)?);
    let about = format!(
        "{name} phantoms (synthetic), {} slices of {patients} patients, {size}×{size}, seed {seed}, patients kept apart",
        all.len()
    );
    let parts = split(&infos(&all)?, &SplitConfig { train: 0.8, val: 0.0, test: 0.2, seed })?;
    let part = |indices: Vec<usize>| -> Result<Arc<dyn Dataset>, AnyError> {
        Ok(Arc::new(Cached::new(Subset::new(all.clone(), indices)?, CACHE_BYTES)))
    };
    Ok(MriData { train: part(parts.train)?, held_out: part(parts.test)?, mask, about })
}

const CACHE_BYTES: usize = 2 << 30;

/// A folder with `images/` and `masks/`. A manifest beside or above it that lists these files gives
/// split and patient; without one, each file is its own patient and 20 % are held out.
///
/// # Errors
/// When the folder or the manifest cannot be read or a mask does not fit its image.
pub fn folder(dir: &Path, mask: MaskKind, size: usize, seed: u64) -> Result<MriData, AnyError> {
    let (listing, how) = listed(dir, PairKind::All(mask.clone()), || {
        let layout = PairLayout { masks: [(mask.clone(), "masks".to_owned())].into(), ..Default::default() };
        pairs(dir, &layout)
    })?;
    let about = format!("{} ({} pairs, {how})", dir.display(), listing.entries.len());
    parted(listing, about, mask, size, seed, |files| Ok(Arc::new(Cached::new(files, CACHE_BYTES))))
}

/// A folder of images without masks: the mask of each is the region of the body, found by a threshold
/// ([`body_region`](xdiff::data::body_region)). Split and patients as in [`folder`].
///
/// # Errors
/// When the folder or the manifest cannot be read.
pub fn regions(dir: &Path, size: usize, seed: u64) -> Result<MriData, AnyError> {
    let (listing, how) = listed(dir, PairKind::ByClass, || flat(dir))?;
    let mask = MaskKind::Body;
    let config = RegionConfig::for_side(size);
    let about = format!("{} ({} images, region by threshold, {how})", dir.display(), listing.entries.len());
    parted(listing, about, mask.clone(), size, seed, |files| {
        Ok(Arc::new(Cached::new(WithRegion::new(files, mask.clone(), config)?, CACHE_BYTES)))
    })
}

/// The files of a folder as a manifest lists them, or else as `found` without one.
fn listed(
    dir: &Path,
    pair_kind: PairKind,
    found: impl FnOnce() -> xdiff::data::Result<Listing>,
) -> Result<(Listing, String), AnyError> {
    let Some((file, prefix)) = manifest_above(dir) else {
        let how = "no manifest found: each image is taken for its own patient, 20 % held out".to_owned();
        return Ok((found()?, how));
    };
    let config = ManifestConfig { pair_kind, below: Some(prefix), ..Default::default() };
    Ok((read_manifest(&file, &config)?, format!("split and groups from {}", file.display())))
}

/// The parts that the listing names, or, where it names none, a fifth of the patients held out.
fn parted(
    listing: Listing,
    about: String,
    mask: MaskKind,
    size: usize,
    seed: u64,
    with: impl Fn(FileDataset) -> Result<Arc<dyn Dataset>, AnyError>,
) -> Result<MriData, AnyError> {
    let options = ReadOptions::new(Window::Full).with(Geometry::square(size), Colour::Grey);
    let read =
        |listing| -> Result<Arc<dyn Dataset>, AnyError> { with(FileDataset::new(listing, options.clone())?) };
    let (train, test) = (listing.part(Part::Train), listing.part(Part::Test));
    if !train.entries.is_empty() && !test.entries.is_empty() {
        return Ok(MriData { train: read(train)?, held_out: read(test)?, mask, about });
    }
    let all = read(listing)?;
    let parts = split(&infos(&*all)?, &SplitConfig { train: 0.8, val: 0.0, test: 0.2, seed })?;
    Ok(MriData {
        train: Arc::new(Subset::new(all.clone(), parts.train)?),
        held_out: Arc::new(Subset::new(all, parts.test)?),
        mask,
        about,
    })
}
