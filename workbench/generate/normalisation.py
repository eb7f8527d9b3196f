r"""A UNet whose residual blocks are told of a representation by conditional batch normalisation, as the paper describes it.

Where other denoisers normalise groups of channels of an image, every residual block has, twice,

.. math:: y = \frac{x - \mu_c}{\sqrt{\sigma_c^2 + 10^{-5}}} \, (1 + W_s \, c + b_s) + W_b \, c + b_b

with mean and variance of each channel over the batch and space in training, and their running averages while drawing, so that an
image does not depend on those that it is drawn beside; c is the representation, mapped to 512 numbers. Time enters as elsewhere,
by scale and shift behind the second of the two.

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, 2022),
    https://arxiv.org/abs/2112.09164. The released code and weights do otherwise, see :mod:`workbench.generate.conditioning`.
    A Learned Representation for Artistic Style (Dumoulin, Shlens and Kudlur, 2017), https://arxiv.org/abs/1610.07629
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from jaxtyping import Float
from torch import Tensor

__all__ = ["BatchNormUNet"]


class BatchNormUNet(ModelMixin, ConfigMixin):
    """A ``UNet2DModel`` with :class:`ConditionalBatchNorm` in place of GroupNorm in every residual block.

    Arguments:
        sample_size, in_channels, out_channels, block_out_channels, layers_per_block, norm_num_groups: As of ``UNet2DModel``;
            groups are left in attention and before the last convolution.
        attention: How many of the last levels, and the middle, attend over space too.
        condition: Width of c.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int = 1,
        norm_num_groups: int = 32,
        attention: int = 0,
        condition: int = 512,
    ) -> None:
        super().__init__()
        plain = len(block_out_channels) - attention
        self.unet = UNet2DModel(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attention,
            up_block_types=("AttnUpBlock2D",) * attention + ("UpBlock2D",) * plain,
            add_attention=attention > 0,
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=norm_num_groups,
            resnet_time_scale_shift="scale_shift",
        )
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            for i, was in enumerate(block.resnets):
                block.resnets[i] = _ConditionalBlock(was, condition)

    @property
    def mid_block(self) -> nn.Module:
        """The middle of the network."""
        return self.unet.mid_block

    def forward(self, sample: Float[Tensor, "b c h w"], timestep: Tensor, class_labels: Float[Tensor, "b w"]) -> UNet2DOutput:
        """Returns what is said of noisy images, each given its condition, as ``UNet2DModel`` does of classes."""
        net = self.unet
        time = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        told = torch.cat([net.time_embedding(net.time_proj(time).to(sample.dtype)), class_labels], 1)
        x = net.conv_in(sample)
        skipped = (x,)
        for block in net.down_blocks:
            x, more = block(x, told)
            skipped += more
        x = net.mid_block(x, told)
        for block in net.up_blocks:
            count = len(block.resnets)
            x = block(x, skipped[-count:], told)
            skipped = skipped[:-count]
        return UNet2DOutput(sample=net.conv_out(net.conv_act(net.conv_norm_out(x))))


class ConditionalBatchNorm(nn.Module):
    """Normalises maps (B, C, H, W) over batch and space, then scales and shifts each channel as c (B, ``condition``) says."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.said = nn.Linear(condition, 2 * channels)

    def forward(self, x: Float[Tensor, "b k h w"], c: Float[Tensor, "b w"]) -> Float[Tensor, "b k h w"]:
        """Returns y of the equation above."""
        scale, shift = self.said(c)[:, :, None, None].chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


class _ConditionalBlock(nn.Module):
    """A residual block like ``was``, told of time and condition side by side, (B, time + condition)."""

    def __init__(self, was: ResnetBlock2D, condition: int) -> None:
        super().__init__()
        self.widths = (was.time_emb_proj.in_features, condition)
        self.norm1, self.norm2 = (ConditionalBatchNorm(n.num_channels, condition) for n in (was.norm1, was.norm2))
        self.conv1, self.conv2, self.time_emb_proj, self.act = was.conv1, was.conv2, was.time_emb_proj, nn.SiLU()
        self.conv_shortcut = was.conv_shortcut or nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        time, c = told.split(self.widths, 1)
        scale, shift = self.time_emb_proj(self.act(time))[:, :, None, None].chunk(2, 1)
        h = self.conv1(self.act(self.norm1(x, c)))
        h = self.conv2(self.act(self.norm2(h, c) * (1 + scale) + shift))
        return self.conv_shortcut(x) + h
