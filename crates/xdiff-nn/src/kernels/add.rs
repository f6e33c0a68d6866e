//! The sum of two tensors, or of planes and one number for each.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::simd::{Kernel, Unset, Vector, dispatch, map, map2};
use super::slices::{contiguous, tensor, with_slices, written};
use super::sum::sum;

/// How many numbers one task works on.
const CHUNK: usize = 1 << 15;

/// What is added to x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Add {
    /// As many numbers.
    Each,
    /// One number for each plane of this many.
    ToPlanes(usize),
}

/// Some numbers plus as many.
struct Each<'a>(&'a [f32], &'a [f32], &'a mut [Unset]);

impl Kernel for Each<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        map2::<V>(
            self.0,
            self.1,
            self.2,
            #[inline(always)]
            |a, b| a.add(b),
        );
    }
}

/// Some planes, each plus its number.
struct Planes<'a>(&'a [f32], &'a [f32], &'a mut [Unset]);

impl Kernel for Planes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let inner = self.0.len() / self.1.len();
        let planes = self.0.chunks_exact(inner).zip(self.2.chunks_exact_mut(inner));
        for ((x, y), term) in planes.zip(self.1) {
            let term = V::splat(*term);
            map::<V>(
                x,
                y,
                #[inline(always)]
                |x| x.add(term),
            );
        }
    }
}

impl Add {
    fn forward(self, a: &[f32], b: &[f32]) -> Vec<f32> {
        // SAFETY: `map` and `map2` write every number of their chunk or plane, and these make up
        // the whole.
        unsafe {
            written(a.len(), |y| match self {
                Add::Each => {
                    let terms = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
                    terms.zip(y.par_chunks_mut(CHUNK)).for_each(|((a, b), y)| dispatch(Each(a, b, y)));
                }
                Add::ToPlanes(inner) => {
                    let planes = CHUNK.div_ceil(inner.max(1));
                    let chunk = (planes * inner).max(1);
                    let terms = a.par_chunks(chunk).zip(b.par_chunks(planes));
                    terms.zip(y.par_chunks_mut(chunk)).for_each(|((a, b), y)| dispatch(Planes(a, b, y)));
                }
            })
        }
    }
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        assert_eq!(a.len(), b.len() * if let Add::ToPlanes(inner) = self { *inner } else { 1 }, "terms");
        Ok((CpuStorage::F32(self.forward(a, b)), l1.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let da = a.track_op().then(|| grad.clone());
        if !b.track_op() {
            return Ok((da, None));
        }
        let db = match self {
            Add::Each => grad.clone(),
            Add::ToPlanes(inner) => {
                let sums = with_slices([grad], |[grad]| {
                    Ok(match inner {
                        0 => vec![0.0; b.elem_count()],
                        _ => grad.par_chunks_exact(*inner).map(|plane| sum(plane) as f32).collect(),
                    })
                })?;
                tensor(sums, b.shape())?
            }
        };
        Ok((da, Some(db)))
    }
}
