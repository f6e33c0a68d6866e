//! Smooth random fields.

use xdiff_nn::Rng;

/// A band-limited random field of mean 0 and variance about 1 over a square image: cubic B-splines over
/// a lattice of `cells` by `cells` standard normal values. It is the same field at every image size.
pub(super) fn smooth(rng: &mut Rng, size: usize, cells: usize) -> Vec<f32> {
    let side = cells + 3;
    // A B-spline's weights square-sum to 151/315 on average, in each direction.
    let gain = 315.0 / 151.0;
    let lattice: Vec<f32> = rng.normals(side * side).into_iter().map(|v| v * gain).collect();
    let taps: Vec<(usize, [f32; 4])> = (0..size)
        .map(|i| {
            let at = (i as f32 + 0.5) / size as f32 * cells as f32;
            let first = (at as usize).min(cells - 1);
            (first, spline(at - first as f32))
        })
        .collect();
    let mut line = vec![0.0f32; side];
    let mut out = Vec::with_capacity(size * size);
    for (first, w) in &taps {
        let rows = &lattice[first * side..(first + 4) * side];
        for (x, value) in line.iter_mut().enumerate() {
            *value = w[0] * rows[x]
                + w[1] * rows[side + x]
                + w[2] * rows[2 * side + x]
                + w[3] * rows[3 * side + x];
        }
        out.extend(taps.iter().map(|(c, w)| {
            let l = &line[*c..*c + 4];
            w[0] * l[0] + w[1] * l[1] + w[2] * l[2] + w[3] * l[3]
        }));
    }
    out
}

/// A sum of smooth fields, each of twice the cells and 0.6 times the amplitude of the one before;
/// variance about 1.
pub(super) fn fractal(rng: &mut Rng, size: usize, cells: usize, octaves: u32) -> Vec<f32> {
    let weights: Vec<f32> = (0..octaves).map(|o| 0.6f32.powi(o as i32)).collect();
    let norm = weights.iter().map(|w| w * w).sum::<f32>().sqrt();
    let mut out = vec![0.0f32; size * size];
    for (o, w) in weights.iter().enumerate() {
        let octave = smooth(rng, size, cells << o);
        out.iter_mut().zip(octave).for_each(|(a, b)| *a += w / norm * b);
    }
    out
}

/// A smooth displacement of the plane, which makes drawn outlines organic.
pub(super) struct Bend {
    field: Vec<f32>,
    amount: f32,
}

impl Bend {
    /// Moves points by about `amount`, in relative units.
    pub(super) fn new(rng: &mut Rng, size: usize, cells: usize, amount: f32) -> Self {
        Self { field: smooth(rng, size, cells), amount }
    }

    /// Where pixel i, at (u, v), is moved. One field serves both directions, read backwards for the second.
    pub(super) fn at(&self, i: usize, u: f32, v: f32) -> (f32, f32) {
        (u + self.amount * self.field[i], v + self.amount * self.field[self.field.len() - 1 - i])
    }
}

/// The weights of a uniform cubic B-spline at a fraction of a cell.
fn spline(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    [
        s * s * s / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
        t * t * t / 6.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_unit_variance_and_the_same_shape_at_every_size() {
        let rng = Rng::new(3);
        for (cells, octaves) in [(24, 1), (12, 3)] {
            let fields: Vec<f32> =
                (0..16).flat_map(|i| fractal(&mut rng.sample(i), 64, cells, octaves)).collect();
            let n = fields.len() as f32;
            let mean = fields.iter().sum::<f32>() / n;
            let var = fields.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
            assert!(mean.abs() < 0.1 && (var - 1.0).abs() < 0.15, "{cells} cells: {mean} {var}");
        }
        let (small, large) = (smooth(&mut rng.fork("a"), 32, 4), smooth(&mut rng.fork("a"), 64, 4));
        // A small pixel is the mean of its four parts, as far as the field is straight there.
        let mean = |y: usize, x: usize| {
            (large[2 * y * 64 + 2 * x]
                + large[2 * y * 64 + 2 * x + 1]
                + large[(2 * y + 1) * 64 + 2 * x]
                + large[(2 * y + 1) * 64 + 2 * x + 1])
                / 4.0
        };
        assert!((0..32).all(|y| (0..32).all(|x| (small[y * 32 + x] - mean(y, x)).abs() < 0.02)));
    }
}
