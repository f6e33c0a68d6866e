//! The exact Euclidean distance transform.

/// The squared distance of every voxel to the nearest one that is `true`; +∞ when there is none.
///
/// The squared distance is separable: along each axis in turn, the value at p becomes the least of
/// f(q) + s²·(p−q)² over the line, which the lower envelope of those parabolas gives in one sweep
/// (Felzenszwalb and Huttenlocher, Theory of Computing 8, 2012). The time is O(n) for each axis.
///
/// `mask` is in row-major order of `shape`, `spacing` is the distance between voxels along each axis.
pub(super) fn squared_distances(mask: &[bool], shape: &[usize], spacing: &[f64]) -> Vec<f64> {
    let mut field: Vec<f64> = mask.iter().map(|m| if *m { 0.0 } else { f64::INFINITY }).collect();
    let mut envelope = Envelope::default();
    let mut stride = field.len();
    for (length, spacing) in shape.iter().zip(spacing) {
        stride /= (*length).max(1);
        for block in field.chunks_mut(stride * length) {
            for offset in 0..stride {
                envelope.transform(&mut block[offset..], stride, spacing * spacing);
            }
        }
    }
    field
}

/// The lower envelope of the parabolas of one line.
#[derive(Default)]
struct Envelope {
    /// Position of the vertex and height of each parabola, from left to right.
    parabolas: Vec<(f64, f64)>,
    /// Where each of them begins to be the lowest.
    from: Vec<f64>,
}

impl Envelope {
    /// Transforms the values at 0, `stride`, 2·`stride` …, with `scale` the squared distance of
    /// neighbours.
    fn transform(&mut self, line: &mut [f64], stride: usize, scale: f64) {
        self.parabolas.clear();
        self.from.clear();
        for (q, height) in line.iter().step_by(stride).enumerate() {
            if height.is_finite() {
                self.add(q as f64, *height, scale);
            }
        }
        if self.parabolas.is_empty() {
            return;
        }
        let mut lowest = 0;
        for (p, value) in line.iter_mut().step_by(stride).enumerate() {
            let p = p as f64;
            while self.from.get(lowest + 1).is_some_and(|from| *from <= p) {
                lowest += 1;
            }
            let (q, height) = self.parabolas[lowest];
            *value = height + scale * (p - q) * (p - q);
        }
    }

    fn add(&mut self, q: f64, height: f64, scale: f64) {
        while let (Some((v, other)), Some(from)) = (self.parabolas.last(), self.from.last()) {
            let crossing = ((height - other) / scale + (q - v) * (q + v)) / (2.0 * (q - v));
            if crossing > *from {
                self.parabolas.push((q, height));
                self.from.push(crossing);
                return;
            }
            self.parabolas.pop();
            self.from.pop();
        }
        self.parabolas.push((q, height));
        self.from.push(f64::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The distance by looking at every pair of voxels.
    fn by_search(mask: &[bool], shape: &[usize], spacing: &[f64]) -> Vec<f64> {
        let place = |mut i: usize| {
            let mut at = vec![0.0; shape.len()];
            for (axis, length) in shape.iter().enumerate().rev() {
                at[axis] = (i % length) as f64 * spacing[axis];
                i /= length;
            }
            at
        };
        let squared =
            |a: usize, b: usize| place(a).iter().zip(place(b)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let nearest =
            |a| (0..mask.len()).filter(|b| mask[*b]).map(|b| squared(a, b)).fold(f64::INFINITY, f64::min);
        (0..mask.len()).map(nearest).collect()
    }

    #[test]
    fn a_mask_without_voxels_is_infinitely_far() {
        assert_eq!(squared_distances(&[false; 6], &[2, 3], &[1.0, 1.0]), [f64::INFINITY; 6]);
        assert_eq!(squared_distances(&[false, true, false], &[3], &[0.5]), [0.25, 0.0, 0.25]);
    }

    proptest! {
        #[test]
        fn it_is_the_distance_by_search(
            shape in prop::collection::vec(1usize..7, 1..4),
            spacing in prop::collection::vec(0.1f64..5.0, 3),
            bits in any::<u128>(),
            rare in 1usize..9,
        ) {
            let n: usize = shape.iter().product();
            let mask: Vec<bool> = (0..n).map(|i| {
                (bits.rotate_left((i * 7) as u32) as usize).is_multiple_of(rare + 1)
            }).collect();
            let spacing = &spacing[..shape.len()];
            let got = squared_distances(&mask, &shape, spacing);
            for (got, want) in got.iter().zip(by_search(&mask, &shape, spacing)) {
                prop_assert!(*got == want || (got - want).abs() <= 1e-12 * want, "{got} {want}");
            }
        }
    }
}
