"""Images with their factors of variation: row ``i`` of the pixels is described by row ``i`` of a table."""

import base64
import dataclasses
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["Images", "Renderer", "subset"]

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


class Picked:
    """Some rows of pixels that are not in memory (a memory map); they are read when they are asked for."""

    def __init__(self, pixels: Any, rows: np.ndarray) -> None:
        self.pixels, self.rows = pixels, rows
        self.shape, self.dtype = (len(rows), *pixels.shape[1:]), pixels.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.pixels[self.rows[rows]]


@dataclass(frozen=True, eq=False)
class Images:
    """``pixels[i]`` (uint8, C H W) is described by row ``i`` of ``factors``.

    Arguments:
        pixels: uint8 (N, C, H, W): a tensor, an array, or anything with ``len``, ``shape``, ``dtype`` and ``[rows]`` that
            gives an array (a memory map). What is not in memory stays where it is: parts of it are read by ``at``,
            ``batches`` and ``to``.
        factors: N rows, one column a factor; a class label is just the factor ``label``.
        name: Short name, used in folder names and figures.
        recipe: How a run's record says where the images came from; None where they cannot be made again from it.
        renderer: What draws the images from their factors, where they are drawn.

    Raises:
        ValueError: If the rows do not agree or the pixels are no images.
        TypeError: If the pixels are not uint8, or the factors no table.

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
        if not isinstance(self.factors, pd.DataFrame):
            raise TypeError(
                f"{self.name}: factors must be a DataFrame of one row an image, but got {type(self.factors).__name__}"
            )
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name}: pixels must be (images, channels, height, width) with 1 or 3 channels, but got {shape}"
            )
        if str(self.pixels.dtype) not in ("uint8", "torch.uint8"):
            raise TypeError(
                f"{self.name}: pixels must be uint8 from 0 to 255, but got {self.pixels.dtype}; scale and convert them first"
            )
        if shape[0] != len(self.factors):
            raise ValueError(f"{self.name}: {shape[0]} images but {len(self.factors)} rows of factors; give one row an image")
        if type(self.pixels) is np.ndarray:
            object.__setattr__(self, "pixels", torch.from_numpy(np.require(self.pixels, requirements=["C", "W"])))

    def __len__(self) -> int:
        return len(self.factors)

    def __repr__(self) -> str:
        c, h, w = self.pixels.shape[1:]
        return f"Images({self.name!r}: {len(self):,} of {c}x{h}x{w}; factors {', '.join(map(str, self.factors)) or 'none'})"

    def _repr_html_(self) -> str:
        """Shows the first images in a notebook, in a row."""
        from PIL import Image

        step = max(1, min(self.pixels.shape[2:]) // 64)
        shown = self.at(range(min(len(self), 12))).cpu()[:, :, ::step, ::step]
        row = np.concatenate(list(shown.permute(0, 2, 3, 1).numpy()), axis=1) if len(shown) else np.zeros((1, 1, 1), np.uint8)
        file = io.BytesIO()
        Image.fromarray(row.squeeze(2) if row.shape[2] == 1 else row).save(file, "PNG")
        picture = base64.b64encode(file.getvalue()).decode()
        style = "height:64px;image-rendering:pixelated"
        return f'<div>{html.escape(repr(self))}<br><img style="{style}" src="data:image/png;base64,{picture}"></div>'

    def __getitem__(self, rows: Rows) -> "Images":
        """Returns the images of a slice, a boolean mask or row numbers, each row still joined to its factors."""
        numbers = self._numbers(rows)
        factors = self.factors.iloc[numbers].reset_index(drop=True)
        recipe = self.recipe and {"is": "workbench.data.images:subset", "images": self.recipe, "rows": _write(numbers)}
        return dataclasses.replace(self, pixels=self._pick(rows, numbers), factors=factors, recipe=recipe)

    def _numbers(self, rows: Rows) -> np.ndarray:
        if isinstance(rows, slice):
            return np.ascontiguousarray(np.arange(len(self))[rows])
        wanted = f"{self.name}: images are picked by a slice, a mask or row numbers"
        if isinstance(rows, int | np.integer):
            raise TypeError(f"{wanted}; for one image write images[{rows}:{rows + 1}] or images.at([{rows}])")
        if isinstance(rows, str):
            raise TypeError(f"{wanted}; for a factor write images.factors[{rows!r}], for a query images.where({rows!r})")
        rows = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iub"):
            raise TypeError(f"{wanted}, but got an array of shape {rows.shape} and type {rows.dtype}")
        if rows.dtype == bool:
            if len(rows) != len(self):
                raise ValueError(f"{self.name}: a mask of {len(rows)} for {len(self)} images; give one value an image")
            return np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        wrong = rows[(rows < -len(self)) | (rows >= len(self))]
        if wrong.size:
            raise IndexError(f"{self.name} has rows 0 to {len(self) - 1}, but row {wrong[0]} was asked for")
        return np.where(rows < 0, rows + len(self), rows)

    def _pick(self, rows: Rows, numbers: np.ndarray) -> Any:
        if isinstance(self.pixels, Tensor):
            step = rows.step if isinstance(rows, slice) else -1
            return self.pixels[rows] if step is None or step > 0 else self.at(numbers)
        if isinstance(self.pixels, Picked):
            return Picked(self.pixels.pixels, self.pixels.rows[numbers])
        return Picked(self.pixels, numbers)

    def at(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Returns the pixels (uint8, n C H W) of row numbers or of a mask, on the device of the pixels."""
        if not isinstance(rows, Tensor):
            numbers = np.asarray(rows)
            rows = torch.from_numpy(np.flatnonzero(numbers) if numbers.dtype == bool else numbers.astype(np.int64))
        if isinstance(self.pixels, Tensor):
            return self.pixels[rows.to(self.pixels.device)]
        return torch.from_numpy(np.require(self.pixels[rows.cpu().numpy()], requirements=["C", "W"]))

    def batches(
        self, size: int, *, shuffle: bool = False, drop_last: bool = False, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields ``(index, pixels)``, each image once; the same seed gives the same order."""
        if size < 1:
            raise ValueError(f"a batch holds at least 1 image, but size is {size}")
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=g) if shuffle else torch.arange(len(self))
        for start in range(0, len(self), size):
            index = order[start : start + size]
            if drop_last and len(index) < size:
                return
            yield index, self.at(index)

    def to(self, device: str | torch.device) -> "Images":
        """Returns the images with their pixels in memory, on ``device``."""
        pixels = self.pixels if isinstance(self.pixels, Tensor) else torch.from_numpy(np.array(self.pixels[:]))
        return dataclasses.replace(self, pixels=pixels.to(device))

    def where(self, query: str) -> "Images":
        """Returns the images whose factors satisfy a pandas query, such as ``"label == 3 and scale > 0.8"``.

        Raises:
            ValueError: If the query is wrong, or says neither true nor false of each image.
        """
        return self[satisfying(self.factors, query, self.name)]

    def split(self, fraction: float = 0.8, *, seed: int = 0, by: str | None = None) -> tuple["Images", "Images"]:
        """Returns two disjoint parts, at random by ``seed``, each in the original order.

        Arguments:
            fraction: Share of the first part, between 0 and 1.
            seed: Which random split.
            by: A factor whose values are not shared between the parts (objects, say), so that the second part is new;
                ``fraction`` is then the share of its values.

        Raises:
            ValueError: If a part would be empty.
            KeyError: If there is no factor ``by``.
        """
        rng = np.random.default_rng(seed)
        if by is None:
            key = np.arange(len(self))
        elif by in self.factors:
            key = pd.factorize(self.factors[by], use_na_sentinel=False)[0]
        else:
            raise KeyError(f"{self.name} has no factor {by!r}; it has {list(self.factors)}")
        values = rng.permutation(key.max() + 1 if len(key) else 0)
        first = round(fraction * len(values))
        if not 0 < first < len(values):
            of = f"values of {by!r}" if by else "images"
            raise ValueError(
                f"{self.name}: fraction {fraction} of {len(values)} {of} leaves one part empty; "
                f"choose one between 0 and 1 that gives each part at least one"
            )
        mask = np.isin(key, values[:first])
        return self[mask], self[~mask]


def satisfying(factors: pd.DataFrame, query: str, name: str) -> np.ndarray:
    """Returns which rows satisfy a pandas query, as a mask; ``name`` says in an error whose rows they are.

    Raises:
        ValueError: If the query is wrong, or says neither true nor false of each row.
    """
    try:
        kept = factors.eval(query)
    except Exception as error:
        raise ValueError(f"{name}: the query {query!r} failed ({error}); the factors are {list(factors)}") from error
    if not isinstance(kept, pd.Series) or kept.dtype != bool:
        raise ValueError(f"{name}: the query {query!r} is not true or false of each row; write a comparison such as 'label == 3'")
    return kept.to_numpy()


def subset(images: Images, rows: str) -> Images:
    """Returns some rows of images, written as in a recipe: numbers and ranges ``start:stop``, between commas.

    Raises:
        ValueError: If the rows are written otherwise or are not in the images.

    Example:
        >>> images = Images(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), pd.DataFrame({"label": range(9)}), "black")
        >>> subset(images, "0:3,7").factors["label"].tolist()
        [0, 1, 2, 7]
    """
    if not re.fullmatch(r"(\d+(:\d+)?(,\d+(:\d+)?)*)?", rows):
        raise ValueError(f"rows are written like '0:100,205', but got {rows[:60]!r}")
    parts = [part.partition(":") for part in rows.split(",") if part]
    ends = [(int(start), int(stop) if stop else int(start) + 1) for start, _, stop in parts]
    if any(not 0 <= start < stop <= len(images) for start, stop in ends):
        raise ValueError(f"{images.name} has rows 0 to {len(images) - 1}, but the subset {rows[:60]!r} asks for others")
    return images[np.concatenate([np.arange(0), *(np.arange(start, stop) for start, stop in ends)])]


def _write(rows: np.ndarray) -> str:
    """Returns rows as :func:`subset` reads them."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate([[0], breaks])] if len(rows) else rows
    stops = rows[np.concatenate([breaks - 1, [len(rows) - 1]])] + 1 if len(rows) else rows
    return ",".join(f"{a}:{b}" if b - a > 1 else str(a) for a, b in zip(starts.tolist(), stops.tolist(), strict=True))
