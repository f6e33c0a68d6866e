"""The case format: seeded inputs, synthetic weights, and the file itself."""

import dataclasses
import json
import math
import struct

import numpy as np
import torch
from safetensors import safe_open

MASK = (1 << 64) - 1
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


@dataclasses.dataclass
class Case:
    """One input, configuration and expected output of an op."""

    op: str
    name: str
    config: dict
    tensors: dict
    source: str
    rtol: float = 1e-5
    atol: float = 1e-6
    weights: str | None = None

    def metadata(self):
        meta = {
            "op": self.op,
            "config": json.dumps(self.config),
            "rtol": repr(float(self.rtol)),
            "atol": repr(float(self.atol)),
            "source": self.source,
        }
        return meta if self.weights is None else meta | {"weights": self.weights}

    def path(self, root):
        return root / self.op / f"{self.name}.safetensors"


def fnv1a64(text):
    h = FNV_OFFSET
    for byte in text.encode():
        h = ((h ^ byte) * FNV_PRIME) & MASK
    return h


def uniform(name, count):
    """The u_i of the synthetic-weights rule: splitmix64 over fnv1a64(name) + i."""
    with np.errstate(over="ignore"):
        x = np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def synthetic(name, shape):
    """The synthetic value of the parameter `name`."""
    u = uniform(name, math.prod(shape))
    if name.endswith("running_var"):
        v = 0.5 + u
    elif name.endswith("running_mean"):
        v = 0.2 * (u - 0.5)
    elif len(shape) == 1 and name.endswith("weight"):
        v = 0.8 + 0.4 * u
    elif len(shape) == 1:
        v = 0.2 * (u - 0.5)
    else:
        v = (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:]))
    return torch.from_numpy(v.reshape(shape).astype(np.float32))


def fill(model):
    """Gives every parameter and buffer of `model` its synthetic value."""
    kept = ("num_batches_tracked", "position_ids")
    state = {
        name: value if name.endswith(kept) else synthetic(name, tuple(value.shape))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


class Draw:
    """Random inputs that depend on the case's name alone."""

    def __init__(self, *names):
        self.generator = torch.Generator().manual_seed(fnv1a64("/".join(names)) >> 1)

    def normal(self, *shape, dtype=torch.float32):
        return torch.randn(shape, generator=self.generator, dtype=dtype)

    def uniform(self, *shape, dtype=torch.float32):
        return torch.rand(shape, generator=self.generator, dtype=dtype)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)


def scaled_atol(fraction, *tensors):
    """`fraction` of the largest magnitude in `tensors`."""
    return fraction * max(t.abs().max().item() for t in tensors)


def write(case, path):
    """Writes a safetensors file whose bytes depend on the case only.

    The library's own writer orders metadata by a random hash, which would make every regeneration a change.
    """
    header, blobs, offset = {"__metadata__": dict(sorted(case.metadata().items()))}, [], 0
    for name in sorted(case.tensors):
        tensor = case.tensors[name].detach().contiguous()
        blob = tensor.numpy().tobytes()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read(path):
    """The metadata and tensors of a case file."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
