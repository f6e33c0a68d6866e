"""Noise, schedules, schedulers and guidance: torch and diffusers."""

import itertools
from unittest import mock

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm

from .case import Case, Draw

SOURCE = f"diffusers {diffusers.__version__}"
KINDS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "ddim_inverse": diffusers.DDIMInverseScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
FRACTIONAL = ("euler", "heun")
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.7}
V = {"prediction_type": "v_prediction"}
X0 = {"prediction_type": "sample"}
OWN_KEYS = ("kind", "num_inference_steps", "eta", "t_start")


def scheduler(config):
    return KINDS[config["kind"]](**{k: v for k, v in config.items() if k not in OWN_KEYS})


# name, seed, shape
NOISE = [
    ("one", 0, [1]),
    ("scalar_path_odd", 7, [3, 5]),
    ("sixteen", 42, [16]),
    ("seventeen", 42, [17]),
    ("ragged", 2024, [2, 3, 7, 11]),
    ("aligned", 1, [1, 4, 8, 8]),
    ("large", 31337, [2, 3, 37, 53]),
    ("seed_above_32_bits", 2**32 + 123, [2, 1, 5, 5]),
    ("seed_largest", 2**63 - 1, [5, 3]),
]


def torch_randn():
    for name, seed, shape in NOISE:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        source = f"torch {torch.__version__}"
        yield Case("rng.torch_randn", name, {"seed": seed, "shape": shape}, {"out.x": x}, source, 1e-6, 1e-6)


# beta_schedule, beta_start, beta_end, num_train_timesteps
BETAS = [
    ("linear", 0.0001, 0.02, 1000),
    ("linear", 0.01, 0.05, 37),
    ("scaled_linear", 0.00085, 0.012, 1000),
    ("scaled_linear", 0.0015, 0.0195, 250),
    ("squaredcos_cap_v2", 0.0001, 0.02, 1000),
    ("squaredcos_cap_v2", 0.0001, 0.02, 61),
    ("sigmoid", 0.0001, 0.02, 1000),
    ("sigmoid", 0.001, 0.03, 113),
]


def betas():
    for (kind, start, end, steps), rescale in itertools.product(BETAS, (False, True)):
        config = {
            "beta_schedule": kind,
            "beta_start": start,
            "beta_end": end,
            "num_train_timesteps": steps,
            "rescale_betas_zero_snr": rescale,
        }
        s = diffusers.DDPMScheduler(**config)
        tensors = {"out.betas": s.betas, "out.alphas_cumprod": s.alphas_cumprod}
        name = f"{kind}_{steps}" + ("_zero_snr" if rescale else "")
        # diffusers computes in f32, where 1 - alpha loses digits after the rescaling.
        yield Case("schedule.betas", name, config, tensors, SOURCE, 1e-5, 2e-6 if rescale else 1e-7)


# num_train_timesteps, num_inference_steps, steps_offset
LISTS = [(1000, 50, 1), (1000, 7, 0), (600, 37, 2), (250, 250, 0)]
# Karras sigmas make their own time steps, by interpolation in a single-precision table of logarithms.
KARRAS = [("euler", 9), ("heun", 6), ("dpmpp_2m", 12), ("unipc", 8)]


def spacings(kind):
    return ("leading", "trailing") if kind == "ddim_inverse" else ("leading", "trailing", "linspace")


def timesteps():
    for kind in KINDS:
        for spacing, (train, steps, offset) in itertools.product(spacings(kind), LISTS):
            if train == steps and kind in ("dpmpp_2m", "unipc"):
                continue  # diffusers makes a list of zeros: 250 // 251
            config = {"kind": kind, "num_train_timesteps": train, "timestep_spacing": spacing}
            config |= {"steps_offset": offset, "num_inference_steps": steps}
            if train == steps:
                config["steps_offset"] = 0
            if kind == "pndm":
                config["skip_prk_steps"] = True
            yield timestep_case(f"{kind}_{spacing}_{train}_{steps}", config)
    for kind, steps in KARRAS:
        config = {"kind": kind, "use_karras_sigmas": True, "num_inference_steps": steps} | STABLE_DIFFUSION
        yield timestep_case(f"{kind}_karras_{steps}", config)


def timestep_case(name, config):
    s = scheduler(config)
    s.set_timesteps(config["num_inference_steps"])
    exact = s.timesteps.dtype == torch.int64 or (s.timesteps == s.timesteps.round()).all()
    tolerance = (0, 0) if exact else (1e-6, 1e-2 if config.get("use_karras_sigmas") else 1e-6)
    return Case(
        "scheduler.timesteps", name, config, {"out.timesteps": s.timesteps.float()}, SOURCE, *tolerance
    )


# name, kind, steps, extra configuration (eta and t_start among it)
ROLLOUTS = [
    ("defaults", "ddpm", 7, {}),
    ("fixed_small_log", "ddpm", 9, {"variance_type": "fixed_small_log", "clip_sample": False}),
    ("fixed_large", "ddpm", 6, {"variance_type": "fixed_large", **STABLE_DIFFUSION, "clip_sample": False}),
    ("v_trailing", "ddpm", 8, {**V, "timestep_spacing": "trailing", "clip_sample_range": 2.0}),
    ("sample_threshold", "ddpm", 5, {**X0, **THRESHOLD, "beta_schedule": "squaredcos_cap_v2",
                                    "steps_offset": 1}),
    ("offset", "ddpm", 6, {"steps_offset": 1, "variance_type": "fixed_large", "beta_end": 0.03}),
    ("start", "ddpm", 11, {"t_start": 4, "timestep_spacing": "linspace"}),
    ("zero_snr", "ddpm", 10, {**ZERO_SNR, "clip_sample": False}),
    ("defaults", "ddim", 10, {}),
    ("stable_diffusion", "ddim", 13, {**STABLE_DIFFUSION, "clip_sample": False, "set_alpha_to_one": False,
                                     "steps_offset": 1}),
    ("eta", "ddim", 7, {"eta": 1.0}),
    ("eta_v", "ddim", 6, {"eta": 0.35, **V, "clip_sample": False, "timestep_spacing": "trailing"}),
    ("sample_alpha0", "ddim", 9, {**X0, "set_alpha_to_one": False, "clip_sample": False, "beta_start": 0.01}),
    ("threshold", "ddim", 8, {**THRESHOLD, "timestep_spacing": "linspace"}),
    ("start_eta", "ddim", 9, {"t_start": 3, "eta": 0.7, **STABLE_DIFFUSION, "clip_sample": False}),
    ("zero_snr", "ddim", 7, {**ZERO_SNR, "clip_sample": False, "eta": 0.5}),
    ("short_chain", "ddim", 20, {"num_train_timesteps": 137, "clip_sample_range": 1.5, "beta_end": 0.1}),
    ("defaults", "ddim_inverse", 10, {}),
    ("stable_diffusion", "ddim_inverse", 12, {**STABLE_DIFFUSION, "clip_sample": False,
                                             "set_alpha_to_one": False, "steps_offset": 1}),
    ("v_trailing", "ddim_inverse", 7, {**V, "timestep_spacing": "trailing", "clip_sample": False}),
    ("sample", "ddim_inverse", 6, {**X0, "set_alpha_to_one": False, "clip_sample_range": 2.5}),
    ("start", "ddim_inverse", 9, {"t_start": 2, "clip_sample": False}),
    ("defaults", "pndm", 10, {}),
    ("alpha_to_one", "pndm", 10, {"set_alpha_to_one": True, "beta_start": 0.01}),
    ("stable_diffusion", "pndm", 25, {**STABLE_DIFFUSION, "steps_offset": 1}),
    ("v", "pndm", 8, {**V, **STABLE_DIFFUSION, "timestep_spacing": "linspace"}),
    ("trailing_two", "pndm", 2, {**STABLE_DIFFUSION, "timestep_spacing": "trailing"}),
    ("start_duplicate", "pndm", 12, {"t_start": 1, **STABLE_DIFFUSION, "steps_offset": 1}),
    ("start_after_duplicate", "pndm", 12, {"t_start": 5, **STABLE_DIFFUSION, "steps_offset": 1}),
    ("defaults", "euler", 10, {}),
    ("stable_diffusion", "euler", 9, {**STABLE_DIFFUSION, "timestep_spacing": "leading", "steps_offset": 1}),
    ("v_trailing", "euler", 7, {**V, "timestep_spacing": "trailing"}),
    ("sample", "euler", 6, {**X0, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading",
                           "steps_offset": 1}),
    ("karras", "euler", 8, {**STABLE_DIFFUSION, "use_karras_sigmas": True}),
    ("sigma_min", "euler", 5, {"final_sigmas_type": "sigma_min"}),
    ("start", "euler", 11, {"t_start": 4, **STABLE_DIFFUSION}),
    ("zero_snr", "euler", 9, ZERO_SNR),
    ("defaults", "heun", 7, {}),
    ("v_leading", "heun", 6, {**V, **STABLE_DIFFUSION, "timestep_spacing": "leading", "steps_offset": 1}),
    ("sample_clip", "heun", 5, {**X0, "clip_sample": True, "timestep_spacing": "trailing"}),
    ("clip_range", "heun", 8, {"clip_sample": True, "clip_sample_range": 3.0, "beta_end": 0.02}),
    ("karras", "heun", 6, {**STABLE_DIFFUSION, "use_karras_sigmas": True}),
    ("start", "heun", 8, {"t_start": 3}),
    ("defaults", "dpmpp_2m", 10, {}),
    ("stable_diffusion", "dpmpp_2m", 20, {**STABLE_DIFFUSION, "timestep_spacing": "leading",
                                         "steps_offset": 1}),
    ("v_trailing", "dpmpp_2m", 7, {**V, "timestep_spacing": "trailing"}),
    ("sample_threshold", "dpmpp_2m", 6, {**X0, **THRESHOLD}),
    ("heun_solver", "dpmpp_2m", 8, {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("not_lower_final", "dpmpp_2m", 9, {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
    ("euler_at_final", "dpmpp_2m", 17, {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
    ("first_order", "dpmpp_2m", 5, {"solver_order": 1}),
    ("third_order", "dpmpp_2m", 16, {"solver_order": 3}),
    ("karras", "dpmpp_2m", 12, {**STABLE_DIFFUSION, "use_karras_sigmas": True}),
    ("start", "dpmpp_2m", 11, {"t_start": 4, **STABLE_DIFFUSION}),
    ("zero_snr", "dpmpp_2m", 9, ZERO_SNR),
    ("defaults", "unipc", 10, {}),
    ("stable_diffusion", "unipc", 20, {**STABLE_DIFFUSION, "timestep_spacing": "leading", "steps_offset": 1}),
    ("v_trailing", "unipc", 7, {**V, "timestep_spacing": "trailing"}),
    ("sample_threshold", "unipc", 6, {**X0, **THRESHOLD}),
    ("bh1", "unipc", 8, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("third_order", "unipc", 9, {"solver_order": 3}),
    ("predict_noise", "unipc", 8, {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    ("not_lower_final", "unipc", 7, {"lower_order_final": False, "final_sigmas_type": "sigma_min"}),
    ("no_corrector", "unipc", 6, {"disable_corrector": [0, 2]}),
    ("karras", "unipc", 9, {**STABLE_DIFFUSION, "use_karras_sigmas": True}),
    ("start", "unipc", 11, {"t_start": 4, **STABLE_DIFFUSION}),
]
SHAPES = [(2, 3, 5, 7), (3, 1, 6, 5), (2, 2, 9, 4)]


def rollout():
    for i, (name, kind, steps, extra) in enumerate(ROLLOUTS):
        config = {"kind": kind, "num_train_timesteps": 1000, "num_inference_steps": steps} | extra
        if kind == "pndm":
            config["skip_prk_steps"] = True
        yield rollout_case(f"{kind}_{name}", config, SHAPES[i % len(SHAPES)])


def rollout_case(name, config, shape):
    s, eta, start = scheduler(config), config.get("eta", 0.0), config.get("t_start", 0)
    s.set_timesteps(config["num_inference_steps"])
    # As the img2img pipelines do: t_start counts solver steps, of which Heun's have two entries.
    first = start * s.order
    if hasattr(s, "set_begin_index"):
        s.set_begin_index(first)
    steps = s.timesteps[first:]
    draw = Draw("scheduler.rollout", name)
    x = draw.normal(*shape) * s.init_noise_sigma
    noise, drawn = draw.normal(len(steps), *shape), set()
    tensors = {"in.sample": x}
    options = {"eta": eta} if config["kind"] == "ddim" else {}
    for i, t in enumerate(steps):

        def given(*_args, **_kwargs):
            drawn.add(i)
            return noise[i]

        out = s.scale_model_input(x, t) * t / (t + 1)
        with mock.patch.multiple(scheduling_ddim, randn_tensor=given), mock.patch.multiple(
            scheduling_ddpm, randn_tensor=given
        ):
            x = s.step(out, t, x, **options).prev_sample
    if not x.isfinite().all():
        raise ValueError(f"{name}: the reference is not finite")
    if drawn:
        unused = [i for i in range(len(steps)) if i not in drawn]
        noise[unused] = 0
        tensors["in.noise"] = noise
    return Case("scheduler.rollout", name, config, tensors | {"out.sample": x}, SOURCE, 2e-4, 2e-4)


# name, kind, extra configuration
NOISING = [
    ("defaults", "ddpm", {}),
    ("cosine", "ddpm", {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 150}),
    ("zero_snr", "ddim", {"rescale_betas_zero_snr": True}),
    ("stable_diffusion", "ddim", STABLE_DIFFUSION),
    ("stable_diffusion", "pndm", STABLE_DIFFUSION | {"skip_prk_steps": True}),
    ("defaults", "euler", {}),
    ("cosine", "euler", {"beta_schedule": "squaredcos_cap_v2"}),
    ("defaults", "heun", {}),
    ("stable_diffusion", "dpmpp_2m", STABLE_DIFFUSION),
    ("defaults", "unipc", {}),
]


def add_noise():
    for i, (name, kind, extra) in enumerate(NOISING):
        name = f"{kind}_{name}"
        config = {"kind": kind, "num_train_timesteps": 1000} | extra
        last = config["num_train_timesteps"] - 1
        s, draw, shape = scheduler(config), Draw("scheduler.add_noise", name), (5,) + SHAPES[i % len(SHAPES)][1:]
        x0, noise = draw.normal(*shape), draw.normal(*shape)
        steps = torch.cat([torch.tensor([0, last, 1]), draw.integers(0, last, 2)])
        steps = steps.float() if kind in FRACTIONAL else steps
        tensors = {"in.x0": x0, "in.noise": noise, "in.timesteps": steps, "out.x": s.add_noise(x0, noise, steps)}
        yield Case("scheduler.add_noise", name, config, tensors, SOURCE, 1e-5, 1e-5)


# scale, rescale, shape
GUIDANCE = [
    (7.5, 0.0, (2, 3, 7, 5)),
    (3.25, 0.7, (3, 2, 5, 9)),
    (1.5, 1.0, (1, 4, 3, 11)),
    (1.0, 0.0, (2, 1, 4, 4)),
]


def cfg():
    for scale, rescale, shape in GUIDANCE:
        name = f"scale_{scale:g}_rescale_{rescale:g}"
        draw = Draw("guidance.cfg", name)
        uncond, cond = draw.normal(*shape), draw.normal(*shape)
        x = uncond + scale * (cond - uncond)
        if rescale > 0:
            x = rescale_noise_cfg(x, cond, rescale)
        tensors = {"in.uncond": uncond, "in.cond": cond, "out.x": x}
        yield Case("guidance.cfg", name, {"scale": scale, "rescale": rescale}, tensors, SOURCE, 1e-5, 1e-5)


OPS = [torch_randn, betas, timesteps, rollout, add_noise, cfg]
