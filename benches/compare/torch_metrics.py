"""Metrics as people compute them in Python: the counterpart of `common/metric`."""

import numpy as np
import torch
from torch_ops import timed

# Images that are held at once, as in `common/metric`.
HELD = 20


def ssim(work):
    """scikit-image for its own preset, pytorch-msssim for Wang's, torchmetrics for its own."""
    preset, images, size = work["preset"], work["images"], work["size"]
    count = min(images, HELD)
    a = torch.rand(count, 1, size, size)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    batches = [min(count, images - first) for first in range(0, images, count)]
    if preset == "skimage_default":
        from skimage.metrics import structural_similarity

        a, b = a.numpy()[:, 0], b.numpy()[:, 0]

        def run():
            return [
                structural_similarity(a[i], b[i], data_range=1.0) for now in batches for i in range(now)
            ]

        return lambda: timed(run)
    if preset == "wang":
        from pytorch_msssim import ssim as function

        def of(a, b):
            return function(a, b, data_range=1.0, size_average=False)

    else:
        from torchmetrics.functional.image import structural_similarity_index_measure as function

        def of(a, b):
            return function(a, b, data_range=1.0, reduction="none")

    @torch.inference_mode()
    def run():
        return timed(lambda: [of(a[:now], b[:now]) for now in batches])

    return run


def frechet(work):
    """The square root of pytorch-fid, which is SciPy's, from means and covariances."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng, dim = np.random.default_rng(3), work["dim"]
    sets = [rng.standard_normal((work["vectors"], dim)) for _ in range(2)]
    (m1, s1), (m2, s2) = [(x.mean(0), np.cov(x, rowvar=False)) for x in sets]
    return lambda: timed(lambda: calculate_frechet_distance(m1, s1, m2, s2))


def moments(work):
    x = np.random.default_rng(3).standard_normal((work["vectors"], work["dim"]))
    return lambda: timed(lambda: (x.mean(0), np.cov(x, rowvar=False)))


METRICS = {"ssim": ssim, "frechet": frechet, "moments": moments}


def prepare_metric(work, form, layout):
    """A metric as a function that returns seconds; it has no parameters."""
    return METRICS[work["metric"]](work), 0
