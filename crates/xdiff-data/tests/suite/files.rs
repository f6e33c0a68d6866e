//! Folders and manifests.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xdiff_data::folder::{PairLayout, class_folders, flat, pairs};
use xdiff_data::{
    Colour, Dataset, Error, FileDataset, Filter, Fit, Geometry, Grouping, Listing, ManifestConfig, MaskKind,
    PairKind, Part, ReadOptions, Result, Window, read_manifest,
};
use xdiff_nn::Rng;

use crate::common::{grey, rgb};

fn ids(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|e| e.id.as_str()).collect()
}

#[test]
fn class_folders_are_sorted_and_numbered() {
    let dir = TempDir::new().unwrap();
    for name in ["zebra/2.png", "zebra/10.png", "ant/deep/er/x.PNG", "ant/b.png"] {
        grey(dir.path().join(name), 4, 4, 0);
    }
    fs::write(dir.path().join("ant/notes.txt"), "x").unwrap();
    fs::write(dir.path().join("ant/.hidden.png"), "x").unwrap();
    let listing = class_folders(dir.path()).unwrap();
    assert_eq!(ids(&listing), ["ant/b.png", "ant/deep/er/x.PNG", "zebra/10.png", "zebra/2.png"]);
    assert_eq!(listing.classes, ["ant", "zebra"]);
    assert_eq!(listing.skipped, [dir.path().join("ant/notes.txt")]);
    let data = FileDataset::new(listing, ReadOptions::new(Window::Full)).unwrap();
    let classes: Vec<_> = (0..4).map(|i| data.info(i).unwrap().class.unwrap()).collect();
    assert_eq!(classes, [0, 0, 1, 1]);

    grey(dir.path().join("stray.png"), 4, 4, 0);
    assert!(matches!(class_folders(dir.path()), Err(Error::Layout { .. })));
    fs::remove_file(dir.path().join("stray.png")).unwrap();
    fs::create_dir(dir.path().join("nothing")).unwrap();
    let error = class_folders(dir.path()).unwrap_err().to_string();
    assert!(error.contains("nothing") && error.contains("no images"), "{error}");
}

#[test]
fn groups_come_from_names_or_folders() {
    let dir = TempDir::new().unwrap();
    for name in ["p1/p1_a.png", "p1/p1_b.png", "p2/x.png"] {
        grey(dir.path().join(name), 4, 4, 0);
    }
    let groups = |g: Grouping| -> Vec<String> {
        flat(dir.path()).unwrap().group_by(g).entries.into_iter().map(|e| e.group.unwrap()).collect()
    };
    assert_eq!(groups(Grouping::Folder), ["p1", "p1", "p2"]);
    assert_eq!(groups(Grouping::NameBefore('_')), ["p1", "p1", "x.png"]);
}

#[test]
fn pairs_match_by_stem() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["images/a.png", "images/p/b.png", "masks/a.bmp", "masks/p/b.png"] {
        grey(at(name), 4, 4, 255);
    }
    let layout = PairLayout::default();
    let listing = pairs(dir.path(), &layout).unwrap();
    assert_eq!(ids(&listing), ["a.png", "p/b.png"]);
    assert_eq!(listing.entries[0].masks, [(MaskKind::Lesion, at("masks/a.bmp"))]);

    grey(at("images/c.png"), 4, 4, 0);
    let error = pairs(dir.path(), &layout).unwrap_err().to_string();
    assert!(error.contains("c.png") && error.contains("allow_missing"), "{error}");
    let lenient = PairLayout { allow_missing: true, ..PairLayout::default() };
    assert!(pairs(dir.path(), &lenient).unwrap().entries[1].masks.is_empty());
    grey(at("masks/orphan.png"), 4, 4, 0);
    assert!(pairs(dir.path(), &lenient).unwrap_err().to_string().contains("orphan.png"));
    fs::remove_file(at("masks/orphan.png")).unwrap();
    grey(at("images/a.tif"), 4, 4, 0);
    assert!(pairs(dir.path(), &lenient).unwrap_err().to_string().contains("same stem"));
}

#[test]
fn unreadable_folders_are_errors() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing");
    for error in [flat(&missing).unwrap_err(), class_folders(&missing).unwrap_err()] {
        assert!(matches!(&error, Error::Io { path, .. } if *path == missing), "{error}");
    }
    assert!(matches!(flat(dir.path()), Err(Error::Layout { .. })), "an empty folder");
    grey(dir.path().join("a.png"), 4, 4, 0);
    assert!(matches!(flat(dir.path().join("a.png")), Err(Error::Layout { .. })), "a file");
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        // A link that leads nowhere, and a ring of links.
        symlink(dir.path().join("nowhere"), dir.path().join("b.png")).unwrap();
        assert!(matches!(flat(dir.path()), Err(Error::Io { .. })));
        fs::remove_file(dir.path().join("b.png")).unwrap();
        symlink(dir.path(), dir.path().join("ring")).unwrap();
        assert!(matches!(flat(dir.path()), Err(Error::Io { .. })));
        fs::remove_file(dir.path().join("ring")).unwrap();
        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        // The superuser reads it all the same.
        let allowed = fs::read_dir(&locked).is_ok();
        assert_eq!(flat(dir.path()).is_ok(), allowed);
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_mask_of_another_size_is_refused_unless_asked() {
    let dir = TempDir::new().unwrap();
    grey(dir.path().join("images/a.png"), 8, 6, 100);
    grey(dir.path().join("masks/a.png"), 4, 3, 255);
    let listing = pairs(dir.path(), &PairLayout::default()).unwrap();
    let options = ReadOptions::new(Window::Full);
    let get =
        |options: &ReadOptions| FileDataset::new(listing.clone(), options.clone())?.get(0, &mut Rng::new(0));
    let error = get(&options).unwrap_err();
    assert!(
        matches!(error, Error::MaskSize { height: 6, width: 8, mask_height: 3, mask_width: 4, .. }),
        "{error}"
    );
    let resized = get(&ReadOptions { resize_masks: true, ..options.clone() }).unwrap();
    assert_eq!((resized.masks[&MaskKind::Lesion].area(), resized.image.data()[0]), (48, 100.0 / 255.0));
    let geometry = Geometry { height: 5, width: 5, fit: Fit::Pad(0.0), filter: Filter::Area };
    let framed = get(&ReadOptions { resize_masks: true, ..options.with(geometry, Colour::ToRgb) }).unwrap();
    assert_eq!(
        (framed.image.channels(), framed.image.height(), framed.masks[&MaskKind::Lesion].height()),
        (3, 5, 5)
    );
}

#[test]
fn wrong_channels_are_refused_unless_asked() {
    let dir = TempDir::new().unwrap();
    rgb(dir.path().join("a.png"), 4, 4);
    let get = |colour| {
        let options = ReadOptions { colour, ..ReadOptions::new(Window::Full) };
        FileDataset::new(flat(dir.path()).unwrap(), options)?.get(0, &mut Rng::new(0))
    };
    assert!(matches!(get(Colour::Grey), Err(Error::Channels { .. })));
    assert_eq!(get(Colour::ToGrey).unwrap().image.channels(), 1);
}

/// A manifest with files `a.png`, `b.png`, `m.png`, `n.png` beside it.
fn manifest(name: &str, text: impl AsRef<[u8]>, config: &ManifestConfig) -> Result<Listing> {
    let dir = TempDir::new().unwrap();
    for image in ["a.png", "b.png", "m.png", "n.png"] {
        grey(dir.path().join(image), 4, 4, 0);
    }
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    read_manifest(path, config)
}

#[test]
fn manifests_are_read_with_their_filters_and_pairs() {
    let text = "path\tclass\tsplit\tgroup\tpair\trole\tset\n\
                b.png\tx\ttest\tg1\tm.png;n.png\timage\tone\n\
                ./a.png\tw\tvalidation\t\t\timage\ttwo\n\
                m.png\tgland\t\t\tb.png\tmask\tone\n\
                n.png\tlesion\t\t\tb.png\tmask\tone\n";
    let by_class = ManifestConfig { pair_kind: PairKind::ByClass, ..Default::default() };
    let listing = manifest("m.tsv", text, &by_class).unwrap();
    assert_eq!(ids(&listing), ["b.png", "a.png"]);
    assert_eq!(listing.classes, ["w", "x"]);
    let kinds: Vec<_> = listing.entries[0].masks.iter().map(|m| m.0.clone()).collect();
    assert_eq!(kinds, [MaskKind::Gland, MaskKind::Lesion]);
    assert_eq!((listing.entries[0].part, listing.entries[1].part), (Some(Part::Test), Some(Part::Val)));
    assert_eq!((&listing.entries[0].group, &listing.entries[1].group), (&Some("g1".to_string()), &None));
    assert_eq!(ids(&listing.part(Part::Test)), ["b.png"]);
    let filtered = manifest("m.tsv", text, &by_class.filter("set", ["two", "three"])).unwrap();
    assert_eq!(ids(&filtered), ["a.png"]);

    let csv = "path,class\n\"a.png\",\"one, or the other\"\nb.png,two\n";
    assert_eq!(
        manifest("m.csv", csv, &ManifestConfig::default()).unwrap().classes,
        ["one, or the other", "two"]
    );
    let bom = "\u{feff}path\r\na.png\r\n";
    assert_eq!(ids(&manifest("m.tsv", bom, &ManifestConfig::default()).unwrap()), ["a.png"]);
}

#[test]
fn only_what_lies_below_a_folder_is_listed() {
    let table = "path\nx/a.png\nx/y/b.png\nxy/c.png\nd.png\n";
    let ids_below = |folder: &str| {
        let config = ManifestConfig { below: Some(folder.into()), check_files: false, ..Default::default() };
        manifest("m.tsv", table, &config).unwrap().entries.into_iter().map(|e| e.id).collect::<Vec<_>>()
    };
    assert_eq!(ids_below("x"), ["x/a.png", "x/y/b.png"]);
    assert_eq!(ids_below("x/y/"), ["x/y/b.png"]);
    assert_eq!(ids_below("").len(), 4);
    assert!(ids_below("z").is_empty());
}

#[test]
fn malformed_manifests_are_refused_by_line() {
    let default = ManifestConfig::default();
    let by_class = ManifestConfig { pair_kind: PairKind::ByClass, ..default.clone() };
    let strict = ManifestConfig { class: xdiff_data::Column::required("label"), ..default.clone() };
    let filter = default.clone().filter("dataset", ["x"]);
    let cases: [(&str, &[u8], &ManifestConfig, u64, &str); 23] = [
        ("empty", b"", &default, 1, "empty"),
        ("blank header", b"\n\n", &default, 1, "empty"),
        ("no path column", b"file\tclass\na.png\tx\n", &default, 1, "no column `path`"),
        ("required column", b"path\tclass\na.png\tx\n", &strict, 1, "no column `label`"),
        ("filter column", b"path\na.png\n", &filter, 1, "no column `dataset`"),
        ("doubled column", b"path\tclass\tclass\na.png\tx\ty\n", &default, 1, "twice"),
        ("commas in a tsv", b"path,class\na.png,x\n", &default, 1, "no column `path`"),
        ("too few fields", b"path\tclass\na.png\tx\nb.png\n", &default, 3, "1 fields"),
        ("too many fields", b"path\tclass\na.png\tx\ty\n", &default, 2, "3 fields"),
        ("blank lines", b"path\na.png\n\n\n../b.png\n", &default, 5, "`..`"),
        ("empty path", b"path\tclass\n\tx\n", &default, 2, "is empty"),
        ("parent", b"path\na.png\n../b.png\n", &default, 3, "`..`"),
        ("parent inside", b"path\nx/../../b.png\n", &default, 2, "`..`"),
        ("backslashes", b"path\n..\\b.png\n", &default, 2, "`..`"),
        ("absolute", b"path\n/etc/passwd\n", &default, 2, "absolute"),
        ("drive", b"path\nC:\\b.png\n", &default, 2, "absolute"),
        ("only a dot", b"path\n./.\n", &default, 2, "names no file"),
        ("escaping pair", b"path\tpair\na.png\t../m.png\n", &default, 2, "`..`"),
        ("duplicate", b"path\na.png\nb.png\n./a.png\n", &default, 4, "line 2"),
        ("unknown split", b"path\tsplit\na.png\tholdout\n", &default, 2, "holdout"),
        ("missing file", b"path\na.png\nz.png\n", &default, 3, "z.png does not exist"),
        ("two masks of a kind", b"path\tpair\na.png\tm.png;n.png\n", &default, 2, "two masks"),
        ("mask without a row", b"path\tpair\na.png\tm.png\n", &by_class, 2, "no row"),
    ];
    let mut failed = Vec::new();
    for (name, text, config, line, words) in cases {
        match manifest("m.tsv", text, config) {
            Err(Error::Manifest { line: at, reason, .. }) if at == line && reason.contains(words) => {}
            other => failed.push(format!("{name}: {other:?}")),
        }
    }
    for (name, text, line) in [("latin-1", b"path\tclass\na.png\tx\nb.png\tna\xefve\n", 3)] {
        match manifest("m.tsv", text, &default) {
            Err(Error::Manifest { line: at, reason, .. }) if at == line && reason.contains("UTF-8") => {}
            other => failed.push(format!("{name}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let missing = read_manifest(Path::new("no/such/manifest.tsv"), &default);
    assert!(matches!(missing, Err(Error::Io { .. })));
    let unchecked = ManifestConfig { check_files: false, ..default };
    assert_eq!(manifest("m.tsv", "path\nz.png\n", &unchecked).unwrap().entries.len(), 1);
}

#[test]
fn an_empty_listing_is_no_dataset() {
    let listing = manifest("m.tsv", "path\tsplit\na.png\ttrain\n", &ManifestConfig::default()).unwrap();
    assert!(FileDataset::new(listing.part(Part::Val), ReadOptions::new(Window::Full)).is_err());
}
