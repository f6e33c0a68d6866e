//! Separable linear maps of images as differentiable operations: what average pooling and
//! interpolation share.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};

use super::conv::count;
use super::empty::empty;
use crate::compute::use_kernel;
use crate::kernels::resample::{Sparse, resample as kernel};
use crate::kernels::slices::contiguous;
use crate::{Error, Result};

/// How each output of an axis is made up of the axis' inputs: (input, weight) pairs.
#[derive(Clone, Debug)]
pub(super) struct AxisMap {
    inputs: usize,
    rows: Vec<Vec<(usize, f64)>>,
}

impl AxisMap {
    /// The map of `outputs` outputs whose pairs `taps` tells; weights of one input are added up.
    pub(super) fn new(
        op: &'static str,
        inputs: usize,
        outputs: usize,
        taps: impl Fn(usize) -> Vec<(usize, f64)>,
    ) -> Result<Self> {
        let rows = collect(op, outputs, |out| {
            let mut row: Vec<(usize, f64)> = Vec::new();
            for (input, weight) in taps(out) {
                match row.iter_mut().find(|(i, _)| *i == input) {
                    Some((_, w)) => *w += weight,
                    None => row.push((input, weight)),
                }
            }
            row
        })?;
        Ok(Self { inputs, rows })
    }

    fn sparse(&self) -> Sparse {
        let row = |row: &Vec<(usize, f64)>| row.iter().map(|(i, w)| (*i, *w as f32)).collect();
        Sparse::new(self.inputs, self.rows.iter().map(row))
    }

    /// The transposed dense matrix (inputs, outputs).
    fn matrix(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let outputs = self.rows.len();
        let mut dense = vec![0.0f64; self.inputs * outputs];
        for (out, row) in self.rows.iter().enumerate() {
            for (i, weight) in row {
                dense[i * outputs + out] = *weight;
            }
        }
        let dense = Tensor::from_vec(dense, (self.inputs, outputs), &Device::Cpu)?;
        Ok(dense.to_dtype(dtype)?.to_device(device)?)
    }

    /// The chosen inputs, when every output is a copy of one.
    fn choice(&self) -> Option<Vec<u32>> {
        let chosen = |row: &Vec<(usize, f64)>| match row[..] {
            [(i, 1.0)] => u32::try_from(i).ok(),
            _ => None,
        };
        self.rows.iter().map(chosen).collect()
    }
}

/// `n` values of `make`, or an error when there is no memory for them.
pub(super) fn collect<T>(op: &'static str, n: usize, make: impl Fn(usize) -> T) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(n).map_err(|e| Error::argument(op, format!("no memory for {n} outputs: {e}")))?;
    all.extend((0..n).map(make));
    Ok(all)
}

/// The sizes (B, C, H, W) of a batch of images with at least one channel and pixel.
pub(super) fn image(op: &'static str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match x.dims() {
        &[b, c, h, w] if c > 0 && h > 0 && w > 0 => Ok((b, c, h, w)),
        dims => Err(Error::shape(op, "a non-empty image (batch, channels, height, width)", dims)),
    }
}

/// Maps rows and columns of each image of `x` (B, C, H, W).
///
/// Half-precision images are mapped in f32.
pub(super) fn resample(op: &'static str, x: &Tensor, rows: &AxisMap, columns: &AxisMap) -> Result<Tensor> {
    let (b, c, _, _) = image(op, x)?;
    let dims = [b, c, rows.rows.len(), columns.rows.len()];
    count(op, &dims)?;
    match x.dtype() {
        DType::F16 | DType::BF16 => {
            let wide = resample(op, &x.to_dtype(DType::F32)?, rows, columns)?;
            Ok(wide.to_dtype(x.dtype())?)
        }
        _ if use_kernel(&[x]) => {
            let map = Resample { rows: rows.sparse(), columns: columns.sparse() };
            Ok(x.contiguous()?.apply_op1(map)?)
        }
        _ if b == 0 => empty(x, &[], &dims),
        _ => plain(x, rows, columns),
    }
}

fn plain(x: &Tensor, rows: &AxisMap, columns: &AxisMap) -> Result<Tensor> {
    let device = x.device();
    if let (Some(i), Some(j)) = (rows.choice(), columns.choice()) {
        let (i, j) = (Tensor::new(i, device)?, Tensor::new(j, device)?);
        return Ok(x.contiguous()?.index_select(&i, 2)?.index_select(&j, 3)?);
    }
    let (b, c, h, w) = x.dims4()?;
    let (oh, ow) = (rows.rows.len(), columns.rows.len());
    let across = x.reshape((b * c * h, w))?.matmul(&columns.matrix(x.dtype(), device)?)?;
    let turned = across.reshape((b * c, h, ow))?.transpose(1, 2)?.contiguous()?;
    let down = turned.reshape((b * c * ow, h))?.matmul(&rows.matrix(x.dtype(), device)?)?;
    let back = down.reshape((b * c, ow, oh))?.transpose(1, 2)?.contiguous()?;
    Ok(back.reshape((b, c, oh, ow))?)
}

struct Resample {
    rows: Sparse,
    columns: Sparse,
}

impl CustomOp1 for Resample {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (b, c, _, _) = layout.shape().dims4()?;
        let y = kernel(b * c, &self.rows, &self.columns, contiguous(x, layout)?)?;
        Ok((CpuStorage::F32(y), (b, c, self.rows.outputs(), self.columns.outputs()).into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back = Resample { rows: self.rows.transposed(), columns: self.columns.transposed() };
        Ok(Some(grad.contiguous()?.apply_op1(back)?))
    }
}
