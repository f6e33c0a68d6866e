//! How a convolution's window moves, and the sizes that follow from it.

use crate::{Error, Result};

/// Zeros that are put around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the left.
    pub left: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// `rows` above and below, `columns` on both sides.
    pub const fn symmetric(rows: usize, columns: usize) -> Self {
        Self { top: rows, bottom: rows, left: columns, right: columns }
    }
}

/// How a convolution's window moves over its input. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Steps between neighbouring windows.
    pub stride: (usize, usize),
    /// Zeros around the input.
    pub padding: Padding,
    /// Steps between neighbouring taps of one window.
    pub dilation: (usize, usize),
    /// Into how many independent convolutions the channels are divided.
    pub groups: usize,
}

impl Default for ConvGeometry {
    /// Stride 1, no padding, no dilation, one group.
    fn default() -> Self {
        Self { stride: (1, 1), padding: Padding::default(), dilation: (1, 1), groups: 1 }
    }
}

impl ConvGeometry {
    /// Checks that every step and the number of groups are positive.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("convolution stride", self.stride.0.min(self.stride.1)),
            ("convolution dilation", self.dilation.0.min(self.dilation.1)),
            ("convolution groups", self.groups),
        ];
        for (what, least) in positive {
            if least == 0 {
                return Err(Error::argument(what, "must be at least 1"));
            }
        }
        Ok(())
    }
}

/// All sizes of one convolution, checked against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) in_channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) out_channels: usize,
    pub(crate) kernel: (usize, usize),
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) geometry: ConvGeometry,
}

const OP: &str = "conv2d";

impl ConvShape {
    /// The sizes of a convolution of `x` (B, I, H, W) with `w` (O, I/groups, kh, kw).
    pub(crate) fn new(
        x: &[usize],
        w: &[usize],
        b: Option<&[usize]>,
        geometry: &ConvGeometry,
    ) -> Result<Self> {
        geometry.validate()?;
        let &[batch, in_channels, height, width] = x else {
            return Err(Error::shape(OP, "an input (batch, channels, height, width)", x));
        };
        let &[out_channels, group_in, kh, kw] = w else {
            return Err(Error::shape(OP, "a weight (out_channels, in_channels / groups, height, width)", w));
        };
        if w.contains(&0) {
            return Err(Error::shape(OP, "a weight with at least one element in each dimension", w));
        }
        let groups = geometry.groups;
        if group_in.checked_mul(groups) != Some(in_channels) {
            return Err(Error::shape(
                OP,
                format!("{group_in} x {groups} input channels, for weight {w:?} and {groups} groups"),
                x,
            ));
        }
        if out_channels % groups != 0 {
            return Err(Error::shape(
                OP,
                format!("a number of output channels that {groups} groups divide"),
                w,
            ));
        }
        if let Some(b) = b
            && b != [out_channels]
        {
            return Err(Error::shape(OP, format!("a bias of shape [{out_channels}]"), b));
        }
        let Padding { top, bottom, left, right } = geometry.padding;
        let extent = |size, before, after, kernel, stride, dilation| {
            windows(size, before, after, kernel, stride, dilation).ok_or_else(|| {
                Error::shape(
                    OP,
                    format!(
                        "an image that, padded by {:?}, holds a window of {kh}x{kw} with dilation {:?}",
                        geometry.padding, geometry.dilation
                    ),
                    x,
                )
            })
        };
        let out_height = extent(height, top, bottom, kh, geometry.stride.0, geometry.dilation.0)?;
        let out_width = extent(width, left, right, kw, geometry.stride.1, geometry.dilation.1)?;
        let shape = Self {
            batch,
            in_channels,
            height,
            width,
            out_channels,
            kernel: (kh, kw),
            out_height,
            out_width,
            geometry: *geometry,
        };
        // The largest thing that any path forms is the unfolded input of one sample.
        let unfolded = [in_channels, kh, kw, out_height, out_width];
        count(OP, &shape.out_dims())?;
        count(OP, &unfolded)?;
        Ok(shape)
    }

    /// The shape of the result.
    pub(crate) fn out_dims(&self) -> [usize; 4] {
        [self.batch, self.out_channels, self.out_height, self.out_width]
    }

    /// The number of output positions of one channel.
    pub(crate) fn positions(&self) -> usize {
        self.out_height * self.out_width
    }

    /// The number of input pixels of one channel.
    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// The number of taps of a window.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Input and output channels of one group.
    pub(crate) fn group_channels(&self) -> (usize, usize) {
        (self.in_channels / self.geometry.groups, self.out_channels / self.geometry.groups)
    }
}

/// How many windows fit along one axis; none when not even one does or sizes overflow.
fn windows(
    size: usize,
    before: usize,
    after: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
) -> Option<usize> {
    let padded = size.checked_add(before)?.checked_add(after)?;
    isize::try_from(padded.checked_add(stride)?).ok()?;
    let window = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
    (size > 0 && padded >= window).then(|| (padded - window) / stride + 1)
}

/// The number of elements of a shape, when memory could address them.
pub(crate) fn count(op: &'static str, dims: &[usize]) -> Result<usize> {
    const LARGEST: usize = isize::MAX as usize / 8;
    dims.iter()
        .try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))
        .filter(|n| *n <= LARGEST)
        .map(|_| dims.iter().product())
        .ok_or_else(|| Error::shape(op, "sizes whose product fits into memory", dims))
}
