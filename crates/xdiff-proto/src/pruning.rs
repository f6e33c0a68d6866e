//! Pruning (Chen et al. 2019): prototypes whose nearest patches come from other classes stand for the
//! background, and are removed.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_core::FeatureExtractor;

use crate::projection::check_finite;
use crate::{Batch, Error, Prototypes, Result, Similarity, nearest};

/// Which prototypes are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneConfig {
    /// How many images are looked at for each prototype: those whose nearest patches are nearest.
    pub nearest: usize,
    /// The fewest of them that must be of the prototype's class.
    pub fewest: usize,
}

impl Default for PruneConfig {
    /// Of 6, at least 3: as published.
    fn default() -> Self {
        Self { nearest: 6, fewest: 3 }
    }
}

impl PruneConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] unless 1 ≤ `fewest` ≤ `nearest`.
    pub fn validate(&self) -> Result<()> {
        let Self { nearest, fewest } = *self;
        if fewest == 0 || fewest > nearest {
            let reason = format!("is {fewest}, must lie between 1 and the {nearest} nearest images");
            return Err(Error::config("fewest", reason));
        }
        Ok(())
    }
}

/// An image near a prototype.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its name.
    pub image: String,
    /// Its class.
    pub class: u32,
    /// The squared distance of its nearest patch.
    pub distance: f64,
}

/// Which prototypes are kept, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruning {
    /// The nearest images of each prototype, nearest first.
    pub neighbours: Vec<Vec<Neighbour>>,
    /// How many of them are of the prototype's class.
    pub own: Vec<usize>,
    /// The prototypes that are kept, in order.
    pub kept: Vec<usize>,
    /// Those that are removed.
    pub removed: Vec<usize>,
    /// Classes that are left without a prototype.
    pub emptied: Vec<usize>,
}

/// Finds the nearest images of each prototype in one pass, and with them which prototypes to remove.
///
/// Each image counts once for a prototype, by its nearest patch; of equally near images the first. Memory
/// does not grow with the number of images.
///
/// # Errors
/// [`Error::Config`]; [`Error::Input`] when there are fewer images than are looked at, or features have
/// another width than the prototypes; [`Error::NonFinite`] naming the image whose features are NaN or
/// infinite; [`Error::Data`] when the stream fails; whatever the extractor reports.
pub fn prune<E>(
    extractor: &dyn FeatureExtractor,
    (prototypes, class_of): (&Prototypes, &[usize]),
    similarity: Similarity,
    batches: impl IntoIterator<Item = std::result::Result<Batch, E>>,
    config: &PruneConfig,
) -> Result<Pruning>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    config.validate()?;
    similarity.validate()?;
    if class_of.len() != prototypes.len() {
        let reason =
            format!("names the classes of {} prototypes, there are {}", class_of.len(), prototypes.len());
        return Err(Error::config("class_of", reason));
    }
    let vectors = prototypes.vectors().detach().to_dtype(DType::F32)?;
    let mut neighbours: Vec<Vec<Neighbour>> = vec![Vec::new(); prototypes.len()];
    let mut images = 0;
    for batch in batches {
        let batch = batch.map_err(|e| Error::Data(e.into()))?;
        images += batch.len();
        let features = extractor.features(batch.images(), &mut ())?.detach().to_dtype(DType::F32)?;
        let fits = matches!(*features.dims(), [b, d, h, w]
            if b == batch.len() && d == prototypes.width() && h > 0 && w > 0);
        if !fits {
            let reason = format!(
                "have shape {:?} for {} images and prototypes of width {}",
                features.dims(),
                batch.len(),
                prototypes.width()
            );
            return Err(Error::input("features", reason));
        }
        check_finite(&batch, &features.flatten_all()?.to_vec1()?)?;
        let (patches, vectors) = similarity.space(&features, &vectors)?;
        let distances = nearest(&patches, &vectors)?.distance.to_vec2::<f32>()?;
        for (b, distances) in distances.iter().enumerate() {
            for (near, distance) in neighbours.iter_mut().zip(distances) {
                let distance = f64::from(*distance);
                let at = near.partition_point(|other| other.distance <= distance);
                if at < config.nearest {
                    near.truncate(config.nearest - 1);
                    let (image, class) = (batch.ids()[b].clone(), batch.classes()[b]);
                    near.insert(at, Neighbour { image, class, distance });
                }
            }
        }
    }
    if images < config.nearest {
        let reason = format!("are {images}, the {} nearest of each prototype are looked at", config.nearest);
        return Err(Error::input("images", reason));
    }
    Ok(decide(neighbours, class_of, config))
}

fn decide(neighbours: Vec<Vec<Neighbour>>, class_of: &[usize], config: &PruneConfig) -> Pruning {
    let of_class = |(near, class): (&Vec<Neighbour>, &usize)| {
        near.iter().filter(|neighbour| neighbour.class as usize == *class).count()
    };
    let own: Vec<usize> = neighbours.iter().zip(class_of).map(of_class).collect();
    let (kept, removed): (Vec<usize>, Vec<usize>) =
        (0..class_of.len()).partition(|j| own[*j] >= config.fewest);
    let mut emptied: Vec<usize> = removed.iter().map(|j| class_of[*j]).collect();
    emptied.sort_unstable();
    emptied.dedup();
    emptied.retain(|class| !kept.iter().any(|j| class_of[*j] == *class));
    Pruning { neighbours, own, kept, removed, emptied }
}

/// What is left of a network's parameters.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The prototypes.
    pub prototypes: Prototypes,
    /// Their classes.
    pub class_of: Vec<usize>,
    /// The last layer's weight (C, kept).
    pub last_layer: Tensor,
}

impl Pruning {
    /// Takes the removed prototypes out of a network's parameters.
    ///
    /// # Shapes
    /// `last_layer` (C, P).
    ///
    /// # Errors
    /// [`Error::Input`] when there are not as many prototypes as were looked at, or none is kept.
    pub fn apply(&self, prototypes: &Prototypes, class_of: &[usize], last_layer: &Tensor) -> Result<Pruned> {
        let count = self.own.len();
        let found = [prototypes.len(), class_of.len(), last_layer.dims().get(1).copied().unwrap_or(0)];
        if found.iter().any(|n| *n != count) || last_layer.rank() != 2 {
            let reason = format!(
                "vectors, classes and last layer are of {found:?} prototypes, {count} were looked at"
            );
            return Err(Error::input("prototypes", reason));
        }
        if self.kept.is_empty() {
            return Err(Error::input("prototypes", "none is kept: ask for fewer images of its class"));
        }
        let kept: Vec<u32> = self.kept.iter().map(|j| *j as u32).collect();
        let kept = Tensor::new(kept, prototypes.vectors().device())?;
        Ok(Pruned {
            prototypes: Prototypes::from_vectors(&prototypes.vectors().index_select(&kept, 0)?)?,
            class_of: self.kept.iter().map(|j| class_of[*j]).collect(),
            last_layer: last_layer.index_select(&kept, 1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use xdiff_nn::Tap;

    use super::*;

    struct Pixels;

    impl FeatureExtractor for Pixels {
        fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok(images.clone())
        }

        fn identity(&self) -> String {
            "pixels".to_owned()
        }
    }

    /// Images of two pixels, the first of which is far from everything; image i is of class i mod 2.
    fn batches(pixels: &[f32], size: usize) -> Vec<Result<Batch>> {
        let batch = |(k, part): (usize, &[f32])| {
            let values: Vec<f32> = part.iter().flat_map(|v| [1e3, *v]).collect();
            let images = Tensor::from_vec(values, (part.len(), 1, 1, 2), &Device::Cpu)?;
            let numbers = k * size..k * size + part.len();
            let names = numbers.clone().map(|i| i.to_string()).collect();
            Batch::new(images, names, numbers.map(|i| i as u32 % 2).collect())
        };
        pixels.chunks(size).enumerate().map(batch).collect()
    }

    fn prototypes(values: &[f32]) -> Prototypes {
        Prototypes::from_vectors(&Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap())
            .unwrap()
    }

    fn run(pixels: &[f32], size: usize, class_of: &[usize], config: PruneConfig) -> Result<Pruning> {
        let three = prototypes(&[0.0, 5.0, 10.0]);
        prune(&Pixels, (&three, class_of), Similarity::default(), batches(pixels, size), &config)
    }

    #[test]
    fn prototypes_near_other_classes_are_removed() {
        // Classes 0, 1, 0, 1, …: near 0 are 0, 2, 1; near 5 are 3, 5 and 4, 6 alike; near 10 are 7, 9, 8.
        let pixels = [0.0, 1.5, 1.0, 5.0, 5.2, 5.1, 4.8, 10.0, 10.2, 10.1];
        let config = PruneConfig { nearest: 3, fewest: 2 };
        for size in [1, 3, 10] {
            let pruning = run(&pixels, size, &[0, 0, 1], config).unwrap();
            let names = |j: usize| pruning.neighbours[j].iter().map(|n| n.image.as_str()).collect::<Vec<_>>();
            assert_eq!(names(0), ["0", "2", "1"]);
            assert_eq!(names(1), ["3", "5", "4"], "of equals the first");
            assert_eq!(names(2), ["7", "9", "8"]);
            assert_eq!(pruning.own, [2, 1, 2]);
            assert_eq!((&pruning.kept[..], &pruning.removed[..]), (&[0, 2][..], &[1][..]));
            assert!(pruning.emptied.is_empty());
        }
        let pruning = run(&pixels, 4, &[0, 0, 0], config).unwrap();
        assert_eq!(pruning.kept, [0]);
        let pruning = run(&pixels, 4, &[0, 2, 1], config).unwrap();
        assert_eq!((pruning.kept, pruning.emptied), (vec![0, 2], vec![2]));
    }

    #[test]
    fn what_is_removed_leaves_the_parameters() {
        let pixels = [0.0, 1.5, 1.0, 5.0, 5.2, 5.1, 4.8, 10.0, 10.2, 10.1];
        let pruning = run(&pixels, 4, &[0, 0, 1], PruneConfig { nearest: 3, fewest: 2 }).unwrap();
        let three = prototypes(&[0.0, 5.0, 10.0]);
        let last = Tensor::new(&[[1f32, 1.0, -0.5], [-0.5, -0.5, 1.0]], &Device::Cpu).unwrap();
        let pruned = pruning.apply(&three, &[0, 0, 1], &last).unwrap();
        assert_eq!(pruned.prototypes.vectors().to_vec2::<f32>().unwrap(), [[0.0], [10.0]]);
        assert_eq!(pruned.class_of, [0, 1]);
        assert_eq!(pruned.last_layer.to_vec2::<f32>().unwrap(), [[1.0, -0.5], [-0.5, 1.0]]);
        assert!(matches!(pruning.apply(&three, &[0, 1], &last), Err(Error::Input { .. })));
        let none = Pruning { kept: vec![], ..pruning };
        assert!(matches!(none.apply(&three, &[0, 0, 1], &last), Err(Error::Input { .. })));
    }

    #[test]
    fn bad_input_is_a_typed_error() {
        let config = PruneConfig { nearest: 3, fewest: 2 };
        assert!(matches!(run(&[0.0, 1.0], 2, &[0, 0, 1], config), Err(Error::Input { what: "images", .. })));
        assert!(matches!(run(&[0.0; 4], 2, &[0, 0], config), Err(Error::Config { field: "class_of", .. })));
        for fewest in [0, 4] {
            let refused = run(&[0.0; 4], 2, &[0, 0, 1], PruneConfig { nearest: 3, fewest });
            assert!(matches!(refused, Err(Error::Config { field: "fewest", .. })), "{fewest}");
        }
        let refused = run(&[0.0, 0.0, 0.0, f32::NAN], 2, &[0, 0, 1], config).unwrap_err();
        assert!(matches!(&refused, Error::NonFinite { of, .. } if of == "image `3`"), "{refused}");
    }
}
