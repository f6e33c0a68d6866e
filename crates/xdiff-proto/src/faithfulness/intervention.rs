//! What changes when a prototype is taken away.
//!
//! An intervention says whether the influences agree with an effect, and no more than the output that is
//! looked at can say. [`embedding_change`] and [`reconstruction_change`] look at outputs that are
//! themselves weighted sums of prototypes: they tell whether the influences describe *that readout*, are
//! high almost by construction for the embedding, and say nothing of the model that made the image. For
//! a statement about a model, give its own output to [`output_change`]: a classifier's logits, or the
//! prediction of a denoiser without what the prototype stands for.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::host::{finite_images, finite_rows, host};
use crate::influence::softmax;
use crate::{Error, Result, squared_distances};

/// How far an output moves when each prototype is removed: ‖y(x) − y_{−j}(x)‖, over all dimensions but
/// the first.
///
/// `base` is the output with all prototypes and `without(j)` that without prototype j, each with the
/// images first.
///
/// # Errors
/// [`Error::Input`] when there is no prototype or an output has another shape than `base`,
/// [`Error::NonFinite`] naming the prototype; those of `without`.
pub fn output_change(
    base: &Tensor,
    prototypes: usize,
    mut without: impl FnMut(usize) -> Result<Tensor>,
) -> Result<Vec<Vec<f64>>> {
    if base.rank() == 0 || base.elem_count() == 0 || prototypes == 0 {
        let reason = format!("has shape {:?} for {prototypes} prototypes", base.dims());
        return Err(Error::input("output", reason));
    }
    let images = base.dims()[0];
    let rows = |t: &Tensor| -> Result<Tensor> {
        Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.reshape((images, ()))?)
    };
    let shape = base.shape();
    let base = rows(base)?;
    let mut changes = vec![Vec::with_capacity(prototypes); images];
    for prototype in 0..prototypes {
        let output = without(prototype)?;
        if output.shape() != shape {
            let reason = format!("has shape {:?}, with all it has {:?}", output.dims(), shape.dims());
            return Err(Error::input("output without a prototype", reason));
        }
        let lengths = (rows(&output)? - &base)?.sqr()?.sum(1)?.sqrt()?.to_vec1::<f64>()?;
        if lengths.iter().any(|l| !l.is_finite()) {
            let of = format!("prototype {prototype}");
            let hint = "look for NaN in the image and in the weights";
            return Err(Error::NonFinite { what: "the output without a prototype", of, hint });
        }
        changes.iter_mut().zip(lengths).for_each(|(row, l)| row.push(l));
    }
    Ok(changes)
}

/// The movement of the influence-weighted embedding e(x) = Σ_j NIS_j(x) p_j when prototype j is removed
/// and the others' influences are normalised again: ‖e − e_{−j}‖ = NIS_j/(1 − NIS_j) · ‖p_j − e‖, in f64
/// and also where NIS_j rounds to 1.
///
/// It grows with NIS_j itself, so a correlation with it is high unless prototypes of high influence lie
/// near the others' mean.
///
/// # Shapes
/// `similarity` (B, P), `prototypes` (P, D) → B rows of P.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit or there is one prototype only, without which nothing is left;
/// [`Error::NonFinite`].
pub fn embedding_change(similarity: &Tensor, prototypes: &Tensor) -> Result<Vec<Vec<f64>>> {
    let vectors = vectors(prototypes)?;
    let scores = finite_rows("similarity", similarity)?;
    if scores[0].len() != vectors.len() {
        let reason = format!("is for {} prototypes, {} are given", scores[0].len(), vectors.len());
        return Err(Error::input("similarity", reason));
    }
    Ok(scores.par_iter().map(|row| moves(row, &vectors)).collect())
}

/// The movement of the soft reconstruction z_i = Σ_j α_ij p_j of the features, with α_ij = softmax_j
/// −‖f_i − p_j‖² (Eq. 9 of Dey & Saikia 2025), when prototype j is removed: ‖z_i − z_i^{−j}‖ averaged
/// over the positions i.
///
/// It measures how much of the feature map only prototype j can describe: where two equal prototypes share
/// all the weight, removing either changes nothing, however much influence they have.
///
/// # Shapes
/// `features` (B, D, h, w), `prototypes` (P, D) → B rows of P.
///
/// # Errors
/// As [`embedding_change`].
pub fn reconstruction_change(features: &Tensor, prototypes: &Tensor) -> Result<Vec<Vec<f64>>> {
    let vectors = vectors(prototypes)?;
    if features.rank() != 4 || features.elem_count() == 0 {
        return Err(Error::input("features", format!("have shape {:?}, not (B, D, h, w)", features.dims())));
    }
    // A rectified distance would hide a NaN.
    finite_images("features", features)?;
    let (features, prototypes) = (host(features)?, host(prototypes)?);
    let distances = squared_distances(&features, &prototypes)?.flatten_from(2)?.transpose(1, 2)?;
    let (_, positions, count) = distances.dims3()?;
    let distances = distances.to_dtype(DType::F64)?.to_vec3::<f64>()?;
    let change = |map: &Vec<Vec<f64>>| {
        let mut mean = vec![0.0; count];
        for row in map {
            let scores: Vec<f64> = row.iter().map(|d| -d).collect();
            mean.iter_mut().zip(moves(&scores, &vectors)).for_each(|(m, l)| *m += l / positions as f64);
        }
        mean
    };
    Ok(distances.par_iter().map(change).collect())
}

fn vectors(prototypes: &Tensor) -> Result<Vec<Vec<f64>>> {
    let rows = finite_rows("prototypes", prototypes)?;
    if rows.len() < 2 {
        return Err(Error::input("prototypes", "are one: without it nothing is left; give at least 2"));
    }
    Ok(rows)
}

/// ‖e − e_{−j}‖ for each j, where e = Σ_k w_k p_k, w the softmax of finite scores.
fn moves(scores: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let weights = softmax(scores).unwrap_or_default();
    let mean = weighted(&weights, vectors);
    let length = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let one = |(j, weight): (usize, &f64)| {
        if *weight <= 0.5 {
            return weight / (1.0 - weight) * length(&vectors[j], &mean);
        }
        // 1 − w loses its digits here, so the others are weighted anew.
        let mut others = scores.to_vec();
        others[j] = f64::NEG_INFINITY;
        softmax(&others).map_or(0.0, |others| length(&mean, &weighted(&others, vectors)))
    };
    weights.iter().enumerate().map(one).collect()
}

fn weighted(weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors[0].len()];
    for (weight, vector) in weights.iter().zip(vectors).filter(|(w, _)| **w != 0.0) {
        sum.iter_mut().zip(vector).for_each(|(s, v)| *s += weight * v);
    }
    sum
}
