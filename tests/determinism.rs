//! One seed, one result: whatever the batch, the place in it or the number of threads.

use candle_core::{Device, Tensor, Var};
use rayon::ThreadPoolBuilder;
use xdiff::core::cancel::CancelToken;
use xdiff::core::sample::{SampleOptions, Sampler, Start};
use xdiff::core::scheduler::{ClipConfig, Ddim, DdimConfig, Ddpm, DdpmConfig, Scheduler};
use xdiff::core::train::{Checkpoint, TrainConfig};
use xdiff::core::{Denoiser, Prediction, Result};
use xdiff::nn::compute::{Path, with_path};
use xdiff::nn::layers::{Activation, Conv2d, Conv2dConfig, GroupNorm, Linear, attention};
use xdiff::nn::{Params, Rng};
use xdiff_tests::small::{batches, bits, condition, differing, trainer, unet};

/// Samplers that draw noise in every step.
fn schedulers() -> Vec<(&'static str, Box<dyn Scheduler>)> {
    let (prediction_type, clip) = (Prediction::Velocity, ClipConfig::off());
    let ddim = DdimConfig { eta: 1.0, prediction_type, clip: clip.clone(), ..Default::default() };
    let ddpm = DdpmConfig { prediction_type, clip, ..Default::default() };
    vec![
        ("DDIM with η = 1", Box::new(Ddim::new(ddim).unwrap())),
        ("DDPM", Box::new(Ddpm::new(ddpm).unwrap())),
    ]
}

/// `count` samples from index `first` on.
fn sample(
    network: &dyn Denoiser,
    scheduler: &dyn Scheduler,
    first: u64,
    count: usize,
    batch: usize,
) -> Tensor {
    let options = SampleOptions {
        samples: count,
        shape: (1, 32, 32),
        steps: 4,
        seed: 8,
        first_index: first,
        batch_size: batch,
        ..Default::default()
    };
    Sampler::new(network, scheduler).run(&condition(first, count).unwrap(), &options).unwrap()
}

fn threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

#[test]
fn a_sample_does_not_depend_on_its_batch_or_its_place() {
    let network = unet().unwrap();
    let mut wrong = Vec::new();
    for (name, scheduler) in schedulers() {
        let together = sample(&network, &*scheduler, 0, 5, 5);
        for (what, first, count, batch) in [
            ("batches of 1", 0, 5, 1),
            ("batches of 2", 0, 5, 2),
            ("batches of 3", 0, 5, 3),
            ("one alone", 3, 1, 1),
            ("the last two", 3, 2, 2),
            ("from the second on, in twos", 1, 4, 2),
        ] {
            let part = together.narrow(0, first, count).unwrap();
            let again = sample(&network, &*scheduler, first as u64, count, batch);
            if bits(&part).unwrap() != bits(&again).unwrap() {
                wrong.push(format!("{name}, {what}: {}", largest_difference(&part, &again)));
            }
        }
        let [a, b] = [0, 1].map(|i| bits(&together.get(i).unwrap()).unwrap());
        assert_ne!(a, b, "samples of one seed differ from each other");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_sample_does_not_depend_on_the_number_of_threads() {
    let network = unet().unwrap();
    for (name, scheduler) in schedulers() {
        let run = |n| threads(n, || bits(&sample(&network, &*scheduler, 0, 3, 3)).unwrap());
        let one = run(1);
        for n in [2, 3, 5] {
            assert!(run(n) == one, "{name}: {n} threads give other bits than one");
        }
    }
}

#[test]
fn kernels_and_plain_operations_draw_the_same_sample() {
    let network = unet().unwrap();
    for (name, scheduler) in schedulers() {
        let run = |path| with_path(path, || sample(&network, &*scheduler, 0, 2, 2));
        let difference = largest_difference(&run(Path::Kernels), &run(Path::Plain));
        assert!(difference < 1e-5, "{name}: {difference}");
    }
}

/// Noise added by the sampler to a given image belongs to the sample too.
#[test]
fn image_to_image_samples_do_not_depend_on_their_batch() {
    let network = unet().unwrap();
    let (_, scheduler) = schedulers().remove(0);
    let x0 = Rng::new(2).randn((3, 1, 32, 32), &Device::Cpu).unwrap().tanh().unwrap();
    let run = |batch_size| {
        let start = Start::Image { x0: x0.clone(), strength: 0.5 };
        let options = SampleOptions {
            samples: 3,
            shape: (1, 32, 32),
            steps: 6,
            start,
            batch_size,
            ..Default::default()
        };
        let images = Sampler::new(&network, &*scheduler).run(&condition(0, 3).unwrap(), &options);
        bits(&images.unwrap()).unwrap()
    };
    assert!(run(1) == run(3));
}

/// The layers one by one, on sizes at which their work is cut in different ways, so that a failure
/// names the layer.
#[test]
fn no_layer_lets_a_sample_see_its_batch() {
    let p = Params::fresh(1, &Device::Cpu);
    let conv = |name: &str, config| Conv2d::new(config, &p.at(name)).unwrap();
    let three = |i, o| Conv2dConfig::new(i, o, 3).padding(1);
    type Layer = Box<dyn Fn(&Tensor) -> xdiff::nn::Result<Tensor>>;
    let layer = |c: Conv2d| -> Layer { Box::new(move |x| c.forward(x)) };
    let linear = |i, o| -> Layer {
        let l = Linear::new(i, o, true, &p.at(format!("linear{i}x{o}"))).unwrap();
        Box::new(move |x| l.forward(x))
    };
    let norm = GroupNorm::new(8, 32, 1e-5, &p.at("norm")).unwrap();
    let cases: Vec<(&str, &[usize], Layer)> = vec![
        ("conv, few channels", &[2, 32, 32], layer(conv("a", three(2, 16)))),
        ("conv, large image", &[16, 32, 40], layer(conv("b", three(16, 24)))),
        ("conv, small image", &[32, 6, 6], layer(conv("c", three(32, 32)))),
        ("conv, many weights", &[192, 16, 16], layer(conv("d", three(192, 192)))),
        ("conv, stride 2", &[16, 17, 17], layer(conv("e", three(16, 16).stride(2)))),
        ("conv, 1×1", &[24, 9, 9], layer(conv("f", Conv2dConfig::new(24, 40, 1)))),
        ("linear on a vector", &[16], linear(16, 64)),
        ("linear on a long vector", &[1300], linear(1300, 96)),
        ("linear on a wide vector", &[128], linear(128, 512)),
        ("linear on one output", &[33], linear(33, 1)),
        ("linear on two inputs", &[2], linear(2, 300)),
        ("linear on positions", &[64, 32], linear(32, 32)),
        ("linear on few positions", &[3, 40], linear(40, 8)),
        ("linear on many positions", &[300, 48], linear(48, 20)),
        ("group norm", &[32, 9, 9], Box::new(move |x| norm.forward(x))),
        ("SiLU", &[7, 5], Box::new(|x| Activation::Silu.apply(x))),
        ("attention", &[2, 70, 8], Box::new(|x| attention(x, x, x, &Default::default()))),
    ];
    let mut wrong = Vec::new();
    for (name, shape, layer) in &cases {
        let x = Rng::new(4).randn([&[70], *shape].concat(), &Device::Cpu).unwrap();
        // The output, and the gradient of the sum of its squares.
        let run = |x: &Tensor| {
            let x = Var::from_tensor(x).unwrap();
            let y = layer(&x).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [("output", y), ("gradient", grads.get(&x).unwrap().clone())]
        };
        let many = run(&x);
        for (first, count) in [(0, 1), (69, 1), (0, 2), (1, 5), (30, 40), (3, 66)] {
            let part = run(&x.narrow(0, first, count).unwrap().contiguous().unwrap());
            for ((what, part), (_, many)) in part.iter().zip(&many) {
                let same = many.narrow(0, first, count).unwrap();
                if bits(part).unwrap() != bits(&same).unwrap() {
                    let difference = largest_difference(part, &same);
                    wrong.push(format!("{name}: {what} of {count} from {first} on differs by {difference}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_training_does_not_depend_on_the_number_of_threads() {
    let config = TrainConfig { steps: 3, seed: 4, ..Default::default() };
    let run = |n| -> Result<Checkpoint> {
        threads(n, || {
            let mut training = trainer(config.clone())?;
            training.run(batches(0, 5), None, &CancelToken::new(), &mut ())?;
            training.checkpoint()
        })
    };
    let one = run(1).unwrap();
    assert_eq!(one.step, 3);
    for n in [2, 3] {
        let many = run(n).unwrap();
        let differ = differing(&one.weights, &many.weights).unwrap();
        assert!(differ.is_empty(), "{n} threads give other weights: {}", differ.join(", "));
        assert_eq!(one.history, many.history);
    }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}
