//! From a noiseless scene, ill and healthy, to a [`Phantom`].

use std::collections::BTreeMap;

use xdiff_nn::Rng;

use crate::Result;
use crate::image::{Image, Scale};
use crate::mask::{Mask, MaskKind};
use crate::phantom::field::smooth;
use crate::phantom::shape::Grid;

/// A synthetic image whose truth is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Phantom {
    /// The image, in [0, 1].
    pub image: Image,
    /// The same patient and the same noise without the disease; the image itself when there is none.
    pub twin: Image,
    /// Where the disease changes the image at all: outside, image and twin agree bit for bit.
    pub influence: Mask,
    /// The masks of its kind. [`MaskKind::Lesion`] is always there, empty in the healthy.
    pub masks: BTreeMap<MaskKind, Mask>,
    /// The class, an index into the kind's class names.
    pub class: u32,
    /// The patient's name.
    pub patient: String,
}

/// Whose picture to draw, and which.
pub(super) struct Subject<'a> {
    pub(super) grid: Grid,
    /// Fixes all that a patient's slices share.
    pub(super) patient: &'a Rng,
    pub(super) name: String,
    /// The number of the slice, or of the cell.
    pub(super) slice: usize,
    /// The slice's place in the organ, −1 to 1.
    pub(super) depth: f32,
    /// The probability that a marker is burnt into the image.
    pub(super) marker: f64,
}

impl Subject<'_> {
    /// The generator of what differs between slices.
    pub(super) fn slice_rng(&self) -> Rng {
        self.patient.fork("slice").sample(self.slice as u64)
    }
}

/// How a scanner spoils a picture.
#[derive(Clone, Copy)]
pub(super) struct Scanner {
    /// The standard deviation of the noise in each of two channels, or in the only one.
    pub(super) noise: f32,
    /// Whether the magnitude of two noisy channels is taken, as in MRI (Rician noise).
    pub(super) magnitude: bool,
    /// The relative amplitude of a slow change of brightness over the image.
    pub(super) bias: f32,
}

/// What a kind of phantom draws before noise.
pub(super) struct Scene {
    pub(super) size: usize,
    pub(super) channels: usize,
    /// Planar values.
    pub(super) healthy: Vec<f32>,
    /// Planar values; `None` in the healthy.
    pub(super) ill: Option<Vec<f32>>,
    pub(super) masks: Vec<(MaskKind, Vec<u8>)>,
    pub(super) class: u32,
}

impl Scene {
    /// Adds bias and noise, the same to both pictures.
    pub(super) fn scan(self, scanner: Scanner, subject: Subject<'_>) -> Result<Phantom> {
        let (rng, patient) = (subject.slice_rng(), subject.name);
        let (n, size) = (self.size * self.size, self.size);
        let bias = smooth(&mut rng.fork("bias"), size, 2);
        let noise = rng.fork("noise").normals(n * if scanner.magnitude { 2 } else { self.channels });
        let spoil = |values: &[f32]| -> Result<Image> {
            let spoilt = values.iter().enumerate().map(|(i, v)| {
                let signal = v * (1.0 + scanner.bias * bias[i % n]) + scanner.noise * noise[i];
                let value = if scanner.magnitude {
                    let other = scanner.noise * noise[n + i];
                    (signal * signal + other * other).sqrt()
                } else {
                    signal
                };
                value.clamp(0.0, 1.0)
            });
            Image::new(self.channels, size, size, spoilt.collect(), Scale::Unit)
        };
        let twin = spoil(&self.healthy)?;
        let (image, influence) = match &self.ill {
            Some(ill) => {
                let differs =
                    |i: usize| (0..self.channels).any(|c| ill[c * n + i] != self.healthy[c * n + i]);
                (spoil(ill)?, Mask::new(size, size, (0..n).map(|i| u8::from(differs(i))).collect())?)
            }
            None => (twin.clone(), Mask::empty(size, size)?),
        };
        let masks = self.masks.into_iter().map(|(kind, data)| Ok((kind, Mask::new(size, size, data)?)));
        Ok(Phantom {
            image,
            twin,
            influence,
            masks: masks.collect::<Result<_>>()?,
            class: self.class,
            patient,
        })
    }
}
