"""The workloads of the U-Net bench in PyTorch, driven line by line like `unet --serve`.

    python torch_side.py '{"name": …, "unet": {…}, "batch": 8, "size": 64, "work": {"kind": "forward"}}'

runs the workload once and then, for each line of its input, as often as the line says; each answer
is a line of JSON. With `peak` instead of a workload it prints the rate of a large matrix product.
"""

import json
import os
import resource
import sys
import time

import torch
from diffusers import DDIMScheduler, UNet2DModel

SIDE = 2048
PRODUCTS = 12


def peak():
    """GFLOP/s of the fastest of several products of square matrices."""
    a, b = torch.ones(SIDE, SIDE), torch.full((SIDE, SIDE), 0.5)
    c = torch.empty(SIDE, SIDE)
    times = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        torch.mm(a, b, out=c)
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(times) / 1e9


def prepare(workload):
    """The workload as a function, and how many parameters its network has."""
    torch.manual_seed(0)
    config, kind = workload["unet"], workload["work"]["kind"]
    layout = torch.channels_last if workload.get("channels_last") else torch.contiguous_format
    model = UNet2DModel(**config).to(memory_format=layout).train(kind == "train")

    def images(channels):
        return torch.randn(workload["batch"], channels, workload["size"], workload["size"])

    x, target = images(config["out_channels"]), images(config["out_channels"])
    extra = config["in_channels"] - config["out_channels"]
    condition = images(extra) if extra else None
    t = torch.full((workload["batch"],), 500)

    def predict(x, t):
        if condition is not None:
            x = torch.cat([x, condition], 1)
        return model(x.to(memory_format=layout), t, return_dict=False)[0]

    if kind == "train":
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def run():
            loss = torch.nn.functional.mse_loss(predict(x, t), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    elif kind == "sample":
        scheduler = DDIMScheduler()

        @torch.inference_mode()
        def run():
            scheduler.set_timesteps(workload["work"]["steps"])
            sample = torch.randn_like(x)
            for step in scheduler.timesteps:
                sample = scheduler.step(predict(sample, step), step, sample).prev_sample

    else:

        @torch.inference_mode()
        def run():
            predict(x, t)

    return run, sum(p.numel() for p in model.parameters())


def serve(workload):
    run, parameters = prepare(workload)

    def answer(runs):
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        machine = {
            "threads": torch.get_num_threads(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps({"ms": times, "parameters": parameters, "machine": machine}), flush=True)

    answer(1)
    for line in sys.stdin:
        answer(int(line))


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if sys.argv[1] == "peak":
        print(f"{peak():.1f}")
    else:
        serve(json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
