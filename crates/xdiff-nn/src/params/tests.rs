use super::*;

fn build(p: &Params) -> Result<(Tensor, Var)> {
    let w = p.at("a").weight("weight", (2, 3), Init::torch_default(3))?;
    Ok((w, p.at("a").buffer("running_mean", 2, Init::ZEROS)?))
}

#[test]
fn given_values_are_for_fresh_parameters_only() {
    let values = [1.0, -0.5, -0.5, 1.0];
    let rows = |params: &Params| params.at("head").weight_from("weight", (2, 2), &values);
    let fresh = rows(&Params::fresh(3, &Device::Cpu)).unwrap();
    assert_eq!(fresh.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
    let stored = BTreeMap::from([("head.weight".to_owned(), fresh.affine(2.0, 0.0).unwrap())]);
    let read = rows(&Params::frozen(stored, &Device::Cpu)).unwrap();
    assert_eq!(read.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values.map(|v| 2.0 * v));
    let params = Params::fresh(3, &Device::Cpu);
    assert!(matches!(params.weight_from("w", (2, 3), &values), Err(Error::Shape { .. })));
    let unit = params.weight("u", 200, Init::Unit).unwrap().to_vec1::<f32>().unwrap();
    assert!(unit.iter().all(|v| (0.0..1.0).contains(v)) && unit.iter().any(|v| *v > 0.9));
}

#[test]
fn values_depend_on_seed_and_path_alone() {
    let one = Params::fresh(1, &Device::Cpu);
    one.weight("other", 5, Init::Normal(1.0)).unwrap();
    let a = build(&one).unwrap().0.to_vec2::<f32>().unwrap();
    let b = build(&Params::fresh(1, &Device::Cpu)).unwrap().0.to_vec2::<f32>().unwrap();
    let c = build(&Params::fresh(2, &Device::Cpu)).unwrap().0.to_vec2::<f32>().unwrap();
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert!(a.concat().iter().all(|v| v.abs() <= 1.0 / 3f32.sqrt()));
}

#[test]
fn all_misfits_are_reported_at_once() {
    let t = |n| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
    let map = BTreeMap::from([
        ("a.weight".to_owned(), t(4)),
        ("b".to_owned(), t(1)),
        ("a.num_batches_tracked".to_owned(), t(1)),
    ]);
    let p = Params::trainable(map, &Device::Cpu);
    build(&p).unwrap();
    let Err(Error::Keys(report)) = p.finish() else { panic!("must not fit") };
    assert_eq!(report.missing, ["a.running_mean"]);
    assert_eq!(report.unexpected, ["b"]);
    assert_eq!(report.misshaped[0].expected, [2, 3]);
    let text = report.to_string();
    assert!(text.contains("a.weight is [4], the model asks for [2, 3]"), "{text}");
}

#[test]
fn a_model_much_larger_than_its_file_is_refused_before_it_takes_memory() {
    let p = Params::frozen(BTreeMap::new(), &Device::Cpu);
    for i in 0..2 {
        p.weight(&format!("fits{i}"), (1 << 10, 1 << 10), Init::ZEROS).unwrap();
    }
    for dims in [vec![1 << 20, 1 << 20, 3, 3], vec![usize::MAX, 2]] {
        let name = format!("huge{}", dims.len());
        let Err(Error::Keys(report)) = p.weight(&name, dims, Init::ZEROS) else { panic!("{name} fits") };
        assert!(report.missing.contains(&name) && report.missing.contains(&"fits0".to_owned()));
    }
}

#[test]
fn a_set_can_be_frozen_in_part() {
    let p = Params::fresh(1, &Device::Cpu);
    build(&p).unwrap();
    p.weight("b", 2, Init::ZEROS).unwrap();
    let mut set = p.finish().unwrap();
    set.freeze(|name| name.starts_with("a."));
    assert_eq!(set.trainable().map(|(n, _)| n).collect::<Vec<_>>(), ["b"]);
    assert_eq!(set.role("a.weight"), Some(Role::Weight));
}

#[test]
fn a_choice_shares_the_memory_and_leaves_the_set_as_it_is() {
    let p = Params::fresh(1, &Device::Cpu);
    build(&p).unwrap();
    p.weight("b", 2, Init::ZEROS).unwrap();
    let set = p.finish().unwrap();
    let chosen = set.only(|name| name != "a.weight");
    assert_eq!(chosen.trainable().map(|(n, _)| n).collect::<Vec<_>>(), ["b"]);
    assert_eq!(set.trainable().count(), 2);
    assert_eq!(chosen.names().count(), 3);
    chosen.get("b").unwrap().set(&Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap()).unwrap();
    assert_eq!(set.get("b").unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn a_view_follows_and_a_copy_stays() {
    let p = Params::fresh(1, &Device::Cpu);
    build(&p).unwrap();
    let set = p.finish().unwrap();
    let view = set.view(&Device::Cpu);
    let (seen, _) = build(&view).unwrap();
    view.finish().unwrap();
    let before = set.tensors().unwrap();
    let zeros = before.iter().map(|(n, t)| (n.clone(), t.zeros_like().unwrap())).collect();
    set.load(&zeros).unwrap();
    assert_eq!(seen.to_vec2::<f32>().unwrap(), vec![vec![0.0; 3]; 2]);
    assert_ne!(before["a.weight"].to_vec2::<f32>().unwrap(), vec![vec![0.0; 3]; 2]);
    assert!(!seen.track_op());
}

#[test]
fn frozen_parameters_are_not_tracked() {
    let p = Params::fresh(1, &Device::Cpu).freeze(|n| n.starts_with("a."));
    let (w, _) = build(&p).unwrap();
    let free = p.weight("b", 1, Init::ZEROS).unwrap();
    assert!(!w.track_op() && free.track_op());
    let set = p.finish().unwrap();
    assert_eq!(set.trainable().map(|(n, _)| n).collect::<Vec<_>>(), ["b"]);
    assert_eq!(set.count(), 7);
}

#[test]
fn what_a_rule_names_is_drawn_as_if_fresh() {
    let file = Params::fresh(1, &Device::Cpu);
    build(&file).unwrap();
    file.weight("fc.weight", 4, Init::Normal(1.0)).unwrap();
    let file = file.finish().unwrap().tensors().unwrap();
    let mixed = Params::trainable(file.clone(), &Device::Cpu).redraw(7, |n| n.starts_with("fc."));
    let kept = build(&mixed).unwrap().0;
    let drawn = mixed.weight("fc.weight", 5, Init::Normal(1.0)).unwrap();
    assert_eq!(mixed.finish().unwrap().names().count(), 3);
    let fresh = Params::fresh(7, &Device::Cpu).weight("fc.weight", 5, Init::Normal(1.0)).unwrap();
    assert_eq!(drawn.to_vec1::<f32>().unwrap(), fresh.to_vec1::<f32>().unwrap());
    assert_eq!(kept.to_vec2::<f32>().unwrap(), file["a.weight"].to_vec2::<f32>().unwrap());
}

#[test]
fn asking_twice_and_loading_half_are_errors() {
    let p = Params::fresh(1, &Device::Cpu);
    build(&p).unwrap();
    assert!(matches!(build(&p), Err(Error::Argument { .. })));
    let set = p.finish().unwrap();
    assert!(matches!(set.load(&BTreeMap::new()), Err(Error::Keys(_))));
}

#[test]
fn synthetic_values_follow_the_published_rule() {
    let w = synthetic("conv_in.weight", &(2, 1, 3, 3).into(), &Device::Cpu).unwrap();
    let w = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let u = |i: u64| (splitmix64(fnv1a64(b"conv_in.weight").wrapping_add(i)) >> 11) as f64 * 2f64.powi(-53);
    for (i, v) in w.iter().enumerate() {
        assert_eq!(*v, ((2.0 * u(i as u64) - 1.0) * (3.0f64 / 9.0).sqrt()) as f32);
    }
}
