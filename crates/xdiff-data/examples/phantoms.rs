//! Draws a contact sheet of every kind of phantom: one row a class and patient, with image, healthy
//! twin and lesion mask side by side.
//!
//!     cargo run --release -p xdiff-data --example phantoms -- OUT_DIR [SIZE]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use image::{Rgb, RgbImage};
use xdiff_data::phantom::{Phantom, PhantomConfig, PhantomDataset, PhantomKind};
use xdiff_data::{Dataset, MaskKind};

const COLUMNS: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().ok_or("give a folder to write to")?);
    let size: usize = args.next().map_or(Ok(128), |s| s.parse())?;
    std::fs::create_dir_all(&out)?;
    for kind in PhantomKind::ALL {
        let classes = kind.classes().len();
        let config = PhantomConfig { kind, patients: classes * COLUMNS, size, seed: 7, ..Default::default() };
        let data = PhantomDataset::new(config)?;
        let start = Instant::now();
        let phantoms = (0..data.len()).map(|i| data.phantom(i)).collect::<Result<Vec<_>, _>>()?;
        let each = start.elapsed().as_secs_f64() * 1e3 / data.len() as f64;
        let mut sheet = RgbImage::new((COLUMNS * size) as u32, (classes * 3 * size) as u32);
        for (i, phantom) in phantoms.iter().enumerate() {
            let (row, column) = (i % classes, i / classes);
            for view in 0..3 {
                draw(&mut sheet, phantom, view, (column * size) as u32, ((row * 3 + view) * size) as u32);
            }
        }
        let path = out.join(format!("{kind:?}_{size}.png"));
        sheet.save(&path)?;
        println!("{}: {:?}, {each:.2} ms each", path.display(), kind.classes());
    }
    Ok(())
}

fn draw(sheet: &mut RgbImage, phantom: &Phantom, view: usize, left: u32, top: u32) {
    let image = if view == 1 { &phantom.twin } else { &phantom.image };
    let lesion = &phantom.masks[&MaskKind::Lesion];
    for y in 0..image.height() {
        for x in 0..image.width() {
            let i = y * image.width() + x;
            let tone = |c: usize| (image.plane(c % image.channels())[i] * 255.0) as u8;
            let mut pixel = Rgb([tone(0), tone(1), tone(2)]);
            if view == 2 {
                let marked = phantom.masks.iter().filter(|(_, m)| m.data()[i] != 0).count() as u8;
                pixel = Rgb([
                    marked * 50,
                    if lesion.data()[i] != 0 { 255 } else { marked * 50 },
                    phantom.influence.data()[i] * 120,
                ]);
            }
            sheet.put_pixel(left + x as u32, top + y as u32, pixel);
        }
    }
}
