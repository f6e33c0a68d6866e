"""Networks with synthetic weights: diffusers."""

import diffusers
import torch

from .case import Case, Draw, fill, scaled_atol

SOURCE = f"diffusers {diffusers.__version__}"

# Three levels; the lowest has odd sides. Sine before cosine, one frequency fewer.
PLAIN = {
    "sample_size": [20, 28],
    "in_channels": 2,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [16, 24, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "dropout": 0.0,
}
CLASSES = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": [16, 32],
    "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
    "attention_head_dim": None,
    "norm_num_groups": 4,
    "norm_eps": 1e-6,
    "resnet_time_scale_shift": "scale_shift",
    "num_class_embeds": 5,
}
RESNET_SAMPLERS = {
    "in_channels": 1,
    "out_channels": 2,
    "layers_per_block": 1,
    "block_out_channels": [12, 24, 36],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 12,
    "norm_num_groups": 6,
    "add_attention": False,
    "mid_block_scale_factor": 1.4142135,
    "center_input_sample": True,
}
ASYMMETRIC_PADDING = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 2,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 16,
    "norm_num_groups": 8,
    "downsample_padding": 0,
    "act_fn": "gelu",
    "time_embedding_dim": 40,
    "freq_shift": 1,
    "mid_block_scale_factor": 2.0,
}
# One level has no skip sizes to match, so that any sides will do.
ONE_LEVEL = {
    "in_channels": 2,
    "out_channels": 2,
    "layers_per_block": 2,
    "block_out_channels": [24],
    "down_block_types": ["AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 3,
    "act_fn": "mish",
}
FOURIER = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "time_embedding_type": "fourier",
    "act_fn": "relu",
}
TIMESTEP_CLASSES = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [16, 32],
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    "norm_num_groups": 8,
    "class_embed_type": "timestep",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 4,
    "attention_head_dim": 16,
}
IDENTITY_CLASSES = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "class_embed_type": "identity",
}
LEARNED_TIME = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [16, 24],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "time_embedding_type": "learned",
    "num_train_timesteps": 60,
    "mid_block_type": None,
}

# name, configuration, batch, height, width
UNETS = [
    ("plain", PLAIN, 3, 20, 28),
    ("classes", CLASSES, 2, 14, 18),
    ("resnet_samplers", RESNET_SAMPLERS, 2, 20, 12),
    ("asymmetric_padding", ASYMMETRIC_PADDING, 2, 18, 26),
    ("one_level", ONE_LEVEL, 3, 13, 9),
    ("fourier", FOURIER, 2, 10, 14),
    ("timestep_classes", TIMESTEP_CLASSES, 2, 14, 10),
    ("identity_classes", IDENTITY_CLASSES, 3, 6, 10),
    ("learned_time", LEARNED_TIME, 2, 10, 6),
]


def unet_inputs(draw, config, batch, height, width):
    top = config.get("num_train_timesteps", 1000)
    inputs = {
        "in.sample": draw.normal(batch, config["in_channels"], height, width),
        "in.timestep": draw.integers(1, top, batch),
    }
    if config.get("time_embedding_type") == "fourier":
        inputs["in.timestep"] = inputs["in.timestep"].float() / 16  # a noise level, not an index
    if "num_class_embeds" in config:
        inputs["in.class_labels"] = draw.integers(0, config["num_class_embeds"], batch)
    elif config.get("class_embed_type") == "timestep":
        inputs["in.class_labels"] = draw.integers(0, 100, batch)
    elif config.get("class_embed_type") == "identity":
        inputs["in.class_labels"] = draw.normal(batch, 4 * config["block_out_channels"][0])
    return inputs


def unet(config):
    return fill(diffusers.UNet2DModel(**config))


def predict(model, inputs):
    return model(inputs["in.sample"], inputs["in.timestep"], inputs.get("in.class_labels")).sample


@torch.no_grad()
def unet2d_case(name, config, batch, height, width):
    inputs = unet_inputs(Draw("model.unet2d", name), config, batch, height, width)
    out = predict(unet(config), inputs)
    tensors = inputs | {"out.sample": out}
    return Case("model.unet2d", name, config, tensors, SOURCE, 1e-3, scaled_atol(1e-4, out), "synthetic")


def unet2d():
    return (unet2d_case(*row) for row in UNETS)


# name, configuration, batch, height, width, weights whose gradients are kept
GRADIENTS = [
    ("unet2d_plain", PLAIN, 2, 12, 20, [
        "conv_in.weight", "conv_in.bias", "time_embedding.linear_1.weight", "time_embedding.linear_2.bias",
        "down_blocks.0.resnets.0.norm1.weight", "down_blocks.0.resnets.0.time_emb_proj.weight",
        "down_blocks.0.downsamplers.0.conv.weight", "down_blocks.1.attentions.0.group_norm.bias",
        "down_blocks.1.attentions.0.to_q.weight", "down_blocks.1.attentions.0.to_k.bias",
        "mid_block.attentions.0.to_v.weight", "mid_block.resnets.1.norm2.bias",
        "up_blocks.1.attentions.1.to_out.0.weight", "up_blocks.2.resnets.1.conv_shortcut.weight",
        "up_blocks.1.upsamplers.0.conv.bias", "conv_norm_out.weight", "conv_out.weight",
    ]),
    ("unet2d_classes", CLASSES, 2, 10, 6, [
        "class_embedding.weight", "time_embedding.linear_1.bias", "time_embedding.linear_2.weight",
        "down_blocks.0.resnets.0.time_emb_proj.weight", "down_blocks.0.resnets.1.norm2.weight",
        "down_blocks.0.attentions.0.to_k.weight", "down_blocks.1.resnets.0.conv_shortcut.bias",
        "mid_block.attentions.0.to_q.weight", "mid_block.resnets.0.norm1.bias",
        "up_blocks.1.attentions.0.to_v.bias", "up_blocks.1.resnets.2.conv1.weight", "conv_out.bias",
    ]),
    ("unet2d_resnet_samplers", RESNET_SAMPLERS, 3, 12, 8, [
        "conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.downsamplers.0.conv1.weight",
        "down_blocks.0.downsamplers.0.norm1.weight", "down_blocks.1.downsamplers.0.time_emb_proj.bias",
        "down_blocks.1.attentions.0.to_out.0.bias", "mid_block.resnets.1.conv2.bias",
        "up_blocks.0.upsamplers.0.norm2.bias", "up_blocks.1.upsamplers.0.conv2.bias",
        "up_blocks.2.resnets.0.norm1.weight", "conv_norm_out.bias",
    ]),
    ("unet2d_asymmetric_padding", ASYMMETRIC_PADDING, 2, 10, 14, [
        "down_blocks.0.downsamplers.0.conv.weight", "down_blocks.0.resnets.1.conv2.bias",
        "down_blocks.1.attentions.1.group_norm.weight", "mid_block.attentions.0.to_out.0.weight",
        "time_embedding.linear_1.weight", "up_blocks.0.upsamplers.0.conv.bias", "conv_out.weight",
    ]),
]


def grads_case(name, config, batch, height, width, names):
    draw = Draw("loss.grads", name)
    inputs = unet_inputs(draw, config, batch, height, width)
    model = unet(config)
    out = predict(model, inputs)
    target = draw.normal(*out.shape)
    loss = ((out - target) ** 2).mean()
    loss.backward()
    weights = dict(model.named_parameters())
    kept = {f"out.grad.{n}": weights[n].grad for n in names}
    tensors = inputs | {"in.target": target, "out.loss": loss.reshape(1)} | kept
    config = {"model": "model.unet2d"} | config | {"names": names}
    atol = scaled_atol(1e-4, *kept.values())
    return Case("loss.grads", name, config, tensors, SOURCE, 1e-3, atol, "synthetic")


def loss_grads():
    return (grads_case(*row) for row in GRADIENTS)


OPS = [unet2d, loss_grads]
