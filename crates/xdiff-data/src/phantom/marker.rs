//! Letters burnt into an image: a confounder that has nothing to do with the disease.

use xdiff_nn::Rng;

use super::shape::Grid;

/// Five by seven dots.
const R: [u8; 7] = [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001];
const L: [u8; 7] = [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111];
const DOT: f32 = 0.028;

/// Draws, with the given probability, an R in the upper left corner (the patient's right) or an L in the
/// upper right one. The values are shares of each pixel; all 0 when there is no marker.
pub(super) fn draw(rng: &mut Rng, grid: Grid, probability: f64) -> Vec<f32> {
    let mut shares = vec![0.0; grid.size * grid.size];
    let (present, right, drop) = (rng.chance(probability), rng.chance(0.5), rng.range(0.0, 0.1) as f32);
    if !present {
        return shares;
    }
    let (glyph, left) = if right { (R, -0.93) } else { (L, 0.79) };
    let top = -0.93 + drop;
    grid.each(|i, u, v| {
        let (x, y) = ((u - left) / DOT, (v - top) / DOT);
        // A pixel sees the dots under its four quarters.
        let quarter = 0.25 * grid.pixel / DOT;
        let hits = [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)].iter().filter(|(dx, dy)| {
            let (c, r) = ((x + dx * quarter).floor(), (y + dy * quarter).floor());
            (0.0..5.0).contains(&c) && (0.0..7.0).contains(&r) && glyph[r as usize] >> (4 - c as u32) & 1 == 1
        });
        shares[i] = hits.count() as f32 / 4.0;
    });
    shares
}
