"""How a batch of pixels is checked and divided: into portions that are worked on at a time, and by what is done to them.

A CPU works on the images that are concerned. Elsewhere asking how many they are would wait for the device, so all are worked
on and the right ones kept.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__: list[str] = []

CACHED = 1_000_000  # numbers of a view on which one thread works at a time: they stay in the last cache, and calls are few
HELD = 100_000_000  # the same on other devices, where few and large calls are faster


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
    if device.type == "cpu":
        keep_memory()
    at_once = CACHED * torch.get_num_threads() if device.type == "cpu" else HELD
    step = max(1, at_once // numbers)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))


@functools.cache
def keep_memory() -> None:
    """Has the C library keep the memory of intermediate results, which makes views on a CPU up to a third faster.

    glibc hands freed memory back to the system, and gets it again page by page, until it has once seen a large block freed
    (of up to 32 MiB; mallopt(3), M_MMAP_THRESHOLD); so here is one.
    """
    torch.empty(2**23 - 2**12)


def countable(x: Tensor) -> bool:
    """Whether asking how many elements of ``x`` are true does not wait for a device."""
    return x.device.type == "cpu"


class Groups:
    """An order of a portion in which the images of ``first`` come first and those of ``second`` stand together.

    Then what concerns some of the images is done to a slice, and the images need not be gathered and scattered. Where it
    is not ``known`` how many they are, because asking would wait for the device, the order stays and a slice is everything.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.images, self.first, self.second = None, slice(None), slice(None)
        self.known = countable(first)
        if self.known:
            key = torch.where(first, second.int(), 3 - second.int())
            a, b, c, _ = torch.bincount(key, minlength=4).tolist()
            self.images, self.first, self.second = key.argsort(), slice(0, a + b), slice(a, a + b + c)

    def order(self, x: Tensor) -> Tensor:
        """Returns the rows of ``x`` in the order of the groups."""
        return x.index_select(0, self.images) if self.known else x

    def restore(self, x: Tensor, out: Tensor) -> None:
        """Writes the rows of ``x`` to ``out`` in the order that they had before."""
        if self.known:
            torch.index_select(x, 0, self.images.argsort(), out=out)
        else:
            out.copy_(x)


def on_some(x: Tensor, which: Tensor, change: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Returns ``x`` with the images ``which`` changed; ``change`` gets them and their rows, and may work in place.

    A CPU works on those images alone; elsewhere asking how many they are would wait for the device, so all are worked on.
    """
    if not countable(x):
        return torch.where(which[:, None, None, None], change(x.clone(), slice(None)), x)
    rows = which.nonzero()[:, 0]
    if len(rows) == len(x):
        return change(x, slice(None))
    if len(rows):
        x[rows] = change(x[rows], rows)
    return x
