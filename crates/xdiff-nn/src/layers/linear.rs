//! The linear layer.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::conv::count;
use super::empty::empty;
use crate::compute::{Precision, precision_for, use_kernel};
use crate::kernels::bf16;
use crate::kernels::linear::{self as kernel, LinearShape};
use crate::kernels::slices::{Gradients, contiguous, tensor, with_slices};
use crate::params::{Init, Params};
use crate::{Error, Result};

const OP: &str = "linear";

/// A learnt linear map of the last dimension: y = x · wᵀ + b.
///
/// Parameters, under PyTorch's names: `weight` (out, in) and `bias` (out).
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::layers::Linear;
/// use xdiff_nn::{Params, Rng};
///
/// let layer = Linear::new(6, 4, true, &Params::fresh(7, &Device::Cpu).at("time"))?;
/// let x = Rng::new(1).randn((2, 5, 6), &Device::Cpu)?;
/// assert_eq!(layer.forward(&x)?.dims(), [2, 5, 4]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A map from `inputs` to `outputs` numbers, with PyTorch's default initialisation: uniform in
    /// ±1/√inputs.
    ///
    /// # Errors
    /// [`Error::Argument`] when a size is 0, or as [`Params::weight`].
    pub fn new(inputs: usize, outputs: usize, bias: bool, params: &Params) -> Result<Self> {
        Self::with_init(inputs, outputs, bias, Init::torch_default(inputs), params)
    }

    /// A map whose weight and bias are drawn as given.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn with_init(inputs: usize, outputs: usize, bias: bool, init: Init, params: &Params) -> Result<Self> {
        Self::with_inits((inputs, outputs), init, bias.then_some(init), params)
    }

    /// A map whose weight and bias are drawn as given, each in its way; without a bias if none is.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn with_inits(
        (inputs, outputs): (usize, usize),
        weight: Init,
        bias: Option<Init>,
        params: &Params,
    ) -> Result<Self> {
        if inputs == 0 || outputs == 0 {
            return Err(Error::argument(
                "linear layer",
                format!("needs at least one input and one output, got {inputs} and {outputs}"),
            ));
        }
        count(OP, &[outputs, inputs])?;
        let weight = params.weight("weight", (outputs, inputs), weight)?;
        let bias = bias.map(|init| params.weight("bias", outputs, init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// The map of `x`.
    ///
    /// # Shapes
    /// (…, in) → (…, out).
    ///
    /// # Errors
    /// As [`linear`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, self.bias.as_ref())
    }

    /// The weight (out, in).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (out).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

/// y = x · wᵀ + b over the last dimension.
///
/// The first dimension counts samples where there is more than one: what a sample gives does not
/// depend on the others.
///
/// # Shapes
/// `x` (…, in), `w` (out, in), `b` (out) → (…, out). Leading dimensions may be 0.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit each other.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let &[outputs, inputs] = w.dims() else {
        return Err(Error::shape(OP, "a weight (out, in)", w.dims()));
    };
    if outputs == 0 || inputs == 0 {
        return Err(Error::shape(OP, "a weight with at least one row and column", w.dims()));
    }
    let Some((&last, leading)) = x.dims().split_last() else {
        return Err(Error::shape(OP, format!("an input (…, {inputs})"), x.dims()));
    };
    if last != inputs {
        return Err(Error::shape(OP, format!("an input (…, {inputs})"), x.dims()));
    }
    if let Some(b) = b
        && b.dims() != [outputs]
    {
        return Err(Error::shape(OP, format!("a bias of shape [{outputs}]"), b.dims()));
    }
    let mut dims = leading.to_vec();
    dims.push(outputs);
    count(OP, &dims)?;
    let samples = leading.first().copied().unwrap_or(1);
    let rows = leading.iter().skip(1).product();
    let shape = LinearShape { samples, rows, inputs, outputs };
    let x = x.reshape((shape.all_rows(), inputs))?;
    let tensors = [Some(&x), Some(w), b];
    let tensors: Vec<&Tensor> = tensors.into_iter().flatten().collect();
    let y = if use_kernel(&tensors) {
        let op = LinearOp { shape, precision: precision_for(&tensors) };
        let (x, w) = (x.contiguous()?, w.contiguous()?);
        match b {
            Some(b) => x.apply_op3(&w, &b.contiguous()?, op)?,
            None => x.apply_op2(&w, op)?,
        }
    } else {
        plain(&x, w, b)?
    };
    Ok(y.reshape(dims)?)
}

fn plain(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    if x.dim(0)? == 0 {
        let others: Vec<&Tensor> = std::iter::once(w).chain(b).collect();
        return empty(x, &others, &[0, w.dim(0)?]);
    }
    let y = x.matmul(&w.t()?)?;
    Ok(match b {
        Some(b) => y.broadcast_add(&b.unsqueeze(0)?)?,
        None => y,
    })
}

struct LinearOp {
    shape: LinearShape,
    precision: Precision,
}

impl LinearOp {
    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let s = self.shape;
        let y = match bf16::for_linear(self.precision, s) {
            Some(level) => bf16::linear::forward(level, s, x, w, b)?,
            None => kernel::forward(s, x, w, b)?,
        };
        Ok((CpuStorage::F32(y), (s.all_rows(), s.outputs).into()))
    }

    /// The gradients that the graph asks for.
    fn backward(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        let s = self.shape;
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

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(contiguous(x, x_layout)?, contiguous(w, w_layout)?, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(x, w, None, grad)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let bias = contiguous(b, b_layout)?;
        self.forward(contiguous(x, x_layout)?, contiguous(w, w_layout)?, Some(bias))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        self.backward(x, w, Some(b), grad)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    #[test]
    fn the_kernel_agrees_with_plain_operations() {
        let mut cases = Vec::new();
        let shapes: [(&[usize], usize); 9] = [
            (&[5], 3),
            (&[1, 7], 5),
            (&[3, 1], 1),
            (&[2, 3, 11], 13),
            (&[0, 4], 3),
            (&[2, 0, 4], 3),
            (&[259, 33], 257),
            (&[3, 300], 600),
            (&[600, 5], 2),
        ];
        for (dims, outputs) in shapes {
            let inputs = dims[dims.len() - 1];
            let (x, w, b) = (randn(1, dims), randn(2, &[outputs, inputs]), randn(3, &[outputs]));
            let name = format!("{dims:?} to {outputs}");
            cases.push(Case::new(name.clone(), vec![x.clone(), w.clone(), b], move |t| {
                linear(&t[0], &t[1], Some(&t[2]))
            }));
            cases
                .push(Case::new(format!("{name}, no bias"), vec![x, w], move |t| linear(&t[0], &t[1], None)));
        }
        let (x, w) = (randn(1, &[6, 4, 5]), randn(2, &[4, 3]));
        cases.push(Case::new("strided", vec![x, w], move |t| {
            linear(&t[0].transpose(1, 2)?, &t[1].t()?, None)
        }));
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_match_differences() {
        let inputs = [randn(1, &[3, 5, 7]), randn(2, &[9, 7]), randn(3, &[9])];
        check(|t| linear(&t[0], &t[1], Some(&t[2])), &inputs, Options::default()).unwrap();
    }

    #[test]
    fn frozen_weights_cost_no_gradient() {
        let x = candle_core::Var::from_tensor(&randn(1, &[2, 4])).unwrap();
        let w = randn(2, &[3, 4]);
        let grads = linear(&x, &w, None).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_some() && grads.get(&w).is_none());
    }

    #[test]
    fn doubles_take_the_plain_path() {
        let x = randn(1, &[2, 4]).to_dtype(DType::F64).unwrap();
        let w = randn(2, &[3, 4]).to_dtype(DType::F64).unwrap();
        assert_eq!(linear(&x, &w, None).unwrap().dtype(), DType::F64);
    }

    #[test]
    fn misfits_are_typed_errors() {
        let (w, b) = (randn(1, &[3, 4]), randn(1, &[4]));
        for x in [randn(1, &[]), randn(1, &[2, 3])] {
            assert!(matches!(linear(&x, &w, None), Err(Error::Shape { .. })), "{:?}", x.dims());
        }
        let x = randn(1, &[2, 4]);
        assert!(matches!(linear(&x, &w, Some(&b)), Err(Error::Shape { .. })));
        assert!(matches!(linear(&x, &b, None), Err(Error::Shape { .. })));
        assert!(matches!(linear(&x, &randn(1, &[0, 4]), None), Err(Error::Shape { .. })));
        let params = Params::fresh(1, &Device::Cpu);
        assert!(matches!(Linear::new(0, 3, true, &params), Err(Error::Argument { .. })));
        assert!(Linear::new(usize::MAX / 2, 3, true, &params).is_err());
    }
}
