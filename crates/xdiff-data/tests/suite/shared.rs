//! Real images, where there are any.

use std::collections::BTreeSet;
use std::sync::Arc;

use xdiff_data::{
    Colour, DataLoader, FileDataset, Geometry, LoaderConfig, ManifestConfig, MaskKind, PairKind, Part,
    ReadOptions, Window, folder, infos, read_manifest,
};

use crate::common::shared_data;

#[test]
fn brain_tumours_come_with_their_masks_and_split() {
    let Some(root) = shared_data() else { return };
    let config = ManifestConfig::default().filter("dataset", ["masked_mri/brain_tumour"]);
    let listing = read_manifest(root.join("MANIFEST.tsv"), &config).unwrap();
    assert_eq!(listing.entries.len(), 102);
    assert_eq!(listing.classes, ["glioma", "meningioma", "pituitary"]);
    let (train, test) = (listing.part(Part::Train), listing.part(Part::Test));
    assert_eq!((train.entries.len(), test.entries.len()), (79, 23));
    let groups =
        |l: &xdiff_data::Listing| l.entries.iter().filter_map(|e| e.group.clone()).collect::<BTreeSet<_>>();
    assert!(groups(&train).is_disjoint(&groups(&test)));

    let options = ReadOptions::new(Window::Full).with(Geometry::square(64), Colour::Grey);
    let data = Arc::new(FileDataset::new(listing, options).unwrap());
    let loader = DataLoader::new(data, LoaderConfig { batch_size: 17, ..Default::default() }).unwrap();
    let mut seen = 0;
    for batch in loader.epoch(0) {
        let batch = batch.unwrap();
        seen += batch.len();
        let sums = batch.mask(&MaskKind::Lesion).unwrap().flatten_from(1).unwrap().sum(1).unwrap();
        assert!(sums.to_vec1::<f32>().unwrap().iter().all(|a| *a > 0.0 && *a < 2000.0), "{:?}", batch.ids);
        assert!(batch.classes.is_some());
    }
    assert_eq!(seen, 102);
}

#[test]
fn masks_of_two_kinds_are_told_apart_by_their_rows() {
    let Some(root) = shared_data() else { return };
    let config = ManifestConfig { pair_kind: PairKind::ByClass, ..Default::default() };
    let listing =
        read_manifest(root.join("MANIFEST.tsv"), &config.filter("dataset", ["nc_duke_breast"])).unwrap();
    let both = listing.entries.iter().find(|e| e.id.ends_with("pre_056.png")).unwrap();
    let kinds: Vec<String> = both.masks.iter().map(|m| m.0.to_string()).collect();
    assert_eq!(kinds, ["breast", "fgt"]);
}

#[test]
fn every_png_and_jpeg_of_the_manifest_can_be_read() {
    let Some(root) = shared_data() else { return };
    let sets = ["blood", "blood_aml", "brain_mri_full", "breast_mri", "chest_xray", "ct"];
    let listing =
        read_manifest(root.join("MANIFEST.tsv"), &ManifestConfig::default().filter("dataset", sets)).unwrap();
    // Every 10th: enough to see each source.
    let mut sparse = listing.clone();
    sparse.entries = listing.entries.iter().step_by(10).cloned().collect();
    let geometry = Geometry::square(32);
    let data =
        FileDataset::new(sparse, ReadOptions::new(Window::Full).with(geometry, Colour::ToRgb)).unwrap();
    let config = LoaderConfig { batch_size: 64, shuffle: false, ..Default::default() };
    let loader = DataLoader::new(Arc::new(data), config).unwrap();
    let seen: usize = loader.epoch(0).map(|b| b.unwrap().len()).sum();
    assert_eq!(seen, listing.entries.len().div_ceil(10));
}

#[test]
fn class_folders_agree_with_the_manifest() {
    let Some(root) = shared_data() else { return };
    let by_folder = folder::class_folders(root.join("brain_mri")).unwrap();
    let config = ManifestConfig::default().filter("dataset", ["brain_mri"]);
    let by_manifest = read_manifest(root.join("MANIFEST.tsv"), &config).unwrap();
    assert_eq!(by_folder.classes, by_manifest.classes);
    let ids: BTreeSet<String> = by_folder.entries.iter().map(|e| format!("brain_mri/{}", e.id)).collect();
    assert_eq!(ids, by_manifest.entries.iter().map(|e| e.id.clone()).collect());
    let data = FileDataset::new(by_manifest, ReadOptions::new(Window::Full)).unwrap();
    assert!(infos(&data).unwrap().iter().all(|i| i.class.is_some() && i.group.is_some()));
}
