r"""SimMIM: put one learned vector in the place of hidden patches, encode all, and read their pixels off with a linear layer.

With :math:`x_M` the :math:`\Omega(x_M)` numbers of the masked pixels, of normalised images, and :math:`y_M` what is said of them,

.. math:: L = \frac{1}{\Omega(x_M)} \| y_M - x_M \|_1

Hidden are squares of the image larger than the encoder's patches, aligned to them: from the pixels beside a single small patch
most of it could be guessed.

References:
    SimMIM: a Simple Framework for Masked Image Modeling (Xie et al., 2022), eq. 1, https://arxiv.org/abs/2111.09886
"""

import math

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from workbench.objectives.base import in_full_precision, positive
from workbench.objectives.masking import Masked, random_masks, share, take

__all__ = ["SimMIM"]


@in_full_precision
def mean_absolute(predicted: Float[Tensor, "b m p"], wanted: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
    """Mean of the absolute differences."""
    return (predicted - wanted).abs().mean()


class SimMIM(Masked):
    """SimMIM on the backbone's tokens, one view an image (``Augment(n=1)`` or ``Plain()``); for a :class:`TokenViT`.

    Arguments:
        ratio: Share of the squares that is hidden, rounded up.
        square: Side, in pixels, of what is hidden as one: a multiple of the backbone's patch that divides the image. None takes
            what is nearest to a sixth of the image: the paper's 32 pixels of 192 (and of its ViT's 224), 4 of 32.

    The authors train with AdamW, weight decay 0.05, on crops of 0.67 to 1 of the image and flips alone.

    Terms: ``loss``.
    """

    def __init__(self, *, ratio: float = 0.6, square: int | None = None) -> None:
        super().__init__()
        self.ratio, self.square = share(ratio, "SimMIM"), None if square is None else positive("square", square)
        self.register_parameter("mask_token", None)
        self.register_module("head", None)

    def make(self, backbone: nn.Module) -> None:
        self.mask_token = nn.Parameter(0.02 * torch.randn(backbone.out))
        self.head = nn.Linear(backbone.out, backbone.patch**2 * backbone.channels)

    def side(self, grid: tuple[int, int], patch: int) -> int:
        """How many patches of ``patch`` pixels the side of a square has, in a grid (rows, columns).

        Raises:
            ValueError: If squares of that size are not made of patches, or do not tile the image.
        """
        both = math.gcd(*grid)
        if self.square is None:
            return min((d for d in range(1, both + 1) if both % d == 0), key=lambda d: abs(d - min(grid) / 6))
        side = self.square // patch
        if self.square % patch or both % side:
            raise ValueError(
                f"SimMIM hides squares of {self.square} pixels, but they must be made of patches of {patch} pixels and tile an "
                f"image of {grid[0] * patch} x {grid[1] * patch}; choose another square, or None for a sixth of the image."
            )
        return side

    def hide(self, x: Float[Tensor, "b c h w"], backbone: nn.Module) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b m"]]:
        grid = backbone.grid_of(*x.shape[-2:])
        return random_masks(x, grid, ratio=self.ratio, side=self.side(grid, backbone.patch))

    def predict(self, backbone: nn.Module, pixels: Tensor, visible: Tensor, masked: Tensor) -> Float[Tensor, "b m p"]:
        head = self.begun(self.head)
        where = torch.zeros(len(masked), visible.shape[1] + masked.shape[1], dtype=torch.bool, device=masked.device)
        where.scatter_(1, masked, True)  # noqa: FBT003
        encoded = backbone.encode(pixels, masked=where, mask_token=self.mask_token)
        return head(take(encoded[:, -where.shape[1] :], masked))

    def distance(self, predicted: Float[Tensor, "b m p"], patches: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
        return mean_absolute(predicted, patches)
