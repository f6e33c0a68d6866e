"""Makes the small PyTorch files that the weight readers are tested on, and what they hold.

Run in this folder with torch 2.15 and numpy; writes the files anew.
"""

import argparse
import json
import zipfile
from collections import OrderedDict

import numpy as np
import torch


def tensors():
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    shared = torch.arange(10, dtype=torch.float32)
    items = OrderedDict()
    items["f32"] = base.clone()
    items["f16"] = torch.tensor([0.5, -2.0, 65504.0], dtype=torch.float16)
    items["bf16"] = torch.tensor([0.5, -3.0], dtype=torch.bfloat16)
    items["f64"] = torch.tensor([1 / 3], dtype=torch.float64)
    items["i64"] = torch.tensor([-(2**40), 7])
    items["i32"] = torch.tensor([-5, 6], dtype=torch.int32)
    items["i16"] = torch.tensor([-300], dtype=torch.int16)
    items["i8"] = torch.tensor([-128, 127], dtype=torch.int8)
    items["u8"] = torch.tensor([255], dtype=torch.uint8)
    items["bool"] = torch.tensor([True, False, True])
    items["scalar"] = torch.tensor(4.25)
    items["empty"] = torch.zeros(0, 3)
    items["turned"] = base.permute(2, 0, 1)
    items["strided"] = base[:, 1:, ::2]
    items["expanded"] = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    items["shared.a"] = shared[2:6]
    items["shared.b"] = shared.view(5, 2)[1:].t()
    items["parameter"] = torch.nn.Parameter(torch.tensor([9.0]))
    return items


def main():
    all_kinds = tensors()
    torch.save(all_kinds, "zip.pth")
    torch.save(all_kinds, "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(all_kinds, "legacy_protocol4.pth", _use_new_zipfile_serialization=False, pickle_protocol=4)
    with zipfile.ZipFile("zip.pth") as old, zipfile.ZipFile("deflated.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))

    model = OrderedDict([("model.w", torch.tensor([1.0, 2.0])), ("ema_model.w", torch.tensor([3.0, 4.0]))])
    model._metadata = OrderedDict([("", {"version": 1})])
    moment = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}
    lightning = {
        "epoch": 1,
        "best": np.float64(0.5),
        "dtype": torch.float16,
        "size": torch.Size([2]),
        "hyper_parameters": argparse.Namespace(lr=1e-4, channels=(1, 2)),
        "callbacks": {"checkpoint": {"score": torch.tensor(0.25), "path": None}},
        "optimizer_states": [{"state": {0: moment}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
        "state_dict": model,
    }
    torch.save(lightning, "lightning.ckpt")
    torch.save(lightning, "lightning_legacy.ckpt", _use_new_zipfile_serialization=False)
    two = {"net": {"w": torch.tensor([1.0])}, "ema": {"params": {"w": torch.tensor([2.0])}}, "step": 3}
    torch.save(two, "two.pth")
    torch.save({"model": {"module.w": torch.tensor([5.0])}, "epoch": 3}, "one.pth")
    torch.save(torch.nn.Linear(1, 1), "module.pth")
    torch.save({"z": torch.tensor([1j])}, "complex.pth")

    kinds = {str(t.dtype): t.dtype for t in all_kinds.values()}
    assert len(kinds) == 10
    expected = {
        name: {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": list(t.shape),
            "values": t.detach().to(torch.float64).flatten().tolist(),
        }
        for name, t in all_kinds.items()
    }
    with open("expected.json", "w") as f:
        json.dump(expected, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
