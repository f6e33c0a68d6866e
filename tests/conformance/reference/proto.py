"""Prototype networks: the published formulas in PyTorch."""

import torch
import torch.nn.functional as F

from .case import Case, Draw, scaled_atol

SOURCE = f"formulas of ProtoPNet, ProtoPool and Dey & Saikia (2025) in torch {torch.__version__}"

# name, activation, epsilon, batch, width, height and width of the map, prototypes, classes
PPNET = [
    ("log", "log", 1e-4, 2, 5, 3, 4, 9, 3),
    ("linear", "linear", 1e-4, 3, 7, 5, 3, 10, 5),
    ("other_epsilon", "log", 1e-2, 1, 16, 7, 7, 13, 2),
    ("one_position", "log", 1e-4, 4, 3, 1, 1, 5, 1),
    ("as_large_as_released", "log", 1e-4, 1, 128, 7, 7, 30, 3),
    ("far_apart", "linear", 1e-4, 2, 33, 2, 5, 17, 4),
]

# name, activation, epsilon, temperature, batch, width, height and width of the map, prototypes, classes, slots
PROTOPOOL = [
    ("plain", "log", 1e-4, 1.0, 2, 5, 3, 4, 9, 3, 2),
    ("sharp", "log", 1e-4, 0.05, 3, 9, 4, 3, 11, 4, 3),
    ("flat", "log", 1e-3, 5.0, 1, 6, 5, 5, 7, 2, 10),
    ("one_position", "log", 1e-4, 0.5, 2, 4, 1, 1, 6, 3, 1),
    ("nearly_hard", "log", 1e-4, 5e-5, 2, 17, 7, 7, 21, 5, 10),
    ("linear", "linear", 1e-4, 0.5, 2, 8, 3, 5, 10, 3, 4),
]

# name, batch, width, height and width of the map, prototypes
SOFT_CODEBOOK = [
    ("plain", 2, 5, 3, 4, 7),
    ("one_prototype", 2, 4, 2, 3, 1),
    ("one_position", 1, 6, 1, 1, 9),
    ("wide", 1, 64, 4, 5, 19),
]


def distances(features, prototypes):
    """The squared distance of each patch to each prototype, as the published code expands it."""
    norms = F.conv2d(features**2, torch.ones_like(prototypes))
    products = F.conv2d(features, prototypes)
    return F.relu(norms - 2 * products + (prototypes**2).sum((1, 2, 3)).view(-1, 1, 1))


def log_similarity(d, epsilon):
    return torch.log((d + 1) / (d + epsilon))


def patches(draw, batch, width, height, columns, far=False):
    """Features of a sigmoid, or far from 0 and from each other."""
    x = draw.normal(batch, width, height, columns)
    return 3 * x if far else torch.sigmoid(x)


def ppnet():
    for name, activation, epsilon, batch, width, height, columns, count, classes in PPNET:
        draw = Draw("proto.ppnet", name)
        x = patches(draw, batch, width, height, columns, name == "far_apart")
        p = draw.uniform(count, width, 1, 1)
        head = draw.normal(classes, count)
        if activation == "linear":
            # One prototype is a patch, as after a projection; a logarithm would multiply the rounding of its distance.
            p[0, :, 0, 0] = x[0, :, -1, -1]
        with torch.no_grad():
            d = distances(x, p)
            least = d.flatten(2).amin(2)
            similarity = log_similarity(least, epsilon) if activation == "log" else -least
            logits = similarity @ head.T
        yield Case(
            "proto.ppnet", name, {"activation": activation, "epsilon": epsilon},
            {
                "in.features": x, "w.prototype_vectors": p, "w.last_layer.weight": head,
                "out.distances": d, "out.similarity": similarity, "out.logits": logits,
            },
            SOURCE, rtol=1e-5, atol=max(scaled_atol(2e-6, d), scaled_atol(1e-5, logits)), weights="file",
        )


def protopool():
    for row in PROTOPOOL:
        name, activation, epsilon, temperature, batch, width, height, columns, count, classes, slots = row
        draw = Draw("proto.protopool", name)
        x = patches(draw, batch, width, height, columns)
        p = draw.uniform(count, width, 1, 1)
        presence = draw.normal(classes, count, slots)
        head = draw.normal(classes, classes * slots)
        with torch.no_grad():
            d = distances(x, p).flatten(2)
            q = torch.softmax(presence / temperature, 1)

            def similarity(d):
                mixed = torch.einsum("bp,cpn->bcn", d, q)
                return log_similarity(mixed, epsilon) if activation == "log" else 1 / (mixed + 1)

            logits = (similarity(d.amin(2)) - similarity(d.mean(2))).flatten(1) @ head.T
        yield Case(
            "proto.protopool", name,
            {"n_slots": slots, "temperature": temperature, "epsilon": epsilon, "activation": activation},
            {
                "in.features": x, "w.prototype_vectors": p, "w.proto_presence": presence,
                "w.last_layer.weight": head, "out.logits": logits,
            },
            SOURCE, rtol=1e-5, atol=scaled_atol(1e-5, logits), weights="file",
        )


def soft_codebook():
    for name, batch, width, height, columns, count in SOFT_CODEBOOK:
        draw = Draw("proto.soft_codebook", name)
        x = patches(draw, batch, width, height, columns)
        p = draw.uniform(count, width, 1, 1)
        with torch.no_grad():
            alpha = torch.softmax(-distances(x, p), 1)
            z = torch.einsum("bphw,pd->bdhw", alpha, p[:, :, 0, 0])
        yield Case(
            "proto.soft_codebook", name, {},
            {"in.features": x, "w.prototype_vectors": p, "out.alpha": alpha, "out.z": z},
            SOURCE, rtol=1e-5, atol=1e-6, weights="file",
        )


OPS = [ppnet, protopool, soft_codebook]
