//! Tensors as checked numbers on the host.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// As f32 on the host, without its graph.
pub(crate) fn host(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Where the greatest number is; the first of equals.
pub(crate) fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Names the first image along dimension 0 with a number that is NaN or infinite.
pub(crate) fn finite_images(what: &'static str, x: &Tensor) -> Result<()> {
    let rows = host(x)?.flatten_from(1)?.to_vec2::<f32>()?;
    match rows.iter().position(|row| row.iter().any(|v| !v.is_finite())) {
        None => Ok(()),
        Some(image) => Err(Error::NonFinite { what, of: format!("image {image}"), hint: HINT }),
    }
}

/// The rows of a matrix (images, prototypes) in f64.
pub(crate) fn finite_rows(what: &'static str, values: &Tensor) -> Result<Vec<Vec<f64>>> {
    if values.rank() != 2 || values.elem_count() == 0 {
        let reason =
            format!("has shape {:?}, not (images, prototypes) with at least one each", values.dims());
        return Err(Error::input(what, reason));
    }
    let rows = values.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2()?;
    check_finite(what, &rows)?;
    Ok(rows)
}

/// Names the first number of a matrix (images, prototypes) that is NaN or infinite.
pub(crate) fn check_finite(what: &'static str, rows: &[Vec<f64>]) -> Result<()> {
    for (image, row) in rows.iter().enumerate() {
        if let Some(prototype) = row.iter().position(|v| !v.is_finite()) {
            let of = format!("image {image}, prototype {prototype}");
            return Err(Error::NonFinite { what, of, hint: HINT });
        }
    }
    Ok(())
}

const HINT: &str = "look for NaN in the image and in the weights of its features";
