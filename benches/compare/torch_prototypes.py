"""Nearest patches and projection in PyTorch, as ProtoPNet's layer has them: the counterpart of
`nearest_patch` and `common/push.rs`."""

import time

import torch
from torch import nn
from torch.nn import functional


class NearestPatch(nn.Module):
    """The least of relu(conv(x², ones) − 2 conv(x, p) + ‖p‖²) by max-pooling, for each image and vector."""

    def __init__(self, vectors, channels):
        super().__init__()
        self.vectors = nn.Parameter(torch.rand(vectors, channels, 1, 1))
        self.register_buffer("ones", torch.ones(vectors, channels, 1, 1))

    def distances(self, x):
        squares = functional.conv2d(x**2, self.ones)
        products = functional.conv2d(x, self.vectors)
        lengths = (self.vectors**2).sum((1, 2, 3)).view(-1, 1, 1)
        return functional.relu(squares + (lengths - 2 * products))

    def forward(self, x):
        distances = self.distances(x)
        return -functional.max_pool2d(-distances, distances.shape[2:]).flatten(1)


def prepare_push(work, form, layout):
    """Each vector becomes the nearest patch of all images, which come in batches."""
    model = NearestPatch(work["prototypes"], work["channels"]).to(form)
    shape = work["channels"], work["size"], work["size"]
    images = torch.randn((work["images"], *shape)).to(form).contiguous(memory_format=layout)
    batches = images.split(work["at_once"])

    @torch.inference_mode()
    def run():
        start = time.perf_counter()
        least = torch.full((work["prototypes"],), torch.inf)
        nearest = torch.zeros_like(model.vectors).flatten(1)
        for batch in batches:
            value, at = model.distances(batch).transpose(0, 1).flatten(1).min(1)
            better = value < least
            rows = batch.flatten(2).transpose(1, 2).flatten(0, 1)
            nearest[better] = rows[at[better]]
            least[better] = value[better]
        return time.perf_counter() - start

    return run, model.vectors.numel()
