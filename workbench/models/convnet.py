"""A small convolutional network that a laptop's processor trains in minutes.

Each stage halves the image and doubles the width: ``x -> ReLU(BN(conv3x3(x, stride 2)))``, from ``width`` channels to
``width * 2^(depth - 1)``; the representation is the mean over space. Almost all of the time of such a network goes into its
largest maps, hence the stride already in the first stage.
"""

from itertools import pairwise

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Images (B, C, H, W) to representations (B, D), through ``stage1``, ``stage2`` ...

    Arguments:
        width: Channels of the first stage; the representation has ``D = width * 2^(depth - 1)``, kept in ``out``.
        last: Channels of the last stage, and so D, in place of those.
        depth: Number of stages; images of 32 pixels are 2 pixels wide after four, images of 64 after five.
        channels: Of the images.
        residual_last: Whether one more stage follows, ``x -> ReLU(x + F(x))`` of the same width. DirectCLR needs it: the
            channels that its loss does not see learn through the residual connection alone (Jing et al., section 6).

    Example:
        >>> import torch
        >>> ConvNet()(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self, width: int = 16, *, last: int | None = None, depth: int = 4, channels: int = 3, residual_last: bool = False
    ) -> None:
        super().__init__()
        if min(width, depth, 1 if last is None else last) < 1:
            given = f"width={width}, depth={depth}, last={last}"
            raise ValueError(f"a ConvNet has a width, a depth and a last width of at least 1, but got {given}")
        self.width, self.last, self.depth, self.channels, self.residual_last = width, last, depth, channels, residual_last
        widths = [channels] + [width * 2**i for i in range(depth)]
        widths[-1] = last or widths[-1]
        for i, (a, b) in enumerate(pairwise(widths), 1):
            conv = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
            self.add_module(f"stage{i}", nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU()))
        if residual_last:
            self.add_module(f"stage{depth + 1}", Residual(widths[-1]))
        self.out = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.children():
            x = stage(x if isinstance(stage, Residual) else _two_wide(x))
        return x.mean((2, 3))


def _two_wide(x: Tensor) -> Tensor:
    """Returns maps of one pixel with a zero beside it, as the strided convolution, which pads with zeros, sees them anyway.

    On one pixel its bf16 gradient on CPUs (oneDNN, torch 2.15) holds whatever stood in memory for the weights beside the centre.
    """
    height, width = x.shape[2:]
    return F.pad(x, (0, width == 1, 0, height == 1)) if 1 in (height, width) else x


class Residual(nn.Module):
    """Returns ``ReLU(x + F(x))`` for ``x`` (B, D, H, W), with two convolutions in ``F`` and as many channels out as in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(inner)))
