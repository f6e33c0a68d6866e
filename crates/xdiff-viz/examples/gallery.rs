//! Draws one of each kind of picture, and a report that holds them all, into a folder:
//! `cargo run -p xdiff-viz --example gallery -- FOLDER`.

use std::error::Error;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use xdiff_viz::{
    BarChart, BarSeries, Bins, BoxMark, Cell, ChartOptions, ColorBar, Colormap, Grid, GridOptions, Guide,
    HeatmapOptions, Histogram, HistogramSeries, LineChart, LineSeries, Mask, MatrixChart, Opacity, Plane,
    Report, Resample, Scale, ScatterChart, ScatterSeries, Table, ValueRange, Window, draw_boxes, enlarge,
    heatmap, outline, save_png,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("give the folder to draw into")?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;

    let mut report = Report::new("Gallery of xdiff-viz");
    report.paragraph("One of each kind of picture, drawn from formulas; no model is involved.");
    for (heading, pictures) in [
        ("Grids", vec![("grid", grid()?), ("colormaps", colormaps()?)]),
        ("Overlays", vec![("overlay", overlay()?), ("heatmap", signed_map()?)]),
        (
            "Charts",
            vec![
                ("line", line()?),
                ("loss", loss()?),
                ("bar", bar()?),
                ("bar-many", many_bars()?),
                ("histogram", histogram()?),
                ("scatter", scatter()?),
                ("matrix", matrix()?),
            ],
        ),
    ] {
        report.section(heading);
        for (name, picture) in pictures {
            save_png(folder.join(format!("{name}.png")), &picture)?;
            report.figure(&picture, format!("{name}.png"), format!("The {name} of the gallery"))?;
        }
    }
    tables(&mut report, &folder)?;
    report.save(folder.join("report.html"))?;
    println!("drawn into {}", folder.display());
    Ok(())
}

/// A smooth head-like disc with a bright spot.
fn scan(side: usize) -> Outcome<Plane> {
    let value = |i: usize| {
        let place = |i: usize| 2.0 * (i as f32 + 0.5) / side as f32 - 1.0;
        let (x, y) = (place(i % side), place(i / side));
        let skull = (x * x / 0.6 + y * y / 0.85).sqrt();
        let tissue = if skull < 1.0 { 0.45 + 0.15 * (9.0 * x).sin() * (7.0 * y).cos() } else { 0.0 };
        let rim = (-(skull - 0.97).powi(2) * 400.0).exp() * 0.9;
        let spot = 0.5 * (-((x - 0.25).powi(2) + (y + 0.2).powi(2)) * 40.0).exp();
        (tissue + rim + spot).min(1.0)
    };
    Ok(Plane::new(side, side, (0..side * side).map(value).collect())?)
}

/// A signed map with its peak on the spot of [`scan`].
fn relevance(side: usize) -> Outcome<Plane> {
    let value = |i: usize| {
        let place = |i: usize| 2.0 * (i as f32 + 0.5) / side as f32 - 1.0;
        let (x, y) = (place(i % side), place(i / side));
        let bump = |cx: f32, cy: f32, width: f32| (-((x - cx).powi(2) + (y - cy).powi(2)) * width).exp();
        bump(0.25, -0.2, 14.0) - 0.5 * bump(-0.4, 0.4, 20.0)
    };
    Ok(Plane::new(side, side, (0..side * side).map(value).collect())?)
}

/// A number from 0 to 1 for each index, spread like noise.
fn noise(index: usize) -> f64 {
    let mut bits = (index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Noise around zero with variance one, nearly normal.
fn bell(index: usize) -> f64 {
    (0..12).map(|k| noise(index * 12 + k)).sum::<f64>() - 6.0
}

fn grey(plane: &Plane) -> Outcome<RgbImage> {
    Ok(Colormap::Grey.paint(plane, Window::Fixed(0.0, 1.0).over(&[plane])?)?)
}

fn grid() -> Outcome<RgbImage> {
    let clean = scan(64)?;
    let map = relevance(64)?;
    let range = Window::Symmetric.over(&[&map])?;
    let mut grid = Grid::new(GridOptions {
        columns: 4,
        panel_size: 192,
        title: Some("Denoising of one phantom, and where x̂₀ came from".into()),
        column_labels: ["xₜ", "x̂₀", "relevance", "relevance, NaN inside"].map(Into::into).to_vec(),
        row_labels: vec!["t = 800".into(), "t = 200".into()],
        color_bar: Some(ColorBar::new(Colormap::Diverging, range).label("relevance (signed)")),
        ..GridOptions::default()
    });
    for (row, level) in [0.8_f32, 0.2].into_iter().enumerate() {
        let mixed = |i: usize, v: &f32| v * (1.0 - level) + level * noise(i + row * 9999) as f32;
        let noisy = clean.values().iter().enumerate().map(|(i, v)| mixed(i, v)).collect();
        grid.push(grey(&Plane::new(64, 64, noisy)?)?, format!("ᾱₜ = {:.2}", 1.0 - level));
        grid.push(grey(&clean)?, "");
        grid.push(Colormap::Diverging.paint(&map, range)?, format!("window {range}"));
        let mut broken = map.values().to_vec();
        broken[64 * 10..64 * 14].fill(f32::NAN);
        let broken = Plane::new(64, 64, broken)?;
        let caption =
            format!("{} values are NaN and are drawn in green, which takes lines", broken.nan_count());
        grid.push(Colormap::Diverging.paint(&broken, range)?, caption);
    }
    Ok(grid.render()?)
}

fn colormaps() -> Outcome<RgbImage> {
    let ramp = Plane::new(24, 240, (0..24 * 240).map(|i| (i % 240) as f32 / 239.0).collect())?;
    let mut grid = Grid::new(GridOptions {
        columns: 1,
        row_labels: Vec::new(),
        title: Some("Colour maps".into()),
        ..GridOptions::default()
    });
    for map in Colormap::ALL {
        grid.push(map.paint(&ramp, ValueRange::new(0.0, 1.0)?)?, format!("{map:?}"));
    }
    Ok(grid.render()?)
}

fn overlay() -> Outcome<RgbImage> {
    let map = relevance(16)?;
    let range = Window::Fixed(0.0, 1.0).over(&[&map])?;
    let options =
        HeatmapOptions { opacity: Opacity::Rising(0.75), ..HeatmapOptions::new(Colormap::Inferno, range) };
    let ground = enlarge(&grey(&scan(64)?)?, 5)?;
    let mut smooth = heatmap(&ground, &map, &options)?;
    outline(&mut smooth, &Mask::above(&relevance(64)?, 0.5), Rgb([0, 255, 200]), 2)?;
    let coarse = heatmap(&ground, &map, &HeatmapOptions { resample: Resample::Nearest, ..options })?;
    let mut boxes = ground.clone();
    let mark = |x, y, width, height, color, label: &str| BoxMark {
        x,
        y,
        width,
        height,
        color: Rgb(color),
        label: Some(label.into()),
    };
    let found = [
        mark(32, 16, 16, 18, [255, 210, 0], "lesion 0.93"),
        mark(14, 38, 14, 12, [0, 114, 178], "prototype 3"),
    ];
    draw_boxes(&mut boxes, &found.map(|b| b.enlarged(5)), 2)?;
    let mut grid = Grid::new(GridOptions {
        columns: 3,
        color_bar: Some(ColorBar::new(Colormap::Inferno, range).label("relevance")),
        ..GridOptions::default()
    });
    grid.push(smooth, "bilinear, rising opacity, lesion mask outlined");
    grid.push(coarse, "nearest: the 16 × 16 values as they are");
    grid.push(boxes, "boxes with labels");
    Ok(grid.render()?)
}

fn signed_map() -> Outcome<RgbImage> {
    let map = relevance(40)?;
    let range = Window::Symmetric.over(&[&map])?;
    let picture = enlarge(&Colormap::Diverging.paint(&map, range)?, 7)?;
    Ok(ColorBar::new(Colormap::Diverging, range).label("relevance").beside(&picture)?)
}

fn line() -> Outcome<RgbImage> {
    let curve = |steep: f64| -> Vec<(f64, f64)> {
        (0..=50).map(|i| f64::from(i) / 50.0).map(|x| (x, (-steep * x).exp())).collect()
    };
    let width: Vec<f64> = (0..=50).map(|i| 0.03 + 0.0015 * f64::from(i)).collect();
    let mut gap = curve(2.0);
    gap[20..24].iter_mut().for_each(|p| p.1 = f64::NAN);
    let chart = LineChart {
        options: ChartOptions {
            guides: vec![Guide::Horizontal(0.5)],
            y_range: Some(ValueRange::new(0.0, 1.05)?),
            ..ChartOptions::titled(
                "Deletion curves, mean ± sd of 200 images",
                "share of pixels deleted",
                "score of the classifier",
            )
        },
        series: vec![
            LineSeries::new("DF-RISE", curve(6.0)).plus_minus(&width),
            LineSeries::new("Grad-CAM", curve(3.5)).plus_minus(&width),
            LineSeries::new("random", gap),
        ],
    };
    Ok(chart.render()?)
}

fn loss() -> Outcome<RgbImage> {
    let loss = |offset: usize| -> Vec<(f64, f64)> {
        (1..1500)
            .map(|i| (i as f64, (0.9 / (i as f64).powf(0.5) + 0.01) * (1.0 + noise(i + offset))))
            .collect()
    };
    let chart = LineChart {
        options: ChartOptions {
            y_scale: Scale::Log,
            ..ChartOptions::titled("Training loss ‖ε − ε̂‖²", "step", "loss")
        },
        series: vec![LineSeries::new("train", loss(0)), LineSeries::new("validation", loss(7000))],
    };
    Ok(chart.render()?)
}

fn bar() -> Outcome<RgbImage> {
    let around = |values: &[f64]| -> Vec<(f64, f64)> {
        values.iter().map(|v| (v - 0.02 - v * 0.03, v + 0.03 + v * 0.02)).collect()
    };
    let (ours, paper) = (vec![0.313, 0.352, 0.441, 0.502], vec![0.302, 0.341, 0.427, 0.5]);
    let chart = BarChart {
        options: ChartOptions::titled("Deletion AUC ↓ with 95 % intervals", "", "AUC"),
        groups: ["DF-RISE", "DF-CAM", "Integrated gradients (32 steps)", "random"].map(Into::into).to_vec(),
        series: vec![
            BarSeries::new("this library, n = 200", ours.clone()).intervals(around(&ours)),
            BarSeries::new("paper", paper),
        ],
    };
    Ok(chart.render()?)
}

fn many_bars() -> Outcome<RgbImage> {
    let chart = BarChart {
        options: ChartOptions::titled("Correlation with age", "latent direction", "Pearson r"),
        groups: (0..28).map(|i| format!("direction {i}")).collect(),
        series: vec![BarSeries::new("", (0..28).map(|i| (i as f64 * 0.9).sin() * 0.7).collect())],
    };
    Ok(chart.render()?)
}

fn histogram() -> Outcome<RgbImage> {
    let chart = Histogram {
        options: ChartOptions::titled("Similarity to the nearest training image", "cosine", "density"),
        series: vec![
            HistogramSeries::new("members", (0..3000).map(|i| 0.7 + 0.08 * bell(i)).collect()),
            HistogramSeries::new("held out", (0..1200).map(|i| 0.55 + 0.1 * bell(i + 5000)).collect()),
        ],
        bins: Bins { count: 40, range: Some(ValueRange::new(0.25, 0.95)?) },
        density: true,
    };
    Ok(chart.render()?)
}

fn scatter() -> Outcome<RgbImage> {
    let cloud = |offset: usize, shift: f64| -> Vec<(f64, f64)> {
        (0..220)
            .map(|i| (bell(i + offset), bell(i + offset + 999)))
            .map(|(a, b)| (50.0 + 12.0 * a, 50.0 + 10.0 * a + 5.0 * b + shift))
            .collect()
    };
    let chart = ScatterChart {
        options: ChartOptions {
            guides: vec![Guide::Diagonal],
            ..ChartOptions::titled("Brain age", "age (years)", "predicted age (years)")
        },
        series: vec![
            ScatterSeries::new("healthy", cloud(0, 0.0)),
            ScatterSeries::new("AD", cloud(4000, 9.0)),
        ],
        radius: 4.0,
    };
    Ok(chart.render()?)
}

fn matrix() -> Outcome<RgbImage> {
    let classes = ["glioma", "meningioma", "none", "pituitary"].map(String::from).to_vec();
    let chart = MatrixChart {
        title: "Tumour kinds, 160 slices".into(),
        row_title: "true".into(),
        column_title: "predicted".into(),
        rows: classes.clone(),
        columns: classes,
        values: vec![31., 6., 1., 2., 5., 29., 2., 4., 0., 1., 39., 0., 1., 3., 0., 36.],
        cell: 96,
        ..Default::default()
    };
    Ok(chart.render()?)
}

fn tables(report: &mut Report, folder: &Path) -> Outcome<()> {
    let mut table = Table::new(["method", "deletion AUC ↓", "insertion AUC ↑", "n", "remark"]);
    for (name, deletion, insertion) in [("DF-RISE", 0.31274, 0.8123), ("Grad-CAM", 0.4411, 0.70991)] {
        table.push([
            Cell::from(name),
            Cell::number(deletion, 3),
            Cell::number(insertion, 3),
            Cell::from(200),
            Cell::from("phantoms <64 × 64> & \"quoted\""),
        ])?;
    }
    table.push([
        Cell::from("random"),
        Cell::number(0.5, 3),
        Cell::Missing,
        Cell::from(1000),
        Cell::Missing,
    ])?;
    table.save_csv(folder.join("table.csv"))?;
    table.save_markdown(folder.join("table.md"))?;
    report.section("Text");
    report.table(&table, "A table: columns of numbers are aligned at the right.");
    report.note("A note beside the text.");
    report.warning("Numbers of this page are made up.");
    report.key_values([("images", "200"), ("window", "[0, 1]")]);
    report.preformatted("Configuration", "{\n  \"steps\": 50,\n  \"seed\": 7\n}");
    report.provenance("n", "200");
    report.provenance("seed", "none: everything is computed from formulas");
    report.provenance("version", env!("CARGO_PKG_VERSION"));
    Ok(())
}
