//! The search for each prototype's patch while batches pass by.

use std::collections::BTreeMap;

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::ProjectionConfig;
use super::matching::Matching;
use super::patch::{Patch, Seen};
use crate::{Error, Result, nearest, squared_distances};

/// Prototypes that are projected onto the same images.
#[derive(Debug)]
struct Group {
    /// The images' class; any if none.
    class: Option<usize>,
    members: Vec<usize>,
    /// Their vectors (n, D), as patches are compared with them.
    vectors: Tensor,
}

impl Group {
    /// Which images of a batch count.
    fn images(&self, classes: &[u32]) -> Vec<u32> {
        let counts = |class: u32| self.class.is_none_or(|own| own == class as usize);
        (0u32..).zip(classes).filter(|(_, class)| counts(**class)).map(|(b, _)| b).collect()
    }
}

/// All prototypes, by the images that they are projected onto.
#[derive(Debug)]
pub(super) struct Rivals {
    groups: Vec<Group>,
    count: usize,
}

impl Rivals {
    pub(super) fn new(vectors: &Tensor, config: &ProjectionConfig) -> Result<Self> {
        let (count, width) = vectors.dims2()?;
        let (_, vectors) = config.similarity.space(&vectors.reshape((count, width, 1, 1))?, vectors)?;
        let Some(class_of) = &config.class_of else {
            let all = Group { class: None, members: (0..count).collect(), vectors };
            return Ok(Self { groups: vec![all], count });
        };
        if class_of.len() != count {
            let reason = format!("names the classes of {} prototypes, there are {count}", class_of.len());
            return Err(Error::config("class_of", reason));
        }
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (j, class) in class_of.iter().enumerate() {
            members.entry(*class).or_default().push(j);
        }
        let groups = members.into_iter().map(|(class, members)| {
            let rows: Vec<u32> = members.iter().map(|j| *j as u32).collect();
            let rows = Tensor::new(rows, vectors.device())?;
            Ok(Group { class: Some(class), members, vectors: vectors.index_select(&rows, 0)? })
        });
        Ok(Self { groups: groups.collect::<Result<_>>()?, count })
    }
}

/// What was found for each group so far, and of how many patches.
#[derive(Debug)]
pub(super) struct Search {
    found: Vec<(Found, usize)>,
}

#[derive(Debug)]
enum Found {
    /// The nearest patch of each prototype with its distance.
    Nearest(Vec<Option<(f32, Patch)>>),
    /// A patch of its own for each.
    Distinct(Matching<Patch>),
}

impl Search {
    pub(super) fn new(rivals: &Rivals, distinct: bool) -> Self {
        let found = |group: &Group| {
            let n = group.members.len();
            let found =
                if distinct { Found::Distinct(Matching::new(n)) } else { Found::Nearest(vec![None; n]) };
            (found, 0)
        };
        Self { found: rivals.groups.iter().map(found).collect() }
    }

    /// Looks at a batch.
    pub(super) fn add(&mut self, rivals: &Rivals, seen: &Seen<'_>) -> Result<()> {
        for (group, (found, patches)) in rivals.groups.iter().zip(&mut self.found) {
            let images = group.images(seen.classes());
            if images.is_empty() {
                continue;
            }
            *patches += images.len() * seen.positions();
            match found {
                Found::Nearest(found) => look_for_nearest(found, group, &images, seen)?,
                Found::Distinct(matching) => offer_all(matching, group, &images, seen)?,
            }
        }
        Ok(())
    }

    /// The patch of each prototype.
    pub(super) fn finish(self, rivals: &Rivals) -> Result<Vec<Patch>> {
        let mut patches: Vec<Option<Patch>> = vec![None; rivals.count];
        for (group, (found, seen)) in rivals.groups.iter().zip(self.found) {
            if let (Some(class), 0) = (group.class, seen) {
                let hint = "give images of it, or no prototypes";
                return Err(Error::EmptyClass { class, what: "image", hint });
            }
            let prototypes = group.members.len();
            let found: Vec<Option<Patch>> = match found {
                Found::Nearest(found) => found.into_iter().map(|found| Some(found?.1)).collect(),
                Found::Distinct(matching) => matching.finish().collect(),
            };
            for (j, patch) in group.members.iter().zip(found) {
                let patch = patch.ok_or(Error::TooFewPatches { prototypes, patches: seen })?;
                patches[*j] = Some(patch);
            }
        }
        Ok(patches.into_iter().flatten().collect())
    }
}

/// The features of some images of a batch.
fn of_images(seen: &Seen<'_>, images: &[u32]) -> Result<Tensor> {
    if images.len() == seen.classes().len() {
        return Ok(seen.compared().clone());
    }
    Ok(seen.compared().index_select(&Tensor::new(images, seen.compared().device())?, 0)?)
}

fn look_for_nearest(
    found: &mut [Option<(f32, Patch)>],
    group: &Group,
    images: &[u32],
    seen: &Seen<'_>,
) -> Result<()> {
    let near = nearest(&of_images(seen, images)?, &group.vectors)?;
    let distances = near.distance.to_vec2::<f32>()?;
    let positions = near.position.to_vec2::<u32>()?;
    for (b, distances) in images.iter().zip(&distances) {
        if distances.iter().any(|d| !d.is_finite()) {
            return Err(seen.no_distance(*b as usize));
        }
    }
    found.par_iter_mut().enumerate().try_for_each(|(j, found)| {
        let mut least = found.as_ref().map_or(f32::INFINITY, |(distance, _)| *distance);
        let mut better = None;
        for (i, distances) in distances.iter().enumerate() {
            if distances[j] < least {
                (least, better) = (distances[j], Some(i));
            }
        }
        if let Some(i) = better {
            *found = Some((least, seen.patch(images[i] as usize, positions[i][j] as usize)?));
        }
        Ok(())
    })
}

/// All distances of an image at a time.
fn offer_all(matching: &mut Matching<Patch>, group: &Group, images: &[u32], seen: &Seen<'_>) -> Result<()> {
    for b in images.iter().map(|b| *b as usize) {
        let features = seen.compared().narrow(0, b, 1)?;
        let distances = squared_distances(&features, &group.vectors)?.squeeze(0)?;
        let distances = distances.flatten_from(1)?.transpose(0, 1)?.contiguous()?;
        let count = distances.dim(D::Minus1)?;
        let distances = distances.flatten_all()?.to_vec1::<f32>()?;
        if distances.iter().any(|d| !d.is_finite()) {
            return Err(seen.no_distance(b));
        }
        for (position, distances) in distances.chunks_exact(count).enumerate() {
            matching.offer(distances, (seen.number(b), position), || seen.patch(b, position))?;
        }
    }
    Ok(())
}
