"""Images with their factors of variation: row ``i`` of the pixels is described by row ``i`` of a table."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["Images", "Renderer"]

Rows = slice | Sequence[int] | np.ndarray | Tensor


class Renderer(Protocol):
    """Draws images from their factors, a batch at a time, on the device of the factors.

    ``nuisances`` names the factors that :meth:`sample` draws; all others (the object's identity) are given.
    """

    nuisances: tuple[str, ...]

    def sample(
        self, n: int, *, generator: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """Returns ``n`` draws of every nuisance factor, each a tensor (n,)."""

    def __call__(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Returns pixels in [0, 1], float (n, C, H, W), of the objects that ``factors`` (each (n,)) describe."""


@dataclass(frozen=True, eq=False)
class Images:
    """``pixels[i]`` (uint8, C H W) is described by row ``i`` of ``factors``.

    Arguments:
        pixels: uint8 (N, C, H, W): a tensor, or anything with ``len``, ``shape`` and ``[rows]`` that gives one (a memory map).
        factors: N rows, one column a factor; a class label is just the factor ``label``.
        name: Short name, used in folder names and figures.
        recipe: How a run's record says where the images came from; None where they cannot be made again from it.
        renderer: What draws the images from their factors, where they are drawn.

    Raises:
        ValueError: If the rows do not agree or the pixels are no images.
        TypeError: If the pixels are not uint8.

    Example:
        >>> images = Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), pd.DataFrame({"label": [0, 1, 0, 1]}), "black")
        >>> len(images.where("label == 1"))
        2
    """

    pixels: Any
    factors: pd.DataFrame
    name: str
    recipe: dict[str, Any] | None = None
    renderer: Renderer | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name}: pixels must be (images, channels, height, width) with 1 or 3 channels, but got {shape}"
            )
        if "uint8" not in str(self.pixels.dtype):
            raise TypeError(
                f"{self.name}: pixels must be uint8 from 0 to 255, but got {self.pixels.dtype}; scale and convert them first"
            )
        if shape[0] != len(self.factors):
            raise ValueError(f"{self.name}: {shape[0]} images but {len(self.factors)} rows of factors; give one row an image")

    def __len__(self) -> int:
        return len(self.factors)

    def __repr__(self) -> str:
        c, h, w = self.pixels.shape[1:]
        return f"Images({self.name!r}: {len(self):,} of {c}x{h}x{w}; factors {', '.join(map(str, self.factors)) or 'none'})"

    def __getitem__(self, rows: Rows) -> "Images":
        """Returns the images of a slice, a boolean mask or row numbers, each row still joined to its factors."""
        if isinstance(rows, int):
            raise TypeError(
                f"Images take a slice, a mask or row numbers; for one image write images[{rows}:{rows + 1}] or images.at([{rows}])"
            )
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.dtype == bool:
                if len(rows) != len(self):
                    raise ValueError(f"{self.name}: a mask of {len(rows)} for {len(self)} images")
                rows = np.flatnonzero(rows)
            if rows.size and (rows.min() < -len(self) or rows.max() >= len(self)):
                raise IndexError(f"{self.name} has rows 0 to {len(self) - 1}, but row {rows.max()} was asked for")
            rows = rows.astype(np.int64)
        factors = self.factors.iloc[rows].reset_index(drop=True)
        take = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        recipe = self.recipe and self.recipe | {"rows": "a subset"}
        return dataclasses.replace(self, pixels=self.pixels[take], factors=factors, recipe=recipe)

    def at(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Returns the pixels (uint8, n C H W) of some rows."""
        return torch.as_tensor(self.pixels[torch.as_tensor(rows)])

    def batches(
        self, size: int, *, shuffle: bool = False, drop_last: bool = False, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields ``(index, pixels)``, each image once; the same seed gives the same order."""
        if size < 1:
            raise ValueError(f"a batch holds at least 1 image, but size is {size}")
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=g) if shuffle else torch.arange(len(self))
        for index in order.split(size):
            if drop_last and len(index) < size:
                return
            yield index, self.at(index)

    def to(self, device: str | torch.device) -> "Images":
        """Returns the images with their pixels on ``device``."""
        return dataclasses.replace(self, pixels=torch.as_tensor(self.pixels[:]).to(device))

    def where(self, query: str) -> "Images":
        """Returns the images whose factors satisfy a pandas query, such as ``"label == 3 and scale > 0.8"``."""
        try:
            kept = self.factors.eval(query).to_numpy(bool)
        except Exception as error:
            raise ValueError(
                f"{self.name}: the query {query!r} failed ({error}); the factors are {list(self.factors)}"
            ) from error
        return self[kept]

    def split(self, fraction: float = 0.8, *, seed: int = 0, by: str | None = None) -> tuple["Images", "Images"]:
        """Returns two disjoint parts, at random by ``seed``.

        Arguments:
            fraction: Share of the first part, between 0 and 1.
            seed: Which random split.
            by: A factor whose values are not shared between the parts (objects, say), so that the second part is new.

        Raises:
            ValueError: If a part would be empty.
            KeyError: If there is no factor ``by``.
        """
        rng = np.random.default_rng(seed)
        if by is None:
            key = np.arange(len(self))
        elif by in self.factors:
            key = pd.factorize(self.factors[by])[0]
        else:
            raise KeyError(f"{self.name} has no factor {by!r}; it has {list(self.factors)}")
        values = rng.permutation(key.max() + 1 if len(key) else 0)
        first = round(fraction * len(values))
        if not 0 < first < len(values):
            raise ValueError(
                f"{self.name}: fraction {fraction} of {len(values)} leaves one part empty; it must lie between 0 and 1"
            )
        mask = np.isin(key, values[:first])
        return self[mask], self[~mask]
