//! Medical images and their masks: explicit intensity windows, folders and manifests, splits that keep
//! patients together, a deterministic loader, and seeded phantoms with known truth.
//!
//! ```
//! use std::sync::Arc;
//! use xdiff_data::phantom::{PhantomConfig, PhantomDataset, PhantomKind};
//! use xdiff_data::{DataLoader, LoaderConfig, MaskKind, SplitConfig, Subset, infos, split};
//!
//! // Twenty brains, split so that no patient is on both sides.
//! let config = PhantomConfig { kind: PhantomKind::BrainMri, patients: 20, slices: 2, ..Default::default() };
//! let brains = Arc::new(PhantomDataset::new(config)?);
//! let parts = split(&infos(brains.as_ref())?, &SplitConfig::default())?;
//! let train = Arc::new(Subset::new(brains, parts.train)?);
//!
//! // Batches in [−1, 1], the same for the same seed.
//! let loader = DataLoader::new(train, LoaderConfig { batch_size: 8, seed: 1, ..Default::default() })?;
//! for batch in loader.epoch(0) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims()[1..], [1, 64, 64]);
//!     assert_eq!(batch.mask(&MaskKind::Lesion)?.dims()[1..], [1, 64, 64]);
//! }
//! # Ok::<(), xdiff_data::Error>(())
//! ```
//!
//! Volumes ([`Volume`], from NIfTI files or DICOM series) know their place in the patient and become
//! samples slice by slice through [`VolumeDataset`].
//!
//! Image files are read through [`FileDataset`], whose list comes from [`read_manifest`] or [`folder`], and
//! whose [`Window`] must be chosen: nothing is ever scaled by an image's own range.
//!
//! With the feature `dicom`, DICOM files are read wherever image files are, and the module `dicom` reads
//! their frames, series and segmentation objects.

pub mod augment;
pub mod dataset;
#[cfg(feature = "dicom")]
pub mod dicom;
pub mod error;
pub mod folder;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod listing;
pub mod loader;
pub mod manifest;
pub mod mask;
#[cfg(feature = "nifti")]
pub mod nifti;
pub mod phantom;
pub mod region;
pub mod slices;
pub mod split;
pub mod transform;
pub mod volume;
pub mod window;

pub use augment::{Augment, Augmented, Border};
pub use dataset::{Cached, Dataset, InMemory, Sample, SampleInfo, Subset, infos};
pub use error::{Error, Result};
pub use image::{Colour, Depth, Image, Limits, Origin, Scale};
pub use listing::{Entry, FileDataset, Grouping, Listing, ReadOptions};
pub use loader::{Batch, Batches, DataLoader, LoaderConfig, MissingMasks, Position, Values};
pub use manifest::{Column, ManifestConfig, PairKind, read_manifest};
pub use mask::{Mask, MaskKind, MaskRule};
pub use region::{RegionConfig, WithRegion, body_region, otsu};
pub use slices::{
    Frames, MaskLabels, Skip, SliceOptions, SlicePlace, SliceRange, VolumeDataset, VolumeEntry, VolumeSource,
};
pub use split::{Fold, Part, Split, SplitConfig, k_fold, split};
pub use transform::{Filter, Fit, Frame, Geometry};
pub use volume::{Affine, Axis, Direction, Grid, LabelVolume, Orientation, Volume};
pub use window::{Span, Window, Windowed};
