//! Slices of volumes as samples.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use xdiff_data::{
    Affine, Axis, Colour, DataLoader, Dataset, Error, Frames, Geometry, Grid, LabelVolume, LoaderConfig,
    MaskKind, MaskLabels, Result, Skip, SliceOptions, SlicePlace, SliceRange, SplitConfig, Volume,
    VolumeDataset, VolumeEntry, VolumeSource, Window, infos, k_fold, slices, split,
};
use xdiff_nn::Rng;

fn grid() -> Grid {
    Grid::new([6, 5, 4], Affine::scaling([1.0, 1.0, 3.0]).unwrap()).unwrap()
}

/// Each voxel holds `first` and its number.
fn ramp(first: f32) -> Volume {
    Volume::new(grid(), (0..120).map(|v| first + v as f32).collect()).unwrap()
}

/// A label in one voxel of the slice along K.
fn labelled(slice: usize, label: u32) -> LabelVolume {
    let at = slice * 30 + 7;
    LabelVolume::new(grid(), (0..120).map(|v| if v == at { label } else { 0 }).collect()).unwrap()
}

fn entry(id: &str, patient: &str, class: &str, lesion: usize) -> VolumeEntry {
    VolumeEntry {
        class: Some(class.into()),
        group: Some(patient.into()),
        ..VolumeEntry::new(id, ramp(0.0)).with_labels(labelled(lesion, 1 + lesion as u32))
    }
}

fn options() -> SliceOptions {
    SliceOptions::new(Axis::K, Window::Range { lo: 0.0, hi: 240.0 })
}

fn lesion(labels: &[u32]) -> Vec<MaskLabels> {
    vec![MaskLabels { kind: MaskKind::Lesion, labels: labels.to_vec() }]
}

fn ids(data: &VolumeDataset) -> Vec<String> {
    infos(data).unwrap().into_iter().map(|i| i.id).collect()
}

#[test]
fn slices_stand_in_the_order_of_their_volumes() {
    let entries = vec![entry("b", "p1", "ill", 0), entry("a", "p2", "well", 3)];
    let options = SliceOptions { masks: lesion(&[]), ..options() };
    let data = VolumeDataset::new(entries, options).unwrap();
    assert_eq!(
        ids(&data),
        ["b/k_0000", "b/k_0001", "b/k_0002", "b/k_0003", "a/k_0000", "a/k_0001", "a/k_0002", "a/k_0003"]
    );
    assert_eq!(data.classes(), ["ill", "well"]);
    let sample = data.get(7, &mut Rng::new(0)).unwrap();
    assert_eq!((sample.info.class, sample.info.group.as_deref()), (Some(1), Some("p2")));
    assert_eq!(sample.image.data()[0], 90.0 / 240.0);
    assert_eq!(sample.masks[&MaskKind::Lesion].data().iter().position(|v| *v == 1), Some(7));
    assert_eq!(data.places()[7], SlicePlace { entry: 1, frame: 0, index: 3 });
    assert!(matches!(data.get(8, &mut Rng::new(0)), Err(Error::Index { index: 8, len: 8 })));
}

#[test]
fn ranges_and_skips_choose_slices() {
    let kept = |range: SliceRange, skip: Skip, labels: &[u32]| {
        let options = SliceOptions { range, skip, masks: lesion(labels), ..options() };
        VolumeDataset::new(vec![entry("a", "p", "c", 2)], options)
            .map(|d| d.places().iter().map(|p| p.index).collect::<Vec<_>>())
    };
    type Case<'a> = (SliceRange, Skip, &'a [u32], &'a [usize]);
    let cases: [Case<'_>; 8] = [
        (SliceRange::All, Skip::Nothing, &[], &[0, 1, 2, 3]),
        (SliceRange::Between(1, 3), Skip::Nothing, &[], &[1, 2]),
        (SliceRange::Share(0.25, 0.75), Skip::Nothing, &[], &[1, 2]),
        (SliceRange::Share(0.9, 1.0), Skip::Nothing, &[], &[]),
        (SliceRange::All, Skip::Unlabelled, &[], &[2]),
        (SliceRange::All, Skip::Unlabelled, &[3], &[2]),
        // Half of the third slice's 30 values, 60 to 89, are above 74.
        (SliceRange::All, Skip::Empty { value: 74.0, share: 0.5 }, &[], &[3]),
        (SliceRange::All, Skip::Empty { value: 74.0, share: 0.49 }, &[], &[2, 3]),
    ];
    for (range, skip, labels, want) in cases {
        match kept(range, skip, labels) {
            Ok(got) => assert_eq!(got, want, "{range:?} {skip:?} {labels:?}"),
            Err(e) => assert!(want.is_empty() && matches!(e, Error::Argument { .. }), "{range:?}: {e}"),
        }
    }
    for (range, skip) in [
        (SliceRange::Between(2, 2), Skip::Nothing),
        (SliceRange::Between(2, 5), Skip::Nothing),
        (SliceRange::Share(0.5, 1.5), Skip::Nothing),
        (SliceRange::Share(f64::NAN, 1.0), Skip::Nothing),
        (SliceRange::All, Skip::Empty { value: f32::NAN, share: 0.5 }),
        (SliceRange::All, Skip::Empty { value: 0.0, share: 1.0 }),
    ] {
        assert!(matches!(kept(range, skip, &[]), Err(Error::Argument { .. })), "{range:?} {skip:?}");
    }
    // A label that no voxel has.
    assert!(kept(SliceRange::All, Skip::Unlabelled, &[9]).is_err());
}

#[test]
fn entries_that_do_not_fit_are_refused() {
    let new = |entries, options| VolumeDataset::new(entries, options).map(|_| ()).unwrap_err();
    assert!(matches!(new(vec![], options()), Error::Argument { .. }));
    let twice = new(vec![entry("a", "p", "c", 0), entry("a", "q", "c", 0)], options()).to_string();
    assert!(twice.contains("`a`"), "{twice}");
    let elsewhere = Grid::new([6, 5, 4], Affine::scaling([1.0, 1.0, 2.0]).unwrap()).unwrap();
    let bad = VolumeEntry::new("a", ramp(0.0)).with_labels(Volume::zeros(elsewhere));
    assert!(matches!(new(vec![bad], options()), Error::Grids { .. }));
    let movie = || VolumeEntry::new("m", Volume::with_frames(grid(), 2, vec![1.0; 240]).unwrap());
    assert!(new(vec![movie()], options()).to_string().contains("2 frames"));
    assert!(
        new(vec![movie()], SliceOptions { frames: Frames::At(2), ..options() }).to_string().contains("has 2")
    );
    let all = VolumeDataset::new(vec![movie()], SliceOptions { frames: Frames::All, ..options() }).unwrap();
    assert_eq!((all.len(), ids(&all)[4].as_str()), (8, "m/frame_0001/k_0000"));
    let no_masks = SliceOptions { skip: Skip::Unlabelled, ..options() };
    assert!(matches!(new(vec![entry("a", "p", "c", 0)], no_masks), Error::Argument { .. }));
    let twice = SliceOptions { masks: [lesion(&[1]), lesion(&[2])].concat(), ..options() };
    assert!(new(vec![entry("a", "p", "c", 0)], twice).to_string().contains("`lesion`"));
    // Labels that are no labels, found when they are read.
    let odd = VolumeEntry::new("a", ramp(0.0)).with_labels(ramp(0.5));
    let data = VolumeDataset::new(vec![odd], options()).unwrap();
    assert!(data.get(0, &mut Rng::new(0)).unwrap_err().to_string().contains("0.5"));
}

#[test]
fn slices_are_sized_and_coloured_with_their_masks() {
    let options = SliceOptions {
        axis: Axis::Coronal,
        masks: lesion(&[]),
        colour: Colour::ToRgb,
        square_pixels: true,
        ..options()
    };
    let entries = || vec![entry("a", "p", "c", 1)];
    let sample = VolumeDataset::new(entries(), options.clone()).unwrap().get(3, &mut Rng::new(0)).unwrap();
    // Four slices, 3 mm apart, become twelve rows.
    assert_eq!((sample.image.channels(), sample.image.height(), sample.image.width()), (3, 12, 6));
    assert_eq!((sample.masks[&MaskKind::Lesion].height(), sample.masks[&MaskKind::Lesion].area()), (12, 3));
    let options = SliceOptions { geometry: Some(Geometry::square(8)), ..options };
    let sample = VolumeDataset::new(entries(), options).unwrap().get(3, &mut Rng::new(0)).unwrap();
    assert_eq!((sample.image.height(), sample.image.width()), (8, 8));
    assert_eq!(sample.masks[&MaskKind::Lesion].width(), 8);
}

/// A volume that counts how often it is read.
#[derive(Debug)]
struct Counting(Volume, Arc<AtomicUsize>);

impl VolumeSource for Counting {
    fn name(&self) -> String {
        "counting".into()
    }
    fn grid(&self) -> Grid {
        *self.0.grid()
    }
    fn volume(&self) -> Result<Volume> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(self.0.clone())
    }
}

#[test]
fn a_volume_is_read_once_while_it_fits() {
    for (held_bytes, want) in [(1 << 20, 3..=3), (480, 4..=40)] {
        let reads = Arc::new(AtomicUsize::new(0));
        let entries: Vec<_> = (0..3)
            .map(|n| VolumeEntry::new(n.to_string(), Counting(ramp(n as f32), reads.clone())))
            .collect();
        let data = Arc::new(VolumeDataset::new(entries, SliceOptions { held_bytes, ..options() }).unwrap());
        assert_eq!(reads.load(Ordering::SeqCst), 0, "nothing is read before it is asked for");
        let loader = DataLoader::new(data, LoaderConfig { batch_size: 5, threads: 3, ..Default::default() });
        let seen: usize = loader.unwrap().epoch(0).map(|b| b.unwrap().len()).sum();
        assert_eq!(seen, 12);
        let reads = reads.load(Ordering::SeqCst);
        assert!(want.contains(&reads), "{reads} reads with {held_bytes} bytes");
    }
}

#[test]
fn a_source_that_breaks_its_word_is_refused() {
    #[derive(Debug)]
    struct Liar;
    impl VolumeSource for Liar {
        fn name(&self) -> String {
            "liar".into()
        }
        fn grid(&self) -> Grid {
            grid()
        }
        fn volume(&self) -> Result<Volume> {
            Ok(Volume::zeros(Grid::new([1, 1, 1], *grid().affine())?))
        }
    }
    let data = VolumeDataset::new(vec![VolumeEntry::new("x", Liar)], options()).unwrap();
    assert!(matches!(data.get(0, &mut Rng::new(0)), Err(Error::Argument { .. })));
}

#[test]
fn no_split_tears_a_patient_or_a_volume() {
    // Twelve patients with one or two volumes; a third of the patients are ill.
    let entries: Vec<_> = (0..18)
        .map(|n| {
            entry(
                &format!("v{n}"),
                &format!("p{}", n * 2 / 3),
                if n * 2 / 3 % 3 == 0 { "ill" } else { "well" },
                n % 4,
            )
        })
        .collect();
    let data = VolumeDataset::new(entries, options()).unwrap();
    let all = infos(&data).unwrap();
    let groups =
        |part: &[usize]| part.iter().map(|i| all[*i].group.clone().unwrap()).collect::<BTreeSet<_>>();
    let ill =
        |part: &[usize]| part.iter().filter(|i| all[**i].class == Some(0)).count() as f64 / part.len() as f64;
    let parts = split(&all, &SplitConfig { train: 0.5, val: 0.25, test: 0.25, seed: 3 }).unwrap();
    assert!(groups(&parts.train).is_disjoint(&groups(&parts.val)));
    assert!(groups(&parts.train).is_disjoint(&groups(&parts.test)));
    assert!(groups(&parts.val).is_disjoint(&groups(&parts.test)));
    let share = ill(&(0..all.len()).collect::<Vec<_>>());
    for fold in k_fold(&all, 4, 1).unwrap() {
        assert!(groups(&fold.train).is_disjoint(&groups(&fold.held_out)));
        assert!((ill(&fold.held_out) - share).abs() < 0.1, "{} of {share}", ill(&fold.held_out));
    }
    // Without a patient, the volume is the group.
    let alone = VolumeDataset::new(vec![VolumeEntry::new("v", ramp(0.0))], options()).unwrap();
    assert!(infos(&alone).unwrap().iter().all(|i| i.group.as_deref() == Some("v")));
}

#[test]
fn a_span_is_over_all_volumes() {
    let entries = [VolumeEntry::new("a", ramp(-7.0)), VolumeEntry::new("b", ramp(100.0))];
    assert_eq!(slices::span(&entries).unwrap().seen(), (-7.0, 219.0, 2));
    let nothing = Volume::new(grid(), vec![f32::NAN; 120]).unwrap();
    assert!(slices::span(&[VolumeEntry::new("n", nothing)]).is_err());
}

#[cfg(feature = "nifti")]
#[test]
fn folders_of_volumes_are_listed_with_their_labels() {
    use tempfile::TempDir;
    use xdiff_data::Limits;
    use xdiff_data::nifti::{nifti_folder, nifti_pairs, write_nifti, write_nifti_labels};

    let dir = TempDir::new().unwrap();
    let limits = Limits::default();
    for name in ["images/b_0000.nii.gz", "images/deep/a.nii", "labels/b.nii", "labels/deep/a.NII.gz"] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.starts_with("images") {
            write_nifti(&path, &ramp(0.0)).unwrap();
        } else {
            write_nifti_labels(&path, &labelled(1, 5)).unwrap();
        }
    }
    std::fs::write(dir.path().join("images/notes.txt"), "x").unwrap();
    let pairs = || nifti_pairs(dir.path().join("images"), dir.path().join("labels"), &limits);
    let data = VolumeDataset::new(
        pairs().unwrap(),
        SliceOptions { skip: Skip::Unlabelled, masks: lesion(&[5]), ..options() },
    )
    .unwrap();
    assert_eq!(ids(&data), ["b/k_0001", "deep/a/k_0001"]);
    assert_eq!(data.get(1, &mut Rng::new(0)).unwrap().masks[&MaskKind::Lesion].area(), 1);
    assert_eq!(nifti_folder(dir.path(), &limits).unwrap().len(), 4);

    write_nifti_labels(dir.path().join("labels/orphan.nii"), &labelled(1, 5)).unwrap();
    assert!(pairs().unwrap_err().to_string().contains("orphan"));
    write_nifti(dir.path().join("images/lonely.nii"), &ramp(0.0)).unwrap();
    assert!(pairs().unwrap_err().to_string().contains("lonely"));
    write_nifti(dir.path().join("images/lonely.nii.gz"), &ramp(0.0)).unwrap();
    let error = nifti_folder(dir.path().join("images"), &limits).unwrap_err().to_string();
    assert!(error.contains("same name"), "{error}");
    let empty = TempDir::new().unwrap();
    assert!(matches!(nifti_folder(empty.path(), &limits), Err(Error::Layout { .. })));
}

#[cfg(feature = "nifti")]
#[test]
fn real_volumes_give_their_labels_slice_by_slice() {
    use xdiff_data::nifti::NiftiFile;
    use xdiff_data::{Limits, MissingMasks};

    let Some(root) = crate::common::shared_data() else { return };
    let open = |name: &str| NiftiFile::open(root.join("nifti").join(name), &Limits::default()).unwrap();
    let pair =
        |id: &str, image: &str, labels: &str| VolumeEntry::new(id, open(image)).with_labels(open(labels));
    let entries = vec![
        pair("ct", "ts_example_ct_sm.nii.gz", "ts_example_seg.nii.gz"),
        pair("mr", "ts_example_mr_sm.nii.gz", "ts_example_seg_mr.nii.gz"),
        pair("brain", "pyradiomics_brain1_image.nii.gz", "pyradiomics_brain1_label.nii.gz"),
    ];
    let voxels: usize = entries
        .iter()
        .map(|e| LabelVolume::from_volume(e.labels.as_ref().unwrap().volume().unwrap()).unwrap())
        .map(|l| l.counts().values().sum::<usize>())
        .sum();
    for axis in [Axis::Axial, Axis::Sagittal] {
        let options = SliceOptions {
            skip: Skip::Unlabelled,
            masks: lesion(&[]),
            ..SliceOptions::new(axis, Window::Range { lo: -200.0, hi: 800.0 })
        };
        let data = Arc::new(VolumeDataset::new(entries.clone(), options).unwrap());
        let config =
            LoaderConfig { batch_size: 16, missing_masks: MissingMasks::Refuse, ..LoaderConfig::default() };
        let loader = DataLoader::new(data, config).unwrap();
        let mut marked = 0.0;
        for groups in loader.epoch_groups(0) {
            for group in groups.unwrap() {
                let mask = group.mask(&MaskKind::Lesion).unwrap();
                marked += mask.sum_all().unwrap().to_scalar::<f32>().unwrap();
            }
        }
        assert_eq!(marked as usize, voxels, "{axis:?}");
    }
}
