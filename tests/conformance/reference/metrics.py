"""Optimisers and metrics: torch, scikit-image, torchmetrics, pytorch-msssim, scipy, scikit-learn."""

import itertools
import math
from importlib.metadata import version

import numpy as np
import pytorch_msssim
import scipy.linalg
import scipy.ndimage
import skimage.metrics
import sklearn.metrics
import torch
import torchmetrics.functional.image as torchmetrics_image

from .case import Case, Draw

# name, shape, options, steps
ADAMW = [
    ("defaults", (5, 7), {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}, 10),
    ("no_decay", (3, 4, 2), {"lr": 0.05, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.0}, 7),
    ("large_eps", (11,), {"lr": 0.3, "betas": [0.0, 0.5], "eps": 0.1, "weight_decay": 0.2}, 5),
    ("many_steps", (2, 3), {"lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.05}, 60),
    ("one_step", (4, 4), {"lr": 0.02, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.3}, 1),
]


def adamw():
    for name, shape, options, steps in ADAMW:
        draw = Draw("optim.adamw", name)
        start, grads = draw.normal(*shape), draw.normal(steps, *shape)
        grads[-1] *= 1e-4  # a small gradient after larger ones shows the second moment
        p = torch.nn.Parameter(start.clone())
        optimiser = torch.optim.AdamW([p], **options)
        for g in grads:
            p.grad = g.clone()
            optimiser.step()
        tensors = {"in.p": start, "in.grads": grads, "out.p": p.detach()}
        yield Case("optim.adamw", name, options | {"steps": steps}, tensors, f"torch {torch.__version__}", 1e-5, 1e-6)


def image_pair(draw, shape, data_range, strength):
    """A smooth picture with texture, and a noisy copy; values in 0..data_range."""
    rows, columns = torch.meshgrid(torch.arange(shape[-2]), torch.arange(shape[-1]), indexing="ij")
    phase = draw.uniform(*shape[:2], 1, 1) * 6
    a = 0.5 + 0.3 * torch.sin(rows / 5 + phase) * torch.cos(columns / 7 - phase) + 0.2 * (draw.uniform(*shape) - 0.5)
    b = a + strength * draw.normal(*shape)
    return a.clamp(0, 1) * data_range, b.clamp(0, 1) * data_range


def per_image(metric, a, b):
    """`metric` of each pair, in double precision."""
    pairs = zip(a.double().numpy(), b.double().numpy())
    return torch.tensor([metric(x, y) for x, y in pairs], dtype=torch.float64)


# name, shape, data range, noise
PSNR = [
    ("grey", (3, 1, 13, 17), 1.0, 0.05),
    ("colour", (2, 3, 9, 21), 255.0, 0.2),
    ("wide_range", (4, 2, 7, 7), 4095.0, 0.01),
]


def psnr():
    for name, shape, data_range, strength in PSNR:
        a, b = image_pair(Draw("metric.psnr", name), shape, data_range, strength)
        value = per_image(lambda x, y: skimage.metrics.peak_signal_noise_ratio(x, y, data_range=data_range), a, b)
        yield psnr_case(name, data_range, a, b, value)
    a, b = image_pair(Draw("metric.psnr", "identical"), (2, 1, 5, 6), 1.0, 0.1)
    b[1] = a[1]
    value = per_image(lambda x, y: 10 * np.log10(1 / ((x - y) ** 2).mean()) if (x != y).any() else math.inf, a, b)
    yield psnr_case("identical", 1.0, a, b, value)


def psnr_case(name, data_range, a, b, value):
    tensors = {"in.a": a, "in.b": b, "out.value": value}
    source = f"scikit-image {skimage.__version__}"
    return Case("metric.psnr", name, {"data_range": data_range}, tensors, source, 1e-6, 1e-8)


def ssim_wang(a, b, data_range):
    """Gaussian windows that lie wholly inside the picture."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}

    def one(x, y):
        _, full = skimage.metrics.structural_similarity(x, y, data_range=data_range, channel_axis=0, **options)
        return full[:, 5:-5, 5:-5].mean()

    return per_image(one, a, b)


def ssim_skimage(a, b, data_range):
    return per_image(
        lambda x, y: skimage.metrics.structural_similarity(x, y, data_range=data_range, channel_axis=0), a, b
    )


def ssim_torchmetrics(a, b, data_range):
    return torchmetrics_image.structural_similarity_index_measure(
        a.double(), b.double(), data_range=data_range, reduction="none"
    )


SSIM_PRESETS = {
    "wang": (ssim_wang, f"scikit-image {skimage.__version__}, valid windows"),
    "skimage_default": (ssim_skimage, f"scikit-image {skimage.__version__}"),
    "torchmetrics": (ssim_torchmetrics, f"torchmetrics {version('torchmetrics')}"),
}
# name, shape, data range, noise
SSIM = [
    ("grey", (3, 1, 29, 37), 1.0, 0.1),
    ("colour", (2, 3, 23, 19), 255.0, 0.25),
    ("smallest", (2, 2, 11, 12), 2.0, 0.03),
]


def ssim():
    for preset, (name, shape, data_range, strength) in itertools.product(SSIM_PRESETS, SSIM):
        metric, source = SSIM_PRESETS[preset]
        a, b = image_pair(Draw("metric.ssim", name), shape, data_range, strength)
        tensors = {"in.a": a, "in.b": b, "out.value": metric(a, b, data_range)}
        config = {"data_range": data_range, "preset": preset}
        yield Case("metric.ssim", f"{preset}_{name}", config, tensors, source, 1e-6, 1e-7)


# name, shape, data range, noise
MS_SSIM = [
    ("smallest", (1, 1, 161, 163), 1.0, 0.1),
    ("odd", (1, 1, 177, 165), 255.0, 0.3),
    ("negative_contrast", (1, 2, 162, 161), 1.0, 0.05),
]


def ms_ssim():
    for name, shape, data_range, strength in MS_SSIM:
        a, b = image_pair(Draw("metric.ms_ssim", name), shape, data_range, strength)
        if name == "negative_contrast":
            b[:, 1] = data_range - b[:, 1]  # pytorch-msssim clamps each factor at 0
        value = pytorch_msssim.ms_ssim(a.double(), b.double(), data_range=data_range, size_average=False)
        tensors = {"in.a": a, "in.b": b, "out.value": value}
        source = f"pytorch-msssim {version('pytorch-msssim')}"
        # Its Gaussian window is f32 even for f64 pictures.
        yield Case("metric.ms_ssim", name, {"data_range": data_range}, tensors, source, 1e-6, 1e-7)


def features(draw, n, d, shift=0.0, spread=1.0):
    """Correlated features with unequal variances."""
    mix = draw.normal(d, d, dtype=torch.float64) / math.sqrt(d)
    scale = torch.linspace(0.3, 2, d, dtype=torch.float64)
    return spread * draw.normal(n, d, dtype=torch.float64) @ mix * scale + shift


def formula(n, d, a, b):
    """sin(a i j) + b cos(.7 i + .3 j^2) with indices from 1."""
    i = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    j = torch.arange(1, d + 1, dtype=torch.float64)[None, :]
    return torch.sin(a * i * j) + b * torch.cos(0.7 * i + 0.3 * j**2)


def frechet_distance(a, b):
    """|mean difference|^2 + tr A + tr B - 2 |A B^T|_*, A and B the centred features over sqrt(n - 1)."""
    x, y = (f - f.mean(0) for f in (a, b))
    x, y = x / math.sqrt(len(a) - 1), y / math.sqrt(len(b) - 1)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return means + (x**2).sum() + (y**2).sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()


def frechet_by_square_root(a, b):
    """The same through the matrix square root, which needs covariances of full rank."""
    x, y = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(x @ y).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(x + y - 2 * root)


# name, n, m, d
FRECHET = [
    ("more_samples", 60, 45, 9),
    ("fewer_samples", 11, 7, 33),
    ("mixed", 40, 6, 17),
    ("formula", 50, 40, 8),
    ("formula_fewer_samples", 5, 6, 16),
]


def feature_pair(op, name, n, m, d):
    if name.startswith("formula"):
        return formula(n, d, 0.37, 0.5), formula(m, d, 0.41, 0.3)
    draw = Draw(op, name)
    return features(draw, n, d), features(draw, m, d, shift=0.4, spread=1.3)


def frechet():
    for name, n, m, d in FRECHET:
        a, b = feature_pair("metric.frechet", name, n, m, d)
        value = frechet_distance(a, b)
        if min(n, m) > d and not math.isclose(value, frechet_by_square_root(a, b), rel_tol=1e-9):
            raise ValueError(f"{name}: the nuclear norm and the matrix square root disagree")
        tensors = {"in.a": a, "in.b": b, "out.value": value.reshape(1)}
        source = f"torch {torch.__version__}, nuclear norm form; scipy {scipy.__version__} sqrtm agrees"
        yield Case("metric.frechet", name, {}, tensors, source, 1e-6, 1e-8)


def polynomial_mmd(a, b):
    """Unbiased squared MMD with the kernel (x.y/d + 1)^3."""

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    aa, bb = kernel(a, a), kernel(b, b)
    within = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
    return within - 2 * kernel(a, b).mean()


# name, n, m, d
KID = [
    ("more_samples", 40, 31, 8),
    ("fewer_samples", 9, 12, 40),
    ("formula", 50, 40, 8),
    ("smallest", 2, 3, 5),
]


def kid():
    for name, n, m, d in KID:
        a, b = feature_pair("metric.kid", name, n, m, d)
        tensors = {"in.a": a, "in.b": b, "out.value": polynomial_mmd(a, b).reshape(1)}
        yield Case("metric.kid", name, {"subset": None}, tensors, f"torch {torch.__version__}", 1e-6, 1e-9)


def dice_value(a, b, empty):
    total = a.sum() + b.sum()
    if total == 0:
        return {"one": 1.0, "nan": math.nan}[empty]
    return (2 * (a * b).sum() / total).item()


# name, shape, share of ones, which of a and b are made empty per image
DICE = [
    ("dense", (4, 1, 9, 13), 0.6, {}),
    ("sparse", (5, 1, 7, 11), 0.1, {0: "a", 2: "ab", 3: "b"}),
    ("channels", (3, 2, 5, 6), 0.4, {1: "ab"}),
    ("volume", (3, 1, 4, 5, 6), 0.3, {2: "ab"}),
]


def dice():
    for (name, shape, share, holes), empty in itertools.product(DICE, ("one", "nan")):
        draw = Draw("metric.dice", name)
        masks = {key: (draw.uniform(*shape) < share).float() for key in "ab"}
        for image, keys in holes.items():
            for key in keys:
                masks[key][image] = 0
        value = [dice_value(x, y, empty) for x, y in zip(masks["a"].double(), masks["b"].double())]
        tensors = {f"in.{key}": mask for key, mask in masks.items()}
        tensors["out.value"] = torch.tensor(value, dtype=torch.float64)
        yield Case("metric.dice", f"{name}_{empty}", {"empty": empty}, tensors, "2|AB| / (|A| + |B|)", 1e-6, 1e-9)


# name, shape, spacing
SURFACE = [
    ("plane", (3, 9, 13), (1.0, 1.0)),
    ("flat_pixels", (2, 11, 8), (2.5, 0.7)),
    ("volume", (2, 6, 7, 8), (3.0, 0.8, 0.9)),
]


def surface_distances(a, b, spacing):
    """From the border of each mask to the nearest border voxel of the other; voxels outside are background."""
    a, b = (mask & ~scipy.ndimage.binary_erosion(mask) for mask in (a, b))
    there, back = (scipy.ndimage.distance_transform_edt(~mask, sampling=spacing) for mask in (b, a))
    return there[a], back[b]


SURFACE_PRESETS = {
    "monai": (
        lambda there, back: max(np.percentile(there, 95), np.percentile(back, 95)),
        lambda there, back: np.concatenate([there, back]).mean(),
    ),
    "medpy": (
        lambda there, back: np.percentile(np.concatenate([there, back]), 95),
        lambda there, back: (there.mean() + back.mean()) / 2,
    ),
}


def surface():
    for (name, shape, spacing), preset in itertools.product(SURFACE, SURFACE_PRESETS):
        draw = Draw("metric.surface", name)
        noise = draw.uniform(2, *shape)
        centre = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape[1:]), indexing="ij"))
        inside = ((centre**2).sum(0) < 0.7).float()
        a, b = (((0.6 * inside + 0.5 * part) > 0.5 + 0.1 * i).float() for i, part in enumerate(noise))
        hd95, average = SURFACE_PRESETS[preset]
        lists = [surface_distances(x > 0, y > 0, spacing) for x, y in zip(a.numpy(), b.numpy())]
        values = {
            "hausdorff": [max(there.max(), back.max()) for there, back in lists],
            "hd95": [hd95(*both) for both in lists],
            "average": [average(*both) for both in lists],
        }
        tensors = {"in.a": a, "in.b": b}
        tensors |= {f"out.{key}": torch.tensor(value, dtype=torch.float64) for key, value in values.items()}
        config = {"spacing": list(spacing), "preset": preset}
        source = f"scipy {scipy.__version__}, joined as {preset} does"
        yield Case("metric.surface", f"{name}_{preset}", config, tensors, source, 1e-9, 1e-12)


# name, n, k, what is special
CLASSIFICATION = [
    ("binary", 41, 2, None),
    ("binary_ties", 30, 2, "rounded"),
    ("binary_always_one", 17, 2, "always class 1"),
    ("multiclass", 57, 4, None),
    ("multiclass_ties", 36, 3, "few values"),
    ("never_predicted", 33, 5, "class 3 is never predicted"),
    ("absent_class", 29, 4, "class 2 has no labels"),
]


def classification_scores(draw, n, k, special):
    labels = torch.cat([torch.arange(k), draw.integers(0, k, n - k)])
    logits = draw.normal(n, k) + 1.2 * torch.nn.functional.one_hot(labels, k)
    if special == "class 3 is never predicted":
        logits[:, 3] -= 20
    if special == "always class 1":
        logits[:, 1] += 20
    if special == "class 2 has no labels":
        labels[labels == 2] = 0
    scores = logits.softmax(1)
    if special == "rounded":
        scores[:, 1] = (scores[:, 1] * 10).round() / 10
        scores[:, 0] = 1 - scores[:, 1]
    if special == "few values":
        values = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.4, 0.4]])  # ties between samples, and within them
        scores = values[torch.arange(n) % 2].gather(1, logits.argsort(1).argsort(1))
    return scores, labels


def roc_auc(scores, labels, average):
    if scores.shape[1] == 2:
        return sklearn.metrics.roc_auc_score(labels, scores[:, 1])
    return sklearn.metrics.roc_auc_score(
        labels, scores, multi_class="ovr", average=average, labels=np.arange(scores.shape[1])
    )


def classification():
    for (name, n, k, special), average in itertools.product(CLASSIFICATION, ("macro", "micro", "weighted")):
        scores, labels = classification_scores(Draw("metric.classification", name), n, k, special)
        predicted = scores.numpy().argmax(1)  # the first of equal scores
        precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        values = {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "roc_auc": roc_auc(scores.double().numpy(), labels.numpy(), average),
        }
        tensors = {"in.scores": scores, "in.labels": labels}
        tensors |= {f"out.{key}": torch.tensor([value], dtype=torch.float64) for key, value in values.items()}
        source = f"scikit-learn {sklearn.__version__}"
        yield Case("metric.classification", f"{name}_{average}", {"average": average}, tensors, source, 1e-6, 1e-9)


OPS = [adamw, psnr, ssim, ms_ssim, frechet, kid, dice, surface, classification]
