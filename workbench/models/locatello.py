"""The convolutional encoder and decoder in which most work on disentanglement compares its objectives, for images of any side.

The encoder halves the image until 3 to 5 pixels are left, 4 of 64, through ``width, width, 2 width, 2 width ...`` channels; then
comes a layer of ``hidden`` numbers. The decoder is its mirror. There is no normalisation of batches.

References:
    Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations (Locatello et al., 2019),
    https://arxiv.org/abs/1811.12359, and their code, https://github.com/google-research/disentanglement_lib
    Their encoder's filters are 4 pixels wide in the first two layers and 2 in the others, and in Roth et al. (2023) 4 in all.
"""

from itertools import pairwise

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

__all__ = ["Locatello", "LocatelloDecoder"]


class Locatello(nn.Module):
    """Images (B, C, size, size) to representations (B, hidden), through ``stage1``, ``stage2`` ... and ``full``.

    Arguments:
        size: Side of the images in pixels.
        width: Channels of the first two stages; the later have twice as many.
        hidden: Width of the representation, kept in ``out``.
        channels: Of the images.
        deep_filter: Side of the filters from the third stage on, 2 or 4.

    At 64 pixels the defaults are Locatello et al.'s; ``width=16, hidden=128`` at 32 is for processors.

    Raises:
        ValueError: If the image cannot be halved, or a number is too small.

    Example:
        >>> Locatello()(torch.ones(2, 3, 64, 64)).shape
        torch.Size([2, 256])
    """

    def __init__(self, size: int = 64, *, width: int = 32, hidden: int = 256, channels: int = 3, deep_filter: int = 2) -> None:
        super().__init__()
        if deep_filter not in (2, 4):
            raise ValueError(f"filters that halve an image exactly are 2 or 4 pixels wide, but deep_filter is {deep_filter}")
        self.size, self.width, self.hidden, self.channels, self.deep_filter = size, width, hidden, channels, deep_filter
        left, widths = halvings(size, width)
        for i, (a, b) in enumerate(pairwise([channels, *widths]), 1):
            side = 4 if i <= 2 else deep_filter
            self.add_module(f"stage{i}", nn.Sequential(nn.Conv2d(a, b, side, stride=2, padding=side // 2 - 1), nn.ReLU()))
        self.full = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * left**2, hidden), nn.ReLU())
        as_tensorflow(self)
        self.out, self.stages = hidden, [f"stage{i}" for i in range(1, len(widths) + 1)]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        for part in self.children():
            x = part(x)
        return x


class LocatelloDecoder(nn.Module):
    """Codes (B, latents) to images (B, channels, size, size), as logits: their sigmoid is a pixel in [0, 1].

    Arguments:
        latents: Dimensions of a code.
        size, width, hidden, channels: As of :class:`Locatello`, whose mirror it is.

    Example:
        >>> LocatelloDecoder(10, 32)(torch.ones(2, 10)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, latents: int = 10, size: int = 64, *, width: int = 32, hidden: int = 256, channels: int = 3) -> None:
        super().__init__()
        self.latents, self.size, self.width, self.hidden, self.channels = latents, size, width, hidden, channels
        left, widths = halvings(size, width)
        self.full = nn.Sequential(
            nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, widths[-1] * left**2), nn.ReLU(),
            nn.Unflatten(1, (widths[-1], left, left)),
        )  # fmt: skip
        up = []
        for a, b in pairwise([*widths[::-1], channels]):
            up += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.ReLU()]
        self.up = nn.Sequential(*up[:-1])
        as_tensorflow(self)

    def forward(self, z: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        return self.up(self.full(z))


def as_tensorflow(net: nn.Module) -> None:
    """Begins with Glorot's weights, as the authors' library does; torch's own are smaller, and codes stay near 0 for long."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def halvings(size: int, width: int) -> tuple[int, list[int]]:
    """Returns the side that is left when an image is halved while 3 pixels stay, and the channels of every stage."""
    left, stages = size, 0
    while left % 2 == 0 and left >= 6:
        left, stages = left // 2, stages + 1
    if not stages or width < 1:
        raise ValueError(f"an image that can be halved has an even side of at least 6 pixels, but size={size}, width={width}")
    return left, [width * (1 if i < 2 else 2) for i in range(stages)]
