"""Grids of factors: every combination of some values of each, numbered in order, and drawn now or when it is looked at.

With values v_k1 ... v_kn of factor k, the grid is the product of these sets; its last factor varies fastest. On the whole
grid, and on random points of it, all factors are independent and each is uniform: what measures of disentanglement want to
be taken on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from workbench.data.drawing import draw, held
from workbench.data.images import Images

__all__ = ["factor_numbers"]

AT_ONCE = 2**28  # bytes of pixels that are drawn at once and kept


class GridRenderer:
    """What all renderers share whose factors take the values of a grid: ``grid`` holds these; others may be drawn too.

    The first factor is ``label``; all others are nuisances.
    """

    grid: dict[str, tuple[float, ...]]
    size: int

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The factors that :meth:`sample` draws."""
        return tuple(name for name in self.grid if name != "label")

    def sample(
        self, n: int, *, generator: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """Returns ``n`` draws of every nuisance from its values in the grid, each float (n,)."""
        drawn = {}
        for name in self.nuisances:
            values = held(self.grid[name], str(device))
            drawn[name] = values[torch.randint(len(values), (n,), generator=generator, device=device)]
        return drawn

    def classes(self, factors: pd.DataFrame) -> pd.DataFrame:
        """Returns the class of every factor, the number of the nearest value in the grid from 0 (int64, n rows)."""
        found = {}
        for name, values in self.grid.items():
            between = (np.array(values[1:]) + np.array(values[:-1])) / 2
            found[name] = np.searchsorted(between, factors[name].to_numpy(float))
        return pd.DataFrame(found)

    def chosen(self, factors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """Returns the nuisances, float (n, 1, 1) each.

        Raises:
            KeyError: If a factor is missing.
        """
        missing = [name for name in self.grid if name not in factors]
        if missing:
            raise KeyError(f"{what} are drawn from {list(self.grid)}, but {missing} are missing")
        return {name: factors[name].float()[:, None, None] for name in self.nuisances}

    def points(self, n: int | None, seed: int) -> pd.DataFrame:
        """Returns the factors at ``n`` different points of the grid at random, or at all of them in order.

        Raises:
            ValueError: If the grid has fewer points.
        """
        lengths = [len(values) for values in self.grid.values()]
        total = math.prod(lengths)
        if n is not None and not 1 <= n <= total:
            raise ValueError(
                f"the grid has {total:,} points, but n is {n:,}; take between 1 and {total:,}, or make the grid finer"
            )
        points = np.arange(total) if n is None else np.random.default_rng(seed).choice(total, n, replace=False)
        at = np.unravel_index(points, lengths)
        return pd.DataFrame({name: np.array(values)[i] for (name, values), i in zip(self.grid.items(), at, strict=True)})


class Undrawn:
    """Pixels (uint8, n C H W) that are drawn each time rows of them are asked for."""

    def __init__(self, renderer: GridRenderer, factors: pd.DataFrame) -> None:
        self.renderer, self.factors = renderer, factors
        self.shape, self.dtype = (len(factors), 3, renderer.size, renderer.size), np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return draw(self.renderer, self.factors.iloc[rows]).numpy()


def pictured(renderer: GridRenderer, factors: pd.DataFrame) -> Tensor | Undrawn:
    """Returns the pixels of a table of factors: drawn, or, of more than 256 MiB, drawn when they are asked for."""
    bytes_of_pixels = len(factors) * 3 * renderer.size**2
    return draw(renderer, factors) if bytes_of_pixels <= AT_ONCE else Undrawn(renderer, factors)


def spread(low: float, high: float, count: int) -> tuple[float, ...]:
    """Returns ``count`` values evenly from ``low`` to ``high``, or the middle where it is one."""
    return tuple(np.linspace(low, high, count).tolist()) if count > 1 else ((low + high) / 2,)


def around(turn: float, count: int) -> tuple[float, ...]:
    """Returns ``count`` values evenly round a circle, from 0 to just before ``turn``."""
    return tuple((np.arange(count) * turn / count).tolist())


def factor_numbers(images: Images, factors: Sequence[str] | None = None) -> pd.DataFrame:
    """Returns the factors of images as whole numbers from 0, in the order of their values: what measures compare codes with.

    Arguments:
        images: Of a grid or of any data set whose factors take few values. Where they were drawn from a grid, a factor's
            number is that in the grid, also among images that do not show all values.
        factors: Which; by default those of the grid, or all columns but paths and rows of files. A factor that does not vary in
            the images, and a column of words that only names an earlier one (``shape`` names ``label``), is left out.

    Returns:
        int64, a row an image. ``wb.disentanglement(codes, wb.factor_numbers(images))`` has no warning where the factors are
        independent.

    Raises:
        KeyError: If there is no such factor.
        ValueError: If no factor varies.

    Example:
        >>> images = wb.sprites(None, orientations=4, positions=2, scales=1, hues=1, background_hues=1)
        >>> factor_numbers(images).nunique().to_dict()
        {'label': 5, 'orientation': 4, 'x': 2, 'y': 2}
    """
    grid = getattr(images.renderer, "grid", {})
    names = list(factors) if factors is not None else [c for c in grid or images.factors if c not in ("path", "row")]
    missing = [name for name in names if name not in images.factors]
    if missing:
        raise KeyError(f"{images.name} has no factor {missing[0]!r}; it has {list(images.factors)}")
    known = images.renderer.classes(images.factors) if grid else pd.DataFrame()
    found: dict[str, Any] = {}
    for name in names:
        number = known[name].to_numpy() if name in known else np.unique(images.factors[name], return_inverse=True)[1].reshape(-1)
        names_another = not is_numeric_dtype(images.factors[name]) and any(_same(number, other) for other in found.values())
        if len(number) and np.ptp(number) and not names_another:
            found[name] = number.astype(np.int64)
    if not found:
        raise ValueError(f"no factor of {names} varies in {images.name}, so there is nothing to compare codes with")
    return pd.DataFrame(found)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether two factors say the same of each image in other numbers."""
    pairs = len(np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b))
    return pairs == len(np.unique(a)) == len(np.unique(b))
