//! Training with gradient checkpointing beside training without.

use super::*;

/// Which parameters are frozen, by name.
type Frozen = fn(&str) -> bool;

/// What one training step computes.
struct Outcome {
    loss: Vec<f64>,
    gradients: Vec<(String, Tensor)>,
    /// The generator after the step.
    rng: Rng,
}

fn training_step(changes: &Value, checkpointing: bool, frozen: Frozen) -> Outcome {
    let params = Params::fresh(3, &Device::Cpu).freeze(frozen);
    let unet = UNet2D::new(&config(changes.clone()), &params).unwrap().checkpointing(checkpointing);
    let params = params.finish().unwrap();
    let ((x, t), mut rng) = (input(), Rng::new(8));
    let predicted = unet.predict_training(&x, &t, &Cond::default(), &mut rng).unwrap();
    let noise = Rng::new(6).randn(x.shape(), &Device::Cpu).unwrap();
    let loss = (predicted - noise).unwrap().sqr().unwrap().mean_all().unwrap();
    let gradients = backward(&loss, &params).unwrap();
    let gradients = gradients.iter().map(|(name, g)| (name.to_owned(), g.clone())).collect();
    Outcome { loss: values(&loss), gradients, rng }
}

#[test]
fn a_training_step_is_that_without_checkpointing() {
    let frozen: [(&str, Frozen); 3] = [
        ("nothing frozen", |_| false),
        ("the way down frozen", |name| !name.starts_with("up_blocks") && !name.starts_with("conv_out")),
        ("the embedding frozen", |name| name.starts_with("time_embedding")),
    ];
    let networks = [
        json!({}),
        json!({ "dropout": 0.3, "resnet_time_scale_shift": "scale_shift" }),
        json!({
            "dropout": 0.3,
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "downsample_type": "resnet", "upsample_type": "resnet", "mid_block_scale_factor": 1.4,
        }),
        json!({ "mid_block_type": null }),
    ];
    let mut wrong = Vec::new();
    for changes in networks {
        for (what, frozen) in frozen {
            let (kept, anew) =
                (training_step(&changes, false, frozen), training_step(&changes, true, frozen));
            if kept.loss != anew.loss || kept.rng != anew.rng {
                wrong.push(format!("{changes}, {what}: the loss or the generator differs"));
            }
            assert_eq!(kept.gradients.len(), anew.gradients.len());
            for ((name, a), (other, b)) in kept.gradients.iter().zip(&anew.gradients) {
                assert_eq!(name, other);
                let largest = values(a).iter().fold(0.0, |m: f64, v| m.max(v.abs()));
                // Contributions to a state that is used twice are added up in another order.
                let off = largest_difference(a, b) / largest.max(1e-3);
                if off.is_nan() || off > 3e-6 {
                    wrong.push(format!("{changes}, {what}, {name}: off by {off:e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_tap_sees_all_sites_outside_of_training() {
    let (unet, _) = build(json!({ "dropout": 0.3 }));
    let unet = unet.checkpointing(true);
    let (x, t) = input();
    let mut tap = GradRecorder::new(Sites::All);
    let y = unet.predict(&x, &t, &Cond::default(), &mut tap).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(tap.sites().count(), 22);
    for site in tap.sites() {
        assert!(tap.gradient(&grads, site).is_ok(), "{site}");
    }
}
