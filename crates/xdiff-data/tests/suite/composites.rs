//! Images of known provenance: the record is what the pixels say.

use std::sync::Arc;

use xdiff_data::phantom::{
    CompositeConfig, CompositeDataset, Motif, MotifConfig, MotifDataset, PartLayout, Phantom, PhantomConfig,
    PhantomDataset, Provenance,
};
use xdiff_data::{Dataset, Image, InMemory, MaskKind, Sample, SampleInfo, Scale};
use xdiff_nn::Rng;

fn breasts(patients: usize) -> Arc<PhantomDataset> {
    Arc::new(PhantomDataset::new(PhantomConfig { patients, size: 48, ..Default::default() }).unwrap())
}

fn index_of(data: &dyn Dataset, id: &str) -> usize {
    (0..data.len()).find(|i| data.info(*i).unwrap().id == id).unwrap()
}

fn adds_up(provenance: &Provenance) -> bool {
    (0..provenance.height * provenance.width).all(|pixel| {
        let sum: f32 = provenance.contributions.iter().map(|c| c.weights[pixel]).sum();
        (sum - 1.0).abs() < 1e-5
    })
}

#[test]
fn every_pixel_is_the_mix_that_its_record_says() {
    let base = breasts(9);
    let phantoms: Vec<Phantom> = (0..9).map(|i| base.phantom(i).unwrap()).collect();
    let layouts = [
        (PartLayout::Grid { rows: 2, columns: 2 }, 4, 4),
        (PartLayout::Grid { rows: 1, columns: 3 }, 0, 3),
        (PartLayout::Grid { rows: 3, columns: 2 }, 7, 6),
        (PartLayout::Region(MaskKind::Breast), 5, 2),
        (PartLayout::Region(MaskKind::Lesion), 0, 2),
    ];
    for (layout, seam, sources) in layouts {
        let config = CompositeConfig { layout: layout.clone(), count: 4, seam, seed: 3 };
        let data = CompositeDataset::new(base.clone(), config.clone()).unwrap();
        let again = CompositeDataset::new(base.clone(), CompositeConfig { count: 9, ..config }).unwrap();
        for i in 0..data.len() {
            let composite = data.composite(i).unwrap();
            assert_eq!(composite, again.composite(i).unwrap(), "{layout:?} {i}");
            assert_eq!(composite.sample, data.get(i, &mut Rng::new(9)).unwrap());
            let provenance = &composite.provenance;
            assert_eq!(provenance.contributions.len(), sources);
            assert!(adds_up(provenance), "{layout:?} {i}");
            let mut expected = vec![0f32; 48 * 48];
            for source in &provenance.contributions {
                let image = &phantoms[index_of(base.as_ref(), &source.id)].image;
                expected
                    .iter_mut()
                    .zip(&source.weights)
                    .zip(image.data())
                    .for_each(|((e, w), v)| *e += w * v);
                if seam == 0 {
                    assert!(source.weights.iter().all(|w| *w == 0.0 || *w == 1.0));
                }
            }
            let off = expected.iter().zip(composite.sample.image.data()).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5, "{layout:?} {i}");
            let body = &composite.sample.masks[&MaskKind::Body];
            let dominant = provenance.dominant();
            for (pixel, source) in dominant.iter().enumerate().step_by(97) {
                let truth = &phantoms[index_of(base.as_ref(), &provenance.contributions[*source].id)];
                assert_eq!(body.data()[pixel], truth.masks[&MaskKind::Body].data()[pixel]);
            }
        }
    }
}

#[test]
fn quarters_have_equal_shares_and_differ_between_composites() {
    let data = CompositeDataset::new(breasts(9), CompositeConfig::default()).unwrap();
    let ids = |i: usize| {
        let provenance = data.composite(i).unwrap().provenance;
        assert!(provenance.contributions.iter().all(|c| (c.share() - 0.25).abs() < 1e-6));
        let mut ids: Vec<String> = provenance.contributions.into_iter().map(|c| c.id).collect();
        let in_order = ids.clone();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4);
        in_order
    };
    assert_ne!(ids(0), ids(1));
    assert!(data.composite(32).is_err());
}

#[test]
fn a_motif_is_planted_where_its_record_says_and_a_left_out_kind_nowhere() {
    let base = breasts(6);
    for strength in [1.0, 0.5] {
        let config = MotifConfig { strength, per_image: 3, ..Default::default() }.without(Motif::Cross);
        let data = MotifDataset::new(base.clone(), config).unwrap();
        for i in 0..data.len() {
            let (image, planted) = data.planted(i).unwrap();
            assert_eq!(image.sample, data.get(i, &mut Rng::new(1)).unwrap());
            assert!(planted.iter().all(|p| p.motif != Motif::Cross) && planted.len() == 3);
            assert!(adds_up(&image.provenance));
            assert!(image.provenance.contributions.iter().all(|c| c.id != "motif/cross"));
            let plain = base.phantom(i).unwrap().image;
            let inside = |pixel: usize| {
                let (y, x) = (pixel / 48, pixel % 48);
                planted
                    .iter()
                    .any(|p| (p.top..p.top + p.size).contains(&y) && (p.left..p.left + p.size).contains(&x))
            };
            for (pixel, value) in image.sample.image.data().iter().enumerate() {
                let own = image.provenance.contributions[0].weights[pixel];
                assert_eq!(own < 1.0, inside(pixel), "{i} {pixel}");
                assert!(own < 1.0 || *value == plain.data()[pixel]);
                assert!(strength < 1.0 || own == 1.0 || *value == 0.0 || *value == 1.0);
            }
        }
    }
}

#[test]
fn motifs_differ_from_one_another() {
    let base = Arc::new(InMemory::new(vec![grey(12, Scale::Unit)], vec![]).unwrap());
    let drawn = Motif::ALL.map(|motif| {
        let config = MotifConfig { kinds: vec![motif], per_image: 1, ..Default::default() };
        let data = MotifDataset::new(base.clone(), config).unwrap();
        data.planted(0).unwrap().0.sample.image.into_data()
    });
    for (i, a) in drawn.iter().enumerate() {
        for (j, b) in drawn.iter().enumerate().skip(i + 1) {
            let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
            assert!(differ > 144 / 5, "{:?} and {:?}: {differ} pixels", Motif::ALL[i], Motif::ALL[j]);
        }
    }
}

/// A grey square.
fn grey(side: usize, scale: Scale) -> Sample {
    let image = Image::new(1, side, side, vec![0.5; side * side], scale).unwrap();
    Sample {
        info: SampleInfo { id: format!("grey {side}"), ..Default::default() },
        image,
        masks: Default::default(),
    }
}

#[test]
fn what_cannot_be_put_together_is_named() {
    let base = breasts(3);
    let grid = |rows, columns| PartLayout::Grid { rows, columns };
    let config = CompositeConfig::default;
    let cases = [
        (CompositeConfig { count: 0, ..config() }, "count"),
        (CompositeConfig { layout: grid(1, 1), ..config() }, "layout"),
        (CompositeConfig { layout: grid(usize::MAX, 2), ..config() }, "layout"),
        (CompositeConfig { layout: grid(2, 2), ..config() }, "base"),
        (CompositeConfig { layout: grid(1, 2), seam: 25, ..config() }, "seam"),
        (CompositeConfig { layout: PartLayout::Region(MaskKind::Nucleus), ..config() }, "layout"),
    ];
    for (config, want) in cases {
        let result = CompositeDataset::new(base.clone(), config).and_then(|data| data.composite(0));
        let e = result.unwrap_err().to_string();
        assert!(e.contains(want), "{want}: {e}");
    }
    let mixed = InMemory::new(vec![grey(8, Scale::Unit), grey(9, Scale::Unit)], vec![]).unwrap();
    let layout = grid(1, 2);
    let data =
        CompositeDataset::new(Arc::new(mixed), CompositeConfig { layout, seam: 0, ..config() }).unwrap();
    assert!(data.composite(0).unwrap_err().to_string().contains("must be alike"));

    let config = MotifConfig::default;
    let motifs = [
        MotifConfig { kinds: vec![], ..config() },
        MotifConfig { per_image: 0, ..config() },
        MotifConfig { per_image: 17, ..config() },
        MotifConfig { size: 3, ..config() },
        MotifConfig { size: 49, ..config() },
        MotifConfig { strength: f64::NAN, ..config() },
    ];
    for config in motifs {
        let result = MotifDataset::new(base.clone(), config.clone()).and_then(|data| data.planted(0));
        assert!(result.is_err(), "{config:?}");
    }
    let stored = Arc::new(InMemory::new(vec![grey(24, Scale::Stored)], vec![]).unwrap());
    assert!(MotifDataset::new(stored, config()).unwrap().planted(0).is_err());
}
