"""What moves pixels: crops, flips and blurs, each image of a batch with its own parameters.

All of them are separable and linear: every row of the result is a weighted sum of a few rows of the image, and then every
column one of a few columns. ``torch.nn.functional.embedding_bag`` computes such sums of rows in one pass; on a CPU that is
several times faster than ``grid_sample`` and than products with dense matrices, and antialiasing costs nothing.
"""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.views.batches import countable

__all__ = ["blur", "flip", "resized_crop"]

Weights = tuple[Int[Tensor, "b size k"], Float[Tensor, "b size k"]]  # which pixels of a line make a pixel, how much of each


def flip(x: Float[Tensor, "b c h w"], which: Bool[Tensor, " b"] | None = None) -> Tensor:
    """Returns mirror images (left becomes right), torchvision's ``horizontal_flip``; with ``which``, of some rows alone."""
    mirrored = x.flip(-1)
    return mirrored if which is None else torch.where(which[:, None, None, None], mirrored, x)


def resized_crop(
    x: Tensor,
    top: Int[Tensor, " b"],
    left: Int[Tensor, " b"],
    height: Int[Tensor, " b"],
    width: Int[Tensor, " b"],
    size: tuple[int, int],
    *,
    flipped: Bool[Tensor, " b"] | None = None,
    antialias: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Cuts a box out of every image and resizes it bilinearly, torchvision's ``resized_crop``; then mirrors where asked.

    Arguments:
        x: Images (B, C, H, W), uint8 from 0 to 255 or float from 0 to 1.
        top: First row of the box; the box must lie inside the image.
        left: First column of the box.
        height: Rows of the box.
        width: Columns of the box.
        size: Height and width of the result.
        flipped: Which results are mirrored, left to right.
        antialias: Whether boxes larger than the result are averaged (torchvision's default for tensors) or sampled. Boxes
            smaller than the result come out alike.

    Returns:
        Float images (B, C, *size) in [0, 1].

    Example:
        >>> x, zero, two = torch.rand(5, 3, 8, 8), torch.zeros(5, dtype=int), torch.full((5,), 2)
        >>> resized_crop(x, zero, zero, two, two, (2, 2)).equal(x[:, :, :2, :2])
        True
    """
    rows = taps(top, height, size[0], longest=x.shape[2], antialias=antialias)
    columns = taps(left, width, size[1], longest=x.shape[3], antialias=antialias, mirrored=flipped)
    return weigh(transposed(x), rows, columns)


def taps(
    start: Tensor, length: Tensor, size: int, *, longest: int, antialias: bool = True, mirrored: Tensor | None = None
) -> Weights:
    """Returns which pixels of a line make each pixel of the resized segment, and with what weight.

    Pixel i of the result sits at c = (i + 1/2) length / size of the segment and weighs pixel j by a triangle,
    1 - |j + 1/2 - c| / support, whose half width ``support`` is 1, or length / size where that is larger and antialiased.
    Weights are zero outside the segment and sum to 1.

    Arguments:
        start: First pixel of the segment.
        length: Pixels of the segment.
        size: Pixels of the result.
        longest: Pixels of the line, a bound of ``length`` that is known without asking the device.
        antialias: Whether a segment longer than the result is averaged or sampled.
        mirrored: Which results run backwards.
    """
    if longest * size <= 500_000:
        row = length - 1 if mirrored is None else length - 1 + longest * mirrored
        index, weight = (t.index_select(0, row) for t in _all_segments(size, longest, antialias, str(start.device)))
    else:
        index, weight = _segments(length, size, longest, antialias)
        if mirrored is not None:
            index, weight = (torch.where(mirrored[:, None, None], t.flip(1), t) for t in (index, weight))
    return index + start[:, None, None], weight


@functools.lru_cache(maxsize=16)
def _all_segments(size: int, longest: int, antialias: bool, device: str) -> Weights:  # noqa: FBT001
    """Returns the weights of segments of 1 to ``longest`` pixels, and then of the same mirrored."""
    index, weight = _segments(torch.arange(1, longest + 1, device=device), size, longest, antialias)
    return torch.cat([index, index.flip(1)]), torch.cat([weight, weight.flip(1)])


def _segments(length: Tensor, size: int, longest: int, antialias: bool) -> Weights:  # noqa: FBT001
    step = (length / size)[:, None, None]
    centre = step * (torch.arange(size, device=length.device) + 0.5)[:, None]  # b size 1
    shrinks = antialias and longest > size
    support = step.clamp_min(1) if shrinks else torch.ones_like(step)
    count = math.ceil(2 * longest / size) if shrinks else 2
    wanted = torch.floor(centre - support + 0.5) + torch.arange(count, device=length.device)  # b size k
    inside = torch.minimum(wanted.clamp_min(0), length[:, None, None] - 1)
    weight = (1 - (wanted + 0.5 - centre).abs() / support).clamp_min(0) * (wanted == inside)
    return inside.long(), weight / weight.sum(2, keepdim=True)


def transposed(x: Tensor) -> Float[Tensor, "b c w h"]:
    """Returns float images with rows and columns exchanged, so that columns lie together; uint8 is scaled from 255 to 1."""
    columns = x.float().transpose(2, 3).contiguous()
    return columns.div_(255) if x.dtype == torch.uint8 else columns


def weigh(
    columns: Float[Tensor, "n c w h"], rows: Weights, cols: Weights, images: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b c i j"]:
    """Returns weighted sums of the columns of each image, which is given transposed, and then of the rows of the result.

    With ``images`` the weights are those of these images, in their order, instead of all.
    """
    return _weigh_rows(transposed(_weigh_rows(columns, cols, images)), rows)


def _weigh_rows(x: Float[Tensor, "n c h w"], rows: Weights, images: Tensor | None = None) -> Float[Tensor, "b c i w"]:
    n, c, h, w = x.shape
    index, weight = (t[:, None].expand(-1, c, -1, -1) for t in rows)  # b c i k
    images = torch.arange(n, device=x.device) if images is None else images
    first = (images * c)[:, None] + torch.arange(c, device=x.device)  # b c
    index = (index + h * first[:, :, None, None]).view(-1, index.shape[3])
    table = x.view(n * c * h, w)
    sums = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.reshape(index.shape))
    return sums.view(len(images), c, rows[0].shape[1], w)


def blur(x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"], *, kernel: int) -> Float[Tensor, "b c h w"]:
    """Returns images smoothed by a Gaussian, reflected at the border: torchvision's ``gaussian_blur``.

    Arguments:
        sigma: Standard deviation in pixels; 0 changes nothing.
        kernel: Pixels of the window in which the Gaussian is cut off, odd.

    Raises:
        ValueError: If the kernel is even or reaches beyond the reflected image.
    """
    reach = kernel // 2
    if kernel % 2 == 0 or reach >= min(x.shape[2:]):
        raise ValueError(f"a blur of {x.shape[2]}x{x.shape[3]} images needs an odd kernel below twice the side, but got {kernel}")
    if countable(sigma) and len(sigma):
        reach = min(reach, math.ceil(6 * float(sigma.max())))  # beyond, weights are below 2e-8
    offset = torch.arange(-reach, reach + 1, device=x.device)
    weight = torch.exp(-0.5 * (offset / sigma.clamp_min(1e-3)[:, None]) ** 2)
    weight /= weight.sum(1, keepdim=True)  # b k

    def line(size: int) -> Weights:
        index = (torch.arange(size, device=x.device)[:, None] + offset).abs_()
        index = torch.where(index >= size, 2 * size - 2 - index, index)  # size k
        return index.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1)

    return weigh(transposed(x), line(x.shape[2]), line(x.shape[3]))
