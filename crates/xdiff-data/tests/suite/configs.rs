//! Configurations survive being written down, and misspelt fields are refused.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, to_value};
use xdiff_data::folder::PairLayout;
use xdiff_data::phantom::{PhantomConfig, PhantomKind};
use xdiff_data::{
    Augment, Border, Colour, Filter, Fit, Geometry, Limits, LoaderConfig, ManifestConfig, MaskKind, PairKind,
    Position, ReadOptions, SplitConfig, Window,
};

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(config: T, failed: &mut Vec<String>) {
    let written = to_value(&config).unwrap();
    match from_value::<T>(written.clone()) {
        Ok(read) if read == config => {}
        other => failed.push(format!("{config:?} came back as {other:?}")),
    }
    let mut misspelt = written;
    misspelt["batchsize"] = Value::from(1);
    if let Ok(read) = from_value::<T>(misspelt) {
        failed.push(format!("an unknown field was taken: {read:?}"));
    }
}

#[test]
fn configurations_round_trip_and_refuse_unknown_fields() {
    let mut failed = Vec::new();
    let failed_ref = &mut failed;
    check(LoaderConfig { batch_size: 3, ..Default::default() }, failed_ref);
    check(SplitConfig::default(), failed_ref);
    check(Limits::default(), failed_ref);
    check(Position { epoch: 2, batch: 7 }, failed_ref);
    check(
        PairLayout { masks: [(MaskKind::Other("fgt".into()), "m".into())].into(), ..Default::default() },
        failed_ref,
    );
    check(ManifestConfig { pair_kind: PairKind::All(MaskKind::Brain), ..Default::default() }, failed_ref);
    check(Augment { border: Border::Constant(0.5), rotate: 3.0, ..Default::default() }, failed_ref);
    check(
        PhantomConfig { kind: PhantomKind::ChestXray, markers: vec![0.5; 5], ..Default::default() },
        failed_ref,
    );
    let geometry = Geometry { height: 3, width: 4, fit: Fit::Pad(0.25), filter: Filter::Lanczos3 };
    check(geometry, failed_ref);
    check(ReadOptions::new(Window::Range { lo: -1.0, hi: 2.0 }).with(geometry, Colour::ToGrey), failed_ref);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // A window is never assumed.
    assert!(from_value::<ReadOptions>(serde_json::json!({})).is_err());
}
