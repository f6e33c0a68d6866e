//! Local means under a separable window, row by row.

/// What happens where the window would leave the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// Only windows that lie inside: the map loses N−1 rows and columns.
    Valid,
    /// The image is mirrored about its outer pixels, which are not repeated: the map keeps its size.
    Mirror,
}

/// The local means of one row of the map.
pub(super) struct Row<'a> {
    /// E\[a\].
    pub(super) a: &'a [f64],
    /// E\[b\].
    pub(super) b: &'a [f64],
    /// E\[a² + b²\].
    pub(super) squares: &'a [f64],
    /// E\[a·b\].
    pub(super) product: &'a [f64],
}

/// Buffers that are reused from plane to plane.
#[derive(Default)]
pub(super) struct Buffers {
    /// One row of the four quantities, with its margins.
    row: [Vec<f64>; 4],
    /// The last N rows of each quantity after the horizontal pass.
    ring: [Vec<f64>; 4],
    /// One row of the map.
    map: [Vec<f64>; 4],
}

/// Two planes of one shape.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) a: &'a [f64],
    pub(super) b: &'a [f64],
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Calls `visit` for each row of the map of local means under the window `taps` ⊗ `taps`.
///
/// A row is filtered horizontally when the window first reaches it and stays in a ring of N rows
/// until the window has passed, so that the work is O(N) a pixel and stays in the cache. `taps` is
/// symmetric, N is odd, and both sides are at least N ([`Edge::Valid`]) or above N/2
/// ([`Edge::Mirror`]).
pub(super) fn scan<const N: usize>(
    planes: Planes<'_>,
    taps: &[f64; N],
    edge: Edge,
    buffers: &mut Buffers,
    mut visit: impl FnMut(Row<'_>),
) {
    let margin = if edge == Edge::Mirror { N / 2 } else { 0 };
    let (padded_height, padded_width) = (planes.height + 2 * margin, planes.width + 2 * margin);
    let width = padded_width + 1 - N;
    let Buffers { row, ring, map } = buffers;
    row.iter_mut().for_each(|r| r.resize(padded_width, 0.0));
    ring.iter_mut().for_each(|r| r.resize(N * width, 0.0));
    map.iter_mut().for_each(|r| r.resize(width, 0.0));

    for y in 0..padded_height {
        load_row(planes, mirror(y, margin, planes.height), margin, row);
        let slot = y % N;
        for (ring, row) in ring.iter_mut().zip(row.iter()) {
            horizontal(taps, row, &mut ring[slot * width..(slot + 1) * width]);
        }
        if y + 1 < N {
            continue;
        }
        for (ring, out) in ring.iter().zip(map.iter_mut()) {
            // The oldest row of the ring is the one after the newest.
            let rows: [&[f64]; N] = std::array::from_fn(|t| {
                let slot = (y + 1 + t) % N;
                &ring[slot * width..(slot + 1) * width]
            });
            vertical(taps, &rows, out);
        }
        let [a, b, squares, product] = &*map;
        visit(Row { a, b, squares, product });
    }
}

/// The source index of a position in the padded image.
fn mirror(position: usize, margin: usize, len: usize) -> usize {
    let i = position.abs_diff(margin);
    if i < len { i } else { 2 * (len - 1) - i }
}

/// Writes a, b, a²+b² and a·b of one source row, with mirrored margins.
fn load_row(planes: Planes<'_>, y: usize, margin: usize, row: &mut [Vec<f64>; 4]) {
    let Planes { a, b, width, .. } = planes;
    let (a, b) = (&a[y * width..(y + 1) * width], &b[y * width..(y + 1) * width]);
    let [ra, rb, squares, product] = row;
    let inner = margin..margin + width;
    ra[inner.clone()].copy_from_slice(a);
    rb[inner].copy_from_slice(b);
    for x in (0..margin).chain(margin + width..2 * margin + width) {
        let source = mirror(x, margin, width);
        (ra[x], rb[x]) = (a[source], b[source]);
    }
    for (((x, y), s), p) in ra.iter().zip(rb.iter()).zip(squares).zip(product) {
        *s = x * x + y * y;
        *p = x * y;
    }
}

/// A valid convolution with a symmetric window; `out` is N−1 shorter than `row`.
fn horizontal<const N: usize>(taps: &[f64; N], row: &[f64], out: &mut [f64]) {
    for (out, window) in out.iter_mut().zip(row.array_windows::<N>()) {
        let mut sum = taps[N / 2] * window[N / 2];
        for t in 0..N / 2 {
            sum += taps[t] * (window[t] + window[N - 1 - t]);
        }
        *out = sum;
    }
}

/// The sum of N rows weighted by a symmetric window.
fn vertical<const N: usize>(taps: &[f64; N], rows: &[&[f64]; N], out: &mut [f64]) {
    let width = out.len();
    let rows: [&[f64]; N] = rows.map(|r| &r[..width]);
    for (x, out) in out.iter_mut().enumerate() {
        let mut sum = taps[N / 2] * rows[N / 2][x];
        for t in 0..N / 2 {
            sum += taps[t] * (rows[t][x] + rows[N - 1 - t][x]);
        }
        *out = sum;
    }
}

/// A sampled Gaussian that sums to one.
pub(super) fn gaussian<const N: usize>(sigma: f64) -> [f64; N] {
    let centre = (N / 2) as f64;
    let taps: [f64; N] = std::array::from_fn(|t| (-((t as f64 - centre) / sigma).powi(2) / 2.0).exp());
    let sum: f64 = taps.iter().sum();
    taps.map(|t| t / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every local mean computed from its definition.
    fn naive<const N: usize>(planes: Planes<'_>, taps: &[f64; N], edge: Edge) -> Vec<[f64; 4]> {
        let margin = if edge == Edge::Mirror { (N / 2) as i64 } else { 0 };
        let (h, w) = (planes.height as i64, planes.width as i64);
        let reflect = |i: i64, n: i64| {
            if i < 0 {
                -i
            } else if i >= n {
                2 * n - 2 - i
            } else {
                i
            }
        };
        let mut out = Vec::new();
        for y in -margin..h + margin - (N as i64 - 1) {
            for x in -margin..w + margin - (N as i64 - 1) {
                let mut sums = [0.0; 4];
                for (i, ty) in taps.iter().enumerate() {
                    for (j, tx) in taps.iter().enumerate() {
                        let at = reflect(y + i as i64, h) * w + reflect(x + j as i64, w);
                        let (a, b) = (planes.a[at as usize], planes.b[at as usize]);
                        for (s, v) in sums.iter_mut().zip([a, b, a * a + b * b, a * b]) {
                            *s += ty * tx * v;
                        }
                    }
                }
                out.push(sums);
            }
        }
        out
    }

    #[test]
    fn scan_equals_the_definition_on_odd_sizes_and_reused_buffers() {
        let mut rng = xdiff_nn::Rng::new(4);
        let taps = gaussian::<11>(1.5);
        let uniform = [1.0 / 7.0; 7];
        let mut buffers = Buffers::default();
        for (height, width) in [(23, 17), (11, 11), (12, 40), (13, 15)] {
            let mut noise = || (0..height * width).map(|_| rng.normal()).collect::<Vec<f64>>();
            let (a, b) = (noise(), noise());
            let planes = Planes { a: &a, b: &b, height, width };
            for edge in [Edge::Valid, Edge::Mirror] {
                for wide in [true, false] {
                    let mut got = Vec::new();
                    let mut visit = |r: Row<'_>| {
                        for x in 0..r.a.len() {
                            got.push([r.a[x], r.b[x], r.squares[x], r.product[x]]);
                        }
                    };
                    let want = if wide {
                        scan(planes, &taps, edge, &mut buffers, &mut visit);
                        naive(planes, &taps, edge)
                    } else {
                        scan(planes, &uniform, edge, &mut buffers, &mut visit);
                        naive(planes, &uniform, edge)
                    };
                    assert_eq!(got.len(), want.len(), "{height}×{width} {edge:?}");
                    for (g, w) in got.iter().flatten().zip(want.iter().flatten()) {
                        assert!((g - w).abs() < 1e-12, "{height}×{width} {edge:?}: {g} {w}");
                    }
                }
            }
        }
    }
}
