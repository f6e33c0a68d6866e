//! Phantoms: their truth is what they say it is.

use xdiff_data::phantom::{PhantomConfig, PhantomDataset, PhantomKind};
use xdiff_data::{Dataset, Error, MaskKind, Scale};
use xdiff_nn::Rng;

fn data(kind: PhantomKind, size: usize, seed: u64) -> PhantomDataset {
    let patients = 3 * kind.classes().len();
    PhantomDataset::new(PhantomConfig { kind, patients, size, seed, ..Default::default() }).unwrap()
}

/// Calls `f` with a name and each phantom of every kind at several sizes.
fn each(mut f: impl FnMut(&str, &PhantomDataset, usize)) {
    for kind in PhantomKind::ALL {
        for (size, seed) in [(32, 1), (64, 2), (96, 3)] {
            let data = data(kind, size, seed);
            for i in 0..data.len() {
                let class = &data.classes()[data.info(i).unwrap().class.unwrap() as usize];
                f(&format!("{kind:?} {size} {i} {class}"), &data, i);
            }
        }
    }
}

#[test]
fn lesions_are_there_exactly_in_the_ill_and_lie_inside_the_body() {
    each(|name, data, i| {
        let phantom = data.phantom(i).unwrap();
        let lesion = &phantom.masks[&MaskKind::Lesion];
        let healthy = data.config().kind.is_healthy(phantom.class);
        assert_eq!(lesion.area() == 0, healthy, "{name}");
        let outer = [MaskKind::Body, MaskKind::Head, MaskKind::Cell];
        let outer = outer.iter().find_map(|k| phantom.masks.get(k)).unwrap();
        assert!(lesion.is_within(outer).unwrap(), "{name}");
        assert!(lesion.is_within(&phantom.influence).unwrap(), "{name}");
        assert!(outer.area() > 0 && outer.area() < outer.data().len(), "{name}");
    });
}

#[test]
fn the_twin_is_the_image_outside_the_influence() {
    each(|name, data, i| {
        let phantom = data.phantom(i).unwrap();
        let n = phantom.image.height() * phantom.image.width();
        let mut changed = 0;
        for (p, inside) in phantom.influence.data().iter().enumerate() {
            let differs =
                (0..phantom.image.channels()).any(|c| phantom.image.plane(c)[p] != phantom.twin.plane(c)[p]);
            assert!(*inside != 0 || !differs, "{name}: pixel {p}");
            changed += usize::from(differs);
        }
        let ill = !data.config().kind.is_healthy(phantom.class);
        assert_eq!(changed > 0, ill, "{name}");
        assert!(
            phantom.influence.area() < n / 2,
            "{name}: the disease changes {} of {n}",
            phantom.influence.area()
        );
    });
}

#[test]
fn one_seed_gives_one_image_whatever_is_drawn_around_it() {
    for kind in PhantomKind::ALL {
        let few = data(kind, 48, 9);
        let many = PhantomDataset::new(PhantomConfig { patients: 500, ..few.config().clone() }).unwrap();
        for i in [0, few.len() - 1] {
            let (a, b) = (few.phantom(i).unwrap(), many.phantom(i).unwrap());
            assert_eq!(a, b, "{kind:?} {i}");
            let sample = many.get(i, &mut Rng::new(i as u64)).unwrap();
            assert_eq!((sample.image, sample.masks), (a.image, a.masks), "{kind:?} {i}");
        }
        let other = data(kind, 48, 10);
        assert_ne!(few.phantom(0).unwrap().image, other.phantom(0).unwrap().image, "{kind:?}");
        let k = kind.classes().len();
        assert_ne!(
            few.phantom(0).unwrap().twin,
            few.phantom(k).unwrap().twin,
            "{kind:?}: two patients of a class"
        );
    }
}

#[test]
fn images_are_in_range_and_use_it() {
    each(|name, data, i| {
        let phantom = data.phantom(i).unwrap();
        assert_eq!(phantom.image.scale, Scale::Unit);
        let (lo, hi) = phantom.image.extent();
        assert!(lo >= 0.0 && hi <= 1.0 && hi - lo > 0.3, "{name}: {lo} to {hi}");
    });
}

#[test]
fn a_patient_looks_alike_at_every_size() {
    for kind in PhantomKind::ALL {
        let (small, large) = (data(kind, 64, 4), data(kind, 128, 4));
        for i in 0..small.len() {
            let (s, l) = (small.phantom(i).unwrap(), large.phantom(i).unwrap());
            let halved = xdiff_data::transform::resize(l.twin, 64, 64, xdiff_data::Filter::Area).unwrap();
            let values = s.twin.data().len() as f32;
            let off =
                s.twin.data().iter().zip(halved.data()).map(|(a, b)| (a - b).abs()).sum::<f32>() / values;
            assert!(off < 0.035, "{kind:?} {i}: mean difference {off}");
            let (a, b) =
                (s.masks[&MaskKind::Lesion].area() as f32, l.masks[&MaskKind::Lesion].area() as f32 / 4.0);
            assert!((a - b).abs() <= 6.0 + 0.15 * b, "{kind:?} {i}: lesions of {a} and {b}");
        }
    }
}

#[test]
fn slices_of_a_patient_share_its_anatomy() {
    // The slices of a blood patient are other cells.
    for kind in PhantomKind::ALL.into_iter().filter(|k| *k != PhantomKind::BloodCells) {
        let config = PhantomConfig { kind, patients: 12, slices: 4, ..Default::default() };
        let data = PhantomDataset::new(config).unwrap();
        let distance = |i: usize, j: usize| {
            let (a, b) = (data.phantom(i).unwrap(), data.phantom(j).unwrap());
            a.twin.data().iter().zip(b.twin.data()).map(|(x, y)| (x - y).abs()).sum::<f32>()
        };
        let within: f32 = (0..10).map(|p| distance(4 * p + 1, 4 * p + 2)).sum();
        let between: f32 = (0..10).map(|p| distance(4 * p + 1, 4 * p + 5)).sum();
        assert!(within < 0.8 * between, "{kind:?}: {within} within, {between} between patients");
        assert_ne!(data.phantom(1).unwrap().image, data.phantom(2).unwrap().image, "{kind:?}");
        let (first, second) = (data.info(5).unwrap(), data.info(6).unwrap());
        assert_eq!((first.group, first.class), (second.group, second.class));
        assert_ne!(first.id, second.id);
    }
}

#[test]
fn classes_can_be_held_out_and_keep_their_numbers() {
    let kind = PhantomKind::BrainMri;
    let config =
        PhantomConfig { kind, classes: vec!["notumor".into(), "glioma".into()], ..Default::default() };
    let data = PhantomDataset::new(config).unwrap();
    let classes: Vec<_> = (0..4).map(|i| data.phantom(i).unwrap().class).collect();
    assert_eq!(classes, [3, 0, 3, 0]);
    assert_eq!(data.classes().len(), 4);
}

#[test]
fn impossible_phantoms_are_refused() {
    let default = PhantomConfig::default;
    let cases = [
        PhantomConfig { size: 31, ..default() },
        PhantomConfig { size: 1 << 20, ..default() },
        PhantomConfig { patients: 0, ..default() },
        PhantomConfig { slices: 0, ..default() },
        PhantomConfig { patients: usize::MAX, slices: 2, ..default() },
        PhantomConfig { classes: vec!["gout".into()], ..default() },
        PhantomConfig { markers: vec![0.5; 2], ..default() },
        PhantomConfig { kind: PhantomKind::ChestXray, markers: vec![0.5; 2], ..default() },
        PhantomConfig { kind: PhantomKind::ChestXray, markers: vec![1.5; 5], ..default() },
    ];
    for config in cases {
        assert!(matches!(PhantomDataset::new(config.clone()), Err(Error::Argument { .. })), "{config:?}");
    }
    let data = PhantomDataset::new(default()).unwrap();
    assert!(matches!(data.phantom(64), Err(Error::Index { index: 64, len: 64 })));
}

#[test]
fn lesions_lie_on_both_sides_and_high_and_low() {
    for (kind, class) in [(PhantomKind::BrainMri, "meningioma"), (PhantomKind::ChestXray, "lobar_opacity")] {
        let config =
            PhantomConfig { kind, patients: 60, classes: vec![class.into()], size: 32, ..Default::default() };
        let data = PhantomDataset::new(config).unwrap();
        let mut quarters = [0; 4];
        for i in 0..60 {
            let phantom = data.phantom(i).unwrap();
            let lesion = &phantom.masks[&MaskKind::Lesion];
            let of = |f: fn(usize) -> usize| {
                lesion.data().iter().enumerate().filter(|(_, v)| **v != 0).map(|(p, _)| f(p)).sum::<usize>()
            };
            let mean = |sum: usize| sum as f32 / lesion.area() as f32;
            let (x, y) = (mean(of(|p| p % 32)), mean(of(|p| p / 32)));
            quarters[usize::from(x > 15.5) + 2 * usize::from(y > 15.5)] += 1;
        }
        assert!(quarters.iter().all(|n| *n >= 5), "{kind:?}: {quarters:?}");
    }
}

#[test]
fn markers_follow_the_class_as_told_and_the_twin_keeps_them() {
    let markers = vec![0.0, 1.0, 0.5, 0.0, 1.0];
    let config = PhantomConfig {
        kind: PhantomKind::ChestXray,
        patients: 200,
        markers,
        size: 32,
        ..Default::default()
    };
    let data = PhantomDataset::new(config).unwrap();
    let mut with = [0; 5];
    for i in 0..200 {
        let phantom = data.phantom(i).unwrap();
        let marker = &phantom.masks[&MaskKind::Marker];
        with[phantom.class as usize] += usize::from(marker.area() > 0);
        let lit = marker.data().iter().zip(phantom.twin.data()).filter(|(m, _)| **m != 0);
        assert!(lit.into_iter().all(|(_, v)| *v > 0.4), "patient {i}");
    }
    assert_eq!((with[0], with[1], with[3], with[4]), (0, 40, 0, 40));
    assert!((10..=30).contains(&with[2]), "{with:?}");
}

#[test]
fn cardiomegaly_is_a_larger_heart_and_lungs_are_told_apart() {
    let config = PhantomConfig { kind: PhantomKind::ChestXray, patients: 50, ..Default::default() };
    let data = PhantomDataset::new(config).unwrap();
    let mut hearts = [0usize; 5];
    for i in 0..50 {
        let phantom = data.phantom(i).unwrap();
        let area = |k: MaskKind| phantom.masks[&k].area();
        hearts[phantom.class as usize] += area(MaskKind::Heart);
        let (l, r) = (area(MaskKind::LungImageLeft), area(MaskKind::LungImageRight));
        assert!(l > 100 && r > 100 && l + r == area(MaskKind::Lungs), "{i}: {l} and {r}");
    }
    assert!((0..4).all(|c| hearts[c] * 3 < hearts[4] * 2), "{hearts:?}");
}
