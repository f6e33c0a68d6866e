"""The workloads of the benches in PyTorch, driven line by line like `serve --serve`.

    python torch_side.py [--channels-last]
    python torch_side.py --peak

Each line of the input is a workload as `serve --list` prints it, which is built, run once to warm up
and takes the place of the one before, or a number of runs; each is answered by a line of JSON. With
`--peak` it prints the rates of a large matrix product and a large copy.
"""

import argparse
import json
import os
import resource
import sys

import torch
from torch_metrics import prepare_metric
from torch_ops import converted, parameters, prepare_op, prepare_stack, tensor, timed
from torch_prototypes import prepare_push

SIDE = 2048
COPIED = 1 << 26
REPEATS = 12
FORMS = {"f32": torch.float32, "bf16": torch.bfloat16}


def fastest(work):
    return min(timed(work) for _ in range(REPEATS))


def peak():
    """Billions of operations a second in products of square matrices, of bytes in a copy."""

    def product(form):
        a, b = torch.ones(SIDE, SIDE, dtype=form), torch.full((SIDE, SIDE), 0.5, dtype=form)
        c = torch.empty(SIDE, SIDE, dtype=form)
        return 2 * SIDE**3 / fastest(lambda: torch.mm(a, b, out=c)) / 1e9

    source, target = torch.ones(COPIED), torch.zeros(COPIED)
    copy = 2 * 4 * COPIED / fastest(lambda: target.copy_(source)) / 1e9
    return {"gflops": product(FORMS["f32"]), "bf16_gflops": product(FORMS["bf16"]), "gbytes": copy}


def prepare_unet(work, form, layout):
    from diffusers import DDIMScheduler, UNet2DModel

    config, kind = work["unet"], work["run"]["kind"]
    model = converted(UNet2DModel(**config), form, layout).train(kind == "train")

    def images(channels):
        return tensor((work["batch"], channels, work["size"], work["size"]), form, layout)

    x, target = images(config["out_channels"]), images(config["out_channels"])
    extra = config["in_channels"] - config["out_channels"]
    condition = images(extra) if extra else None
    t = torch.full((work["batch"],), 500)

    def predict(x, t):
        if condition is not None:
            x = torch.cat([x, condition], 1)
        return model(x.contiguous(memory_format=layout), t, return_dict=False)[0]

    if kind == "train":
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        run = training(lambda: torch.nn.functional.mse_loss(predict(x, t), target), optimizer)
    elif kind == "sample":
        scheduler = DDIMScheduler()

        def sample():
            scheduler.set_timesteps(work["run"]["steps"])
            image = torch.randn_like(x)
            for step in scheduler.timesteps:
                image = scheduler.step(predict(image, step), step, image).prev_sample
            return image

        run = torch.inference_mode()(lambda: timed(sample))
    else:
        run = torch.inference_mode()(lambda: timed(lambda: predict(x, t)))
    return run, parameters(model)


# What auxiliary heads count in a loss.
AUXILIARY = 0.3


def prepare_vision(work, form, layout):
    import torchvision

    name, batch, size = work["architecture"], work["batch"], work["size"]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    model = converted(model, form, layout).train(work["run"] == "train")
    x = tensor((batch, 3, size, size), form, layout)
    if work["run"] == "forward":
        return torch.inference_mode()(lambda: timed(lambda: model(x))), parameters(model)
    labels = torch.randint(1000, (batch,))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def loss():
        logits = model(x)
        logits, auxiliary = (logits, ()) if torch.is_tensor(logits) else (logits[0], logits[1:])
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return loss + sum(AUXILIARY * torch.nn.functional.cross_entropy(a, labels) for a in auxiliary)

    return training(loss, optimizer), parameters(model)


def training(loss, optimizer):
    """A step of training as a function that returns seconds."""

    def step():
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return lambda: timed(step)


PREPARE = {
    "metric": prepare_metric,
    "op": prepare_op,
    "push": prepare_push,
    "stack": prepare_stack,
    "unet": prepare_unet,
    "vision": prepare_vision,
}


class Server:
    """Runs one workload after another."""

    def __init__(self, layout):
        self.layout = layout
        self.run = None
        self.parameters = 0

    def answer(self, request):
        if isinstance(request, int):
            return self.report(request)
        self.run = None
        torch.manual_seed(0)
        work = request["work"]
        self.run, self.parameters = PREPARE[work["kind"]](work, FORMS[request["precision"]], self.layout)
        return self.report(1)

    def report(self, runs):
        times = [self.run() * 1e3 for _ in range(runs)]
        machine = {
            "threads": torch.get_num_threads(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return {"ms": times, "parameters": self.parameters, "machine": machine}


def main():
    parser = argparse.ArgumentParser(description="Workloads in PyTorch, driven line by line.")
    parser.add_argument("--peak", action="store_true", help="print the peaks of the machine")
    parser.add_argument("--channels-last", action="store_true", help="keep images with channels last")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if args.peak:
        print(json.dumps(peak()))
        return
    server = Server(torch.channels_last if args.channels_last else torch.contiguous_format)
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
