"""Gaussian noise and nothing else: two views of an image are the same pixels, each under noise of its own.

The least that a positive pair can be made of (Bordes et al. 2023, https://arxiv.org/abs/2303.01986); no crop, no colour. How
strong the noise of that paper is could not be looked up, so the strength here is an argument with a default of ours.
"""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from workbench.core import Views
from workbench.views.batches import check_pixels

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise:
    """Makes ``n`` views of every image by adding Gaussian noise to its values, which are then cut off at 0 and 1.

    Random numbers come from torch's global generators, as in ``Augment``.

    Arguments:
        n: Views an image.
        sigma: Smallest and largest standard deviation of the noise, for images with values from 0 to 1; every view of every
            image has its own, uniform between them.
        record: Whether ``Views.actions`` holds, for every view, the tensor (B,) ``noise``: its standard deviation.

    Raises:
        ValueError: If there would be no view, or ``sigma`` is out of its range.

    Example:
        >>> views = Noise(2, sigma=(0.1, 0.1))(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> [tuple(v.shape) for v in views.images]
        [(4, 3, 8, 8), (4, 3, 8, 8)]
    """

    n: int = 2
    _: KW_ONLY
    sigma: tuple[float, float] = (0.0, 0.5)
    record: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"Noise makes at least 1 view, but got n={self.n}")
        low, high = self.sigma
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"sigma is (smallest, largest), from 0 on, but got {self.sigma}")

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float (B, C, H, W) in [0, 1], of uint8 pixels of the same shape."""
        check_pixels(pixels, index)
        x, (low, high) = pixels.float().div_(255), self.sigma
        strengths = [low + (high - low) * torch.rand(len(x), device=x.device) for _ in range(self.n)]
        images = [torch.addcmul(x, s[:, None, None, None], torch.randn_like(x)).clamp_(0, 1) for s in strengths]
        return Views(images, index, [{"noise": s} for s in strengths] if self.record else None)
