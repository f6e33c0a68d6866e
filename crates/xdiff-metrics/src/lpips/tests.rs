use candle_core::{Device, Tensor};
use xdiff_nn::gradcheck::{Options, check};
use xdiff_nn::layers::Activation;
use xdiff_nn::tap::visit;
use xdiff_nn::{Rng, Tap};

use super::*;
use crate::{Mse, Running};

/// Offers, under the names of a network's modules, 1×1 convolutions of the images, at half the size
/// from the second module on. It fails where a run goes on after the last module.
struct Toy {
    net: LpipsNet,
    identity: &'static str,
    left_out: Option<&'static str>,
    activation: Activation,
}

impl Toy {
    fn new(net: LpipsNet) -> Self {
        Self { net, identity: "toy", left_out: None, activation: Activation::Relu }
    }
}

impl FeatureExtractor for Toy {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        let mut x = images.clone();
        for (i, (site, channels)) in self.net.sites().iter().enumerate() {
            let weight = Rng::new(i as u64).randn((*channels, 3, 1, 1), images.device())?;
            let y = xdiff_nn::layers::conv2d(&x, &weight, None, &Default::default())?;
            if self.left_out != Some(site) {
                visit(tap, site, self.activation.apply(&y)?)?;
            }
            if i == 0 {
                x = xdiff_nn::layers::avg_pool2d(&x, &xdiff_nn::layers::Pool2d::new(2, 2))?;
            }
        }
        if self.left_out.is_none() {
            return Err(xdiff_core::Error::input("toy", "the run went on after the last module"));
        }
        Ok(x)
    }

    fn identity(&self) -> String {
        self.identity.to_owned()
    }
}

fn heads(net: LpipsNet) -> LpipsHeads {
    let weight = |i: usize, c: usize| Rng::new(100 + i as u64).rand(0.0, 1.0, (1, c, 1, 1), &Device::Cpu);
    let weights = net.sites().iter().enumerate().map(|(i, (_, c))| weight(i, *c).unwrap()).collect();
    LpipsHeads::new(net, weights).unwrap()
}

fn images(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    Rng::new(seed).rand(-1.0, 1.0, shape, &Device::Cpu).unwrap()
}

fn signed(net: LpipsNet) -> Lpips {
    Lpips::new(Toy::new(net), heads(net), PixelRange::Signed)
}

/// The definition, number by number, over the toy's first module.
fn first_stage(net: LpipsNet, a: &[f32], b: &[f32], pixels: usize) -> f64 {
    let channels = net.sites()[0].1;
    let weight = Rng::new(0).normals(channels * 3);
    let head = heads(net).weights()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let unit = |image: &[f32], at: usize| {
        let x: Vec<f64> = (0..3).map(|c| f64::from((image[c * pixels + at] - SHIFT[c]) / SCALE[c])).collect();
        let f: Vec<f64> = (0..channels)
            .map(|k| (0..3).map(|c| f64::from(weight[k * 3 + c]) * x[c]).sum::<f64>().max(0.0))
            .collect();
        let length = f.iter().map(|v| v * v).sum::<f64>().sqrt();
        f.into_iter().map(move |v| v / (length + 1e-10)).collect::<Vec<_>>()
    };
    let at = |p| {
        let pairs = unit(a, p).into_iter().zip(unit(b, p)).zip(&head);
        pairs.map(|((x, y), w)| f64::from(*w) * (x - y) * (x - y)).sum::<f64>()
    };
    (0..pixels).map(at).sum::<f64>() / pixels as f64
}

#[test]
fn a_stage_is_the_definition() {
    let (a, b) = (images(1, (1, 3, 32, 33)), images(2, (1, 3, 32, 33)));
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for net in LpipsNet::ALL {
        let maps = signed(net).stage_maps(&a, &b).unwrap();
        assert_eq!(maps.len(), net.sites().len());
        assert_eq!(maps[0].dims(), [1, 1, 32, 33]);
        assert_eq!(maps[1].dims(), [1, 1, 16, 16]);
        let got = f64::from(maps[0].mean_all().unwrap().to_scalar::<f32>().unwrap());
        let want = first_stage(net, &flat(&a), &flat(&b), 32 * 33);
        assert!((got - want).abs() < 1e-5 * want, "{net}: {got} {want}");
    }
}

#[test]
fn values_loss_and_map_agree_and_a_batch_is_its_images() {
    let (a, b) = (images(3, (11, 3, 31, 34)), images(4, (11, 3, 31, 34)));
    for net in LpipsNet::ALL {
        let lpips = signed(net);
        let values = lpips.values(&a, &b).unwrap();
        let loss = lpips.loss(&a, &b).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((values.len(), loss.len()), (11, 11));
        let one = |i: usize| {
            let of = |t: &Tensor| t.narrow(0, i, 1).unwrap();
            lpips.values(&of(&a), &of(&b)).unwrap()[0]
        };
        for (i, (value, loss)) in values.iter().zip(&loss).enumerate() {
            assert!((value - f64::from(*loss)).abs() < 1e-5 * value, "{net} {i}: {value} {loss}");
            assert!((value - one(i)).abs() < 1e-6 * value, "{net} {i}");
        }
        assert_eq!(values, lpips.distance(&a, &b).unwrap());
        assert_eq!(lpips.values(&a, &a).unwrap(), [0.0; 11]);
        let map = lpips.spatial(&a, &b).unwrap();
        assert_eq!(map.dims(), [11, 1, 31, 34]);
        // Enlarging keeps the mean but for the border.
        let mean = f64::from(map.narrow(0, 0, 1).unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap());
        assert!((mean - values[0]).abs() < 0.05 * values[0], "{net}: {mean} {}", values[0]);
    }
}

#[test]
fn ranges_and_grey_images_are_brought_to_one_form() {
    let (a, b) = (images(5, (2, 1, 31, 31)), images(6, (2, 1, 31, 31)));
    let colour = |t: &Tensor| t.repeat((1, 3, 1, 1)).unwrap();
    let unit = |t: &Tensor| t.affine(0.5, 0.5).unwrap();
    let net = LpipsNet::Alex;
    let want = signed(net).values(&a, &b).unwrap();
    assert_eq!(signed(net).values(&colour(&a), &colour(&b)).unwrap(), want);
    let from_unit = Lpips::new(Toy::new(net), heads(net), PixelRange::Unit);
    for (got, want) in from_unit.values(&unit(&a), &unit(&b)).unwrap().iter().zip(&want) {
        assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
    }
}

#[test]
fn gradients_of_the_loss() {
    let toy = Toy { activation: Activation::Silu, ..Toy::new(LpipsNet::Vgg) };
    let lpips = Lpips::new(toy, heads(LpipsNet::Vgg), PixelRange::Unit);
    let inputs = [images(7, (2, 1, 16, 17)), images(8, (2, 1, 16, 17))];
    let loss =
        |x: &[Tensor]| lpips.loss(&x[0], &x[1]).map_err(|e| xdiff_nn::Error::argument("loss", e.to_string()));
    let options = Options { elements: 14, step: 3e-3, tolerance: 2e-2 };
    check(loss, &inputs, options).unwrap();
}

#[test]
fn the_gradient_is_finite_where_every_feature_is_zero() {
    struct Dead;
    impl FeatureExtractor for Dead {
        fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            for (site, channels) in LpipsNet::Vgg.sites() {
                let mixed = images.mean_keepdim(1)?.repeat((1, *channels, 1, 1))?;
                visit(tap, site, Activation::Relu.apply(&mixed)?)?;
            }
            Ok(images.clone())
        }
        fn identity(&self) -> String {
            "dead".into()
        }
    }
    let lpips = Lpips::new(Dead, heads(LpipsNet::Vgg), PixelRange::Signed);
    // The left half of one image is black, so that every feature there is 0.
    let a =
        candle_core::Var::from_tensor(&Tensor::full(-1f32, (1, 1, 16, 16), &Device::Cpu).unwrap()).unwrap();
    let b = images(9, (1, 1, 16, 16));
    let grads = lpips.loss(a.as_tensor(), &b).unwrap().sum_all().unwrap().backward().unwrap();
    let grad = grads.get(&a).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(grad.iter().all(|g| *g == 0.0), "{grad:?}");
}

#[test]
fn only_the_reference_is_called_lpips() {
    let net = LpipsNet::Alex;
    let named = |identity| Lpips::new(Toy { identity, ..Toy::new(net) }, heads(net), PixelRange::Unit).name();
    assert_eq!(named("toy"), "LPIPS-form distance (alex, other heads; toy)");
    let published = |identity| {
        let even = |(sum, (_, c)): (&f64, &(_, usize))| {
            Tensor::full((sum / *c as f64) as f32, (1, *c, 1, 1), &Device::Cpu).unwrap()
        };
        let weights = net.published_sums().iter().zip(net.sites()).map(even).collect();
        let heads = LpipsHeads::new(net, weights).unwrap();
        assert!(heads.are_published());
        Lpips::new(Toy { identity, ..Toy::new(net) }, heads, PixelRange::Unit).name()
    };
    let table = [
        ("alexnet (ImageNet, sha256 12ab)", "LPIPS v0.1 (alex; alexnet (ImageNet, sha256 12ab))"),
        ("alexnet (sha256 7be5be79)", "LPIPS v0.1 (alex; alexnet (sha256 7be5be79))"),
        (
            "alexnet (sha256 7be5be79, 3 to 1 channels by the mean)",
            "LPIPS-form distance (alex, published heads; alexnet (sha256 7be5be79, 3 to 1 channels by the \
             mean))",
        ),
        ("alexnet (random, seed 0)", "LPIPS-form distance (alex, published heads; alexnet (random, seed 0))"),
        ("vgg16 (ImageNet)", "LPIPS-form distance (alex, published heads; vgg16 (ImageNet))"),
    ];
    for (identity, want) in table {
        assert_eq!(published(identity), want);
    }
}

#[test]
fn what_cannot_be_compared_is_a_typed_error() {
    let net = LpipsNet::Alex;
    let lpips = Lpips::new(Toy::new(net), heads(net), PixelRange::Unit);
    let of = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let good = of((1, 3, 31, 40));
    assert!(lpips.values(&good, &good).is_ok());
    assert!(matches!(lpips.values(&good, &of((1, 3, 31, 41))), Err(Error::Mismatch { .. })));
    for shape in [(1, 2, 40, 40), (0, 3, 40, 40)] {
        assert!(matches!(lpips.values(&of(shape), &of(shape)), Err(Error::Shape { .. })), "{shape:?}");
    }
    assert!(matches!(
        lpips.values(&of((1, 1, 30, 99)), &of((1, 1, 30, 99))),
        Err(Error::TooSmall { min: 31, .. })
    ));
    let table = [(-0.5, "PixelRange::Signed"), (200.0, "divide by 255"), (f64::NAN, "NaN")];
    for (value, part) in table {
        let bad = (&good + value).unwrap();
        for e in [lpips.values(&good, &bad), lpips.spatial(&bad, &good).map(|_| Vec::new())] {
            let e = e.unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
    let without = Toy { left_out: Some("features.7"), ..Toy::new(net) };
    let e = Lpips::new(without, heads(net), PixelRange::Unit).values(&good, &good).unwrap_err();
    assert!(matches!(e, Error::Config { .. }) && e.to_string().contains("features.7"), "{e}");
    let e = Lpips::new(Toy::new(LpipsNet::Vgg), heads(net), PixelRange::Unit).values(&good, &good);
    assert!(e.is_err());
}

#[test]
fn heads_that_do_not_fit_are_listed() {
    let net = LpipsNet::Squeeze;
    let all = heads(net);
    assert!(matches!(LpipsHeads::new(net, all.weights()[..6].to_vec()), Err(Error::Config { .. })));
    assert!(matches!(LpipsHeads::new(LpipsNet::Alex, all.weights()[..5].to_vec()), Err(Error::Shape { .. })));
    let mut broken = all.weights().to_vec();
    broken[3] = (&broken[3] / 0.0).unwrap();
    assert!(matches!(LpipsHeads::new(net, broken), Err(Error::Value { .. })));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.safetensors");
    let write = |weights: &[Tensor], extra: bool| {
        let name = |i| format!("lin{i}.model.1.weight");
        let mut tensors: std::collections::BTreeMap<String, Tensor> =
            weights.iter().enumerate().map(|(i, w)| (name(i), w.clone())).collect();
        if extra {
            tensors.insert("lin9.model.1.weight".into(), weights[0].clone());
        }
        xdiff_nn::weights::write_safetensors(&path, &tensors, &Default::default()).unwrap();
    };
    write(all.weights(), false);
    let read = LpipsHeads::load(net, &path).unwrap();
    assert!(read.same(&all).unwrap() && !read.are_published());
    write(&all.weights()[..6], true);
    let e = LpipsHeads::load(net, &path).unwrap_err().to_string();
    assert!(e.contains("lin6.model.1.weight") && e.contains("lin9.model.1.weight"), "{e}");
    let e = LpipsHeads::load(LpipsNet::Vgg, &path).unwrap_err().to_string();
    assert!(e.contains("mis-shaped"), "{e}");
    let mut negative = all.weights().to_vec();
    negative[2] = negative[2].neg().unwrap();
    write(&negative, false);
    assert!(matches!(LpipsHeads::load(net, &path), Err(Error::Value { .. })));
    assert!(LpipsHeads::load(net, folder.path().join("none.pth")).is_err());
}

#[test]
fn the_published_files_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/weights");
    for net in LpipsNet::ALL {
        let path = folder.join(format!("lpips_v0.1_{net}.pth"));
        if path.exists() {
            let heads = LpipsHeads::load(net, path).unwrap();
            assert!(heads.are_published(), "{net}");
        }
    }
}

#[test]
fn a_running_mean_takes_it() {
    let mut running = Running::new(signed(LpipsNet::Squeeze));
    let (a, b) = (images(10, (2, 1, 20, 20)), images(11, (2, 1, 20, 20)));
    xdiff_core::Metric::update(&mut running, (&a, &b)).unwrap();
    let mut other = Running::new(signed(LpipsNet::Squeeze));
    xdiff_core::Metric::update(&mut other, (&b, &a)).unwrap();
    xdiff_core::Metric::merge(&mut running, &other).unwrap();
    let summary = xdiff_core::Metric::compute(&running).unwrap();
    assert!(summary.n == 4 && summary.mean > 0.0);
    assert_ne!(signed(LpipsNet::Vgg), signed(LpipsNet::Alex));
    assert!(Mse {}.values(&a, &b).unwrap()[0] > 0.0);
}
