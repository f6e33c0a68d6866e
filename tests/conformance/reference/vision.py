"""Networks for classification with synthetic weights: torchvision."""

import functools

import torch
import torchvision
from pytorch_fid import inception as fid
from torchvision.models import (
    alexnet, densenet121, googlenet, inception_v3, mobilenet_v2, resnet18, resnet50, squeezenet1_0, squeezenet1_1,
    vgg16, vgg19,
)

from .case import Case, Draw, fill, scaled_atol

SOURCE = f"torchvision {torchvision.__version__}"


def fid_inception(num_classes=1008, **config):
    """The network of pytorch_fid.inception.fid_inception_v3, without its weights."""
    net = inception_v3(num_classes=num_classes, aux_logits=False, init_weights=False, **config)
    net.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    net.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
    net.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
    net.Mixed_7b = fid.FIDInceptionE_1(1280)
    net.Mixed_7c = fid.FIDInceptionE_2(2048)
    return net


NETWORKS = {
    "alexnet": alexnet,
    "densenet121": densenet121,
    "fid_inception": fid_inception,
    "googlenet": functools.partial(googlenet, init_weights=False),
    "inception_v3": functools.partial(inception_v3, init_weights=False),
    "mobilenet_v2": mobilenet_v2,
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
    ("densenet121", "train", {"num_classes": 2}, 2, 61, 77, "train", ["features.norm5"]),
    ("densenet121", "narrow", {"num_classes": 4, "bn_size": 2}, 1, 29, 31, "eval", [
        "features.denseblock4.denselayer3.conv1", "features.transition3.norm"]),
    ("fid_inception", "eval", {"num_classes": 1008}, 1, 75, 83, "eval", [
        "maxpool2", "Mixed_5c.branch_pool", "Mixed_6b", "Mixed_6e.branch7x7dbl_4", "Mixed_7b", "Mixed_7c.branch_pool",
        "avgpool"]),
    ("fid_inception", "train", {"num_classes": 5}, 4, 75, 91, "train", ["Mixed_6c"]),
    ("googlenet", "eval", {"num_classes": 4, "transform_input": True}, 1, 47, 53, "eval", [
        "conv1.bn", "inception3a.branch2.0", "inception3b", "inception4a.branch4.0", "inception4e.branch3",
        "maxpool4", "inception5b", "avgpool"]),
    ("googlenet", "train", {"num_classes": 3}, 5, 49, 54, "train", [
        "inception4d.branch3.1", "aux1.conv", "aux1", "aux2.fc1", "aux2"]),
    ("googlenet", "without_aux", {"num_classes": 2, "aux_logits": False}, 2, 15, 20, "eval", ["inception5a"]),
    ("inception_v3", "eval", {"num_classes": 3, "transform_input": True}, 1, 75, 83, "eval", [
        "maxpool1", "Mixed_5b.branch5x5_2.bn", "Mixed_5d", "Mixed_6a", "Mixed_6d.branch7x7_3",
        "Mixed_7a.branch7x7x3_4", "Mixed_7b.branch3x3_2b", "Mixed_7c", "dropout"]),
    ("inception_v3", "train", {"num_classes": 3, "aux_logits": False}, 4, 75, 83, "train", ["Mixed_6a"]),
    ("mobilenet_v2", "eval", {"num_classes": 6}, 1, 37, 41, "eval", [
        "features.0.1", "features.1.conv.1", "features.3.conv", "features.7.conv.1.0", "features.14", "features.18",
        "classifier.1"]),
    ("mobilenet_v2", "train", {"num_classes": 3, "width_mult": 0.35}, 5, 52, 49, "train", ["features.4", "features.15"]),
    ("mobilenet_v2", "own_blocks", {
        "num_classes": 4, "width_mult": 1.3, "round_nearest": 4,
        "inverted_residual_setting": [[1, 8, 2, 1], [4, 12, 3, 2], [2, 20, 1, 1]],
    }, 2, 18, 13, "eval", ["features.2", "features.4"]),
    ("resnet18", "eval", {"num_classes": 5}, 1, 37, 45, "eval", [
        "bn1", "maxpool", "layer1.0", "layer2.0.downsample", "layer3", "layer4.1.bn1",
        "layer4.1.relu", "avgpool", "fc"]),
    ("resnet18", "train", {"num_classes": 3, "zero_init_residual": True}, 3, 33, 34, "train", ["layer2", "layer4"]),
    ("resnet50", "eval", {"num_classes": 3}, 1, 34, 41, "eval", [
        "layer1.2.bn2", "layer2.0", "layer3.0.downsample.1", "layer4", "avgpool"]),
    ("resnet50", "train", {"num_classes": 2}, 2, 65, 77, "train", ["layer2.3.bn1"]),
    ("resnet50", "dilated", {
        "num_classes": 2, "replace_stride_with_dilation": [False, True, True],
    }, 1, 33, 33, "eval", ["layer3.1.conv2", "layer4.1.bn2"]),
    ("resnet50", "groups", {"num_classes": 2, "groups": 32, "width_per_group": 4}, 1, 36, 27, "eval", ["layer1.0.conv2"]),
    ("squeezenet1_0", "eval", {"num_classes": 6}, 2, 21, 30, "eval", [
        "features.2", "features.3", "features.3.squeeze", "features.5.expand3x3_activation", "features.12",
        "classifier.1", "classifier"]),
    ("squeezenet1_0", "train", {"num_classes": 3}, 2, 53, 38, "train", ["features.7"]),
    ("squeezenet1_1", "eval", {"num_classes": 4}, 2, 17, 27, "eval", [
        "features.1", "features.4", "features.7", "features.9", "features.10", "features.11", "features.12"]),
    ("vgg16", "eval", {"num_classes": 3}, 1, 32, 35, "eval", [
        "features.15", "features.20", "features.22", "features.29", "classifier.3"]),
    ("vgg16", "train", {"num_classes": 2}, 1, 32, 35, "train", ["features.30", "classifier.4"]),
    ("vgg19", "eval", {"num_classes": 2}, 1, 33, 39, "eval", ["features.9", "features.36", "classifier.6"]),
]

# Of 10^5 to 10^6 numbers before ReLUs a few lie closer to 0 than rounding reaches, and in training mode one that
# changes its sign moves the gradients of the layers before it by up to tens of per cent of their largest. So densenet121
# and resnet50 agree on early weights by luck alone, PyTorch with and without oneDNN no less than others, and only
# gradients that such a switch did not reach are kept. The outputs differ by 1e-5 meanwhile.
#
# network, case, keyword arguments, batch, height, width, weights whose gradients are kept
GRADIENTS = [
    ("alexnet", "plain", {"num_classes": 5}, 2, 67, 63, [
        "features.0.bias", "features.8.bias", "features.10.bias", "classifier.4.bias", "classifier.6.bias"]),
    ("densenet121", "plain", {"num_classes": 3}, 2, 63, 76, [
        "features.denseblock2.denselayer7.norm1.weight", "features.transition3.norm.bias",
        "features.denseblock4.denselayer16.norm2.weight", "features.norm5.bias", "classifier.weight"]),
    ("fid_inception", "head", {"num_classes": 4}, 4, 75, 107, ["fc.weight", "fc.bias"]),
    ("googlenet", "plain", {"num_classes": 4}, 4, 47, 41, [
        "conv1.bn.weight", "inception3a.branch3.1.conv.weight", "inception4b.branch4.1.bn.bias",
        "inception5b.branch1.bn.weight", "fc.weight", "fc.bias"]),
    ("inception_v3", "head", {"num_classes": 3, "aux_logits": False}, 4, 75, 107, ["fc.weight", "fc.bias"]),
    ("mobilenet_v2", "plain", {"num_classes": 5}, 3, 45, 38, [
        "features.0.0.weight", "features.1.conv.0.0.weight", "features.6.conv.0.1.weight", "features.10.conv.3.bias",
        "features.18.1.weight", "classifier.1.bias"]),
    ("resnet18", "plain", {"num_classes": 4}, 3, 35, 43, [
        "conv1.weight", "bn1.weight", "layer1.1.bn2.bias", "layer2.0.downsample.0.weight", "layer3.0.bn1.weight",
        "layer4.1.bn2.weight", "fc.weight", "fc.bias"]),
    ("resnet50", "plain", {"num_classes": 3}, 2, 69, 65, ["fc.weight", "fc.bias"]),
    ("squeezenet1_0", "plain", {"num_classes": 4}, 2, 43, 36, [
        "features.0.bias", "features.3.squeeze.weight", "features.9.expand1x1.bias", "features.12.expand3x3.bias",
        "classifier.1.weight"]),
    ("vgg16", "plain", {"num_classes": 3}, 1, 34, 39, [
        "features.0.weight", "features.10.bias", "features.28.bias", "classifier.3.bias", "classifier.6.bias"]),
]


# Batch norm of maps of a pixel or two, many layers deep, multiplies rounding: PyTorch's own numbers in single and in
# double precision lie about ten times further apart than those of other networks. Where such a rounding switches a
# ReLU, the gradients of the convolutions before it differ by several per cent, so only the head's are kept.
SENSITIVE = {"fid_inception": 15, "inception_v3": 15}


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
    # Norms by the statistics of a small batch magnify the rounding of whatever comes before them.
    factor = SENSITIVE.get(network, 1) if mode == "train" else 1
    fraction = max(1e-4 * factor, 5e-4 if mode == "train" else 0)
    atol = min(scaled_atol(fraction, t) for n, t in tensors.items() if n.startswith("out."))
    config = config | {"mode": mode, "taps": taps}
    return Case(op, name, config, tensors, SOURCE, 1e-3 * factor, atol, "synthetic")


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
    factor = SENSITIVE.get(network, 1)
    atol = factor * scaled_atol(1e-3, *kept.values())
    return Case(op, name, config | {"names": names}, tensors, SOURCE, 1e-3 * factor, atol, "synthetic")


def grads():
    return (grads_case(*row) for row in GRADIENTS)


OPS = [outputs, grads]
