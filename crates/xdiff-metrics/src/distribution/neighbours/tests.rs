use proptest::prelude::*;
use xdiff_nn::Rng;

use super::*;

/// sin(a·i·j) + b·cos(0.7i + 0.3j²) + shift, from 1.
fn formula(n: usize, dim: usize, (a, b): (f64, f64), shift: f64) -> Features {
    let at = |i: f64, j: f64| (a * i * j).sin() + b * (0.7 * i + 0.3 * j * j).cos() + shift;
    let rows = (1..=n).flat_map(|i| (1..=dim).map(move |j| at(i as f64, j as f64))).collect();
    Features::new(rows, dim, "formula").unwrap()
}

fn noise(seed: u64, n: usize, dim: usize, shift: f64) -> Features {
    let mut rng = Rng::new(seed);
    Features::new((0..n * dim).map(|_| rng.normal() + shift).collect(), dim, "noise").unwrap()
}

/// n, m, d, shift of the generated set, k, and precision, recall, density, coverage of the `prdc`
/// package on scikit-learn 1.9 in f64.
type Golden = ((usize, usize, usize, f64), usize, [f64; 4]);
const PRDC: [Golden; 10] = [
    ((50, 40, 8, 0.0), 1, [0.15, 0.94, 0.225, 0.18]),
    ((50, 40, 8, 0.0), 3, [0.975, 1.0, 1.5916666666666668, 1.0]),
    (
        (300, 270, 8, 0.0),
        1,
        [0.4111111111111111, 0.22666666666666666, 0.6666666666666666, 0.4666666666666667],
    ),
    ((300, 270, 8, 0.0), 3, [0.6074074074074074, 0.9, 0.4987654320987654, 0.7466666666666667]),
    ((300, 270, 8, 0.0), 5, [0.8814814814814815, 0.9833333333333333, 0.768888888888889, 0.9766666666666667]),
    ((31, 600, 16, 0.2), 3, [0.8633333333333333, 0.3225806451612903, 1.206111111111111, 1.0]),
    ((31, 600, 16, 0.2), 9, [0.9766666666666667, 1.0, 0.9925925925925926, 1.0]),
    ((600, 31, 3, 0.0), 1, [0.6129032258064516, 0.78, 0.7419354838709677, 0.03833333333333333]),
    (
        (520, 520, 4, -0.1),
        1,
        [0.34423076923076923, 0.3192307692307692, 0.48653846153846153, 0.27692307692307694],
    ),
    ((520, 520, 4, -0.1), 5, [0.9653846153846154, 0.8115384615384615, 0.7880769230769231, 0.948076923076923]),
];

#[test]
fn golden_numbers_of_the_package() {
    let mut wrong = Vec::new();
    for ((n, m, dim, shift), k, want) in PRDC {
        let (x, y) = (formula(n, dim, (0.37, 0.5), 0.0), formula(m, dim, (0.41, 0.3), shift));
        let neighbours = Neighbours { precision_recall: k, density_coverage: k };
        let got = precision_recall(&x, &y, neighbours).unwrap();
        for (got, want) in [got.precision, got.recall, got.density, got.coverage].into_iter().zip(want) {
            if (got - want).abs() > 1e-12 {
                wrong.push((n, m, k, got, want));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Every number from its definition.
fn naive(x: &Features, y: &Features, k: usize) -> [f64; 4] {
    let rows = |f: &Features| f.rows().chunks(f.dim()).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let square = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let (x, y) = (rows(x), rows(y));
    let radii = |set: &[Vec<f64>]| -> Vec<f64> {
        let of = |i: usize| {
            let others = (0..set.len()).filter(|j| *j != i);
            let mut squares: Vec<f64> = others.map(|j| square(&set[i], &set[j])).collect();
            squares.sort_by(f64::total_cmp);
            squares[k - 1]
        };
        (0..set.len()).map(of).collect()
    };
    let (rx, ry) = (radii(&x), radii(&y));
    let in_x = |i: usize, j: usize| square(&x[i], &y[j]) < rx[i];
    let by_x = |i: usize, j: usize| square(&x[i], &y[j]) <= rx[i];
    let by_y = |i: usize, j: usize| square(&x[i], &y[j]) <= ry[j];
    let share = |n: usize, is: &dyn Fn(usize) -> bool| (0..n).filter(|i| is(*i)).count() as f64 / n as f64;
    let (n, m) = (x.len(), y.len());
    let members: usize = (0..m).map(|j| (0..n).filter(|i| in_x(*i, j)).count()).sum();
    [
        share(m, &|j| (0..n).any(|i| by_x(i, j))),
        share(n, &|i| (0..m).any(|j| by_y(i, j))),
        members as f64 / (k * m) as f64,
        share(n, &|i| (0..m).any(|j| in_x(i, j))),
    ]
}

#[test]
fn blocks_give_the_definition_far_from_the_origin_too() {
    for (n, m, shift) in [(7, 5, 0.0), (257, 30, 0.4), (40, 513, 1e6)] {
        let (x, y) = (noise(1, n, 3, shift), noise(2, m, 3, shift + 0.3));
        for k in [1, 4] {
            let neighbours = Neighbours { precision_recall: k, density_coverage: k };
            let got = precision_recall(&x, &y, neighbours).unwrap();
            let got = [got.precision, got.recall, got.density, got.coverage];
            let want = naive(&x, &y, k);
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{n} {m}: {got:?} {want:?}");
        }
    }
}

#[test]
fn sets_with_known_answers() {
    let neighbours = Neighbours::default();
    let x = noise(1, 300, 4, 0.0);
    let same = precision_recall(&x, &x, neighbours).unwrap();
    assert_eq!((same.precision, same.recall, same.density, same.coverage), (1.0, 1.0, 1.0, 1.0));
    let far = precision_recall(&x, &noise(2, 200, 4, 100.0), neighbours).unwrap();
    assert_eq!((far.precision, far.recall, far.density, far.coverage), (0.0, 0.0, 0.0, 0.0));
    // Every reference image five times over: r₃ = 0. torch-fidelity 0.4 gives 1 and 1 for the first
    // two, the prdc package 0, 1, 0 and 0.
    let ten = formula(10, 8, (0.37, 0.5), 0.0);
    let five_times = ten.rows().chunks(8).flat_map(|row| row.repeat(5)).collect();
    let five_times = Features::new(five_times, 8, "formula").unwrap();
    let twin = precision_recall(&five_times, &ten, Neighbours { precision_recall: 3, density_coverage: 3 });
    let twin = twin.unwrap();
    assert_eq!((twin.precision, twin.recall, twin.density, twin.coverage), (1.0, 1.0, 0.0, 0.0));
    // A model that makes one image again and again: all of it real, nothing of the rest.
    let image = Features::new(x.rows()[..4].repeat(50), 4, "noise").unwrap();
    let collapsed = precision_recall(&x, &image, neighbours).unwrap();
    assert_eq!((collapsed.precision, collapsed.recall), (1.0, 1.0 / 300.0));
    assert!(collapsed.coverage < 0.1, "{collapsed}");
}

#[test]
fn what_cannot_be_computed_is_a_typed_error() {
    let (x, y) = (noise(1, 6, 3, 0.0), noise(2, 4, 3, 0.0));
    let of = |precision_recall, density_coverage| Neighbours { precision_recall, density_coverage };
    assert!(precision_recall(&x, &y, of(3, 5)).is_ok());
    let e = precision_recall(&x, &y, of(3, 6)).unwrap_err();
    assert!(matches!(e, Error::TooFew { need: 7, got: 6, .. }), "{e}");
    let e = precision_recall(&x, &y, of(4, 5)).unwrap_err();
    assert!(matches!(e, Error::TooFew { need: 5, got: 4, .. }), "{e}");
    assert!(matches!(precision_recall(&x, &y, of(usize::MAX, 5)), Err(Error::TooFew { .. })));
    for neighbours in [of(0, 5), of(3, 0)] {
        assert!(matches!(precision_recall(&x, &y, neighbours), Err(Error::Config { .. })));
    }
    assert!(matches!(precision_recall(&x, &noise(2, 9, 2, 0.0), of(1, 1)), Err(Error::Incompatible { .. })));
    let mut metric = PrecisionRecall::new(3, "noise", of(1, 1)).unwrap();
    assert!(matches!(metric.compute(), Err(Error::TooFew { .. })));
    let other = PrecisionRecall::new(3, "noise", of(2, 1)).unwrap();
    assert!(matches!(metric.merge(&other), Err(Error::Incompatible { .. })));
    assert!(PrecisionRecall::new(0, "noise", of(1, 1)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn shards_in_any_order_give_the_same_bits(cut in 1usize..330, seed in 0u64..100) {
        let (x, y) = (noise(seed, 331, 7, 0.0), noise(seed + 1000, 90, 7, 0.2));
        let piece = |f: &Features, from: usize, to: usize| {
            Features::new(f.rows()[from * 7..to * 7].to_vec(), 7, "noise").unwrap()
        };
        let mut first = PrecisionRecall::new(7, "noise", Neighbours::default()).unwrap();
        first.update(FeatureBatch::Reference(&piece(&x, cut, 331))).unwrap();
        first.update(FeatureBatch::Generated(&piece(&y, 40, 90))).unwrap();
        let mut second = PrecisionRecall::new(7, "noise", Neighbours::default()).unwrap();
        second.update(FeatureBatch::Reference(&piece(&x, 0, cut))).unwrap();
        second.update(FeatureBatch::Generated(&piece(&y, 0, 40))).unwrap();
        first.merge(&second).unwrap();
        let whole = precision_recall(&x, &y, Neighbours::default()).unwrap();
        prop_assert_eq!(first.compute().unwrap(), whole);
        first.reset();
        prop_assert!(first.compute().is_err());
    }
}
