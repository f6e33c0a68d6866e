//! "This looks like that": a part of one picture beside the part of another that it resembles.

use image::{Rgb, RgbImage, imageops};

use crate::{
    BoxMark, ColorBar, Colormap, Error, Grid, GridOptions, HeatmapOptions, Opacity, Plane, Result,
    ValueRange, Window, draw_boxes, enlarge, heatmap,
};

/// A part of a picture, in its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureBox {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// One line of a panel: what a picture has, where, and what it resembles.
#[derive(Debug, Clone)]
pub struct Likeness {
    /// The picture that is explained.
    pub query: RgbImage,
    /// The part of it that looks so.
    pub query_box: PictureBox,
    /// How much each place looks so, over the whole picture; any size.
    pub map: Plane,
    /// Below the map: how alike the two are, by which measure.
    pub caption: String,
    /// The picture that the prototype comes from.
    pub source: RgbImage,
    /// The prototype's place in it.
    pub source_box: PictureBox,
    /// Below the source: its name.
    pub source_caption: String,
}

/// How a [`likeness_panel`] is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct LikenessOptions {
    /// Above everything.
    pub title: Option<String>,
    /// As [`GridOptions::panel_size`].
    pub panel_size: u32,
    /// The colours of the maps.
    pub colormap: Colormap,
    /// One scale for all maps; `None` for the span of each map by itself, which shows where but no
    /// longer how much.
    pub range: Option<ValueRange>,
    /// What the maps' values are, for the colour bar.
    pub measure: String,
    /// The colour of the boxes.
    pub box_color: Rgb<u8>,
}

impl Default for LikenessOptions {
    /// Panels of 160 pixels, each map in its own scale.
    fn default() -> Self {
        Self {
            title: None,
            panel_size: 160,
            colormap: Colormap::Magma,
            range: None,
            measure: "similarity".to_owned(),
            box_color: Rgb([255, 210, 0]),
        }
    }
}

/// One line for each likeness: the picture with its part boxed, the map over it, the source with the
/// prototype boxed, and the prototype by itself.
///
/// ```
/// use image::RgbImage;
/// use xdiff_viz::{Likeness, LikenessOptions, PictureBox, Plane, likeness_panel};
///
/// let part = PictureBox { x: 4, y: 8, width: 8, height: 8 };
/// let line = Likeness {
///     query: RgbImage::new(32, 32),
///     query_box: part.clone(),
///     map: Plane::new(2, 2, vec![0.0, 0.1, 0.9, 0.2])?,
///     caption: "NIS 0.31".into(),
///     source: RgbImage::new(32, 32),
///     source_box: part,
///     source_caption: "patient 7".into(),
/// };
/// let panel = likeness_panel(&[line], &LikenessOptions::default())?;
/// assert!(panel.width() > 4 * 128);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
///
/// # Errors
/// [`Error::Empty`] without a line, [`Error::Shape`] for a box that is empty or reaches beyond its
/// picture; those of [`heatmap`].
pub fn likeness_panel(lines: &[Likeness], options: &LikenessOptions) -> Result<RgbImage> {
    if lines.is_empty() {
        return Err(Error::Empty { what: "likeness panel".to_owned(), hint: "give at least one line" });
    }
    let mut grid = Grid::new(GridOptions {
        columns: 4,
        panel_size: options.panel_size,
        title: options.title.clone(),
        column_labels: ["this part", "where it looks so", "training image", "its prototype"]
            .map(String::from)
            .to_vec(),
        color_bar: options
            .range
            .map(|range| ColorBar::new(options.colormap, range).label(options.measure.clone())),
        ..GridOptions::default()
    });
    for line in lines {
        let query = fitted(&line.query, options.panel_size)?;
        let range = match options.range {
            Some(range) => range,
            None => Window::Span.over(&[&line.map])?,
        };
        let heat =
            HeatmapOptions { opacity: Opacity::Even(0.55), ..HeatmapOptions::new(options.colormap, range) };
        let caption = match options.range {
            Some(_) => line.caption.clone(),
            None => format!("{}; map {range}", line.caption),
        };
        grid.push(boxed(&line.query, &line.query_box, options)?, "");
        grid.push(heatmap(&query, &line.map, &heat)?, caption);
        grid.push(boxed(&line.source, &line.source_box, options)?, line.source_caption.clone());
        let b = &line.source_box;
        let part = imageops::crop_imm(&line.source, b.x, b.y, b.width, b.height).to_image();
        grid.push(fitted(&part, options.panel_size)?, format!("{}×{} pixels", b.height, b.width));
    }
    grid.render()
}

/// How often a picture is enlarged to come near the panel's side.
fn factor(picture: &RgbImage, side: u32) -> u32 {
    (side / picture.width().max(picture.height()).max(1)).max(1)
}

fn fitted(picture: &RgbImage, side: u32) -> Result<RgbImage> {
    enlarge(picture, factor(picture, side))
}

fn boxed(picture: &RgbImage, part: &PictureBox, options: &LikenessOptions) -> Result<RgbImage> {
    let PictureBox { x, y, width, height } = *part;
    let mark = BoxMark { x, y, width, height, color: options.box_color, label: None };
    // Looked at before it is enlarged, so that the error names the caller's pixels.
    draw_boxes(&mut picture.clone(), std::slice::from_ref(&mark), 1)?;
    let factor = factor(picture, options.panel_size);
    let mut large = enlarge(picture, factor)?;
    draw_boxes(&mut large, &[mark.enlarged(factor)], 2)?;
    Ok(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Likeness {
        let bright =
            |x: u32, y: u32| Rgb([if (8..16).contains(&x) && (4..8).contains(&y) { 250 } else { 9 }; 3]);
        Likeness {
            query: RgbImage::from_pixel(32, 32, Rgb([40; 3])),
            query_box: PictureBox { x: 0, y: 16, width: 8, height: 16 },
            map: Plane::new(1, 2, vec![0.0, 1.0]).unwrap(),
            caption: "alike".into(),
            source: RgbImage::from_fn(32, 32, bright),
            source_box: PictureBox { x: 8, y: 4, width: 8, height: 4 },
            source_caption: "source".into(),
        }
    }

    #[test]
    fn boxes_lie_where_they_are_asked_for_and_the_part_is_cut_out() {
        let options = LikenessOptions { panel_size: 64, ..Default::default() };
        let large = boxed(&line().query, &line().query_box, &options).unwrap();
        assert_eq!(large.dimensions(), (64, 64));
        for (x, y, inside) in [(0, 32, true), (15, 63, true), (16, 40, false), (5, 31, false), (7, 45, false)]
        {
            assert_eq!(*large.get_pixel(x, y) == options.box_color, inside, "({x}, {y})");
        }
        let panel = likeness_panel(&[line(), line()], &options).unwrap();
        let bright = panel.pixels().filter(|p| p.0 == [250; 3]).count();
        // The part in its image (inside its box) and by itself, twice.
        assert!(bright > 2 * 64 * 32, "{bright} bright pixels");
        let ranged = LikenessOptions { range: Some(ValueRange::new(0.0, 2.0).unwrap()), ..options };
        assert_ne!(
            likeness_panel(&[line()], &ranged).unwrap(),
            likeness_panel(&[line()], &options_of(&ranged)).unwrap()
        );
    }

    fn options_of(ranged: &LikenessOptions) -> LikenessOptions {
        LikenessOptions { range: None, ..ranged.clone() }
    }

    #[test]
    fn what_cannot_be_drawn_is_a_typed_error() {
        let options = LikenessOptions::default();
        assert!(matches!(likeness_panel(&[], &options), Err(Error::Empty { .. })));
        for part in [
            PictureBox { x: 0, y: 0, width: 0, height: 4 },
            PictureBox { x: 30, y: 0, width: 8, height: 4 },
            PictureBox { x: u32::MAX, y: 0, width: u32::MAX, height: 1 },
        ] {
            for wrong in [
                Likeness { source_box: part.clone(), ..line() },
                Likeness { query_box: part.clone(), ..line() },
            ] {
                let e = likeness_panel(&[wrong], &options);
                assert!(matches!(e, Err(Error::Shape { .. })), "{part:?}: {e:?}");
            }
        }
    }
}
