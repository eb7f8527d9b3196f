"""The residual network of 18 layers, with the stem of ImageNet or the one for small images.

Four stages of two blocks, ``x -> ReLU(s(x) + F(x))`` with two 3x3 convolutions in ``F``; each stage but the first halves the
image and doubles the width, and ``s`` is then a strided 1x1 convolution. Parameters bear torchvision's names: its weights load.

References:
    Deep residual learning for image recognition (He et al., 2016), https://arxiv.org/abs/1512.03385
    The stem for 32-pixel images: SimCLR (Chen et al., 2020), appendix B.9, https://arxiv.org/abs/2002.05709
    Blocks that start as the identity: Goyal et al. (2017), section 5.1, https://arxiv.org/abs/1706.02677
"""

from typing import Literal

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ResNet18"]


class ResNet18(nn.Module):
    """Images (B, C, H, W) to representations (B, 8 * width), through ``layer1`` to ``layer4``.

    Arguments:
        stem: ``"cifar"``: one 3x3 convolution that keeps the size, for images below about 64 pixels. ``"imagenet"``: 7x7 with
            stride 2, then max-pooling, a quarter of the size. The wrong stem costs more than 10 points on CIFAR-10.
        width: Channels of the first stage.
        channels: Of the images.
        zero_init: Whether every block starts as the identity (the scale of its last normalisation starts at 0).
    """

    def __init__(
        self,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        width: int = 64,
        channels: int = 3,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' (images below about 64 pixels) or 'imagenet', but got {stem!r}")
        self.stem, self.width, self.channels, self.zero_init = stem, width, channels, zero_init
        if stem == "cifar":
            self.conv1, self.maxpool = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.Identity()
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, stride=2), Block(2 * width, 2 * width))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, stride=2), Block(4 * width, 4 * width))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, stride=2), Block(8 * width, 8 * width))
        self.out = 8 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and zero_init:
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class Block(nn.Module):
    """Returns ``ReLU(s(x) + F(x))``: from ``a`` channels to ``b``, ``stride`` times smaller."""

    def __init__(self, a: int, b: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)
        resized = nn.Sequential(nn.Conv2d(a, b, 1, stride=stride, bias=False), nn.BatchNorm2d(b))
        self.downsample = resized if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(short + self.bn2(self.conv2(inner)))
