"""Random boxes of a given area and shape, as torchvision's ``RandomResizedCrop`` draws them (Szegedy et al. 2014)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["random_boxes"]

TRIES = 10


def random_boxes(
    n: int, side: Sequence[int], scale: tuple[float, float], ratio: tuple[float, float], device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Returns top, left, height and width of ``n`` boxes, in whole pixels, inside images of ``side`` (height, width).

    The area is uniform in ``scale`` (shares of the image) and width / height uniform in the logarithm in ``ratio``. Of ten
    draws the first box that fits is taken; where none does, the largest central box of an allowed ratio.
    """
    area = math.prod(side) * torch.empty(TRIES, n, device=device).uniform_(*scale)
    shape = torch.empty(TRIES, n, device=device).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp_()
    width, height = torch.sqrt(area * shape).round_(), torch.sqrt(area / shape).round_()
    fits = (width >= 1) & (width <= side[1]) & (height >= 1) & (height <= side[0])
    first = fits.byte().argmax(0, keepdim=True)
    found, central = fits.any(0), _central(side, ratio)
    height = torch.where(found, height.gather(0, first)[0], central[0])
    width = torch.where(found, width.gather(0, first)[0], central[1])
    top, left = torch.rand(2, n, device=device)
    top = torch.where(found, top * (side[0] - height + 1), (side[0] - height) // 2)
    left = torch.where(found, left * (side[1] - width + 1), (side[1] - width) // 2)
    return top.long(), left.long(), height.long(), width.long()


def _central(side: Sequence[int], ratio: tuple[float, float]) -> tuple[int, int]:
    height, width = side
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width
