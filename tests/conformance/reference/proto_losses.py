"""Terms of the losses of prototype networks: the published formulas in PyTorch."""

import torch
import torch.nn.functional as F

from .case import Case, Draw
from .proto import distances

SOURCE = f"formulas of ProtoPNet, ProtoPool and Dey & Saikia (2025) in torch {torch.__version__}"

# name, batch, width, height and width of the map, classes, prototypes of each class, slots, spread of the prototypes
LOSSES = [
    ("plain", 4, 5, 3, 4, 3, [2, 2, 2], 2, 1.0),
    ("uneven", 6, 9, 2, 5, 4, [1, 3, 2, 5], 3, 0.5),
    ("close", 3, 16, 4, 4, 2, [4, 4], 4, 0.05),
    ("one_position", 5, 3, 1, 1, 3, [1, 1, 1], 1, 1.0),
    ("one_class", 3, 6, 3, 3, 1, [5], 2, 0.3),
    ("one_prototype", 2, 4, 2, 3, 1, [1], 1, 1.0),
    ("as_wide_as_released", 4, 128, 7, 7, 5, [10] * 5, 10, 1.0),
]


def least(minima, mask):
    """The mean over images of the least distance to the prototypes in the mask."""
    return torch.stack([row[m].min() for row, m in zip(minima, mask)]).mean()


def losses():
    for name, batch, width, height, columns, classes, each, slots, spread in LOSSES:
        draw = Draw("proto.losses", name)
        features = torch.sigmoid(draw.normal(batch, width, height, columns))
        count = sum(each)
        prototypes = 0.5 + spread * (draw.uniform(count, width, 1, 1) - 0.5)
        class_of = torch.repeat_interleave(torch.arange(classes), torch.tensor(each))
        class_of = class_of[torch.randperm(count, generator=draw.generator)]
        presence = draw.normal(classes, count, slots)
        labels = draw.integers(0, classes, batch)

        minima = distances(features.double(), prototypes.double()).flatten(2).amin(2)
        own = class_of[None] == labels[:, None]
        p = prototypes.double().flatten(1)
        pairs = torch.exp(-((p[:, None] - p[None]) ** 2).sum(2))
        cosine = F.cosine_similarity(presence.double().unsqueeze(2), presence.double().unsqueeze(-1), dim=1)
        tensors = {
            "in.features": features,
            "in.labels": labels,
            "w.prototype_vectors": prototypes,
            "w.class_of": class_of,
            "w.proto_presence": presence,
            "out.cluster": least(minima, own),
            "out.align": minima.amin(0).sum(),
            "out.diversity": pairs.sum() - pairs.diagonal().sum(),
            "out.orthogonality": cosine.sum() / (slots * classes) - 1,
        }
        if classes > 1:
            tensors["out.separation"] = least(minima, ~own)
        tensors |= {key: value.float() for key, value in tensors.items() if key.startswith("out.")}
        yield Case("proto.losses", name, {}, tensors, SOURCE, 1e-5, 1e-6)


OPS = [losses]
