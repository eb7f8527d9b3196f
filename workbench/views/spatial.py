"""What moves pixels: crops, flips and blurs, each image of a batch with its own parameters.

All of them are separable and linear: every row of the result is a weighted sum of a few rows of the image, and then every
column one of a few columns. ``torch.nn.functional.embedding_bag`` computes such sums of rows in one pass; on a CPU that is
several times faster than ``grid_sample`` and than products with dense matrices, and antialiasing costs nothing.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    return weigh(as_columns(x), rows, columns)


def taps(
    start: Tensor, length: Tensor, size: int, *, longest: float, antialias: bool = True, mirrored: Tensor | None = None
) -> Weights:
    """Returns which pixels of a line make each pixel of the resized segment, and with what weight.

    Pixel i of the result sits at c = (i + 1/2) length / size of the segment and weighs pixel j by a triangle,
    1 - |j + 1/2 - c| / support, whose half width ``support`` is 1, or length / size where that is larger and antialiased.
    Weights are zero outside the segment and sum to 1.

    Arguments:
        start: First pixel of the segment.
        length: Pixels of the segment.
        size: Pixels of the result.
        longest: A bound of ``length``, known without asking the device; it sets the number k of weights.
        antialias: Whether a segment longer than the result is averaged or sampled.
        mirrored: Which results run backwards.
    """
    step = (length / size)[:, None]
    centre = step * (torch.arange(size, device=start.device) + 0.5)  # b size
    if mirrored is not None:
        centre = torch.where(mirrored[:, None], length[:, None] - centre, centre)
    shrinks = antialias and longest > size
    support = step.clamp_min(1) if shrinks else 1.0
    count = math.ceil(2 * longest / size) if shrinks else 2
    wanted = torch.floor(centre - (support - 0.5)) + torch.arange(count, device=start.device)[:, None, None]  # k b size
    inside = torch.minimum(wanted.clamp_min(0), length[:, None] - 1)
    weight = (wanted - (centre - 0.5)).abs_().div_(support).neg_().add_(1).clamp_min_(0).mul_(wanted == inside)
    weight.div_(weight.sum(0))
    return inside.add_(start[:, None]).permute(1, 2, 0).long().contiguous(), weight.permute(1, 2, 0).contiguous()


def as_columns(x: Tensor) -> Float[Tensor, "b w c h"]:
    """Returns float images (B, C, H, W) column by column; uint8 is scaled from 255 to 1."""
    columns = x.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return columns.div_(255) if x.dtype == torch.uint8 else columns


def weigh(columns: Float[Tensor, "b w c h"], rows: Weights, cols: Weights) -> Float[Tensor, "b c i j"]:
    """Returns weighted sums of each image's columns, as :func:`as_columns` gives them, and then of the rows of the result."""
    b, w, c, h = columns.shape
    number = torch.arange(b * c, device=columns.device)
    x = _sums(columns.view(b * w, c * h), cols[0] + w * number[:b, None, None], cols[1])  # b j, c h
    x = x.view(b, -1, c * h).transpose(1, 2).reshape(b * c * h, -1)  # b c h, j
    index = rows[0][:, None] + h * number.view(b, c, 1, 1)  # b c i k
    return _sums(x, index, rows[1][:, None].expand(index.shape)).view(b, c, -1, x.shape[1])


def _sums(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    k = index.shape[-1]
    return F.embedding_bag(index.reshape(-1, k), table, mode="sum", per_sample_weights=weight.reshape(-1, k))


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
    offset = torch.arange(-reach, reach + 1, device=x.device)
    weight = torch.exp(-0.5 * (offset / sigma.clamp_min(1e-3)[:, None]) ** 2)
    weight /= weight.sum(1, keepdim=True)  # b k

    def line(size: int) -> Weights:
        index = (torch.arange(size, device=x.device)[:, None] + offset).abs_()
        index = torch.where(index >= size, 2 * size - 2 - index, index)  # size k
        return index.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1)

    return weigh(as_columns(x), line(x.shape[2]), line(x.shape[3]))
