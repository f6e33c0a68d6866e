//! What a user may hand to the examples by mistake, or somebody else on purpose: every one ends in
//! an error that names the fault, none in a panic.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma};
use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Outcome;
use xdiff::data::{Dataset, MaskKind};
use xdiff::nn::Rng;
use xdiff_examples::AnyError;
use xdiff_examples::mri::preset::Preset;
use xdiff_examples::mri::source::{MriData, folder};
use xdiff_examples::mri::{model, source};

/// Whether an error is one of the crates' own.
fn is_typed(e: &AnyError) -> bool {
    e.is::<xdiff::data::Error>()
        || e.is::<xdiff::core::Error>()
        || e.is::<xdiff::nn::Error>()
        || e.is::<serde_json::Error>()
}

fn save(path: PathBuf, side: u32, seed: u64) {
    let mut rng = Rng::new(seed);
    GrayImage::from_fn(side, side, |_, _| Luma([rng.below(256) as u8])).save(path).unwrap();
}

/// A folder with ten images and masks of 32 × 32, changed in one way.
fn pairs(change: impl Fn(&Path)) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for part in ["images", "masks"] {
        fs::create_dir(root.path().join(part)).unwrap();
    }
    for i in 0..10 {
        save(root.path().join(format!("images/{i}.png")), 32, i);
        let square = |x, y| Luma([if x > 8 && y > 8 + i as u32 { 255 } else { 0 }]);
        GrayImage::from_fn(32, 32, square).save(root.path().join(format!("masks/{i}.png"))).unwrap();
    }
    change(root.path());
    root
}

/// Reads every sample of a folder.
fn read(root: &Path) -> Result<MriData, AnyError> {
    let data = folder(root, MaskKind::Lesion, 32, 0)?;
    for part in [&data.train, &data.held_out] {
        for i in 0..part.len() {
            part.get(i, &mut Rng::new(0))?;
        }
    }
    Ok(data)
}

fn cut(path: &Path, share: f64) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..(bytes.len() as f64 * share) as usize]).unwrap();
}

#[test]
fn folders_that_cannot_be_used_are_named() {
    let whole = pairs(|_| {});
    let data = read(whole.path()).unwrap();
    assert_eq!((data.train.len(), data.held_out.len()), (8, 2));
    type Change = fn(&Path);
    let cases: Vec<(&str, Change, &str)> = vec![
        ("no folder", |p| fs::remove_dir_all(p).unwrap(), "images"),
        (
            "an empty folder",
            |p| ["images", "masks"].iter().for_each(|d| fs::remove_dir_all(p.join(d)).unwrap()),
            "images",
        ),
        ("no masks", |p| fs::remove_dir_all(p.join("masks")).unwrap(), "masks"),
        (
            "no images",
            |p| (0..10).for_each(|i| fs::remove_file(p.join(format!("images/{i}.png"))).unwrap()),
            "images",
        ),
        ("an image without a mask", |p| fs::remove_file(p.join("masks/4.png")).unwrap(), "4.png"),
        ("a mask without an image", |p| fs::remove_file(p.join("images/4.png")).unwrap(), "4.png"),
        ("a mask of another size", |p| save(p.join("masks/4.png"), 24, 0), "24"),
        ("half an image", |p| cut(&p.join("images/4.png"), 0.5), "4.png"),
        ("half a mask", |p| cut(&p.join("masks/4.png"), 0.5), "4.png"),
        ("an empty image", |p| cut(&p.join("images/4.png"), 0.0), "4.png"),
        ("no image at all", |p| fs::write(p.join("images/4.png"), "<html>").unwrap(), "4.png"),
        (
            "a folder for an image",
            |p| {
                fs::remove_file(p.join("images/4.png")).unwrap();
                fs::create_dir(p.join("images/4.png")).unwrap();
            },
            "4.png",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, change, part) in cases {
        let root = pairs(change);
        match read(root.path()) {
            Ok(_) => wrong.push(format!("{name} is accepted")),
            Err(e) if !is_typed(&e) || !e.to_string().contains(part) => wrong.push(format!("{name}: {e}")),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn preset() -> Preset {
    let mut preset = Preset::quickstart().tiny().with_steps(4);
    preset.train.checkpoint_every = 1;
    preset
}

#[test]
fn a_file_that_breaks_in_mid_training_leaves_the_checkpoint() {
    let root = pairs(|_| {});
    let out = tempfile::tempdir().unwrap();
    let path = model::checkpoint_path(out.path());
    let data = folder(root.path(), MaskKind::Lesion, 32, 0).unwrap();
    // Images are read when their turn comes, so this one breaks after the folder was listed.
    let id = data.train.info(0).unwrap().id;
    let name = format!("{}.png", id.trim_end_matches(".png"));
    cut(&root.path().join("images").join(&name), 0.5);
    let outcome = model::train(&preset(), &data, &path, &CancelToken::new());
    let error = outcome.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(xdiff::core::Error::Data(_))), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    if path.exists() {
        model::load(&path).unwrap();
    }
}

/// A trained model on disk.
fn trained() -> (tempfile::TempDir, PathBuf, MriData) {
    let out = tempfile::tempdir().unwrap();
    let path = model::checkpoint_path(out.path());
    let data = source::phantoms(10, 32, 0).unwrap();
    assert_eq!(model::train(&preset(), &data, &path, &CancelToken::new()).unwrap(), Outcome::Finished);
    (out, path, data)
}

/// How a file of a model is taken: loaded for sampling, and as a training to go on with.
fn use_both(path: &Path, data: &MriData) -> [Option<AnyError>; 2] {
    let load = model::load(path).map(|_| ()).err();
    [load, model::train(&preset(), data, path, &CancelToken::new()).map(|_| ()).err()]
}

#[test]
fn a_model_cut_short_is_refused_at_every_length() {
    let (_out, path, data) = trained();
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let sevenths = (0..7).map(|i| bytes.len() * i / 7);
    let mut wrong = Vec::new();
    for length in sevenths.chain([1, 7, 8, 9, header / 2, header - 1, header, header + 1, bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        for error in use_both(&path, &data) {
            match error {
                None => wrong.push(format!("{length} bytes are accepted")),
                Some(e) if !e.to_string().contains("model.safetensors") => {
                    wrong.push(format!("{length}: {e}"))
                }
                Some(_) => {}
            }
        }
        assert_eq!(fs::read(&path).unwrap().len(), length, "a broken file is not overwritten");
        if let Ok(weights) = xdiff::nn::weights::read(&path) {
            wrong.push(format!("{length} bytes give {} tensors", weights.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::write(&path, &bytes).unwrap();
    assert_eq!(model::load(&path).unwrap().steps, 4);
}

#[test]
fn a_hostile_header_is_refused() {
    let (_out, path, data) = trained();
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    let file =
        |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[end..]].concat();
    // JSON within JSON: the quotes of the description are escaped.
    let edit = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} in {header}");
        file(&header.replacen(from, to, 1))
    };
    let length = |n: u64| [&n.to_le_bytes(), &bytes[8..]].concat();
    let huge = r#"\"block_out_channels\":[1048576,1048576]"#;
    let cases = [
        ("a header of 2⁶⁴ bytes", length(u64::MAX)),
        ("a header longer than the file", length(bytes.len() as u64)),
        ("no header", length(0)),
        ("not JSON", file("{{{{")),
        ("deep JSON", file(&"[".repeat(100_000))),
        ("a list", file("[]")),
        ("no tensors", file("{}")),
        ("a huge shape", edit(r#""shape":["#, r#""shape":[9223372036854775807,"#)),
        ("a negative shape", edit(r#""shape":["#, r#""shape":[-1,"#)),
        ("an unknown type", edit(r#""dtype":"F32""#, r#""dtype":"F31""#)),
        ("offsets past the end", edit(r#""data_offsets":[0,"#, r#""data_offsets":[9223372036854775807,"#)),
        ("another format", edit("xdiff-training-1", "xdiff-training-9")),
        ("a network that is larger than the file", edit(r#"\"block_out_channels\":[8,16]"#, huge)),
        ("a network of no stages", edit(r#"\"block_out_channels\":[8,16]"#, r#"\"block_out_channels\":[]"#)),
        ("no groups", edit(r#"\"norm_num_groups\":4"#, r#"\"norm_num_groups\":0"#)),
        (
            "heads wider than the network",
            edit(r#"\"attention_head_dim\":8"#, r#"\"attention_head_dim\":999"#),
        ),
        ("no steps of sampling", edit(r#"\"sampling_steps\":10"#, r#"\"sampling_steps\":0"#)),
        ("endless images", edit(r#"\"size\":32"#, r#"\"size\":9223372036854775807"#)),
        ("an unknown field", edit(r#"\"norm_num_groups\""#, r#"\"norm_number_groups\""#)),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        for (what, error) in ["sampling", "training"].into_iter().zip(use_both(&path, &data)) {
            match error {
                None => wrong.push(format!("{name} is accepted for {what}")),
                Some(e) if e.to_string().is_empty() || !(is_typed(&e) || what == "training") => {
                    wrong.push(format!("{name}: {e}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn random_damage_to_a_model_never_panics() {
    let (_out, path, data) = trained();
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut rng = Rng::new(17);
    let (mut refused, rounds) = (0, 300);
    for round in 0..rounds {
        let mut damaged = bytes.clone();
        // Two rounds of three hit the header, where a byte means most.
        let reach = if round % 3 == 0 { bytes.len() } else { header };
        for _ in 0..1 + rng.below(6) {
            damaged[rng.below(reach)] = rng.below(256) as u8;
        }
        fs::write(&path, &damaged).unwrap();
        if let Err(e) = model::load(&path) {
            assert!(is_typed(&e) && !e.to_string().is_empty(), "round {round}: {e}");
            refused += 1;
        }
        if round % 10 == 0 {
            let _ = model::train(&preset(), &data, &path, &CancelToken::new());
        }
    }
    assert!(refused > rounds / 2, "only {refused} of {rounds} were refused");
}
