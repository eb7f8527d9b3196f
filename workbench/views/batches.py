"""How a batch of pixels is checked, and worked on in portions that stay in the processor's cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__: list[str] = []

CACHED = 400_000  # numbers of a view on which one thread works at a time; its intermediates then stay in 2 MB
HELD = 100_000_000  # the same on a device of its own memory, where fewer and larger launches are faster


def check_pixels(pixels: Tensor, index: Tensor) -> None:
    """Raises where ``pixels`` are not a batch of uint8 images (B, C, H, W) with one row of ``index`` each."""
    if pixels.dtype != torch.uint8:
        raise TypeError(f"views are made of uint8 pixels from 0 to 255, but got {pixels.dtype}; pass Images.at(rows)")
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(f"views are made of (images, 1 or 3 channels, height, width), but got {tuple(pixels.shape)}")
    if len(pixels) != len(index):
        raise ValueError(f"views were asked of {len(pixels)} images with {len(index)} row numbers; give one an image")


def portions(images: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Yields the rows of a batch of ``images``, each of ``numbers`` values, a portion at a time."""
    at_once = CACHED * torch.get_num_threads() if device.type == "cpu" else HELD
    step = max(1, at_once // numbers)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))
