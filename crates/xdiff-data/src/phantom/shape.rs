//! Shapes in relative coordinates: −1 to 1 from left to right (u) and from top to bottom (v). Distances
//! are negative inside.

use xdiff_nn::Rng;

/// The pixels of a square image.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) size: usize,
    /// The side of a pixel in relative units.
    pub(super) pixel: f32,
}

impl Grid {
    pub(super) fn new(size: usize) -> Self {
        Self { size, pixel: 2.0 / size as f32 }
    }

    /// The centre of a row or column.
    pub(super) fn at(&self, i: usize) -> f32 {
        (i as f32 + 0.5) * self.pixel - 1.0
    }

    /// Calls `f(index, u, v)` for every pixel.
    pub(super) fn each(&self, mut f: impl FnMut(usize, f32, f32)) {
        for y in 0..self.size {
            let v = self.at(y);
            for x in 0..self.size {
                f(y * self.size + x, self.at(x), v);
            }
        }
    }

    /// Calls `f(index, u, v)` for the pixels between two corners.
    pub(super) fn each_within(&self, low: (f32, f32), high: (f32, f32), mut f: impl FnMut(usize, f32, f32)) {
        let first = |x: f32| (((x + 1.0) / self.pixel).floor().max(0.0) as usize).min(self.size);
        let last = |x: f32| (((x + 1.0) / self.pixel).ceil().max(0.0) as usize).min(self.size);
        for y in first(low.1)..last(high.1) {
            for x in first(low.0)..last(high.0) {
                f(y * self.size + x, self.at(x), self.at(y));
            }
        }
    }

    /// The share of a pixel that a shape covers, for a blur of `soft` beyond the pixel's own.
    pub(super) fn cover(&self, distance: f32, soft: f32) -> f32 {
        step(0.5 - distance / (soft + self.pixel))
    }
}

/// A smooth step from 0 at 0 to 1 at 1.
pub(super) fn step(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

pub(super) fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// The lesser of two distances, rounded over `k` where they meet.
pub(super) fn smooth_min(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0) / k;
    a.min(b) - 0.25 * k * h * h
}

/// An ellipse: centre, half axes and the sine and cosine of its turn.
#[derive(Clone, Copy)]
pub(super) struct Ellipse {
    u: f32,
    v: f32,
    a: f32,
    b: f32,
    sin: f32,
    cos: f32,
}

impl Ellipse {
    pub(super) fn new((u, v): (f32, f32), (a, b): (f32, f32), turn: f32) -> Self {
        Self { u, v, a, b, sin: turn.sin(), cos: turn.cos() }
    }

    /// The distance to its outline, exact to first order.
    pub(super) fn distance(&self, u: f32, v: f32) -> f32 {
        let (du, dv) = (u - self.u, v - self.v);
        let x = (du * self.cos + dv * self.sin) / self.a;
        let y = (dv * self.cos - du * self.sin) / self.b;
        let k = (x * x + y * y).sqrt();
        let gradient = ((x / self.a).powi(2) + (y / self.b).powi(2)).sqrt();
        if gradient < 1e-4 { -self.a.min(self.b) } else { (k - 1.0) * k / gradient }
    }
}

/// A round blob whose radius waves with the angle.
pub(super) struct Blob {
    u: f32,
    v: f32,
    pub(super) radius: f32,
    /// The cosine and sine coefficients of 2 to 7 periods.
    waves: [(f32, f32); 6],
}

impl Blob {
    /// A blob with waves of 2 to 7 periods of relative amplitude up to `roughness`.
    pub(super) fn new(rng: &mut Rng, (u, v): (f32, f32), radius: f32, roughness: f32) -> Self {
        let waves = std::array::from_fn(|i| {
            let amplitude = roughness * between(rng, 0.3, 1.0) * 1.6 / (i + 2) as f32;
            let (sin, cos) = between(rng, 0.0, std::f32::consts::TAU).sin_cos();
            (amplitude * cos, amplitude * sin)
        });
        Self { u, v, radius, waves }
    }

    /// The distance to its outline along the ray from its centre. Far away only a lower bound.
    pub(super) fn distance(&self, u: f32, v: f32) -> f32 {
        let (du, dv) = (u - self.u, v - self.v);
        let r = (du * du + dv * dv).sqrt();
        if r > 3.0 * self.radius {
            return r - 2.0 * self.radius;
        }
        let (cos, sin) = if r > 0.0 { (du / r, dv / r) } else { (1.0, 0.0) };
        // Multiples of the angle by turning on and on.
        let (mut c, mut s) = (cos, sin);
        let mut wave = 0.0;
        for (a, b) in self.waves {
            (c, s) = (c * cos - s * sin, s * cos + c * sin);
            wave += a * c + b * s;
        }
        r - self.radius * (1.0 + wave).max(0.3)
    }
}

/// A number uniform between two bounds.
pub(super) fn between(rng: &mut Rng, lo: f32, hi: f32) -> f32 {
    rng.range(f64::from(lo), f64::from(hi)) as f32
}

/// −1 or 1.
pub(super) fn side(rng: &mut Rng) -> f32 {
    if rng.chance(0.5) { -1.0 } else { 1.0 }
}
