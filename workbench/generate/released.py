r"""The denoisers that the authors released, ``rcdm_ema_*.pt``, read into a pipeline.

Nine files, made for ResNet-50s, draw 128 pixels: of the trunk (2,048 numbers after the average) of a supervised network, DINO,
SimCLR, Barlow Twins and VICReg, and of the heads of the last four (256, 128, 8,192 and 8,192 numbers). They are not part of the
workbench and are licensed CC-BY-NC: not for commercial use. What they expect:

- the encoder is shown 224 pixels scaled to [-1, 1], mean and standard deviation .5, **not** those of ImageNet; otherwise the
  images are drawn of something else, without any error;
- representations are not standardised (mean 0, std 1), and none was ever withheld: there is no guidance;
- the network says noise and how much of it to add, in six channels. A ``DDPMScheduler`` whose ``variance_type`` is
  ``"learned_range"`` takes both, every other scheduler the noise alone.

The network is the ADM of guided diffusion, whose parts diffusers has under other names. Its attention has four heads at every
width, which shows in no shape; nor does the size of the images.

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, 2022),
    https://arxiv.org/abs/2112.09164, weights by https://github.com/facebookresearch/RCDM
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), https://arxiv.org/abs/2105.05233
"""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DOutput
from jaxtyping import Float
from torch import Tensor

from workbench.generate.conditioning import RepresentationProjector
from workbench.generate.rcdm import RCDMPipeline, scheduler_of

__all__ = ["ADMUNet", "read_released"]

PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # that the encoders were shown
SINGLE = {  # of the file, and of ours
    "time_embed.0": "unet.time_embedding.linear_1",
    "time_embed.2": "unet.time_embedding.linear_2",
    "input_blocks.0.0": "unet.conv_in",
    "out.0": "unet.conv_norm_out",
    "out.2": "unet.conv_out",
}
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": ("to_q", "to_k", "to_v"), "proj_out": "to_out.0"}


class ADMUNet(ModelMixin, ConfigMixin):
    """The network of guided diffusion: a ``UNet2DModel`` that resamples by residual blocks, with so many heads at every width.

    Arguments:
        sample_size, in_channels, out_channels, block_out_channels, layers_per_block, norm_num_groups: As of ``UNet2DModel``.
        attention: Whether each level attends over space; the middle always does.
        heads: Of every attention.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        attention: Sequence[bool],
        heads: int = 4,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if attends else "ResnetDownsampleBlock2D" for attends in attention),
            up_block_types=tuple("AttnUpBlock2D" if attends else "ResnetUpsampleBlock2D" for attends in reversed(attention)),
            downsample_type="resnet",
            upsample_type="resnet",
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=norm_num_groups,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        for part in self.unet.modules():
            if isinstance(part, Attention):
                part.heads, part.scale = heads, (part.inner_dim // heads) ** -0.5

    @property
    def mid_block(self) -> nn.Module:
        """The middle of the network."""
        return self.unet.mid_block

    @property
    def time_embedding(self) -> nn.Module:
        """What becomes of the time, and is added to what the network is told."""
        return self.unet.time_embedding

    def forward(self, sample: Float[Tensor, "b c h w"], timestep: Tensor, class_labels: Float[Tensor, "b w"]) -> UNet2DOutput:
        """Returns what is said of noisy images, as ``UNet2DModel``."""
        return self.unet(sample, timestep, class_labels=class_labels)


class Shape(NamedTuple):
    """What a file's tensors say of their network: D, channels in and out, filters and attention of every level, and depth."""

    features: int
    channels: int
    said: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int


def read_released(path: str | Path, *, image_size: int = 128, heads: int = 4) -> RCDMPipeline:
    """Reads a file of weights of the authors' code; nothing in it is executed. Draws by DDIM until given another scheduler.

    Arguments:
        path: The file; channels, levels, attention and the width of the representation are read off its tensors.
        image_size: In pixels, of what it was trained to draw.
        heads: Of its attention, ``num_heads`` in their settings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but the tensors of such a network; the message lists what is missing and what is unknown.

    Example:
        Images of DINO's trunk::

            pipe = wb.read_released("rcdm_ema_dino_trunk.pt")
            pipe(h, num_images_per_rep=8, num_inference_steps=100).images   # h (B, 2048), of 224 pixels in [-1, 1]

        As the authors drew, with the variance that the network says::

            pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    """
    held = _tensors(Path(path))
    shape = _shape(held, path)
    uneven = [width for width in shape.widths if width % heads or width % 32]
    if uneven:
        raise ValueError(f"{path}: widths of {heads} heads and 32 groups are multiples of both, but one is {uneven[0]}")
    unet = ADMUNet(image_size, shape.channels, shape.said, shape.widths, shape.layers, shape.attention, heads)
    projector = RepresentationProjector(shape.features, 4 * shape.widths[0], source=PIXELS)
    names = dict(_names(shape))
    read = dict(_renamed(held, names, heads))
    wanted = unet.state_dict() | {f"map.0.{kind}": value for kind, value in projector.map[0].state_dict().items()}
    _check_keys({k: v.shape for k, v in read.items()}, {k: v.shape for k, v in wanted.items()}, held, names, path)
    projector.map[0].load_state_dict({kind: read.pop(f"map.0.{kind}") for kind in ("weight", "bias")})
    unet.load_state_dict(read)
    return RCDMPipeline(unet.eval(), projector.eval(), scheduler_of("epsilon"), "epsilon", guided=False)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is no file of tensors alone, so it is not read; wanted one such as rcdm_ema_dino_trunk.pt"
        ) from error
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"{path} is no mapping of names to tensors; wanted a state dict such as rcdm_ema_dino_trunk.pt")
    return dict(held)


def _shape(held: Mapping[str, Tensor], path: str | Path) -> Shape:
    """Reads the settings off the tensors: a level's last block of the way up holds a second residual block, which resamples."""
    needed = [f"{name}.weight" for name in (*SINGLE, "ssl_emb", "output_blocks.0.0.in_layers.2")]
    missing = [name for name in needed if name not in held]
    if missing:
        raise ValueError(
            f"{path} is no denoiser of representations (a file such as rcdm_ema_dino_trunk.pt): it has no {', '.join(missing)}"
        )
    found = [int(m[1]) for name in held if (m := re.fullmatch(r"output_blocks\.(\d+)\.0\.in_layers\.2\.weight", name))]
    count = max(found) + 1
    resamples = [i for i in range(count) if any(f"output_blocks.{i}.{k}.in_layers.2.weight" in held for k in (1, 2))]
    each = resamples[0] + 1 if resamples else count
    first = [f"output_blocks.{i}" for i in range(0, count, each)]
    if count % each or any(f"{name}.0.in_layers.2.weight" not in held for name in first):
        raise ValueError(f"{path}: its {count} blocks on the way up are no levels of {each} blocks, of which the last resamples")
    widths = tuple(len(held[f"{name}.0.in_layers.2.weight"]) for name in reversed(first))
    if held["time_embed.0.weight"].shape[1] != widths[0]:
        raise ValueError(
            f"{path}: its time is told in {held['time_embed.0.weight'].shape[1]} numbers, but its first level has {widths[0]} "
            f"filters; only networks whose first channel_mult is 1 can be read"
        )
    return Shape(
        features=held["ssl_emb.weight"].shape[1],
        channels=held["input_blocks.0.0.weight"].shape[1],
        said=len(held["out.2.weight"]),
        widths=widths,
        attention=tuple(f"{name}.1.qkv.weight" in held for name in reversed(first)),
        layers=each - 1,
    )


def _names(shape: Shape) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Yields every layer of the file with the layer, or the three, that it is in ours."""

    def residual(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        yield from ((f"{theirs}.{a}", f"unet.{ours}.{b}") for a, b in RESIDUAL.items())

    def attention(theirs: str, ours: str) -> Iterator[tuple[str, str | tuple[str, ...]]]:
        for a, b in ATTENTION.items():
            yield f"{theirs}.{a}", tuple(f"unet.{ours}.{x}" for x in b) if isinstance(b, tuple) else f"unet.{ours}.{b}"

    yield from SINGLE.items()
    yield "ssl_emb", "map.0"
    block, last = 1, len(shape.widths) - 1
    for level, attends in enumerate(shape.attention):
        for i in range(shape.layers):
            yield from residual(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{i}")
            yield from attention(f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{i}") if attends else ()
            block += 1
        if level < last:
            yield from residual(f"input_blocks.{block}.0", f"down_blocks.{level}.downsamplers.0")
            block += 1
    yield from residual("middle_block.0", "mid_block.resnets.0")
    yield from attention("middle_block.1", "mid_block.attentions.0")
    yield from residual("middle_block.2", "mid_block.resnets.1")
    block = 0
    for up, attends in enumerate(reversed(shape.attention)):
        for i in range(shape.layers + 1):
            yield from residual(f"output_blocks.{block}.0", f"up_blocks.{up}.resnets.{i}")
            yield from attention(f"output_blocks.{block}.1", f"up_blocks.{up}.attentions.{i}") if attends else ()
            if i == shape.layers and up < last:
                yield from residual(f"output_blocks.{block}.{1 + attends}", f"up_blocks.{up}.upsamplers.0")
            block += 1


def _renamed(held: Mapping[str, Tensor], names: Mapping[str, str | tuple[str, ...]], heads: int) -> Iterator[tuple[str, Tensor]]:
    """Yields our name and tensor of what the file holds. Its attention is a convolution over one axis: each head's q, k and v."""
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            value = held.get(f"{theirs}.{kind}")
            if value is None:
                continue
            value = value.float()
            if theirs.endswith((".qkv", ".proj_out")) and value.ndim == 3:
                value = value.squeeze(-1)
            if isinstance(ours, str):
                yield f"{ours}.{kind}", value
                continue
            if len(value) % (3 * heads):
                raise ValueError(f"{theirs}.{kind} has {len(value)} rows, which are not q, k and v of {heads} heads; say heads=")
            each = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(1, 2)  # (3, width, ...)
            yield from zip((f"{name}.{kind}" for name in ours), each, strict=True)


def _check_keys(
    read: Mapping[str, torch.Size],
    wanted: Mapping[str, torch.Size],
    held: Mapping[str, Tensor],
    names: Mapping[str, str | tuple[str, ...]],
    path: str | Path,
) -> None:
    """Says, in the file's own names, what it lacks, what it has beside, and what has another shape."""
    theirs = {ours: name for name, places in names.items() for ours in ([places] if isinstance(places, str) else places)}
    said = lambda key: f"{theirs[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"  # noqa: E731
    missing = [said(key) for key in wanted if key not in read]
    unknown = [key for key in held if key.rpartition(".")[0] not in names]
    unlike = [said(key) for key in wanted.keys() & read.keys() if wanted[key] != read[key]]
    told = {"missing": missing, "unknown": unknown + [said(k) for k in read if k not in wanted], "of another shape": unlike}
    listed = "; ".join(f"{what} {_few(sorted(set(keys)))}" for what, keys in told.items() if keys)
    if listed:
        raise ValueError(f"{path} is no RCDM as released (resblock_updown, use_scale_shift_norm): {listed}")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
