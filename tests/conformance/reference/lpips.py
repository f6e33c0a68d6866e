"""LPIPS: the authors' package over synthetic backbones."""

from importlib.metadata import version

import lpips as package
import torch

from .case import Case, Draw, scaled_atol, synthetic

# name, net, shape
LPIPS = [
    ("alex_smallest", "alex", (2, 3, 31, 33)),
    ("alex", "alex", (1, 3, 66, 71)),
    ("vgg_smallest", "vgg", (2, 3, 16, 19)),
    ("vgg", "vgg", (1, 3, 35, 34)),
    ("squeeze_smallest", "squeeze", (2, 3, 17, 18)),
    ("squeeze", "squeeze", (1, 3, 41, 38)),
]


def backbone(net):
    """Gives each parameter of the trunk the synthetic value of its name in torchvision."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            _slice, path = name.split(".", 1)
            value.copy_(synthetic(f"features.{path}", tuple(value.shape)))


def lpips():
    for name, net, shape in LPIPS:
        draw = Draw("metric.lpips", name)
        metric = package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        backbone(metric.net)
        heads = {}
        for i, lin in enumerate(metric.lins):
            weight = lin.model[-1].weight
            heads[f"w.head.{i}"] = draw.uniform(*weight.shape)
            weight.data.copy_(heads[f"w.head.{i}"])
        a = 2 * draw.uniform(*shape) - 1
        b = (a + 0.3 * draw.normal(*shape)).clamp(-1, 1)
        with torch.no_grad():
            value = metric(a, b).flatten()
        tensors = heads | {"in.a": a, "in.b": b, "out.value": value}
        source = f"lpips {version('lpips')}, torch {torch.__version__}"
        atol = scaled_atol(1e-6, value)
        yield Case("metric.lpips", name, {"net": net}, tensors, source, 1e-4, atol, "synthetic")


OPS = [lpips]
