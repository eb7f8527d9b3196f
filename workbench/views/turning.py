"""Rotation and nothing else: how far a representation follows an image that is turned.

No objective here is trained with it by default, which is what makes it a control: nothing has taught an encoder to
disregard it.
"""

import math
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core import Views
from workbench.views.batches import check_pixels

__all__ = ["Rotate", "rotate"]


@dataclass(frozen=True)
class Rotate:
    """Makes ``n`` views of every image by turning it about its centre.

    Random numbers come from torch's global generators, as in ``Augment``.

    Arguments:
        n: Views an image.
        degrees: Smallest and largest angle, anticlockwise; every view of every image has its own, uniform between them. Of two
            equal ones every image is turned by that angle.
        record: Whether ``Views.actions`` holds, for every view, the tensor (B,) ``degrees``.

    Raises:
        ValueError: If there would be no view, or ``degrees`` is no range.

    Example:
        >>> (quarter,) = Rotate(1, degrees=(90, 90))(torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2), torch.arange(1)).images
        >>> (255 * quarter).round().flatten().tolist()
        [1.0, 3.0, 0.0, 2.0]
    """

    n: int = 2
    _: KW_ONLY
    degrees: tuple[float, float] = (-30.0, 30.0)
    record: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"Rotate makes at least 1 view, but got n={self.n}")
        low, high = self.degrees
        if not -math.inf < low <= high < math.inf:
            raise ValueError(f"degrees is (smallest, largest), but got {self.degrees}")

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float (B, C, H, W) in [0, 1], of uint8 pixels of the same shape."""
        check_pixels(pixels, index)
        x, (low, high) = pixels.float().div_(255), self.degrees
        angles = [low + (high - low) * torch.rand(len(x), device=x.device) for _ in range(self.n)]
        return Views([rotate(x, a) for a in angles], index, [{"degrees": a} for a in angles] if self.record else None)


def rotate(x: Float[Tensor, "b c h w"], degrees: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Turns images anticlockwise about their centre, bilinearly: torchvision's ``rotate``, but mirrored beyond the border.

    Corners that were black would be told apart from the image, and so would the turn.
    """
    if not len(x):
        return x.clone()
    (height, width), angle = x.shape[2:], torch.deg2rad(degrees)
    sine, cosine, none = angle.sin(), angle.cos(), torch.zeros_like(angle)
    # where each pixel comes from, in halves of a side, hence the sides' ratio
    turn = torch.stack([cosine, -sine * height / width, none, sine * width / height, cosine, none], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False).clamp_(0, 1)
