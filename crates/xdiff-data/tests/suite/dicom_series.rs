//! Series in space, segmentation objects on their slices, and folders of DICOM files as datasets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dicom_core::VR;
use dicom_dictionary_std::tags;
use tempfile::TempDir;
use xdiff_data::dicom::{
    self, Dicom, DicomFault, PixelValues, Segmentation, SeriesOptions, SortBy, Spacing, find_series,
};
use xdiff_data::{
    Axis, DataLoader, Error, FileDataset, Limits, LoaderConfig, MaskKind, ReadOptions, SliceOptions,
    SplitConfig, VolumeDataset, VolumeEntry, Window, folder, infos, split,
};

use crate::common::shared_data;
use crate::dicom_files::{EXPLICIT, Object};

/// What differs between slices.
#[derive(Clone)]
struct Made {
    number: i32,
    position: [f64; 3],
    orientation: &'static str,
    spacing: &'static str,
    series: &'static str,
    slope: &'static str,
    patient: &'static str,
}

const AXIAL: &str = "1\\0\\0\\0\\1\\0";

fn made(number: i32, z: f64) -> Made {
    Made {
        number,
        position: [10.0, 20.0, z],
        orientation: AXIAL,
        spacing: "0.5\\0.25",
        series: "1.2.1",
        slope: "1",
        patient: "P1",
    }
}

fn object(made: &Made) -> Object {
    let [x, y, z] = made.position;
    Object::image()
        .text(tags::SOP_INSTANCE_UID, VR::UI, &format!("1.2.9.{}", made.number))
        .text(tags::SERIES_INSTANCE_UID, VR::UI, made.series)
        .text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.5")
        .text(tags::INSTANCE_NUMBER, VR::IS, &made.number.to_string())
        .text(tags::PATIENT_ID, VR::LO, made.patient)
        .text(tags::IMAGE_POSITION_PATIENT, VR::DS, &format!("{x}\\{y}\\{z}"))
        .text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, made.orientation)
        .text(tags::PIXEL_SPACING, VR::DS, made.spacing)
        .text(tags::RESCALE_SLOPE, VR::DS, made.slope)
        .text(tags::RESCALE_INTERCEPT, VR::DS, "0")
        .pixels(&[0, 1, 2, 3, 4, 10 + made.number as u16])
}

fn write(dir: &Path, name: &str, object: Object) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, object.file(EXPLICIT)).unwrap();
    path
}

fn folder_of(slices: &[Made]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (i, slice) in slices.iter().enumerate() {
        write(dir.path(), &format!("{i}"), object(slice));
    }
    dir
}

fn sorted(slices: &[Made], options: SeriesOptions) -> Result<dicom::Series, Error> {
    let dir = folder_of(slices);
    find_series(dir.path(), &Limits::default())?.swap_remove(0).sorted(&options)
}

fn fault(slices: &[Made], options: SeriesOptions) -> DicomFault {
    match sorted(slices, options) {
        Err(Error::Dicom { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn slices_are_sorted_along_their_normal_and_make_a_volume() {
    // Written neither in order of names nor of numbers.
    let dir = folder_of(&[made(1, 6.0), made(2, 0.0), made(3, 3.0)]);
    let found = find_series(dir.path(), &Limits::default()).unwrap();
    assert_eq!(found.len(), 1);
    let series = found[0].clone().sorted(&SeriesOptions::default()).unwrap();
    let numbers: Vec<_> = series.slices().iter().filter_map(|s| s.instance_number).collect();
    assert_eq!(numbers, [2, 3, 1]);
    assert_eq!((series.slice_spacing(), series.pixel_spacing()), (Some(3.0), Some([0.5, 0.25])));
    assert!(series.warnings().is_empty());
    let volume = series.volume(PixelValues::Modality).unwrap();
    assert_eq!(volume.grid().dims(), [3, 2, 3]);
    // Left and back of DICOM are counted to the right and front.
    assert_eq!(volume.grid().affine().apply([0.0; 3]), [-10.0, -20.0, 0.0]);
    assert_eq!(volume.grid().affine().apply([2.0, 1.0, 2.0]), [-10.5, -20.5, 6.0]);
    assert_eq!(volume.slice(Axis::K, 0).unwrap().data(), [0.0, 1.0, 2.0, 3.0, 4.0, 12.0]);
    assert_eq!(
        volume.slice(Axis::K, 0).unwrap().data(),
        series.image(0, PixelValues::Modality).unwrap().data()
    );
    let by_number = SeriesOptions { sort: SortBy::InstanceNumber, ..Default::default() };
    let dir = folder_of(&[made(3, 0.0), made(1, 6.0), made(2, 3.0)]);
    let reversed =
        find_series(dir.path(), &Limits::default()).unwrap().swap_remove(0).sorted(&by_number).unwrap();
    assert_eq!(reversed.volume(PixelValues::Stored).unwrap().grid().affine().apply([0.0, 0.0, 2.0])[2], 0.0);
}

#[test]
fn a_tilted_gantry_is_kept_in_the_affine() {
    let tilted = |n: i32| Made { position: [0.0, f64::from(n), 2.0 * f64::from(n)], ..made(n, 0.0) };
    let dir = folder_of(&[tilted(0), tilted(1), tilted(2)]);
    let found = find_series(dir.path(), &Limits::default()).unwrap().swap_remove(0);
    let volume = found.sorted(&SeriesOptions::default()).unwrap().volume(PixelValues::Modality).unwrap();
    assert_eq!(volume.grid().affine().apply([0.0, 0.0, 1.0]), [0.0, -1.0, 2.0]);
}

#[test]
fn what_does_not_fit_together_is_told_with_numbers() {
    let default = SeriesOptions::default();
    let any = SeriesOptions { spacing: Spacing::Any, ..default };
    let by_number = SeriesOptions { sort: SortBy::InstanceNumber, ..default };
    let gap = [made(1, 0.0), made(2, 1.0), made(3, 2.0), made(4, 4.0)];
    match fault(&gap, default) {
        DicomFault::Uneven { least, greatest, median, after } => {
            assert_eq!((least, greatest, median), (1.0, 2.0, 1.0));
            assert!(after.ends_with('2'), "{after}");
        }
        other => panic!("{other}"),
    }
    let allowed = sorted(&gap, any).unwrap();
    assert!(matches!(allowed.warnings(), [DicomFault::Uneven { .. }]));
    assert_eq!(allowed.slice_spacing(), Some(4.0 / 3.0));

    let twice = [made(1, 0.0), made(2, 5.0), made(3, 5.0)];
    for options in [default, any] {
        assert!(matches!(fault(&twice, options), DicomFault::SamePlace { at: 5.0, .. }));
    }
    assert!(matches!(sorted(&twice, by_number).unwrap().warnings(), [DicomFault::SamePlace { .. }]));

    let bent = [made(1, 0.0), Made { position: [12.0, 20.0, 1.0], ..made(2, 0.0) }, made(3, 2.0)];
    assert!(matches!(fault(&bent, default), DicomFault::Bent { .. } | DicomFault::Uneven { .. }));

    let turned = Made { orientation: "0\\1\\0\\0\\0\\-1", ..made(2, 1.0) };
    assert!(matches!(fault(&[made(1, 0.0), turned], default), DicomFault::Mixed { what: "orientation", .. }));
    let coarse = Made { spacing: "0.5\\0.5", ..made(2, 1.0) };
    assert!(matches!(
        fault(&[made(1, 0.0), coarse], default),
        DicomFault::Mixed { what: "pixel spacing", .. }
    ));
    let scaled = Made { slope: "2", ..made(2, 1.0) };
    let mixed = sorted(&[made(1, 0.0), scaled], default).unwrap();
    assert!(matches!(mixed.warnings(), [DicomFault::Mixed { what: "the rescaling", .. }]));

    let nowhere = Made { orientation: "0\\0\\0\\0\\0\\0", ..made(2, 1.0) };
    let lost = [made(1, 0.0), nowhere];
    assert!(matches!(fault(&lost, default), DicomFault::NoGeometry { count: 1, total: 2, .. }));
    let numbered = sorted(&lost, by_number).unwrap();
    assert_eq!((numbered.slices().len(), numbered.slice_spacing()), (2, None));
    assert!(matches!(
        numbered.volume(PixelValues::Modality),
        Err(Error::Dicom { fault: DicomFault::NoGeometry { .. }, .. })
    ));
    let bad = SeriesOptions { spacing: Spacing::Even { tolerance: f64::NAN }, ..default };
    assert!(matches!(sorted(&gap, bad), Err(Error::Argument { .. })));
}

#[test]
fn series_are_told_apart_and_other_files_passed_over() {
    let dir = folder_of(&[made(1, 0.0), Made { series: "1.2.2", ..made(2, 0.0) }, made(3, 1.0)]);
    std::fs::write(dir.path().join("notes.txt"), "not an image").unwrap();
    write(dir.path(), "report", Object::empty().text(tags::MODALITY, VR::CS, "SR"));
    let found = find_series(dir.path(), &Limits::default()).unwrap();
    let counts: Vec<usize> = found.iter().map(|f| f.slices.len()).collect();
    assert_eq!(counts, [2, 1]);
    let empty = TempDir::new().unwrap();
    assert!(matches!(find_series(empty.path(), &Limits::default()), Err(Error::Layout { .. })));
}

/// Masks of two segments: the first on instance 1 and, by place alone, at z = 1; the second on instance 1.
fn drawn() -> Object {
    let segment = |number: u16, label: &str| {
        Object::empty().number(tags::SEGMENT_NUMBER, number).text(tags::SEGMENT_LABEL, VR::LO, label)
    };
    let frame = |segment: u16, source: Option<&str>, z: &str| {
        let place = Object::empty().text(tags::IMAGE_POSITION_PATIENT, VR::DS, &format!("10\\20\\{z}"));
        let named = Object::empty().number(tags::REFERENCED_SEGMENT_NUMBER, segment);
        let frame = Object::empty()
            .items(tags::PLANE_POSITION_SEQUENCE, vec![place])
            .items(tags::SEGMENT_IDENTIFICATION_SEQUENCE, vec![named]);
        let Some(uid) = source else { return frame };
        let source = Object::empty().text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, uid);
        let derived = Object::empty().items(tags::SOURCE_IMAGE_SEQUENCE, vec![source]);
        frame.items(tags::DERIVATION_IMAGE_SEQUENCE, vec![derived])
    };
    // Six bits a frame, one frame right after the other, the lowest bit of a byte first:
    // 1 0 0 0 0 1 | 0 1 1 0 0 0 | 1 1 1 1 1 1.
    Object::image()
        .text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.66.4")
        .text(tags::SEGMENTATION_TYPE, VR::CS, "BINARY")
        .text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.5")
        .text(tags::NUMBER_OF_FRAMES, VR::IS, "3")
        .number(tags::BITS_ALLOCATED, 1)
        .number(tags::BITS_STORED, 1)
        .number(tags::HIGH_BIT, 0)
        .items(tags::SEGMENT_SEQUENCE, vec![segment(1, "Lesion"), segment(2, "Vessel")])
        .items(
            tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
            vec![frame(1, Some("1.2.9.1"), "0"), frame(1, None, "1"), frame(2, Some("1.2.9.1"), "0")],
        )
        .bytes(&[0b1010_0001, 0b1111_0001, 0b0000_0011, 0])
}

#[test]
fn masks_are_unpacked_and_joined_with_their_slices() {
    let dir = TempDir::new().unwrap();
    let limits = Limits::default();
    let at = write(dir.path(), "seg.dcm", drawn());
    let slices: Vec<PathBuf> = [(1, 0.0), (2, 1.0), (3, 2.0)]
        .map(|(n, z)| write(dir.path(), &format!("ct{n}.dcm"), object(&made(n, z))))
        .into();
    let drawn = Segmentation::read(&at, &limits).unwrap();
    let labels: Vec<&str> = drawn.segments().iter().map(|s| s.label.as_str()).collect();
    assert_eq!(labels, ["Lesion", "Vessel"]);
    assert_eq!(drawn.segments()[0].kind(), MaskKind::Lesion);
    assert_eq!(drawn.mask(1).unwrap().data(), [0, 1, 1, 0, 0, 0]);
    let on = |slice: &Path| -> Vec<(u16, Vec<u8>)> {
        let masks = drawn.masks_of(&Dicom::read(slice, &limits).unwrap()).unwrap();
        masks.into_iter().map(|(s, m)| (s.number, m.data().to_vec())).collect()
    };
    assert_eq!(on(&slices[0]), [(1, vec![1, 0, 0, 0, 0, 1]), (2, vec![1; 6])]);
    assert_eq!(on(&slices[1]), [(1, vec![0, 1, 1, 0, 0, 0])]);
    assert_eq!(on(&slices[2]), []);

    // As labels on the grid of the series: the two segments overlap on the first slice.
    let series =
        dicom::series_of(&slices[1..], &limits).unwrap().swap_remove(0).sorted(&SeriesOptions::default());
    let series = series.unwrap();
    let labels = series.labels(&drawn).unwrap();
    assert_eq!(labels.labels()[..6], [0, 1, 1, 0, 0, 0]);
    assert_eq!(labels.counts().get(&1), Some(&2));
    let all =
        dicom::series_of(&slices, &limits).unwrap().swap_remove(0).sorted(&SeriesOptions::default()).unwrap();
    assert!(all.labels(&drawn).unwrap_err().to_string().contains("segments 1 and 2"));
    // And both through a dataset of slices.
    let patient = series.meta().patient.as_ref().map(|p| p.as_str().to_string());
    let entry = VolumeEntry::new("series", series.source(PixelValues::Modality).unwrap()).with_labels(labels);
    let options = SliceOptions::new(Axis::K, Window::Range { lo: 0.0, hi: 20.0 });
    let sliced = VolumeDataset::new(vec![VolumeEntry { group: patient, ..entry }], options).unwrap();
    assert_eq!(infos(&sliced).unwrap()[1].group.as_deref(), Some("P1"));
    let sample = xdiff_data::Dataset::get(&sliced, 0, &mut xdiff_nn::Rng::new(0)).unwrap();
    assert_eq!(sample.image.data(), [0.0, 0.05, 0.1, 0.15, 0.2, 0.6]);

    // The same through a dataset of files: the segmentation object is the mask file of each slice.
    let mut listing = dicom::listing(dir.path(), &limits).unwrap();
    assert_eq!((listing.entries.len(), &listing.skipped), (3, &vec![at.clone()]));
    listing.entries.iter_mut().for_each(|e| e.masks = vec![(MaskKind::Lesion, at.clone())]);
    let options = ReadOptions::new(Window::Range { lo: 0.0, hi: 20.0 });
    let data = Arc::new(FileDataset::new(listing.clone(), options.clone()).unwrap());
    let loader =
        DataLoader::new(data, LoaderConfig { batch_size: 3, shuffle: false, ..Default::default() }).unwrap();
    let batch = loader.epoch(0).next().unwrap().unwrap();
    let areas = batch.mask(&MaskKind::Lesion).unwrap().flatten_from(1).unwrap().sum(1).unwrap();
    assert_eq!(areas.to_vec1::<f32>().unwrap(), [2.0, 2.0, 0.0]);
    listing.entries[0].masks[0].0 = MaskKind::Brain;
    let wrong = FileDataset::new(listing, options).unwrap();
    let refused = xdiff_data::Dataset::get(&wrong, 0, &mut xdiff_nn::Rng::new(0)).unwrap_err();
    assert!(matches!(&refused, Error::Dicom { fault: DicomFault::NoSegment { .. }, .. }), "{refused}");
}

#[test]
fn segmentations_that_are_none_are_refused() {
    let read = |object: Object| {
        let file = Dicom::from_bytes("seg.dcm", object.file(EXPLICIT), &Limits::default()).unwrap();
        Segmentation::new(file).unwrap_err().to_string()
    };
    let cases = [
        (Object::image(), "SegmentationType (0062,0001) is missing"),
        (drawn().text(tags::SEGMENTATION_TYPE, VR::CS, "FRACTIONAL"), "FRACTIONAL"),
        (drawn().items(tags::SEGMENT_SEQUENCE, vec![]), "SegmentSequence (0062,0002) is missing"),
        (drawn().items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, vec![]), "ReferencedSegmentNumber"),
        (drawn().bytes(&[0, 0]), "needs 3 bytes, but 2"),
    ];
    for (object, words) in cases {
        let said = read(object);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn folders_of_dicom_files_load_with_patients_kept_together() {
    let dir = TempDir::new().unwrap();
    for i in 0..12 {
        let patient = ["A", "B", "C", "D"][i as usize / 3];
        write(dir.path(), &format!("{i:02}.dcm"), object(&Made { patient, ..made(i, f64::from(i)) }));
    }
    let listing = folder::flat(dir.path()).unwrap().group_by_patient(&Limits::default()).unwrap();
    assert_eq!(listing, dicom::listing(dir.path(), &Limits::default()).unwrap());
    let data =
        Arc::new(FileDataset::new(listing, ReadOptions::new(Window::Range { lo: 0.0, hi: 30.0 })).unwrap());
    let all = infos(&data).unwrap();
    let parts = split(&all, &SplitConfig { train: 0.5, val: 0.25, test: 0.25, seed: 3 }).unwrap();
    let patients = |part: &[usize]| {
        part.iter().filter_map(|i| all[*i].group.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(patients(&parts.train).is_disjoint(&patients(&parts.test)));
    assert_eq!((parts.train.len(), parts.val.len(), parts.test.len()), (6, 3, 3));
    let loader =
        DataLoader::new(data, LoaderConfig { batch_size: 5, shuffle: false, ..Default::default() }).unwrap();
    let first = loader.epoch(0).next().unwrap().unwrap();
    assert_eq!(first.images.dims(), [5, 1, 2, 3]);
    // (11/30)·2 − 1 for the last pixel of the second file.
    let values = first.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!((values[11] - (22.0 / 30.0 - 1.0)).abs() < 1e-6);
    write(dir.path(), "nobody.dcm", object(&Made { patient: "", ..made(99, 0.0) }));
    let refused = dicom::listing(dir.path(), &Limits::default()).unwrap_err().to_string();
    assert!(refused.contains("PatientID (0010,0020) is missing"), "{refused}");
}

#[test]
fn the_liver_lies_on_its_ct_slices() {
    let Some(root) = shared_data() else { return };
    let limits = Limits::default();
    let drawn = Segmentation::read(root.join("dicom/liver.dcm"), &limits).unwrap();
    assert_eq!((drawn.segments()[0].label.as_str(), drawn.frames().len()), ("Liver", 3));
    // Areas and mean Hounsfield units inside, as pydicom and numpy give them.
    let expected = [
        (1, 35_220, 32.960_164_679_159_57),
        (2, 35_645, 38.424_491_513_536_26),
        (3, 36_233, 40.497_778_268_429_34),
    ];
    for (n, area, mean) in expected {
        let ct = Dicom::read(root.join(format!("dicom/ct_3slice_0{n}.dcm")), &limits).unwrap();
        let masks = drawn.masks_of(&ct).unwrap();
        let [(_, mask)] = &masks[..] else { panic!("{} masks on slice {n}", masks.len()) };
        let image = ct.image(0, PixelValues::Modality).unwrap();
        let inside =
            image.data().iter().zip(mask.data()).filter(|(_, m)| **m == 1).map(|(v, _)| f64::from(*v));
        assert_eq!(mask.area(), area);
        assert!((inside.sum::<f64>() / mask.area() as f64 - mean).abs() < 1e-9, "slice {n}");
    }
    let found = dicom::series_of(&[1, 3, 2].map(|n| root.join(format!("dicom/ct_3slice_0{n}.dcm"))), &limits)
        .unwrap();
    let series = found[0].clone().sorted(&SeriesOptions::default()).unwrap();
    let z: Vec<f64> = series.slices().iter().filter_map(|s| s.plane).map(|p| p.position[2]).collect();
    assert_eq!(z, [-128.690002, -127.690002, -126.690002]);
    assert_eq!(series.volume(PixelValues::Modality).unwrap().extent(), Some((-3024.0, 1381.0)));
}

#[test]
fn the_breast_segments_lie_on_the_slices_they_name() {
    let Some(root) = shared_data() else { return };
    let limits = Limits::default();
    let drawn = Segmentation::read(root.join("nc_duke_breast/dicom/segmentation.dcm"), &limits).unwrap();
    let on = |name: &str| -> usize {
        let slice = Dicom::read(root.join("nc_duke_breast/dicom").join(name), &limits).unwrap();
        drawn.masks_of(&slice).unwrap().len()
    };
    let counts = ["pre_018.dcm", "pre_056.dcm", "pre_066.dcm", "pre_137.dcm"].map(on);
    assert_eq!(counts.iter().sum::<usize>(), drawn.frames().len(), "{counts:?}");
}

#[test]
fn four_patients_of_lung_ct_make_series_and_batches() {
    let Some(root) = shared_data() else { return };
    let limits = Limits::default();
    let any = SeriesOptions { spacing: Spacing::Any, ..Default::default() };
    let found = find_series(root.join("lung_ct_dicom"), &limits).unwrap();
    assert_eq!(found.len(), 7);
    for series in found {
        let series = series.sorted(&any).unwrap();
        let depths: Vec<f64> = series.slices().iter().filter_map(|s| s.plane).map(|p| p.depth()).collect();
        assert_eq!(depths.len(), 4);
        assert!(depths.is_sorted(), "{depths:?}");
    }
    let listing = dicom::listing(root.join("lung_ct_dicom/md_P001"), &limits);
    let entries = listing.unwrap().entries;
    assert!(entries.iter().all(|e| e.group == entries[0].group));
}
