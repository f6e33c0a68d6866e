//! The CPU kernels as a differentiable candle operation.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::ConvShape;
use crate::kernels::{conv as kernel, values};

pub(super) fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, shape: ConvShape) -> crate::Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    Ok(match b {
        Some(b) => x.apply_op3(&w, &b.contiguous()?, Conv2dOp(shape))?,
        None => x.apply_op2(&w, Conv2dOp(shape))?,
    })
}

struct Conv2dOp(ConvShape);

impl Conv2dOp {
    fn input_and_weight(
        &self,
        x: &Tensor,
        w: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = if x.track_op() { Some(grad.apply_op2_no_bwd(w, &InputGrad(self.0))?) } else { None };
        let dw = if w.track_op() { Some(grad.apply_op2_no_bwd(x, &WeightGrad(self.0))?) } else { None };
        Ok((dx, dw))
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
        let y = kernel::forward(&self.0, values(x, x_layout)?, values(w, w_layout)?, None)?;
        Ok((CpuStorage::F32(y), (&self.0.out_dims()).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.input_and_weight(x, w, &grad.contiguous()?)
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
        let bias = values(b, b_layout)?;
        let y = kernel::forward(&self.0, values(x, x_layout)?, values(w, w_layout)?, Some(bias))?;
        Ok((CpuStorage::F32(y), (&self.0.out_dims()).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = self.input_and_weight(x, w, &grad)?;
        let db = if b.track_op() { Some(grad.apply_op1_no_bwd(&BiasGrad(self.0))?) } else { None };
        Ok((dx, dw, db))
    }
}

struct InputGrad(ConvShape);

impl CustomOp2 for InputGrad {
    fn name(&self) -> &'static str {
        "conv2d input gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = &self.0;
        let dx = kernel::input_grad(s, values(grad, grad_layout)?, values(w, w_layout)?)?;
        Ok((CpuStorage::F32(dx), (s.batch, s.in_channels, s.height, s.width).into()))
    }
}

struct WeightGrad(ConvShape);

impl CustomOp2 for WeightGrad {
    fn name(&self) -> &'static str {
        "conv2d weight gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = &self.0;
        let dw = kernel::weight_grad(s, values(grad, grad_layout)?, values(x, x_layout)?)?;
        Ok((CpuStorage::F32(dw), (s.out_channels, s.group_channels().0, s.kernel.0, s.kernel.1).into()))
    }
}

struct BiasGrad(ConvShape);

impl CustomOp1 for BiasGrad {
    fn name(&self) -> &'static str {
        "conv2d bias gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let db = kernel::bias_grad(&self.0, values(grad, layout)?);
        Ok((CpuStorage::F32(db), self.0.out_channels.into()))
    }
}
