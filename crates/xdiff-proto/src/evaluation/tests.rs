use candle_core::{Device, Tensor};
use xdiff_nn::Rng;

use super::*;
use crate::window::Window;
use crate::{Error, Result};

const SIZE: (usize, usize) = (28, 28);

/// A map (7, 7) with one peak.
fn peak(row: usize, column: usize) -> Vec<f32> {
    let mut map = vec![0.0; 49];
    map[row * 7 + column] = 1.0;
    map
}

/// Activation maps (B, P, 7, 7) from the places of their peaks.
fn maps(peaks: &[Vec<(usize, usize)>]) -> Tensor {
    let values: Vec<f32> = peaks.iter().flatten().flat_map(|(r, c)| peak(*r, *c)).collect();
    Tensor::from_vec(values, (peaks.len(), peaks[0].len(), 7, 7), &Device::Cpu).unwrap()
}

/// The middle of a cell in pixels.
fn pixel(cell: (usize, usize)) -> (f64, f64) {
    (4.0 * cell.0 as f64 + 2.0, 4.0 * cell.1 as f64 + 2.0)
}

fn points(cells: &[Option<(usize, usize)>]) -> ImageParts {
    let points: Vec<_> = cells.iter().map(|c| c.map(pixel)).collect();
    ImageParts::from_points(SIZE, &points).unwrap()
}

#[test]
fn windows_show_points_on_their_border_and_regions_by_overlap() {
    let window = Window { top: 4, left: 8, bottom: 8, right: 12 };
    let at =
        |row, column| ImageParts::from_points(SIZE, &[Some((row, column))]).unwrap().shown(0, &window, 1.0);
    let inside = [(4.0, 8.0), (8.0, 12.0), (6.5, 9.0)];
    let outside = [(3.9, 9.0), (6.0, 12.1), (8.5, 9.0), (6.0, 7.5)];
    assert!(inside.iter().all(|(r, c)| at(*r, *c)) && !outside.iter().any(|(r, c)| at(*r, *c)));

    let mask = |top: usize, left: usize, bottom: usize, right: usize| {
        let inside = |i: usize| (top..bottom).contains(&(i / 28)) && (left..right).contains(&(i % 28));
        let values: Vec<f32> = (0..784).map(|i| f32::from(u8::from(inside(i)))).collect();
        ImageParts::from_masks(&Tensor::from_vec(values, (1, 28, 28), &Device::Cpu).unwrap()).unwrap()
    };
    let table = [
        ("all of the image", mask(0, 0, 28, 28), [true, true, true]),
        ("half of the window", mask(0, 0, 6, 28), [true, true, false]),
        ("a quarter of it", mask(0, 0, 6, 10), [true, false, false]),
        ("one pixel within", mask(5, 9, 6, 10), [true, true, true]),
        ("beside it", mask(8, 8, 28, 12), [false, false, false]),
    ];
    for (name, parts, wanted) in table {
        assert_eq!([0.0, 0.5, 1.0].map(|overlap| parts.shown(0, &window, overlap)), wanted, "{name}");
    }
    let empty = mask(3, 3, 3, 3);
    assert!(!empty.visible(0) && !empty.shown(0, &window, 0.0) && !empty.visible(1));
    assert!(matches!(ImageParts::from_points(SIZE, &[Some((30.0, 0.0))]), Err(Error::Input { .. })));
    assert!(matches!(ImageParts::from_points(SIZE, &[Some((f64::NAN, 0.0))]), Err(Error::Input { .. })));
    assert!(matches!(ImageParts::from_points(SIZE, &[]), Err(Error::Input { .. })));
}

#[test]
fn consistency_counts_prototypes_that_keep_to_a_part() {
    // Parts 0 and 1 at opposite corners. Prototype 0 follows part 0, prototype 1 does so in three of four
    // images, prototype 2 looks elsewhere, prototype 3 follows part 1, which one image does not show.
    let corners = [(1, 1), (1, 5), (5, 1), (5, 5)];
    let parts: Vec<ImageParts> =
        (0..4).map(|i| points(&[Some(corners[i]), (i != 2).then_some(corners[3 - i])])).collect();
    let peaks: Vec<Vec<(usize, usize)>> = (0..4)
        .map(|i| {
            let sometimes = if i == 3 { (3, 3) } else { corners[i] };
            vec![corners[i], sometimes, (3, 3), corners[3 - i]]
        })
        .collect();
    let mut all = Correspondence::new(4, None, 2, CorrespondenceConfig::default()).unwrap();
    all.update(&maps(&peaks), &[0; 4], &parts).unwrap();
    let got = all.consistency().unwrap();
    assert_eq!(got.score, 0.5);
    assert_eq!(got.parts, [Some((0, 1.0)), Some((0, 0.75)), Some((0, 0.0)), Some((1, 1.0))]);
    let lenient = CorrespondenceConfig { threshold: 0.75, ..Default::default() };
    let mut parted = Correspondence::new(4, None, 2, lenient).unwrap();
    for i in 0..4 {
        parted.update(&maps(&peaks[i..=i]), &[0], &parts[i..=i]).unwrap();
    }
    assert_eq!(parted.consistency().unwrap(), Consistency { score: 0.75, ..got });

    // Each prototype in images of its class alone.
    let classes = Some(vec![0, 0, 1, 1]);
    let mut own = Correspondence::new(4, classes, 2, CorrespondenceConfig::default()).unwrap();
    own.update(&maps(&peaks), &[0, 0, 0, 1], &parts).unwrap();
    let got = own.consistency().unwrap();
    assert_eq!(got.parts, [Some((0, 1.0)), Some((0, 1.0)), Some((0, 0.0)), Some((1, 1.0))]);
}

#[test]
fn stability_counts_images_whose_parts_stay() {
    let parts = vec![points(&[Some((1, 1)), Some((5, 5))]); 4];
    let before = maps(&vec![vec![(1, 1), (5, 5)]; 4]);
    // Prototype 0 moves away in one image; prototype 1 moves by less than its window in all.
    let after: Vec<Vec<(usize, usize)>> =
        (0..4).map(|i| vec![if i == 0 { (3, 3) } else { (1, 1) }, (5, 6)]).collect();
    let mut pairs = Correspondence::new(2, None, 2, CorrespondenceConfig::default()).unwrap();
    assert!(matches!(pairs.stability(), Err(Error::Input { .. })));
    pairs.update_pair(&before, &maps(&after), &[0; 4], &parts).unwrap();
    assert_eq!(pairs.stability().unwrap(), Stability { score: 0.875, prototypes: vec![0.75, 1.0] });
    assert_eq!(pairs.consistency().unwrap().score, 1.0);
    assert!(pairs.update_pair(&before, &maps(&after[..3]), &[0; 4], &parts).is_err());
}

#[test]
fn perfect_and_random_prototypes_bracket_the_scores() {
    let mut rng = Rng::new(8);
    let mut cell = || (rng.below(7), rng.below(7));
    let (images, prototypes) = (60, 12);
    let mut perfect = Correspondence::new(prototypes, None, 3, CorrespondenceConfig::default()).unwrap();
    let mut random = perfect.clone();
    let config = PurityConfig { top: 30, ..Default::default() };
    let mut pure = Purity::new(prototypes, 3, config).unwrap();
    let mut mixed = pure.clone();
    for _ in 0..images {
        let parts: Vec<(usize, usize)> = (0..3).map(|_| cell()).collect();
        let annotated = [points(&parts.iter().copied().map(Some).collect::<Vec<_>>())];
        let right = maps(&[(0..prototypes).map(|j| parts[j % 3]).collect()]);
        let anywhere = maps(&[(0..prototypes).map(|_| cell()).collect()]);
        let elsewhere = maps(&[(0..prototypes).map(|_| cell()).collect()]);
        perfect.update_pair(&right, &right, &[0], &annotated).unwrap();
        random.update_pair(&anywhere, &elsewhere, &[0], &annotated).unwrap();
        pure.update(&right, &annotated).unwrap();
        mixed.update(&anywhere, &annotated).unwrap();
    }
    assert_eq!(perfect.consistency().unwrap().score, 1.0);
    assert_eq!(perfect.stability().unwrap().score, 1.0);
    assert_eq!(pure.score().unwrap().mean, 1.0);
    assert_eq!(random.consistency().unwrap().score, 0.0);
    assert!(random.stability().unwrap().score < 0.7);
    assert!(mixed.score().unwrap().mean < 0.3);
}

#[test]
fn purity_is_that_of_the_most_active_images() {
    // One prototype, two parts. Activations 3, 5, 4, 1: with the two most active only images 1 and 2 count.
    let parts = [
        points(&[Some((0, 0)), Some((6, 6))]),
        points(&[Some((2, 2)), Some((6, 6))]),
        points(&[None, Some((2, 2))]),
        points(&[Some((0, 0)), Some((2, 2))]),
    ];
    let activation = maps(&vec![vec![(2, 2)]; 4]);
    let strength = Tensor::new(&[3f32, 5.0, 4.0, 1.0], &Device::Cpu).unwrap().reshape((4, 1, 1, 1)).unwrap();
    let activation = activation.broadcast_mul(&strength).unwrap();
    let of = |top, order: [usize; 4]| {
        let config = PurityConfig { top, ..Default::default() };
        let mut purity = Purity::new(1, 2, config).unwrap();
        for i in order {
            purity.update(&activation.narrow(0, i, 1).unwrap(), &parts[i..=i]).unwrap();
        }
        purity.score().unwrap()
    };
    // Part 0 is shown by one of one, part 1 by one of two.
    let two = PrototypePurity { purity: 1.0, part: 0, shown: 1 };
    assert_eq!(of(2, [0, 1, 2, 3]).prototypes, [Some(two)]);
    assert_eq!(of(2, [3, 2, 1, 0]).prototypes, [Some(two)]);
    // Of all four: part 0 by one of three, part 1 by two of four.
    let four = PrototypePurity { purity: 0.5, part: 1, shown: 2 };
    let score = of(4, [2, 0, 3, 1]);
    assert_eq!((score.prototypes[0], score.mean, score.part_related), (Some(four), 0.5, 0));
    let nothing = Purity::new(1, 2, PurityConfig::default()).unwrap();
    assert!(matches!(nothing.score(), Err(Error::Input { .. })));
}

#[test]
fn the_pointing_game_counts_hits_within_the_tolerance() {
    let maps = maps(&[vec![(1, 1), (5, 5), (3, 3)]]).squeeze(0).unwrap();
    let mut masks = vec![0f32; 3 * 784];
    masks[6 * 28 + 6] = 1.0; // near the middle of cell (1, 1)
    masks[784 + 28 + 1] = 1.0; // far from cell (5, 5)
    let masks = Tensor::from_vec(masks, (3, 28, 28), &Device::Cpu).unwrap();
    let game = pointing_game(&maps, &masks, 2.0).unwrap();
    assert_eq!(game.hits, [Some(true), Some(false), None]);
    assert_eq!(game.accuracy, 0.5);
    // 13 pixels lie at most 2 from one inside, 11 of them from one at (1, 1).
    assert!((game.chance - (13.0 + 11.0) / 2.0 / 784.0).abs() < 1e-12, "{}", game.chance * 784.0);
    let everywhere = pointing_game(&maps, &masks.ones_like().unwrap(), 0.0).unwrap();
    assert_eq!((everywhere.accuracy, everywhere.chance), (1.0, 1.0));
    assert!(matches!(pointing_game(&maps, &masks.zeros_like().unwrap(), 1.0), Err(Error::Input { .. })));
    for tolerance in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(pointing_game(&maps, &masks, tolerance).is_err());
    }
    assert!(pointing_game(&maps.narrow(0, 0, 2).unwrap(), &masks, 1.0).is_err());
    let nan = (&maps * f64::NAN).unwrap();
    assert!(matches!(pointing_game(&nan, &masks, 1.0), Err(Error::NonFinite { .. })));
    assert!(pointing_game(&maps, &masks, 1e9).unwrap().hits[1] == Some(true));
}

#[test]
fn pruning_by_influence_lies_outside_random_orders() {
    let influence: Vec<f64> = (0..20).map(|j| f64::from((j * 7) % 20)).collect();
    let kept = |keep: &[bool]| -> Result<f64> {
        let sum: f64 = keep.iter().zip(&influence).map(|(k, n)| if *k { *n } else { 0.0 }).sum();
        Ok(sum / 190.0)
    };
    let curves = pruning_curves(&influence, &PruningCurvesConfig::default(), kept).unwrap();
    assert_eq!(curves.most_first.removed, (0..=10).map(|i| 2 * i).collect::<Vec<_>>());
    assert_eq!((curves.most_first.score[0], curves.most_first.score[10]), (1.0, 0.0));
    assert!((curves.most_first.score[1] - (190.0 - 19.0 - 18.0) / 190.0).abs() < 1e-12);
    assert!((curves.least_first.score[1] - (190.0 - 1.0) / 190.0).abs() < 1e-12);
    assert_eq!(curves.random.len(), 5);
    for random in &curves.random {
        assert!(curves.most_first.area < random.area && random.area < curves.least_first.area);
    }
    let constant = pruning_curves(&influence, &PruningCurvesConfig::default(), |_| Ok(0.5)).unwrap();
    assert!((constant.most_first.area - 0.5).abs() < 1e-12);
    let uneven = PruningCurvesConfig { steps: 3, ..Default::default() };
    let uneven = pruning_curves(&influence, &uneven, kept).unwrap();
    assert_eq!(uneven.most_first.removed, [0, 6, 13, 20]);

    let default = PruningCurvesConfig::default();
    assert!(matches!(pruning_curves(&[], &default, kept), Err(Error::Input { .. })));
    assert!(matches!(pruning_curves(&[f64::NAN], &default, |_| Ok(1.0)), Err(Error::Input { .. })));
    assert!(matches!(pruning_curves(&[1.0], &default, |_| Ok(f64::NAN)), Err(Error::NonFinite { .. })));
    let none = PruningCurvesConfig { steps: 0, ..default };
    assert!(matches!(pruning_curves(&[1.0], &none, |_| Ok(1.0)), Err(Error::Config { .. })));
}

#[test]
fn noise_is_bounded_and_does_not_depend_on_the_batch() {
    let images = Tensor::zeros((3, 2, 40, 50), candle_core::DType::F32, &Device::Cpu).unwrap();
    let rng = Rng::new(5);
    let config = PerturbationConfig::default();
    let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let all = numbers(&perturb(&images, 0, config, &rng).unwrap());
    let parts: Vec<f32> = [0u64, 1, 2]
        .iter()
        .flat_map(|i| numbers(&perturb(&images.narrow(0, 0, 1).unwrap(), *i, config, &rng).unwrap()))
        .collect();
    assert_eq!(all, parts);
    assert!(all.iter().all(|v| v.abs() <= 0.25));
    // Of a normal number, 21.1 % lie beyond 1.25 deviations.
    let clipped = all.iter().filter(|v| v.abs() == 0.25).count() as f64 / all.len() as f64;
    assert!((clipped - 0.2113).abs() < 0.015, "{clipped}");
    let wrong = PerturbationConfig { deviation: f64::NAN, ..config };
    assert!(matches!(perturb(&images, 0, wrong, &rng), Err(Error::Config { .. })));
    assert!(matches!(perturb(&images.get(0).unwrap(), 0, config, &rng), Err(Error::Input { .. })));
}

#[test]
fn misfits_are_typed_errors() {
    let activation = maps(&[vec![(0, 0), (1, 1)]]);
    let parts = [points(&[Some((1, 1)), None])];
    let new = |config| Correspondence::new(2, None, 2, config);
    let mut all = new(CorrespondenceConfig::default()).unwrap();
    assert!(matches!(all.consistency(), Err(Error::Input { .. })));
    assert!(all.update(&activation, &[], &parts).is_err());
    assert!(all.update(&activation, &[0], &[]).is_err());
    assert!(all.update(&activation, &[0], &[points(&[None])]).is_err());
    assert!(all.update(&activation.narrow(1, 0, 1).unwrap(), &[0], &parts).is_err());
    assert!(matches!(
        all.update(&(&activation * f64::NAN).unwrap(), &[0], &parts),
        Err(Error::NonFinite { .. })
    ));
    assert!(all.consistency().is_err(), "nothing was added");
    let mut own = Correspondence::new(2, Some(vec![0, 3]), 2, CorrespondenceConfig::default()).unwrap();
    own.update(&activation, &[0], &parts).unwrap();
    assert!(matches!(own.consistency(), Err(Error::EmptyClass { class: 3, .. })));
    assert!(matches!(own.stability(), Err(Error::EmptyClass { class: 0, .. })));
    assert!(Correspondence::new(2, Some(vec![0]), 2, CorrespondenceConfig::default()).is_err());
    assert!(Correspondence::new(0, None, 2, CorrespondenceConfig::default()).is_err());
    for value in [0.0, 1.5, f64::NAN] {
        assert!(new(CorrespondenceConfig { reach: value, ..Default::default() }).is_err());
        assert!(new(CorrespondenceConfig { threshold: value, ..Default::default() }).is_err());
        assert!(Purity::new(2, 2, PurityConfig { side: value, ..Default::default() }).is_err());
    }
    assert!(Purity::new(2, 2, PurityConfig { top: 0, ..Default::default() }).is_err());
    let mut purity = Purity::new(3, 2, PurityConfig::default()).unwrap();
    assert!(matches!(purity.update(&activation, &parts), Err(Error::Input { .. })));
}
