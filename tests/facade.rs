//! A program that depends on `xdiff` alone (and on its tensors) has all it needs.

use candle_core::Device;
use xdiff::core::sample::{SampleOptions, Sampler};
use xdiff::core::scheduler::{Ddim, DdimConfig};
use xdiff::core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
use xdiff::core::{Cond, Distance};
use xdiff::metrics::{PairMetric, Ssim, SsimPreset};
use xdiff::nn::Params;
use xdiff::viz::{Colormap, Plane, Window};

#[test]
fn a_network_samples_and_the_images_are_scored_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.png");
    embed(&path).unwrap();
    let picture = image::open(path).unwrap();
    assert_eq!((picture.width(), picture.height()), (16, 16));
}

fn embed(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![8, 16],
        down_block_types: vec![DownBlock::Plain, DownBlock::Attention],
        up_block_types: vec![UpBlock::Attention, UpBlock::Plain],
        norm_num_groups: 4,
        ..Default::default()
    };
    let unet = UNet2D::new(&config, &Params::fresh(0, &Device::Cpu))?;
    let scheduler = Ddim::new(DdimConfig::default())?;
    let options = SampleOptions { samples: 2, shape: (1, 16, 16), steps: 4, ..Default::default() };
    let images = Sampler::new(&unet, &scheduler).run(&Cond::default(), &options)?;
    let (a, b) = (images.narrow(0, 0, 1)?, images.narrow(0, 1, 1)?);
    let ssim = Ssim::new(SsimPreset::Wang, 2.0)?;
    let (same, other) = (ssim.values(&a, &a)?[0], ssim.values(&a, &b)?[0]);
    assert!((same - 1.0).abs() < 1e-9 && other < 0.9 && ssim.distance(&a, &b)?[0] > 0.1);
    let values = a.flatten_all()?.to_vec1::<f32>()?;
    let plane = Plane::new(16, 16, values)?;
    let picture = Colormap::Viridis.paint(&plane, Window::Fixed(-1.0, 1.0).over(&[&plane])?)?;
    Ok(xdiff::viz::save_png(path, &picture)?)
}
