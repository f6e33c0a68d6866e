//! How samples are judged: against the image that belongs to their mask, against the mask itself,
//! and against what the model was trained on.

use rayon::prelude::*;
use serde::Serialize;
use xdiff::data::otsu;

/// A plane of values in [0, 1] with its binary mask.
#[derive(Clone, Debug)]
pub struct Masked<'a> {
    /// Row by row.
    pub image: &'a [f32],
    /// Row by row; 0 is outside.
    pub mask: &'a [u8],
    /// Height and width.
    pub size: (usize, usize),
}

/// Mean intensity inside a mask less that in a ring of `reach` pixels around it; `None` when either
/// is empty.
///
/// The check is the same for lesions (bright against their surroundings) and for body regions
/// (bright against air): where a sample respects its mask, it comes out as in the real image, and
/// under somebody else's mask it does not.
pub fn contrast(of: &Masked<'_>, reach: usize) -> Option<f64> {
    let (h, w) = of.size;
    let (mut inside, mut n_inside, mut ring, mut n_ring) = (0.0, 0usize, 0.0, 0usize);
    for y in 0..h {
        for x in 0..w {
            let v = f64::from(of.image[y * w + x]);
            if of.mask[y * w + x] != 0 {
                inside += v;
                n_inside += 1;
            } else if near(of.mask, (h, w), (y, x), reach) {
                ring += v;
                n_ring += 1;
            }
        }
    }
    (n_inside > 0 && n_ring > 0).then(|| inside / n_inside as f64 - ring / n_ring as f64)
}

/// Whether the mask has a pixel within `reach` rows and columns.
fn near(mask: &[u8], (h, w): (usize, usize), (y, x): (usize, usize), reach: usize) -> bool {
    (y.saturating_sub(reach)..(y + reach + 1).min(h))
        .any(|yy| (x.saturating_sub(reach)..(x + reach + 1).min(w)).any(|xx| mask[yy * w + xx] != 0))
}

/// Dice overlap of the bright part of an image (above Otsu's threshold, holes within a row and
/// column filled) with a mask.
pub fn foreground_dice(of: &Masked<'_>) -> f64 {
    let threshold = otsu(of.image).unwrap_or(f32::INFINITY);
    let (h, w) = of.size;
    let bright: Vec<bool> = of.image.iter().map(|v| *v > threshold).collect();
    let filled = fill(&bright, h, w);
    let both = filled.iter().zip(of.mask).filter(|(a, b)| **a && **b != 0).count();
    let sum = filled.iter().filter(|a| **a).count() + of.mask.iter().filter(|b| **b != 0).count();
    if sum == 0 { 1.0 } else { 2.0 * both as f64 / sum as f64 }
}

/// Fills what lies between bright pixels both along its row and along its column.
fn fill(bright: &[bool], h: usize, w: usize) -> Vec<bool> {
    let span = |line: &mut dyn Iterator<Item = usize>| -> Option<(usize, usize)> {
        let mut on = line.filter(|i| bright[*i]);
        let first = on.next()?;
        Some((first, on.last().unwrap_or(first)))
    };
    let rows: Vec<_> = (0..h).map(|y| span(&mut (y * w..(y + 1) * w))).collect();
    let columns: Vec<_> = (0..w).map(|x| span(&mut (x..h * w).step_by(w))).collect();
    let within = |i: usize, s: &Option<(usize, usize)>| s.is_some_and(|(a, b)| a <= i && i <= b);
    (0..h * w).map(|i| bright[i] || within(i, &rows[i / w]) && within(i, &columns[i % w])).collect()
}

/// The training image that lies nearest to another image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Its index among the training images.
    pub index: usize,
    /// Root mean square difference of the pixels.
    pub rmse: f64,
}

/// The nearest of `images` to `query` by root mean square difference; `None` when there is none.
pub fn nearest(query: &[f32], images: &[Vec<f32>]) -> Option<Neighbour> {
    let rmse = |image: &Vec<f32>| {
        let sum: f64 = query.iter().zip(image).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / query.len().max(1) as f64).sqrt()
    };
    images
        .par_iter()
        .enumerate()
        .map(|(index, image)| Neighbour { index, rmse: rmse(image) })
        .min_by(|a, b| a.rmse.total_cmp(&b.rmse).then(a.index.cmp(&b.index)))
}

/// Mean and standard deviation (n − 1) of what is finite.
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let n = finite.len() as f64;
    let mean = finite.iter().sum::<f64>() / n;
    let variance = finite.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(value: f32) -> (Vec<f32>, Vec<u8>) {
        let inside = |i: usize| (3..6).contains(&(i / 9)) && (3..6).contains(&(i % 9));
        (
            (0..81).map(|i| if inside(i) { value } else { 0.1 }).collect(),
            (0..81).map(|i| u8::from(inside(i))).collect(),
        )
    }

    #[test]
    fn a_bright_square_under_its_own_mask() {
        let (image, mask) = square(0.9);
        let of = Masked { image: &image, mask: &mask, size: (9, 9) };
        assert!((contrast(&of, 2).unwrap() - 0.8).abs() < 1e-6);
        assert!((foreground_dice(&of) - 1.0).abs() < 1e-12);
        let empty = vec![0; 81];
        assert_eq!(contrast(&Masked { mask: &empty, ..of.clone() }, 2), None);
        let shifted: Vec<u8> = (0..81).map(|i| if i >= 9 { mask[i - 9] } else { 0 }).collect();
        assert!(foreground_dice(&Masked { mask: &shifted, ..of }) < 0.7);
    }

    #[test]
    fn holes_are_filled_and_corners_are_not() {
        let ring: Vec<bool> = (0..25).map(|i| matches!(i, 6 | 7 | 8 | 11 | 13 | 16 | 17 | 18)).collect();
        let filled = fill(&ring, 5, 5);
        assert_eq!(filled.iter().filter(|f| **f).count(), 9);
        assert!(!filled[0]);
    }

    #[test]
    fn the_nearest_image_is_found() {
        let images = vec![vec![0.0, 0.0], vec![1.0, 1.0], vec![0.9, 1.0]];
        assert_eq!(nearest(&[1.0, 1.0], &images), Some(Neighbour { index: 1, rmse: 0.0 }));
        assert_eq!(nearest(&[1.0], &[]), None);
        let (mean, sd) = mean_sd(&[1.0, 3.0, f64::INFINITY]);
        assert!((mean - 2.0).abs() < 1e-12 && (sd - 2f64.sqrt()).abs() < 1e-12);
    }
}
