"""Influence and faithfulness of prototypes: Eq. 7 and 14 of Dey & Saikia (2025) in torch."""

import itertools

import torch

from .case import Case, Draw

# Eq. 14 and its two variants, as the mean over prototypes or their sum.
DEFINITIONS = {
    "eq14": lambda nis, corr: (nis * corr).mean(1),
    "eq14_sum": lambda nis, corr: (nis * corr).sum(1),
    "eq14_sum_clamp": lambda nis, corr: (nis * corr.clamp(min=0)).sum(1),
}

# name, images, prototypes, scale and shift of the similarities
FAITHFULNESS = [
    ("few", 3, 5, 1.0, 0.0),
    ("many", 7, 101, 2.0, -3.0),
    ("one_prototype", 4, 1, 1.0, 0.0),
    ("one_image", 1, 13, 0.3, 0.0),
    ("large", 5, 17, 400.0, -3000.0),  # squared distances in many dimensions
    ("alike", 2, 9, 0.0, 1.5),
]


def faithfulness():
    for (name, images, prototypes, scale, shift), definition in itertools.product(FAITHFULNESS, DEFINITIONS):
        draw = Draw("proto.faithfulness", name)
        similarity = shift + scale * draw.normal(images, prototypes)
        corr = 2 * draw.uniform(images, prototypes) - 1
        nis = torch.softmax(similarity.double(), 1)
        tensors = {
            "in.similarity": similarity,
            "in.corr": corr,
            "out.nis": nis,
            "out.faithfulness": DEFINITIONS[definition](nis, corr.double()),
        }
        config = {"definition": definition}
        source = f"torch {torch.__version__}"
        yield Case("proto.faithfulness", f"{name}_{definition}", config, tensors, source, 1e-9, 1e-12)


OPS = [faithfulness]
