"""The images as they are: for supervised training, denoising, and the extraction of features."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from workbench.core import Views
from workbench.views.batches import check_pixels
from workbench.views.spatial import resized_crop

__all__ = ["Plain"]


@dataclass(frozen=True)
class Plain:
    """Gives ``n`` views of every image without any change but, where asked, of size.

    Arguments:
        n: Views an image; they share their memory.
        size: Side of a view in pixels; None keeps the height and width of the images.

    Raises:
        ValueError: If there would be no view or no pixel.
    """

    n: int = 1
    _: KW_ONLY
    size: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or (self.size is not None and self.size < 1):
            raise ValueError(f"Plain gives at least 1 view of at least 1 pixel, but got n={self.n}, size={self.size}")

    @torch.no_grad()
    def __call__(self, pixels: Tensor, index: Tensor) -> Views:
        """Returns the views, float (B, C, size, size) in [0, 1], of uint8 pixels (B, C, H, W)."""
        check_pixels(pixels, index)
        b, _, height, width = pixels.shape
        if self.size in (None, height) and self.size in (None, width):
            x = pixels.float().div_(255)
        else:
            zero, tall, wide = (torch.full((b,), v, device=pixels.device) for v in (0, height, width))
            x = resized_crop(pixels, zero, zero, tall, wide, (self.size, self.size)).clamp_(max=1)
        return Views([x] * self.n, index)
