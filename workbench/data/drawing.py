"""What every drawn data set shares: colours of hue, saturation and value, and a table of factors made pixels."""

import functools

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.data.images import Renderer

__all__ = ["draw"]

CHUNK = 512  # images drawn at once: they stay in the processor's cache


def draw(renderer: Renderer, factors: pd.DataFrame) -> Tensor:
    """Returns the pixels (uint8, n C H W) of a table of factors, drawn in chunks.

    Any table will do that has the columns of a drawn data set, so one can ask what an image would look like otherwise.

    Example:
        >>> from workbench.data import garments
        >>> images = garments(4)
        >>> upright = draw(images.renderer, images.factors.assign(rotation=0.0))
    """
    columns = {name: torch.tensor(factors[name].to_numpy()) for name in factors.select_dtypes("number")}
    parts = []
    for rows in torch.arange(len(factors)).split(CHUNK):
        drawn = renderer({name: values[rows] for name, values in columns.items()})
        parts.append(drawn.mul_(255).round_().to(torch.uint8))
    return torch.cat(parts)


def whole(**values: object) -> None:
    """Raises TypeError where a value is no whole number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is a whole number, but got {value!r}")


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Returns red, green and blue (n, 3, ...) of hue (periodic in 1), saturation and value, each (n, ...) in [0, 1].

    A channel is v - v s max(0, min(k, 4 - k, 1)) with k = (m + 6 hue) mod 6 and m = 5, 3, 1 for red, green, blue
    (Smith, "Color gamut transform pairs", SIGGRAPH 1978, in closed form).
    """
    m = 5 - 2 * torch.arange(3, device=hue.device, dtype=hue.dtype).view(1, 3, *[1] * (hue.ndim - 1))
    k = (m + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1))


@functools.lru_cache(maxsize=64)
def held(numbers: tuple, device: str) -> Tensor:
    """Returns numbers as a float tensor that is kept on a device: bringing them there would wait, each time, for the device."""
    return torch.tensor(numbers, dtype=torch.float32, device=device)


def grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns across (1, 1, size) and down (1, size, 1), from -1 to 1 at the edges, at the centres of the pixels."""
    at = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    return at[None, None, :], at[None, :, None]
