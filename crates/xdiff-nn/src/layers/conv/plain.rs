//! The path of plain candle operations.
//!
//! candle's own convolution has a right gradient when the window reaches exactly the edges of what
//! it is given and steps alike in both directions: so the image is padded by hand and what no
//! window touches is cut off. Other geometries are unfolded into a matrix product.

use candle_core::Tensor;

use super::ConvShape;
use crate::Result;
use crate::layers::empty::empty;

pub(super) fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, s: &ConvShape) -> Result<Tensor> {
    if s.batch == 0 {
        let others: Vec<&Tensor> = std::iter::once(w).chain(b).collect();
        return empty(x, &others, &s.out_dims());
    }
    let g = &s.geometry;
    let x = reached(x, s)?;
    let y = if g.stride.0 == g.stride.1 && g.dilation.0 == g.dilation.1 {
        x.conv2d(w, 0, g.stride.0, g.dilation.0, g.groups)?
    } else {
        unfolded(&x, w, s)?
    };
    Ok(match b {
        Some(b) => y.broadcast_add(&b.reshape((1, s.out_channels, 1, 1))?)?,
        None => y,
    })
}

/// The padded image without the last rows and columns when no window reaches them.
fn reached(x: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let g = &s.geometry;
    let axes = [
        (2, g.padding.top, s.height, s.out_height, g.stride.0, g.dilation.0, s.kernel.0),
        (3, g.padding.left, s.width, s.out_width, g.stride.1, g.dilation.1, s.kernel.1),
    ];
    let mut x = x.clone();
    for (dim, before, size, out, stride, dilation, kernel) in axes {
        let reach = (out - 1) * stride + dilation * (kernel - 1) + 1;
        let after = reach.saturating_sub(before + size);
        x = x.pad_with_zeros(dim, before, after)?;
        if reach < before + size {
            x = x.narrow(dim, 0, reach)?;
        }
    }
    Ok(x.contiguous()?)
}

/// The convolution of an already padded image, as one matrix product for each sample and group.
fn unfolded(x: &Tensor, w: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let g = &s.geometry;
    let ((kh, kw), positions) = (s.kernel, s.positions());
    let steps = |first: usize, n: usize, stride: usize| -> Result<Tensor> {
        let ids: Vec<u32> = (0..n).map(|i| (first + i * stride) as u32).collect();
        Ok(Tensor::from_vec(ids, n, x.device())?)
    };
    let mut taps = Vec::with_capacity(kh * kw);
    for u in 0..kh {
        let rows = x.index_select(&steps(u * g.dilation.0, s.out_height, g.stride.0)?, 2)?;
        for v in 0..kw {
            taps.push(rows.index_select(&steps(v * g.dilation.1, s.out_width, g.stride.1)?, 3)?);
        }
    }
    let (group_in, group_out) = s.group_channels();
    let columns = Tensor::stack(&taps, 2)?.reshape((s.batch, g.groups, group_in * kh * kw, positions))?;
    let w = w.reshape((1, g.groups, group_out, group_in * kh * kw))?;
    let w = w.broadcast_as((s.batch, g.groups, group_out, group_in * kh * kw))?.contiguous()?;
    Ok(w.matmul(&columns)?.reshape(&s.out_dims())?)
}
