//! Synthetic medical images whose truth is known: masks, class, and the same patient without the disease.
//!
//! Anatomy is drawn in relative coordinates, so a patient looks alike at every size from 32 up. All of a
//! patient comes from one seed; the slices of a patient share the anatomy. Noise and bias are the same
//! in an image and its healthy twin, so the two agree bit for bit wherever the disease changes nothing.
//!
//! They are stand-ins with known truth, for tests and demonstrations. They say nothing about real patients.

mod blood;
mod brain;
mod breast;
mod chest;
mod composite;
mod field;
mod lung;
mod marker;
mod motif;
mod scene;
mod shape;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

pub use blood::CellClass;
pub use brain::BrainClass;
pub use breast::BreastClass;
pub use chest::ChestClass;
pub use composite::{Composite, CompositeConfig, CompositeDataset, Contribution, PartLayout, Provenance};
pub use lung::LungClass;
pub use motif::{Motif, MotifConfig, MotifDataset, PlantedMotif};
pub use scene::Phantom;

use crate::dataset::{Dataset, Sample, SampleInfo, check_index};
use crate::{Error, Result};
use scene::Subject;
use shape::Grid;

/// What a phantom imitates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhantomKind {
    /// Axial breast MRI: [`BreastClass`]. Masks: body, breast, gland, lesion.
    #[default]
    BreastMri,
    /// Axial brain MRI: [`BrainClass`]. Masks: head, brain (all inside the skull), lesion (without oedema).
    BrainMri,
    /// Frontal chest radiograph: [`ChestClass`]. Masks: body, lungs together and each, heart, lesion, marker.
    ChestXray,
    /// Axial lung CT, slices from apex to base: [`LungClass`]. Masks: body, lungs together and each, lesion.
    LungCt,
    /// Single white blood cells in colour: [`CellClass`]. Masks: cell, nucleus, lesion (a blast's whole
    /// cell). A patient's slices are different cells in one stain.
    BloodCells,
}

impl PhantomKind {
    /// All kinds.
    pub const ALL: [PhantomKind; 5] =
        [Self::BreastMri, Self::BrainMri, Self::ChestXray, Self::LungCt, Self::BloodCells];

    /// The names of its classes, in the order of their numbers.
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            Self::BreastMri => &BreastClass::NAMES,
            Self::BrainMri => &BrainClass::NAMES,
            Self::ChestXray => &ChestClass::NAMES,
            Self::LungCt => &LungClass::NAMES,
            Self::BloodCells => &CellClass::NAMES,
        }
    }

    /// Whether a class has no disease, so that its lesion masks are empty.
    pub fn is_healthy(self, class: u32) -> bool {
        match self {
            Self::BreastMri => class == BreastClass::Healthy as u32,
            Self::BrainMri => class == BrainClass::NoTumor as u32,
            Self::ChestXray => class == ChestClass::Normal as u32,
            Self::LungCt => class == LungClass::Normal as u32,
            Self::BloodCells => class != CellClass::Blast as u32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::BreastMri => "breast",
            Self::BrainMri => "brain",
            Self::ChestXray => "chest",
            Self::LungCt => "lung",
            Self::BloodCells => "blood",
        }
    }
}

/// Which phantoms a [`PhantomDataset`] holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhantomConfig {
    /// What they imitate.
    pub kind: PhantomKind,
    /// How many patients.
    pub patients: usize,
    /// Slices of each patient.
    pub slices: usize,
    /// The side in pixels, 32 to 4096.
    pub size: usize,
    /// The seed of all of it.
    pub seed: u64,
    /// The names of the classes to draw; empty for all. The numbers of the classes are those of the kind
    /// whatever stands here, so that a class can be held out.
    pub classes: Vec<String>,
    /// For chest radiographs, the probability of each class, by number, that a letter is burnt into the
    /// image: a confounder when they differ. Empty for none.
    pub markers: Vec<f64>,
}

impl Default for PhantomConfig {
    /// 64 breast patients, one slice each, 64 pixels square, of all classes in turn.
    fn default() -> Self {
        Self {
            kind: PhantomKind::default(),
            patients: 64,
            slices: 1,
            size: 64,
            seed: 0,
            classes: vec![],
            markers: vec![],
        }
    }
}

impl PhantomConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// When the size is out of range, there are no patients or slices, a class is unknown, or `markers` are
    /// not one probability for each class of a chest radiograph.
    pub fn validate(&self) -> Result<()> {
        if !(32..=4096).contains(&self.size) {
            return Err(Error::argument("size", format!("{} given; 32 to 4096", self.size)));
        }
        if self.patients.checked_mul(self.slices).is_none_or(|n| n == 0) {
            return Err(Error::argument(
                "patients",
                format!("{} patients of {} slices; at least 1 of each", self.patients, self.slices),
            ));
        }
        let expected = if self.kind == PhantomKind::ChestXray { self.kind.classes().len() } else { 0 };
        let proper = self.markers.iter().all(|p| (0.0..=1.0).contains(p));
        if !self.markers.is_empty() && (self.markers.len() != expected || !proper) {
            let reason =
                format!("{:?} given; one probability for each class of a chest radiograph", self.markers);
            return Err(Error::argument("markers", reason));
        }
        self.class_numbers().map(|_| ())
    }

    fn class_numbers(&self) -> Result<Vec<u32>> {
        let known = self.kind.classes();
        if self.classes.is_empty() {
            return Ok((0..known.len() as u32).collect());
        }
        let number = |name: &String| {
            known.iter().position(|k| k == name).map(|p| p as u32).ok_or_else(|| {
                Error::argument("classes", format!("`{name}` is unknown; there are [{}]", known.join(", ")))
            })
        };
        self.classes.iter().map(number).collect()
    }
}

/// Phantoms as a dataset, drawn when asked for.
///
/// Sample i is slice i mod `slices` of patient i / `slices`, and that patient depends on the seed and
/// its number alone: a larger dataset of the same seed and `slices` begins with the smaller one. The
/// classes take turns over the patients.
///
/// ```
/// use xdiff_data::phantom::{PhantomConfig, PhantomDataset, PhantomKind};
/// use xdiff_data::{Dataset, MaskKind};
///
/// let config = PhantomConfig { kind: PhantomKind::BrainMri, patients: 4, ..Default::default() };
/// let brains = PhantomDataset::new(config)?;
/// let glioma = brains.phantom(0)?;
/// assert_eq!(brains.classes()[glioma.class as usize], "glioma");
/// assert!(glioma.masks[&MaskKind::Lesion].area() > 0);
/// assert_ne!(glioma.image.data(), glioma.twin.data());
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PhantomDataset {
    config: PhantomConfig,
    drawn: Vec<u32>,
    names: Vec<String>,
}

impl PhantomDataset {
    /// The dataset of a configuration.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: PhantomConfig) -> Result<Self> {
        config.validate()?;
        let drawn = config.class_numbers()?;
        let names = config.kind.classes().iter().map(|c| (*c).to_string()).collect();
        Ok(Self { config, drawn, names })
    }

    /// The configuration.
    pub fn config(&self) -> &PhantomConfig {
        &self.config
    }

    /// The phantom of an index, with its truth.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn phantom(&self, index: usize) -> Result<Phantom> {
        check_index(index, self.len())?;
        let (patient, slice) = (index / self.config.slices, index % self.config.slices);
        let rng = Rng::new(self.config.seed).fork(self.config.kind.name()).sample(patient as u64);
        // Slices lie evenly over the middle of the organ.
        let depth = 2.0 * (slice as f32 + 0.5) / self.config.slices as f32 - 1.0;
        let class = self.class(patient);
        let subject = Subject {
            grid: Grid::new(self.config.size),
            patient: &rng,
            name: self.patient(patient),
            slice,
            depth,
            marker: self.config.markers.get(class as usize).copied().unwrap_or(0.0),
        };
        match self.config.kind {
            PhantomKind::BreastMri => breast::draw(pick(&BreastClass::ALL, class)?, subject),
            PhantomKind::BrainMri => brain::draw(pick(&BrainClass::ALL, class)?, subject),
            PhantomKind::ChestXray => chest::draw(pick(&ChestClass::ALL, class)?, subject),
            PhantomKind::LungCt => lung::draw(pick(&LungClass::ALL, class)?, subject),
            PhantomKind::BloodCells => blood::draw(pick(&CellClass::ALL, class)?, subject),
        }
    }

    fn class(&self, patient: usize) -> u32 {
        self.drawn[patient % self.drawn.len()]
    }

    fn patient(&self, patient: usize) -> String {
        format!("{}-{}-{patient:05}", self.config.kind.name(), self.config.seed)
    }
}

fn pick<T: Copy>(classes: &[T], number: u32) -> Result<T> {
    let unknown = || Error::argument("class", format!("{number} of {} classes", classes.len()));
    classes.get(number as usize).copied().ok_or_else(unknown)
}

impl Dataset for PhantomDataset {
    fn len(&self) -> usize {
        self.config.patients * self.config.slices
    }

    fn classes(&self) -> &[String] {
        &self.names
    }

    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        let (patient, slice) = (index / self.config.slices, index % self.config.slices);
        let group = self.patient(patient);
        Ok(SampleInfo {
            id: format!("{group}/{slice}"),
            class: Some(self.class(patient)),
            group: Some(group),
        })
    }

    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        let info = self.info(index)?;
        let Phantom { image, masks, .. } = self.phantom(index)?;
        Ok(Sample { info, image, masks })
    }
}
