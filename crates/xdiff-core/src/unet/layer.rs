//! A residual block and the attention behind it.

use std::sync::Arc;

use candle_core::Tensor;
use xdiff_nn::checkpoint;

use super::attention::SelfAttention;
use super::resnet::{Pass, ResnetBlock};
use crate::Result;

/// A residual block, followed by attention where the stage has it: what gradient checkpointing
/// computes anew at once. It is shared with the graph, which calls it again in the backward pass.
#[derive(Debug)]
pub(super) struct Layer {
    resnet: ResnetBlock,
    attention: Option<SelfAttention>,
}

impl Layer {
    pub(super) fn new(resnet: ResnetBlock, attention: Option<SelfAttention>) -> Arc<Self> {
        Arc::new(Self { resnet, attention })
    }

    /// The layer at `states`, joined along the channels.
    pub(super) fn forward(self: &Arc<Self>, states: &[Tensor], pass: &mut Pass<'_>) -> Result<Tensor> {
        if !pass.checkpointing {
            return self.call(states, pass);
        }
        let (layer, dropout) = (self.clone(), pass.dropout.cloned());
        let inputs: Vec<Tensor> = [pass.embedding].into_iter().chain(states).cloned().collect();
        checkpoint(&inputs, move |inputs| {
            let (embedding, tap, dropout) = (&inputs[0], &mut (), dropout.as_ref());
            layer.call(&inputs[1..], &mut Pass { embedding, tap, dropout, checkpointing: false })
        })
    }

    fn call(&self, states: &[Tensor], pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(&Tensor::cat(states, 1)?, pass)?;
        match &self.attention {
            Some(attention) => attention.forward(&x, pass.tap),
            None => Ok(x),
        }
    }
}
