//! The CPU kernels as a differentiable candle operation.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::ConvShape;
use crate::compute::{Precision, precision_for};
use crate::kernels::bf16;
use crate::kernels::conv::{self as kernel, KeptWeights};
use crate::kernels::slices::{Gradients, contiguous, tensor, with_slices};

pub(super) fn conv2d(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    shape: ConvShape,
    kept: Option<&KeptWeights>,
) -> crate::Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let tensors: Vec<&Tensor> = [&x, &w].into_iter().chain(b).collect();
    // Weights that are trained are others at the next call.
    let kept = kept.filter(|_| !w.track_op()).cloned();
    let op = Conv2dOp { shape, precision: precision_for(&tensors), kept };
    Ok(match b {
        Some(b) => x.apply_op3(&w, &b.contiguous()?, op)?,
        None => x.apply_op2(&w, op)?,
    })
}

struct Conv2dOp {
    shape: ConvShape,
    precision: Precision,
    kept: Option<KeptWeights>,
}

impl Conv2dOp {
    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let s = &self.shape;
        let y = match bf16::for_conv(self.precision, s) {
            Some(level) => bf16::conv::forward(level, s, x, w, b)?,
            None => kernel::forward(s, x, w, b, self.kept.as_ref())?,
        };
        Ok((CpuStorage::F32(y), (&s.out_dims()).into()))
    }

    /// The gradients that the graph asks for.
    fn backward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>, grad: &Tensor) -> Result<Gradients> {
        let s = &self.shape;
        let (mut dx, mut dw, mut db) = (None, None, None);
        let grad = grad.contiguous()?;
        if x.track_op() {
            dx = Some(tensor(with_slices([&grad, w], |[g, w]| kernel::input_grad(s, g, w))?, x.shape())?);
        }
        if w.track_op() {
            dw = Some(tensor(with_slices([&grad, x], |[g, x]| kernel::weight_grad(s, g, x))?, w.shape())?);
        }
        if let Some(b) = b
            && b.track_op()
        {
            db = Some(tensor(with_slices([&grad], |[g]| Ok(kernel::bias_grad(s, g)))?, b.shape())?);
        }
        Ok((dx, dw, db))
    }
}

impl CustomOp2 for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(contiguous(x, x_layout)?, contiguous(w, w_layout)?, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(x, w, None, grad)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = contiguous(b, b_layout)?;
        self.forward(contiguous(x, x_layout)?, contiguous(w, w_layout)?, Some(bias))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Gradients> {
        self.backward(x, w, Some(b), grad)
    }
}
