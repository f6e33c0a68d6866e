"""Networks for classification with synthetic weights: torchvision."""

import torch
import torchvision
from torchvision.models import alexnet, densenet121, resnet18, resnet50, squeezenet1_0, squeezenet1_1, vgg16, vgg19

from .case import Case, Draw, fill, scaled_atol

SOURCE = f"torchvision {torchvision.__version__}"

NETWORKS = {
    "alexnet": alexnet,
    "densenet121": densenet121,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "squeezenet1_0": squeezenet1_0,
    "squeezenet1_1": squeezenet1_1,
    "vgg16": vgg16,
    "vgg19": vgg19,
}

# network, case, keyword arguments, batch, height, width, mode, taps
OUTPUTS = [
    ("alexnet", "eval", {"num_classes": 4}, 1, 63, 70, "eval", [
        "features.0", "features.4", "features.11", "features", "classifier.2", "classifier"]),
    ("alexnet", "train", {"num_classes": 3}, 1, 79, 66, "train", ["features.8", "classifier.5"]),
    ("densenet121", "eval", {"num_classes": 3}, 1, 29, 37, "eval", [
        "features.conv0", "features.pool0", "features.denseblock1.denselayer2", "features.denseblock1",
        "features.transition1", "features.transition3.relu", "features.denseblock4", "features.norm5", "features",
        "classifier"]),
    ("densenet121", "train", {"num_classes": 2}, 3, 61, 93, "train", ["features.norm5"]),
    ("densenet121", "narrow", {"num_classes": 4, "bn_size": 2}, 2, 61, 75, "train", [
        "features.denseblock4.denselayer3.conv1", "features.transition3.norm"]),
    ("resnet18", "eval", {"num_classes": 5}, 1, 37, 45, "eval", [
        "bn1", "relu", "maxpool", "layer1.0", "layer2.0.downsample", "layer3", "layer4.1.bn1",
        "layer4.1.relu", "avgpool", "fc"]),
    ("resnet18", "train", {"num_classes": 3, "zero_init_residual": True}, 3, 33, 34, "train", ["layer2", "layer4"]),
    ("resnet50", "eval", {"num_classes": 3}, 1, 34, 41, "eval", [
        "layer1.2.conv3", "layer2.0", "layer3.0.downsample.1", "layer4", "avgpool"]),
    ("resnet50", "train", {"num_classes": 2}, 2, 65, 77, "train", ["layer3.5.bn1", "layer4.2"]),
    ("resnet50", "dilated", {
        "num_classes": 2, "replace_stride_with_dilation": [False, True, True],
    }, 1, 33, 33, "eval", ["layer3.1.conv2", "layer4.0"]),
    ("resnet50", "groups", {"num_classes": 2, "groups": 32, "width_per_group": 4}, 2, 61, 70, "train", ["layer1.0.conv2"]),
    ("squeezenet1_0", "eval", {"num_classes": 6}, 2, 21, 30, "eval", [
        "features.2", "features.3", "features.3.squeeze", "features.5.expand3x3_activation", "features.12",
        "classifier.1", "classifier"]),
    ("squeezenet1_0", "train", {"num_classes": 3}, 2, 53, 38, "train", ["features.7"]),
    ("squeezenet1_1", "eval", {"num_classes": 4}, 2, 17, 27, "eval", [
        "features.1", "features.4", "features.7", "features.9", "features.10", "features.11", "features.12"]),
    ("vgg16", "eval", {"num_classes": 3}, 1, 32, 35, "eval", [
        "features.8", "features.15", "features.20", "features.22", "features.29", "classifier.3"]),
    ("vgg16", "train", {"num_classes": 2}, 1, 32, 35, "train", ["features.30", "classifier.4"]),
    ("vgg19", "eval", {"num_classes": 2}, 1, 33, 39, "eval", ["features.9", "features.36", "classifier.6"]),
]

# network, case, keyword arguments, batch, height, width, weights whose gradients are kept
GRADIENTS = [
    ("alexnet", "plain", {"num_classes": 5}, 2, 67, 63, [
        "features.0.bias", "features.8.bias", "features.10.bias", "classifier.4.bias", "classifier.6.bias"]),
    ("densenet121", "plain", {"num_classes": 3}, 2, 63, 76, [
        "features.norm0.weight", "features.denseblock1.denselayer1.conv1.weight",
        "features.denseblock2.denselayer7.norm1.weight", "features.transition3.norm.bias",
        "features.denseblock4.denselayer16.norm2.weight", "features.norm5.bias", "classifier.weight"]),
    ("resnet18", "plain", {"num_classes": 4}, 3, 35, 43, [
        "conv1.weight", "bn1.weight", "layer1.1.bn2.bias", "layer2.0.downsample.0.weight", "layer3.0.bn1.weight",
        "layer4.1.bn2.weight", "fc.weight", "fc.bias"]),
    ("resnet50", "plain", {"num_classes": 3}, 2, 69, 65, [
        "conv1.weight", "layer1.0.conv1.weight", "layer2.3.bn2.weight", "layer3.0.downsample.1.weight",
        "layer4.2.bn3.bias", "fc.weight"]),
    ("squeezenet1_0", "plain", {"num_classes": 4}, 2, 43, 36, [
        "features.0.bias", "features.3.squeeze.weight", "features.9.expand1x1.bias", "features.12.expand3x3.bias",
        "classifier.1.weight"]),
    ("vgg16", "plain", {"num_classes": 3}, 1, 34, 39, [
        "features.0.weight", "features.10.bias", "features.28.bias", "classifier.3.bias", "classifier.6.bias"]),
]


def build(network, config):
    """The network in training mode, without chance."""
    model = fill(NETWORKS[network](weights=None, **config)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def logits_of(out):
    """The main logits of a network that may return auxiliary ones too."""
    return out if torch.is_tensor(out) else out[0]


def outputs_case(network, name, config, batch, height, width, mode, taps):
    op = f"vision.{network}"
    tensors = {"in.x": Draw(op, name).normal(batch, 3, height, width)}
    model = build(network, config).train(mode == "train")
    modules = dict(model.named_modules())
    for tap in taps:
        # A copy: the next module may work in place.
        def keep(_module, _inputs, out, tap=tap):
            tensors[f"out.tap.{tap}"] = out.clone()

        modules[tap].register_forward_hook(keep)
    with torch.no_grad():
        tensors["out.logits"] = logits_of(model(tensors["in.x"]))
    atol = min(scaled_atol(1e-4, t) for n, t in tensors.items() if n.startswith("out."))
    return Case(op, name, config | {"mode": mode, "taps": taps}, tensors, SOURCE, 1e-3, atol, "synthetic")


def outputs():
    return (outputs_case(*row) for row in OUTPUTS)


def grads_case(network, name, config, batch, height, width, names):
    op = f"vision.{network}.grads"
    draw = Draw(op, name)
    x = draw.normal(batch, 3, height, width)
    labels = draw.integers(0, config["num_classes"], batch)
    model = build(network, config)
    loss = torch.nn.functional.cross_entropy(logits_of(model(x)), labels)
    loss.backward()
    weights = dict(model.named_parameters())
    kept = {f"out.grad.{n}": weights[n].grad for n in names}
    tensors = {"in.x": x, "in.labels": labels, "out.loss": loss.reshape(1)} | kept
    return Case(op, name, config | {"names": names}, tensors, SOURCE, 1e-3, scaled_atol(1e-3, *kept.values()), "synthetic")


def grads():
    return (grads_case(*row) for row in GRADIENTS)


OPS = [outputs, grads]
