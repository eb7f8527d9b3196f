"""A layer's representations of images, together with the record of what they were taken from."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn as nn
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.data.images import Images
from workbench.features import Features, digest, every_token, extract

if TYPE_CHECKING:
    from workbench.run import Run

__all__ = ["Representation", "represent"]

CHECKED = 4096  # rows, spread over all, that a digest reads
CONSTANT = 1e-5  # of its mean: what varies by less than rounding does not vary
KEPT = ("model", "tokens", "views")  # of what a store says that its features were taken from


@dataclass(frozen=True, eq=False)
class Representation:
    """Rows ``values`` (N, D) and the ``source`` that they come from, so that no other encoder's are taken for them.

    Arguments:
        values: A row an image, or its tokens, (N, T, D), of floats; a numpy array is copied into a tensor.
        source: What JSON can hold: ``model`` (the :func:`digest` of its weights), ``layer``, ``tokens`` (how these were
            pooled), and ``mean`` and ``std`` of the pixels, which are no weights. What is not known is left out.

    Raises:
        TypeError: If the values are no such tensor or array of numbers with a point.
    """

    values: Float[Tensor, "n *d"]
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind == "f":
            object.__setattr__(self, "values", torch.from_numpy(np.array(self.values)))
        if not isinstance(self.values, Tensor) or self.values.ndim not in (2, 3) or not self.values.is_floating_point():
            is_array = isinstance(self.values, Tensor | np.ndarray)
            got = f"{tuple(self.values.shape)} of {self.values.dtype}" if is_array else type(self.values).__name__
            raise TypeError(
                f"representations are a tensor or array of floats (images, dimensions), but got {got}; one of them is h[None], "
                f"tokens are (images, tokens, dimensions)"
            )
        object.__setattr__(self, "source", json.loads(json.dumps(self.source)))  # as it will be read again

    @property
    def recipe(self) -> dict[str, Any]:
        """How a run's record says what it was given: not to be made again from it, but to be told from others."""
        rows = self.values.detach().cpu().contiguous()
        read = rows if len(rows) <= CHECKED else rows[:: len(rows) // CHECKED]
        h = hashlib.blake2b(read.contiguous().flatten().view(torch.uint8).numpy().tobytes(), digest_size=8)
        return {"source": self.source, "shape": list(rows.shape), "digest": h.hexdigest()}

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> "Representation":
        """Returns some of the rows, as a tensor is indexed; of one number that row, still with a first axis of images."""
        picked = self.values[rows]
        return Representation(picked[None] if picked.ndim < self.values.ndim else picked, self.source)

    @classmethod
    def load(cls, folder: str | Path, layer: str) -> "Representation":
        """Reads a layer of a store that :func:`extract` wrote, with the store's record. The pixels' mean and std are not in it.

        Raises:
            FileNotFoundError, KeyError, ValueError: As of :meth:`Features.load`, and if there is no such layer.
        """
        values = Features.load(folder)[layer]
        record = Path(folder) / "store.json"
        said = json.loads(record.read_text()) if record.exists() else {}
        return cls(values, {k: said[k] for k in KEPT if said.get(k) is not None} | {"layer": layer})


def represent(
    model: "nn.Module | Run", images: Images, layer: str, *, tokens: str = "mean", batch_size: int = 512, progress: bool = False
) -> Representation:
    """Runs a model over images once and returns a layer's representations, with the record of where they come from.

    Arguments:
        model: A module, or a run: its last kept weights, and what was taken of the same images before is read from its folder.
        images, layer, batch_size, progress: As of :func:`extract`.
        tokens: As there; or ``"all"``, for a denoiser of ``conditioning="xattn"``: values (N, T, D), every token of the layer or
            every place of its map, taken anew each time and held in memory.

    Example:
        >>> model = wb.build_encoder("convnet", "8", width=4)
        >>> h = represent(model, wb.garments(16), "backbone")
        >>> h.values.shape, sorted(h.source)
        (torch.Size([16, 32]), ['layer', 'mean', 'model', 'std', 'tokens'])
    """
    if tokens == "all":
        model = model if isinstance(model, nn.Module) else model.model()
        values = every_token(model, images, layer, batch_size=batch_size, progress=progress)
    elif isinstance(model, nn.Module):
        values = extract(model, images, layer, tokens=tokens, batch_size=batch_size, progress=progress)[layer]
    else:
        values = model.features(images, layer, tokens=tokens, progress=progress)[layer]
        model = model.model()
    return Representation(values, record(model, layer, tokens))


def record(model: nn.Module, layer: str, tokens: str) -> dict[str, Any]:
    """Returns what representations of a layer were taken from, as a :class:`Representation` keeps it."""
    pixels = {k: list(getattr(model, k)) for k in ("mean", "std") if isinstance(getattr(model, k, None), list | tuple)}
    return {"model": digest(model), "layer": layer, "tokens": tokens} | pixels


def varies(mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> Bool[Tensor, " d"]:
    """Returns which dimensions vary by more than rounding, and so have a scale; others are only centred."""
    return std > CONSTANT * mean.abs()
