//! Where labelled images come from, and which of them train, choose and judge.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xdiff::data::folder::class_folders;
use xdiff::data::phantom::{PhantomConfig, PhantomDataset, PhantomKind};
use xdiff::data::{
    Cached, Colour, Dataset, FileDataset, Geometry, Grouping, Image, Limits, Listing, ManifestConfig, Part,
    ReadOptions, SplitConfig, Subset, Window, infos, read_manifest, split,
};

use crate::AnyError;
use crate::manifest::manifest_above;

/// Labelled images in three parts.
#[derive(Clone)]
pub struct ClassData {
    /// To learn from.
    pub train: Arc<dyn Dataset>,
    /// To choose the epoch by.
    pub val: Arc<dyn Dataset>,
    /// To judge by, once.
    pub test: Arc<dyn Dataset>,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
    /// One sentence on where it all comes from, for reports.
    pub about: String,
}

impl std::fmt::Debug for ClassData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassData")
            .field("parts", &[self.train.len(), self.val.len(), self.test.len()])
            .field("classes", &self.classes)
            .field("channels", &self.channels)
            .field("about", &self.about)
            .finish()
    }
}

/// Which files of a folder are read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderOptions {
    /// Side of the square images.
    pub size: usize,
    /// Rows of the manifest that are taken: those whose column has the value.
    pub only: Vec<(String, String)>,
    /// Without a manifest: the patient is the file's name up to this character.
    pub patient_before: Option<char>,
    /// Where the chance of splits comes from.
    pub seed: u64,
}

/// The share of the training part on which the epoch is chosen.
const VALIDATION: f64 = 0.15;
const CACHE_BYTES: usize = 2 << 30;

/// Phantoms of a kind, of all its classes.
///
/// # Errors
/// When the size is below what phantoms can be drawn at.
pub fn phantoms(kind: PhantomKind, patients: usize, size: usize, seed: u64) -> Result<ClassData, AnyError> {
    let config = PhantomConfig { kind, patients, size, seed, ..Default::default() };
    let all: Arc<dyn Dataset> = Arc::new(Cached::new(PhantomDataset::new(config)?, CACHE_BYTES));
    let channels = all.get(0, &mut xdiff::nn::Rng::new(0))?.image.channels();
    let about = format!(
        "{kind:?} phantoms (synthetic), {} images of {patients} patients, {size}×{size}, seed {seed}, \
         patients kept apart",
        all.len()
    );
    parts(all, None, channels, about, seed)
}

/// A folder with one folder a class, or one that a manifest beside or above it lists with classes,
/// patients and a split. Without a manifest, 20 % are held out, and each file is its own patient
/// unless [`FolderOptions::patient_before`] says how to tell.
///
/// # Errors
/// When the folder or the manifest cannot be read, or holds fewer than two classes.
pub fn folder(dir: &Path, options: &FolderOptions) -> Result<ClassData, AnyError> {
    let (listing, how) = match manifest_above(dir) {
        Some((file, prefix)) => (listed(&file, &prefix, options)?, "split and patients from its manifest"),
        None if !options.only.is_empty() => {
            return Err(format!("--only needs a manifest, and none lists {}", dir.display()).into());
        }
        None => match options.patient_before {
            Some(c) => (class_folders(dir)?.group_by(Grouping::NameBefore(c)), "no manifest, 20 % held out"),
            None => {
                let how = "no manifest: each image is taken for its own patient, 20 % held out";
                (class_folders(dir)?, how)
            }
        },
    };
    if listing.classes.len() < 2 {
        return Err(format!(
            "{} has the classes {:?}; a classifier needs two",
            dir.display(),
            listing.classes
        )
        .into());
    }
    let channels = channels(&listing)?;
    let colour = if channels == 1 { Colour::ToGrey } else { Colour::ToRgb };
    let only: String = options.only.iter().map(|(column, value)| format!(", {column} = {value}")).collect();
    let name = dir.canonicalize()?.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let about =
        format!("{name} ({} images, {how}{only}), {size}×{size}", listing.entries.len(), size = options.size);
    let given = [Part::Train, Part::Test].map(|part| {
        let of_part = |i: &usize| listing.entries[*i].part == Some(part);
        (0..listing.entries.len()).filter(of_part).collect::<Vec<usize>>()
    });
    let read = ReadOptions::new(Window::Full).with(Geometry::square(options.size), colour);
    let all: Arc<dyn Dataset> = Arc::new(Cached::new(FileDataset::new(listing, read)?, CACHE_BYTES));
    let given = given.iter().all(|part| !part.is_empty()).then_some(given);
    parts(all, given, channels, about, options.seed)
}

fn listed(manifest: &Path, prefix: &str, options: &FolderOptions) -> Result<Listing, AnyError> {
    let mut config = ManifestConfig { below: Some(prefix.to_owned()), ..Default::default() };
    for (column, value) in &options.only {
        let mut values = config.filters.remove(column).unwrap_or_default();
        values.push(value.clone());
        config.filters.insert(column.clone(), values);
    }
    let listing = read_manifest(manifest, &config)?;
    if listing.entries.is_empty() {
        return Err(
            format!("{} lists no image of `{prefix}` that --only lets through", manifest.display()).into()
        );
    }
    Ok(listing)
}

/// 3 as soon as one of the first images of the classes is in colour.
fn channels(listing: &Listing) -> Result<usize, AnyError> {
    let firsts = listing.classes.iter().filter_map(|class| {
        listing.entries.iter().find(|e| e.class.as_ref() == Some(class)).map(|e| &e.path)
    });
    let channels = firsts.map(|path: &PathBuf| Ok(Image::read(path, &Limits::default())?.channels()));
    Ok(channels.collect::<Result<Vec<_>, AnyError>>()?.into_iter().max().unwrap_or(1))
}

/// Splits, or takes the training and test parts as given, and sets a part of the training aside.
fn parts(
    all: Arc<dyn Dataset>,
    given: Option<[Vec<usize>; 2]>,
    channels: usize,
    about: String,
    seed: u64,
) -> Result<ClassData, AnyError> {
    let every = infos(&*all)?;
    let [learn, test] = match given {
        Some(parts) => parts,
        None => {
            let parts = split(&every, &SplitConfig { train: 0.8, val: 0.0, test: 0.2, seed })?;
            [parts.train, parts.test]
        }
    };
    let infos: Vec<_> = learn.iter().map(|i| every[*i].clone()).collect();
    let inner = SplitConfig { train: 1.0 - VALIDATION, val: VALIDATION, test: 0.0, seed };
    let inner = split(&infos, &inner)?;
    let subset = |indices: Vec<usize>| -> Result<Arc<dyn Dataset>, AnyError> {
        Ok(Arc::new(Subset::new(all.clone(), indices)?))
    };
    let of_learn = |indices: Vec<usize>| indices.into_iter().map(|i| learn[i]).collect();
    Ok(ClassData {
        train: subset(of_learn(inner.train))?,
        val: subset(of_learn(inner.val))?,
        test: subset(test)?,
        classes: all.classes().to_vec(),
        channels,
        about,
    })
}
