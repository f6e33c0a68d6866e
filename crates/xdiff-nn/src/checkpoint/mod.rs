//! Functions that are computed twice so that what lies inside them need not be kept.

mod known;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor, Var};

use crate::compute::{Path, path, with_path};
use crate::{Error, Result};
use known::known;

/// Calls `f` without keeping its activations: the backward pass calls it again instead (gradient
/// checkpointing; Chen et al., 2016). A stack of n such calls keeps n inputs, and the activations of
/// one call at a time, for the price of one more forward pass.
///
/// Results are those of `f(inputs)`, bit by bit. So are the gradients, of the inputs and of the
/// parameters that `f` holds, but for the order in which contributions to one tensor are added up.
/// They come out of an ordinary backward pass. Checkpoints may be nested.
///
/// `f` must give the same at each call: chance inside it needs a generator of its own
/// ([`Rng`](crate::Rng), cloned within). The [`Path`] of the first call holds in the second too.
/// What `f` holds that is computed from parameters should be an input instead, lest the backward
/// pass walks through that computation once for each call.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::optim::backward;
/// use xdiff_nn::{Init, Params, Result, checkpoint};
///
/// let scope = Params::fresh(0, &Device::Cpu);
/// let w = scope.weight("w", 2, Init::Const(3.0))?;
/// let params = scope.finish()?;
/// let x = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// let y = checkpoint(&[x], move |x| -> Result<Tensor> { Ok((&x[0] * &w)?.sqr()?) })?;
/// let gradients = backward(&y.sum_all()?, &params)?;
/// assert_eq!(gradients.get("w").map(|g| g.to_vec1::<f32>()).transpose()?, Some(vec![6., 24.]));
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
///
/// # Errors
/// Those of `f`. In the backward pass, those of its second call, and when the result does not depend
/// on an input that has itself been computed from parameters.
pub fn checkpoint<E>(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> std::result::Result<Tensor, E> + Send + Sync + 'static,
) -> std::result::Result<Tensor, E>
where
    E: From<Error> + std::error::Error + Send + Sync + 'static,
{
    let held: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let y = f(&held)?;
    let parameters = y.sorted_nodes().into_iter().filter(|node| node.is_variable()).cloned().collect();
    let again = move |inputs: &[Tensor]| f(inputs).map_err(candle_core::Error::wrap);
    let call = Call { held, parameters, path: path(), again: Box::new(again) };
    let values = y.detach();
    // With its graph the activations go.
    drop(y);
    Ok(attach(inputs, values, call)?)
}

type Function = dyn Fn(&[Tensor]) -> candle_core::Result<Tensor> + Send + Sync;

/// A call that can be made again.
struct Call {
    /// The inputs, outside of every graph.
    held: Vec<Tensor>,
    /// The variables within the function that its result depends on.
    parameters: Vec<Tensor>,
    path: Path,
    again: Box<Function>,
}

impl Call {
    /// The gradients of the inputs in `wanted` and then of the parameters, given that of the result.
    fn gradients(&self, wanted: &[usize], grad: &Tensor) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut inputs = self.held.clone();
        for &i in wanted {
            inputs[i] = Var::from_tensor(&self.held[i])?.into_inner();
        }
        let mut store = with_path(self.path, || {
            let y = (self.again)(&inputs)?;
            let grad = grad.clone();
            known(&y, mark(&y, 1)?, move |_| Ok(Some(grad.clone())))?.backward()
        })?;
        let leaves = wanted.iter().map(|i| &inputs[*i]).chain(&self.parameters);
        Ok(leaves.map(|leaf| store.remove(leaf)).collect())
    }
}

/// Gives the result `y` of a call its place in the graph.
///
/// candle's own operations take three arguments at most. So each source of the call (a tracked input
/// or a parameter) gets a mark, one zero computed from it; all marks are joined, and the result is
/// computed from them. Its backward pass finds the gradients of all sources at once, puts them down
/// under the number of the pass, and sends this number back to the marks, which fetch them.
fn attach(inputs: &[Tensor], y: Tensor, call: Call) -> Result<Tensor> {
    let wanted: Vec<usize> = (0..inputs.len()).filter(|i| inputs[*i].track_op()).collect();
    let sources: Vec<Tensor> = wanted.iter().map(|i| &inputs[*i]).chain(&call.parameters).cloned().collect();
    if sources.is_empty() {
        return Ok(y);
    }
    let found = Arc::new(Found::default());
    let marks: Vec<Tensor> = sources
        .iter()
        .enumerate()
        .map(|(i, source)| {
            let found = found.clone();
            known(source, mark(source, 1)?, move |number| found.take(number, i))
        })
        .collect::<candle_core::Result<_>>()?;
    let inner: Vec<bool> = sources.iter().map(|s| !s.is_variable()).collect();
    let marks = Tensor::cat(&marks, 0)?;
    Ok(known(&marks, y, move |grad| {
        let gradients = call.gradients(&wanted, grad)?;
        for (i, gradient) in gradients.iter().enumerate() {
            // candle takes it for granted that each inner node of a graph receives a gradient.
            if gradient.is_none() && inner[i] {
                let reason = format!("the result does not depend on input {}; leave it out", wanted[i]);
                return Err(candle_core::Error::wrap(Error::argument("checkpoint", reason)));
            }
        }
        let number = found.put(gradients);
        Ok(Some(mark(grad, inner.len())?.affine(0.0, f64::from(number))?))
    })?)
}

/// `n` zeros on the device of a tensor.
fn mark(like: &Tensor, n: usize) -> candle_core::Result<Tensor> {
    Tensor::zeros(n, DType::F32, like.device())
}

/// Gradients on their way from the result to its sources.
#[derive(Default)]
struct Found(Mutex<Passes>);

#[derive(Default)]
struct Passes {
    last: u32,
    gradients: BTreeMap<(u32, usize), Option<Tensor>>,
}

impl Found {
    /// Numbers up to this one are exact in f32.
    const MOST: u32 = 1 << 24;

    /// Puts the gradients of all sources down; the number of this backward pass.
    fn put(&self, gradients: Vec<Option<Tensor>>) -> u32 {
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passes.last = passes.last % Self::MOST + 1;
        let number = passes.last;
        passes.gradients.extend(gradients.into_iter().enumerate().map(|(i, g)| ((number, i), g)));
        number
    }

    /// The gradient of a source, once.
    fn take(&self, number: &Tensor, source: usize) -> candle_core::Result<Option<Tensor>> {
        let number = number.to_vec1::<f32>()?.first().copied().unwrap_or(0.0) as u32;
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match passes.gradients.remove(&(number, source)) {
            Some(gradient) => Ok(gradient),
            None => candle_core::bail!("checkpoint: backward pass {number} has no gradient {source}"),
        }
    }
}
