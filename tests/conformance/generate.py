"""Makes the project's own conformance cases, or checks those that are there.

    python generate.py                 writes cases/
    python generate.py --check         makes them again and compares
    python generate.py --only metric   an op, or the beginning of its name
"""

import argparse
import json
import pathlib
import sys
import warnings

import torch

from reference import case as cases
from reference import lpips, metrics, models, proto, proto_faithfulness, proto_losses, schedules, spacing, vision

ROOT = pathlib.Path(__file__).parent / "cases"
FAMILIES = [schedules, spacing, models, metrics, vision, lpips, proto, proto_faithfulness, proto_losses]


def difference(case, path):
    """Why the file at `path` is not `case`, or None."""
    if not path.is_file():
        return "missing"
    meta, tensors = cases.read(path)
    wanted = case.metadata()
    loose = ("source", "atol")  # a version, and a number that follows the output's scale
    for key in wanted.keys() | meta.keys():
        a, b = wanted.get(key), meta.get(key)
        if key == "config" and b is not None:
            a, b = json.loads(a), json.loads(b)
        if key not in loose and a != b:
            return f"metadata {key}: {b} is written, {a} is wanted"
    if case.tensors.keys() != tensors.keys():
        return f"tensors {sorted(tensors)} are written, {sorted(case.tensors)} are wanted"
    for name, wanted in case.tensors.items():
        got = tensors[name]
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"{name} is {got.dtype} {tuple(got.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
        if not torch.allclose(got.double(), wanted.double(), case.rtol, case.atol, equal_nan=True):
            return f"{name} differs by {(got - wanted).abs().max().item():g}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the written cases, write nothing")
    parser.add_argument("--only", default="", help="beginning of the names of the ops to make")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    made, wrong = {}, 0
    for make in (make for family in FAMILIES for make in family.OPS):
        for case in make():
            if not case.op.startswith(args.only):
                continue
            path = case.path(ROOT)
            if path in made:
                sys.exit(f"two cases are called {case.op}/{case.name}")
            made[path] = case
            why = difference(case, path)
            if args.check and why:
                wrong += 1
                print(f"{case.op}/{case.name}: {why}")
            elif not args.check and why:
                cases.write(case, path)
    stray = [p for p in ROOT.rglob("*.safetensors") if p not in made and p.parent.name.startswith(args.only)]
    for path in stray:
        print(f"{path.relative_to(ROOT)}: made by no op")
    size = sum(p.stat().st_size for p in made if p.is_file())
    print(f"{len(made)} cases, {size / 1e6:.2f} MB" + (f", {wrong} differ" if args.check else ""))
    return 1 if wrong or (args.check and stray) else 0


if __name__ == "__main__":
    sys.exit(main())
