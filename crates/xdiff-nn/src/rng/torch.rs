//! PyTorch's CPU generator.

use std::f64::consts::TAU;

use candle_core::{Device, Shape, Tensor};
use rand_mt::Mt;

use crate::Result;

/// Draws what PyTorch's CPU `torch.Generator` draws, so that a seed gives the picture that a
/// PyTorch program gives.
///
/// The engine is MT19937. From 16 elements on, `torch.randn` fills the tensor with 24-bit uniforms
/// and turns each block of 16 into normals by Box–Muller, first half against second; a ragged end
/// redraws the last 16. Below 16 elements it works in double precision, one value at a time, and
/// keeps the second value of each pair for the next call.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::TorchRng;
///
/// // torch.manual_seed(0); torch.randn(2) → 1.5410, -0.2934
/// let x = TorchRng::new(0).randn(2, &Device::Cpu)?.to_vec1::<f32>()?;
/// assert!((x[0] - 1.5410).abs() < 1e-4 && (x[1] + 0.2934).abs() < 1e-4);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TorchRng {
    engine: Mt,
    spare: Option<f64>,
}

impl TorchRng {
    /// The generator after `manual_seed(seed)`; PyTorch uses the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt::new(seed as u32), spare: None }
    }

    /// `torch.randn(shape, generator=…)` in f32.
    ///
    /// # Errors
    /// When the device cannot hold the tensor.
    pub fn randn(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let n = shape.elem_count();
        let values = if n < 16 { (0..n).map(|_| self.scalar() as f32).collect() } else { self.blocks(n) };
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    fn blocks(&mut self, n: usize) -> Vec<f32> {
        let mut x: Vec<f32> = (0..n).map(|_| self.uniform24()).collect();
        for block in x.chunks_exact_mut(16) {
            box_muller(block);
        }
        if !n.is_multiple_of(16) {
            let tail = &mut x[n - 16..];
            tail.iter_mut().for_each(|v| *v = self.uniform24());
            box_muller(tail);
        }
        x
    }

    fn uniform24(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn scalar(&mut self) -> f64 {
        if let Some(v) = self.spare.take() {
            return v;
        }
        let u1 = self.uniform53();
        let u2 = self.uniform53();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let theta = std::f32::consts::TAU * *b;
        (*a, *b) = (radius * theta.cos(), radius * theta.sin());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by PyTorch 2.x on the CPU.
    #[test]
    fn draws_what_pytorch_draws() {
        let small = TorchRng::new(0).randn(4, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in small.iter().zip([1.5410, -0.2934, -2.1788, 0.5684]) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
        let block = TorchRng::new(0).randn(16, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in block.iter().zip([-1.1258, -1.1524, -0.2506, -0.4339]) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
    }

    #[test]
    fn spare_value_is_kept_between_calls() {
        let whole = TorchRng::new(4).randn(6, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        let mut rng = TorchRng::new(4);
        let mut parts = rng.randn(3, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        parts.extend(rng.randn(3, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(whole, parts);
    }
}
