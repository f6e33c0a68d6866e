//! Series: the slices of one acquisition, sorted in space.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fault::{DicomFault, Outcome};
use super::file::Dicom;
use super::layout::Photometric;
use super::listing::files;
use super::meta::{Meta, Plane, dot};
use super::segmentation::Segmentation;
use super::transform::{ModalityTransform, PixelValues};
use crate::image::{Depth, Image, Limits};
use crate::slices::VolumeSource;
use crate::volume::{Affine, Grid, LabelVolume, Volume};
use crate::{Error, Result};

/// The order of the slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// By their place along the slice normal, row × column. Needs the geometry of each.
    #[default]
    Position,
    /// By the number that the scanner gave, then by frame. Numbers can run against space.
    InstanceNumber,
}

/// Which distances between slices are accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Slices lie on a line, each gap within this share of the median gap.
    Even {
        /// The share, such as 0.02.
        tolerance: f64,
    },
    /// Any distances but 0; uneven ones are noted in [`Series::warnings`].
    Any,
}

/// How a series is put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesOptions {
    /// The order.
    pub sort: SortBy,
    /// The distances.
    pub spacing: Spacing,
}

/// The share of the median gap by which gaps may differ and still count as even.
const EVEN: f64 = 0.02;

impl Default for SeriesOptions {
    /// By position, evenly spaced within 2 %.
    fn default() -> Self {
        Self { sort: SortBy::Position, spacing: Spacing::Even { tolerance: EVEN } }
    }
}

impl SeriesOptions {
    /// Checks the tolerance.
    ///
    /// # Errors
    /// When it is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        match self.spacing {
            Spacing::Even { tolerance } if !(tolerance.is_finite() && tolerance >= 0.0) => {
                Err(Error::argument("tolerance", format!("{tolerance} given; a finite share of at least 0")))
            }
            _ => Ok(()),
        }
    }
}

/// One slice: a frame of a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Slice {
    /// The file.
    pub path: PathBuf,
    /// The frame in it.
    pub frame: usize,
    /// Where it lies; `None` when the file does not say.
    pub plane: Option<Plane>,
    /// The file's own identifier.
    pub sop_instance: Option<String>,
    /// The number in the series.
    pub instance_number: Option<i64>,
    /// How its stored values become modality values.
    pub modality: ModalityTransform,
    size: [usize; 3],
    photometric: Photometric,
    space: Option<String>,
}

impl Slice {
    fn name(&self) -> String {
        let file = self.path.display();
        if self.frame == 0 { file.to_string() } else { format!("{file}, frame {}", self.frame) }
    }
}

/// The slices that share a SeriesInstanceUID, as they were found.
#[derive(Clone, Debug)]
pub struct FoundSeries {
    /// What the first file says.
    pub meta: Meta,
    /// The slices, in the order of the file names.
    pub slices: Vec<Slice>,
    limits: Limits,
}

/// Finds the series among the files below a folder. DICOM files are told by their content; other files
/// and objects without pixels are passed over.
///
/// # Errors
/// When a folder or file cannot be read, a DICOM file is damaged or larger than `limits`, or there is
/// none.
pub fn find_series(root: impl AsRef<Path>, limits: &Limits) -> Result<Vec<FoundSeries>> {
    let root = root.as_ref();
    let found = series_of(&files(root)?, limits)?;
    if found.is_empty() {
        return Err(Error::layout(root, "no DICOM images in it", "give the folder of a series"));
    }
    Ok(found)
}

/// Sorts files into series, in the order of their first files. A file without a SeriesInstanceUID is a
/// series of its own.
///
/// # Errors
/// As for [`find_series`], but no files give no series.
pub fn series_of(files: &[PathBuf], limits: &Limits) -> Result<Vec<FoundSeries>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut all: Vec<FoundSeries> = Vec::new();
    for path in files {
        let file = Dicom::read(path, limits)?;
        if !file.has_pixels() {
            continue;
        }
        let place = match &file.meta().series {
            Some(uid) => *places.entry(uid.clone()).or_insert(all.len()),
            None => all.len(),
        };
        if place == all.len() {
            all.push(FoundSeries { meta: file.meta().clone(), slices: Vec::new(), limits: *limits });
        }
        let layout = file.layout()?;
        for frame in 0..layout.frames {
            all[place].slices.push(Slice {
                path: path.clone(),
                frame,
                plane: file.plane(frame).ok(),
                sop_instance: file.meta().sop_instance.clone(),
                instance_number: file.meta().instance_number,
                modality: file.modality(frame)?,
                size: [layout.rows, layout.columns, layout.channels()],
                photometric: layout.photometric,
                space: file.meta().frame_of_reference.clone(),
            });
        }
    }
    Ok(all)
}

impl FoundSeries {
    /// The slices in order, checked to belong together.
    ///
    /// # Errors
    /// [`Error::Dicom`] when slices have no place in space (for [`SortBy::Position`]) or no number,
    /// differ in size, colour, orientation, pixel spacing or coordinate system, lie in the same place,
    /// or are unevenly spaced, each with the numbers.
    pub fn sorted(mut self, options: &SeriesOptions) -> Result<Series> {
        options.validate()?;
        let path = self.slices.first().map(|s| s.path.clone()).unwrap_or_default();
        let folder = path.parent().map(Path::to_path_buf).unwrap_or(path);
        let checked = self.arrange(options);
        let (step, warnings) = checked.map_err(|fault| Error::Dicom { path: folder, fault })?;
        Ok(Series { meta: self.meta, slices: self.slices, step, warnings, limits: self.limits })
    }

    fn arrange(&mut self, options: &SeriesOptions) -> Outcome<(Option<[f64; 3]>, Vec<DicomFault>)> {
        let total = self.slices.len();
        let lacking = |what, lacks: fn(&Slice) -> bool, slices: &[Slice]| {
            let count = slices.iter().filter(|s| lacks(s)).count();
            if count > 0 { Err(DicomFault::NoGeometry { count, total, what }) } else { Ok(()) }
        };
        self.check_alike()?;
        match options.sort {
            SortBy::Position => {
                let what = "position, orientation or pixel spacing";
                lacking(what, |s| s.plane.is_none(), &self.slices)?;
                let normal = self.slices.first().and_then(|s| s.plane).map_or([0.0; 3], |p| p.normal());
                let depth = |s: &Slice| s.plane.map_or(0.0, |p| dot(p.position, normal));
                self.slices.sort_by(|a, b| depth(a).total_cmp(&depth(b)));
            }
            SortBy::InstanceNumber => {
                lacking("InstanceNumber", |s| s.instance_number.is_none(), &self.slices)?;
                self.slices.sort_by_key(|s| (s.instance_number, s.frame));
            }
        }
        let mut warnings: Vec<DicomFault> = mixed_rescale(&self.slices).into_iter().collect();
        let planes: Option<Vec<Plane>> = self.slices.iter().map(|s| s.plane).collect();
        let Some(planes) = planes else { return Ok((None, warnings)) };
        let tolerance = match options.spacing {
            Spacing::Even { tolerance } => tolerance,
            Spacing::Any => EVEN,
        };
        match step(&self.slices, &planes, tolerance) {
            Ok(step) => Ok((step, warnings)),
            Err(fault @ (DicomFault::Uneven { .. } | DicomFault::Bent { .. }))
                if options.spacing == Spacing::Any =>
            {
                warnings.push(fault);
                Ok((mean_step(&planes), warnings))
            }
            // Without an order in space, slices may share a place, as the echoes of one scan do.
            Err(fault) if options.sort == SortBy::InstanceNumber => {
                warnings.push(fault);
                Ok((None, warnings))
            }
            Err(fault) => Err(fault),
        }
    }

    /// That all slices are of one size, colour, orientation, pixel spacing and coordinate system.
    fn check_alike(&self) -> Outcome<()> {
        let Some(first) = self.slices.first() else { return Ok(()) };
        let differ = |slice: &Slice, what, found: String, expected: String| {
            Err(DicomFault::Mixed {
                file: slice.name(),
                what,
                found: found.into(),
                expected: expected.into(),
            })
        };
        for slice in &self.slices {
            if slice.size != first.size {
                return differ(
                    slice,
                    "rows, columns and channels",
                    format!("{:?}", slice.size),
                    format!("{:?}", first.size),
                );
            }
            if slice.photometric != first.photometric {
                let [found, expected] = [slice, first].map(|s| format!("{:?}", s.photometric));
                return differ(slice, "photometric interpretation", found, expected);
            }
            if slice.space != first.space {
                let [found, expected] =
                    [slice, first].map(|s| s.space.clone().unwrap_or_else(|| "none".into()));
                return differ(slice, "the frame of reference", found, expected);
            }
            let (Some(a), Some(b)) = (slice.plane, first.plane) else { continue };
            if dot(a.along_row, b.along_row) < 0.9999 || dot(a.along_column, b.along_column) < 0.9999 {
                let [found, expected] = [a, b].map(|p| format!("{:?} {:?}", p.along_row, p.along_column));
                return differ(slice, "orientation", found, expected);
            }
            if a.spacing.iter().zip(b.spacing).any(|(x, y)| (x - y).abs() > 1e-3 * y) {
                return differ(
                    slice,
                    "pixel spacing",
                    format!("{:?}", a.spacing),
                    format!("{:?}", b.spacing),
                );
            }
        }
        Ok(())
    }
}

/// That slopes or intercepts differ: no harm to modality values, but stored values are not comparable.
fn mixed_rescale(slices: &[Slice]) -> Option<DicomFault> {
    let first = slices.first()?;
    let other = slices.iter().find(|s| s.modality != first.modality)?;
    Some(DicomFault::Mixed {
        file: other.name(),
        what: "the rescaling",
        found: format!("{:?}", other.modality).into(),
        expected: format!("{:?}", first.modality).into(),
    })
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn length(v: [f64; 3]) -> f64 {
    dot(v, v).sqrt()
}

/// From one slice to the next, on average.
fn mean_step(planes: &[Plane]) -> Option<[f64; 3]> {
    let (first, last) = (planes.first()?, planes.last()?);
    let gaps = (planes.len() - 1) as f64;
    (gaps > 0.0).then(|| minus(last.position, first.position).map(|d| d / gaps))
}

/// Slices nearer than this lie in the same place, in millimetres.
const SAME_PLACE: f64 = 1e-3;

/// The step between slices, once they are found to lie evenly on a line. A single slice steps by its
/// thickness, if it has one.
fn step(slices: &[Slice], planes: &[Plane], tolerance: f64) -> Outcome<Option<[f64; 3]>> {
    let Some(step) = mean_step(planes) else {
        let single = planes.first().and_then(|p| p.thickness.map(|t| p.normal().map(|n| n * t)));
        return Ok(single);
    };
    let gaps: Vec<f64> = planes.windows(2).map(|p| length(minus(p[1].position, p[0].position))).collect();
    if let Some(i) = gaps.iter().position(|g| *g < SAME_PLACE) {
        let (first, second) = (slices[i].name(), slices[i + 1].name());
        return Err(DicomFault::SamePlace { first, second, at: planes[i].depth() });
    }
    let mut ordered = gaps.clone();
    ordered.sort_by(f64::total_cmp);
    let (least, greatest) = (ordered[0], ordered[ordered.len() - 1]);
    let median = ordered[ordered.len() / 2];
    if gaps.iter().any(|g| (g - median).abs() > tolerance * median) {
        let widest = gaps.iter().position(|g| *g == greatest).unwrap_or(0);
        return Err(DicomFault::Uneven { least, greatest, median, after: slices[widest].name() });
    }
    for (i, plane) in planes.iter().enumerate() {
        let expected = [0, 1, 2].map(|a| planes[0].position[a] + step[a] * i as f64);
        let off = length(minus(plane.position, expected));
        // Small differences of the gaps may add up over the slices.
        if off > tolerance * median * (planes.len() as f64).sqrt() {
            return Err(DicomFault::Bent { file: slices[i].name(), off });
        }
    }
    Ok(Some(step))
}

/// A series in order. Pixels are read when they are asked for.
///
/// ```
/// # use xdiff_data::dicom::{PixelValues, SeriesOptions, find_series};
/// # use xdiff_data::{Axis, Limits, Window};
/// # fn load(folder: &std::path::Path) -> xdiff_data::Result<()> {
/// for found in find_series(folder, &Limits::default())? {
///     let series = found.sorted(&SeriesOptions::default())?;
///     let volume = series.volume(PixelValues::Modality)?;
///     let middle = volume.slice(Axis::Axial, volume.grid().slices(Axis::Axial) / 2)?;
///     let shown = Window::centred(40.0, 400.0).apply(middle)?;
///     assert!(shown.data().iter().all(|v| (0.0..=1.0).contains(v)));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Series {
    meta: Meta,
    slices: Vec<Slice>,
    step: Option<[f64; 3]>,
    warnings: Vec<DicomFault>,
    limits: Limits,
}

impl Series {
    /// What the first file says.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The slices in order.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// What was accepted, but should be known: uneven gaps, slices with rescaling of their own.
    pub fn warnings(&self) -> &[DicomFault] {
        &self.warnings
    }

    /// Millimetres from one slice to the next; `None` when the slices have no order in space, or a
    /// single one has no thickness.
    pub fn slice_spacing(&self) -> Option<f64> {
        self.step.map(length)
    }

    /// Millimetres between rows and between columns.
    pub fn pixel_spacing(&self) -> Option<[f64; 2]> {
        Some(self.slices.first()?.plane?.spacing)
    }

    /// A slice as an image.
    ///
    /// # Errors
    /// When there is no such slice; as for [`Dicom::image`].
    pub fn image(&self, index: usize, values: PixelValues) -> Result<Image> {
        let len = self.slices.len();
        let slice = self.slices.get(index).ok_or(Error::Index { index, len })?;
        Dicom::read(&slice.path, &self.limits)?.image(slice.frame, values)
    }

    /// The size and place of the series as a volume, whose third axis runs through the slices.
    /// Positions of DICOM, which grow to the patient's left and back, become those of [`Grid`], which
    /// grow to the right and front. Gantry tilt is kept: the third axis need not stand upright on the
    /// slices.
    ///
    /// # Errors
    /// When the slices have colours, no place in space or no common step.
    pub fn grid(&self) -> Result<Grid> {
        let total = self.slices.len();
        let first = self.slices.first().and_then(|s| Some((s, s.plane?)));
        let (Some((slice, plane)), Some(step)) = (first, self.step) else {
            let count = self.slices.iter().filter(|s| s.plane.is_none()).count().max(1);
            let fault =
                DicomFault::NoGeometry { count, total, what: "place from which a volume can be made" };
            return Err(Error::Dicom { path: self.path(), fault });
        };
        let [rows, columns, channels] = slice.size;
        if channels != 1 {
            return Err(Error::Channels {
                name: self.path().display().to_string(),
                got: "the slices have colours".into(),
                expected: "grey",
                hint: "read them one by one with `Series::image`",
            });
        }
        let [between_rows, between_columns] = plane.spacing;
        let along =
            [plane.along_row.map(|c| c * between_columns), plane.along_column.map(|c| c * between_rows)];
        let affine = Affine::from_steps([along[0], along[1], step], plane.position)?.lps_to_ras();
        Grid::new([columns, rows, total], affine)
    }

    /// The first file.
    fn path(&self) -> PathBuf {
        self.slices.first().map(|s| s.path.clone()).unwrap_or_default()
    }

    /// All slices as a volume on the series' grid.
    ///
    /// # Errors
    /// As for [`Series::grid`]; when there are more voxels than the limits allow, or a slice cannot be
    /// read.
    pub fn volume(&self, values: PixelValues) -> Result<Volume> {
        let grid = self.grid()?;
        self.check_voxels(&grid)?;
        let mut data = Vec::with_capacity(grid.voxels());
        let mut origin = None;
        let mut open: Option<Dicom> = None;
        for slice in &self.slices {
            let file = match open.take().filter(|f| f.path() == slice.path) {
                Some(file) => file,
                None => Dicom::read(&slice.path, &self.limits)?,
            };
            let image = file.image(slice.frame, values)?;
            open = Some(file);
            origin.get_or_insert_with(|| image.origin.clone());
            data.extend(image.into_data());
        }
        let mut volume = Volume::new(grid, data)?;
        if let Some(origin) = origin {
            volume.origin = origin;
        }
        if values == PixelValues::Modality && mixed_rescale(&self.slices).is_some() {
            volume.origin.depth = Depth::F32;
        }
        Ok(volume)
    }

    /// The masks that a segmentation object has on the slices, as labels on the series' grid: the number
    /// of the segment, 0 for none.
    ///
    /// # Errors
    /// As for [`Series::volume`]; when a slice is one frame of several, or segments overlap.
    pub fn labels(&self, drawn: &Segmentation) -> Result<LabelVolume> {
        let grid = self.grid()?;
        self.check_voxels(&grid)?;
        let mut labels = vec![0u32; grid.voxels()];
        let [columns, rows, _] = grid.dims();
        for (slice, plane) in self.slices.iter().zip(labels.chunks_exact_mut(columns * rows)) {
            let file = Dicom::read(&slice.path, &self.limits)?;
            let refuse = |fault| Error::Dicom { path: slice.path.clone(), fault };
            if file.frames()? != 1 {
                return Err(refuse(DicomFault::ManyFrames { frames: file.frames()? }));
            }
            for (segment, mask) in drawn.masks_of(&file)? {
                for (label, inside) in plane.iter_mut().zip(mask.data()).filter(|(_, m)| **m != 0) {
                    if *label != 0 {
                        let what =
                            format!("the overlap of segments {label} and {} as one label", segment.number);
                        return Err(refuse(DicomFault::Unsupported {
                            what,
                            hint: "take `Segmentation::masks_of` each slice",
                        }));
                    }
                    *label = u32::from(segment.number) * u32::from(*inside);
                }
            }
        }
        LabelVolume::new(grid, labels)
    }

    /// The series with the values that are wanted of it, for a [`VolumeDataset`](crate::VolumeDataset).
    ///
    /// # Errors
    /// As for [`Series::grid`].
    pub fn source(self, values: PixelValues) -> Result<SeriesVolume> {
        Ok(SeriesVolume { grid: self.grid()?, series: self, values })
    }

    fn check_voxels(&self, grid: &Grid) -> Result<()> {
        if grid.voxels() as u64 <= self.limits.voxels {
            return Ok(());
        }
        let what = format!("the volume of {:?} voxels", grid.dims());
        Err(Error::TooLarge { path: self.path(), what, limit: format!("{} voxels", self.limits.voxels) })
    }
}

/// A series as a source of volumes: read when it is asked for.
#[derive(Clone, Debug)]
pub struct SeriesVolume {
    series: Series,
    values: PixelValues,
    grid: Grid,
}

impl VolumeSource for SeriesVolume {
    fn name(&self) -> String {
        self.series.path().display().to_string()
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn volume(&self) -> Result<Volume> {
        self.series.volume(self.values)
    }
}
