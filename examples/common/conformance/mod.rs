//! Checking numbers against references: the format and the program are described in
//! `tests/conformance/README.md`.

mod case;
mod compare;
mod diffusion;
mod metrics;
mod model;
mod nn;
mod proto;
mod proto_faithfulness;
mod proto_losses;
mod vision;

use std::path::{Path, PathBuf};

pub use case::Case;
pub use compare::Verdict;

use crate::AnyError;

/// The named outputs that an op computed.
pub type Outputs = Vec<(String, candle_core::Tensor)>;

type Op = fn(&Case) -> Result<Outputs, AnyError>;

/// The ops this program knows, in order of name.
const OPS: &[(&str, Op)] = &[
    ("guidance.cfg", diffusion::guidance),
    ("loss.grads", model::loss_grads),
    ("metric.classification", metrics::classification),
    ("metric.dice", metrics::dice),
    ("metric.frechet", metrics::frechet),
    ("metric.kid", metrics::kid),
    ("metric.lpips", metrics::lpips),
    ("metric.ms_ssim", metrics::ms_ssim),
    ("metric.psnr", metrics::psnr),
    ("metric.ssim", metrics::ssim),
    ("metric.surface", metrics::surface),
    ("model.unet2d", model::unet2d),
    ("optim.adamw", nn::adamw),
    ("proto.faithfulness", proto_faithfulness::faithfulness),
    ("proto.losses", proto_losses::losses),
    ("proto.ppnet", proto::ppnet),
    ("proto.protopool", proto::protopool),
    ("proto.soft_codebook", proto::soft_codebook),
    ("rng.torch_randn", nn::torch_randn),
    ("schedule.betas", diffusion::betas),
    ("scheduler.add_noise", diffusion::add_noise),
    ("scheduler.rollout", diffusion::rollout),
    ("scheduler.timesteps", diffusion::timesteps),
    ("spacing.exponential", diffusion::exponential),
    ("vision.alexnet", vision::outputs),
    ("vision.alexnet.grads", vision::grads),
    ("vision.densenet121", vision::outputs),
    ("vision.densenet121.grads", vision::grads),
    ("vision.fid_inception", vision::outputs),
    ("vision.fid_inception.grads", vision::grads),
    ("vision.googlenet", vision::outputs),
    ("vision.googlenet.grads", vision::grads),
    ("vision.inception_v3", vision::outputs),
    ("vision.inception_v3.grads", vision::grads),
    ("vision.mobilenet_v2", vision::outputs),
    ("vision.mobilenet_v2.grads", vision::grads),
    ("vision.resnet18", vision::outputs),
    ("vision.resnet18.grads", vision::grads),
    ("vision.resnet50", vision::outputs),
    ("vision.resnet50.grads", vision::grads),
    ("vision.squeezenet1_0", vision::outputs),
    ("vision.squeezenet1_0.grads", vision::grads),
    ("vision.squeezenet1_1", vision::outputs),
    ("vision.squeezenet1_1.grads", vision::grads),
    ("vision.vgg16", vision::outputs),
    ("vision.vgg16.grads", vision::grads),
    ("vision.vgg19", vision::outputs),
    ("vision.vgg19.grads", vision::grads),
];

/// The names of the known ops.
pub fn ops() -> impl Iterator<Item = &'static str> {
    OPS.iter().map(|(name, _)| *name)
}

/// The case files under these files and folders, sorted.
///
/// # Errors
/// When a folder cannot be read or nothing is found.
pub fn find(roots: &[PathBuf]) -> Result<Vec<PathBuf>, AnyError> {
    let mut files = Vec::new();
    for root in roots {
        collect(root, &mut files).map_err(|e| format!("{}: {e}", root.display()))?;
    }
    files.sort();
    if files.is_empty() {
        return Err("no .safetensors file under the given folders".into());
    }
    Ok(files)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if path.extension().is_some_and(|e| e == "safetensors") || !path.exists() {
        std::fs::metadata(path)?;
        files.push(path.to_owned());
    }
    Ok(())
}

/// Runs one case.
pub fn check(path: &Path) -> Verdict {
    let name =
        path.file_stem().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned());
    let case = match Case::read(path) {
        Ok(case) => case,
        Err(e) => return Verdict::failed(name, "?".to_owned(), e.to_string()),
    };
    let Some((_, op)) = OPS.iter().find(|(known, _)| *known == case.op) else {
        return Verdict::failed(name, case.op.clone(), format!("the op `{}` is not known", case.op));
    };
    // A panic is a failure of this case, not the end of the run.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| op(&case)));
    match outcome {
        Err(_) => Verdict::failed(name, case.op.clone(), "panicked".to_owned()),
        Ok(Err(e)) => Verdict::failed(name, case.op.clone(), e.to_string()),
        Ok(Ok(outputs)) => compare::compare(name, &case, &outputs),
    }
}
