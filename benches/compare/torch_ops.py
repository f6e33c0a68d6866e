"""Single operations and stacks of layers in PyTorch: the counterpart of `common/op` and `common/stack`."""

import time

import torch
from torch import nn
from torch.nn import functional
from torch_prototypes import NearestPatch

ACTIVATIONS = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "mish": nn.Mish,
}
# xdiff's default for the average of parameters.
EMA_DECAY = 0.9999


class Call(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def packed_attention(heads):
    """Attention between projections: heads are parted before and joined after."""

    def forward(*tensors):
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in tensors)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return forward


def geglu(x):
    value, gate = x.chunk(2, dim=-1)
    return value * functional.gelu(gate)


def layer(op):
    """The operation as a module, and the shapes of its inputs."""
    kind = op["op"]
    batch, size = op.get("batch"), op.get("size")

    def image(channels):
        return [(batch, channels, size, size)]

    def rows(width):
        return [(batch, op["rows"], width)]

    if kind == "conv2d":
        module = nn.Conv2d(
            op["in_channels"],
            op["out_channels"],
            op["kernel"],
            stride=op["stride"],
            padding=op["kernel"] // 2,
            groups=op["groups"],
            bias=op["bias"],
        )
        return module, image(op["in_channels"])
    if kind == "linear":
        return nn.Linear(op["inputs"], op["outputs"], bias=op["bias"]), rows(op["inputs"])
    if kind == "attention":
        lengths = op["queries"], op["keys"], op["keys"]
        heads, width = op["heads"], op["width"]
        if op["packed"]:
            return Call(packed_attention(heads)), [(batch, length, heads * width) for length in lengths]
        attention = Call(functional.scaled_dot_product_attention)
        return attention, [(batch, heads, length, width) for length in lengths]
    if kind == "group_norm":
        norm = nn.GroupNorm(op["groups"], op["channels"])
        return nn.Sequential(norm, nn.SiLU()) if op["silu"] else norm, image(op["channels"])
    if kind == "layer_norm":
        return nn.LayerNorm(op["width"]), rows(op["width"])
    if kind == "batch_norm":
        return nn.BatchNorm2d(op["channels"]).train(op["train"]), image(op["channels"])
    if kind == "activation":
        return ACTIVATIONS[op["function"]](), [op["shape"]]
    if kind == "geglu":
        return Call(geglu), rows(2 * op["width"])
    if kind == "softmax":
        return nn.Softmax(dim=-1), [op["shape"]]
    if kind == "upsample":
        return nn.Upsample(scale_factor=2, mode="nearest"), image(op["channels"])
    if kind == "pool":
        pool = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[op["kind"]]
        padding = (op["kernel"] - 1) // 2
        return pool(op["kernel"], stride=op["stride"], padding=padding), image(op["channels"])
    if kind == "nearest_patch":
        return NearestPatch(op["vectors"], op["channels"]), image(op["channels"])
    if kind == "add":
        return Call(torch.add), [op["shape"], op["shape"]]
    if kind == "add_channels":
        return Call(torch.add), [*image(op["channels"]), (batch, op["channels"], 1, 1)]
    if kind == "cat":
        return Call(lambda a, b: torch.cat((a, b), 1)), [image(c)[0] for c in op["channels"]]
    raise ValueError(f"no layer is called `{kind}`")


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def converted(module, form, layout):
    """The module with its parameters in that type, images with that layout of memory."""
    module = module.to(memory_format=layout)
    return module if form == torch.float32 else module.to(form)


def tensor(shape, form, layout):
    """A random tensor; images in the given layout of memory."""
    x = torch.randn(shape).to(form)
    return x.contiguous(memory_format=layout) if x.dim() == 4 else x


def timed(work):
    """Seconds that `work` takes; what it returns is freed after the clock has stopped."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds


def prepare_op(work, form, layout):
    """A pass of an operation as a function that returns seconds, and its number of parameters."""
    op, kind = work["op"], work["pass"]
    if kind == "step":
        return prepare_step(op)
    module, shapes = layer(op)
    module = converted(module, form, layout)
    inputs = [tensor(shape, form, layout) for shape in shapes]
    if kind == "forward":

        @torch.inference_mode()
        def run():
            return timed(lambda: module(*inputs))

    else:
        for x in inputs:
            x.requires_grad_()
        leaves = [*inputs, *module.parameters()]

        def run():
            y = module(*inputs)
            return timed(lambda: torch.autograd.grad(y, leaves, torch.ones_like(y)))

    return run, parameters(module)


def prepare_step(op):
    values = [nn.Parameter(torch.randn(op["values"])) for _ in range(op["tensors"])]
    if op["op"] == "adamw":
        optimizer = torch.optim.AdamW(values, fused=True)
        for value in values:
            value.grad = torch.randn_like(value)
        step = optimizer.step
    else:
        averages = [value.detach().clone() for value in values]
        update = torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)

        @torch.no_grad()
        def step():
            update(averages, values, None)

    return lambda: timed(step), op["tensors"] * op["values"]


def prepare_stack(work, form, layout):
    """All layers one after another, each with weights of its own, inputs shared by shape."""
    made, built = {}, []
    for entry in work["layers"]:
        for _ in range(entry["count"]):
            module, shapes = layer(entry["op"])
            inputs = []
            for key in enumerate(map(tuple, shapes)):
                if key not in made:
                    made[key] = tensor(key[1], form, layout)
                inputs.append(made[key])
            built.append((converted(module, form, layout), inputs))

    @torch.inference_mode()
    def run():
        def all_layers():
            for module, inputs in built:
                module(*inputs)

        return timed(all_layers)

    return run, sum(parameters(module) for module, _ in built)
