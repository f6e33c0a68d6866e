"""Exponential time-step spacing of Park et al. 2024, for which there is no library.

With delta = T^(1/(steps + gamma)) (Eq. 12, 13), Eq. 14 is p_t = T - delta^(t + gamma). The late schedule is |p_t - T|,
visited downwards. The presets differ in the points they take and in how they make integers of them:

paper      the equations as printed, truncated: early p_t for t = 0 .. steps-1, late delta^(t + gamma) for
           t = steps .. 1, so that both leave out the point at which the sampler arrives. T itself, which no model
           knows, becomes T - 1.
released   the authors' published code, which truncates the power and not p_t: late as above, early T - 1 and then
           T - floor(delta^(t + gamma)) for t = 1 .. steps-1. With gamma = 0 that code spaces uniformly: no case.
careful    the curve stretched to [0, T-1], so that it starts at T - 1 and ends at 0 as the paper's text says,
           rounded, and spread where rounding would give a step twice.
"""

import itertools
import math

import torch

from .case import Case

# T, steps, gamma
SETTINGS = [(1000, 30, 60), (1000, 20, 5), (250, 13, 30), (1000, 50, 0)]
# A power that is an integer, such as 1000^(60/90), must not fall to the next one by a rounding error.
SLACK = 1e-9


def powers(total, steps, gamma):
    """delta^(t + gamma) for t = 0 .. steps."""
    delta = math.exp(math.log(total) / (steps + gamma))
    return [delta ** (t + gamma) for t in range(steps + 1)]


def paper(total, steps, gamma, stage):
    p = powers(total, steps, gamma)
    points = [total - v for v in p[:-1]] if stage == "early" else p[:0:-1]
    return [min(math.floor(v + SLACK * total), total - 1) for v in points]


def released(total, steps, gamma, stage):
    # Plain truncation of this very expression: at an exact integer the rounding error decides, as it does there.
    delta = math.e ** (math.log(total) / (steps + gamma))
    q = [int(delta ** (t + gamma)) for t in range(1, steps + 1)]
    if stage == "early":
        return [total - 1] + [total - v for v in q[:-1]]
    return [min(v, total - 1) for v in reversed(q)]


def careful(total, steps, gamma, stage):
    p = powers(total, steps, gamma)[:-1]
    rise = [(v - p[0]) / (p[-1] - p[0]) for v in p]
    share = [1 - r for r in rise] if stage == "early" else rise[::-1]
    points = [math.floor((total - 1) * s + 0.5) for s in share]
    for i in range(1, steps):
        points[i] = min(points[i], points[i - 1] - 1)
    for i in range(steps):
        points[i] = max(points[i], steps - 1 - i)
    return points


PRESETS = {
    "paper": (paper, "Park et al. 2024, Eq. 12-14"),
    "released": (released, "ian-jihoonpark/X-Diffusion"),
    "careful": (careful, "Park et al. 2024, stretched to [0, T-1]"),
}


def exponential():
    for preset, stage, setting in itertools.product(PRESETS, ("early", "late"), SETTINGS):
        if preset == "released" and setting[2] == 0:
            continue
        make, source = PRESETS[preset]
        config = dict(zip(("T", "steps", "gamma"), setting)) | {"stage": stage, "preset": preset}
        points = make(*setting, stage)
        name = f"{preset}_{stage}_{'_'.join(map(str, setting))}"
        tensors = {"out.timesteps": torch.tensor(points, dtype=torch.float32)}
        yield Case("spacing.exponential", name, config, tensors, source, 0, 0)


OPS = [exponential]
