"""Features: what a model's layers say about each image, beside the image's factors.

A store is a folder: one ``.npy`` a layer (float32, images x dimensions), ``factors.parquet`` for the rows, ``store.json`` for
what they were taken from. It is written a batch at a time and read as a memory map, so that neither needs more memory
than the rows in hand.
"""

import hashlib
import math
import shutil
import tempfile
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from torch import Tensor
from tqdm.auto import tqdm

from workbench.core import Views, mixed_seed
from workbench.data.images import Images, satisfying
from workbench.distributed import rank, world
from workbench.pooling import TOKENS, Listening
from workbench.spec import describe
from workbench.storing import FolderStore, MemoryStore, complete, file_of

__all__ = ["Features", "digest", "extract"]

ACTIONS = "actions of the views"  # a matrix beside those of the layers, until it becomes columns of the factors
BLOCK = 64  # images whose views are drawn together, whatever the batches are


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, Tensor]):
    """Row ``i`` of every layer's matrix (N, D), and of ``factors``, is one image (or one view of it: ``source``, ``view``).

    Raises:
        TypeError: If a layer is neither a tensor nor an array of numbers, or the factors are no table.
        ValueError: If the rows do not agree.

    Example:
        >>> features = Features({"h": np.eye(3)}, pd.DataFrame({"label": [0, 1, 1]}))
        >>> features.where("label == 1")["h"].shape
        torch.Size([2, 3])
    """

    layers: dict[str, Tensor]
    factors: pd.DataFrame

    def __post_init__(self) -> None:
        if not isinstance(self.factors, pd.DataFrame):
            raise TypeError(f"factors must be a DataFrame of one row an image, but got {type(self.factors).__name__}")
        if not isinstance(self.layers, Mapping):
            raise TypeError(f"features are layers by name, {{name: matrix}}, but got {type(self.layers).__name__}")
        object.__setattr__(self, "layers", {name: _matrix(name, z) for name, z in self.layers.items()})
        for name, z in self.layers.items():
            if z.ndim != 2 or len(z) != len(self.factors):
                raise ValueError(f"layer {name!r} must be ({len(self.factors)} rows, dimensions), but is {tuple(z.shape)}")

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.layers:
            raise KeyError(f"no features of layer {layer!r}; there are {', '.join(self.layers)}")
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        widths = ", ".join(f"{k} {z.shape[1]}" for k, z in self.layers.items())
        return f"Features({len(self.factors):,} rows; {widths}; factors {', '.join(map(str, self.factors))})"

    def where(self, rows: str | np.ndarray | Tensor | Sequence[int] | slice) -> "Features":
        """Returns the rows of a pandas query (``"label == 3"``), a mask, a slice or row numbers, factors still joined.

        Raises:
            ValueError: If the query is wrong, or a mask is not as long as the features.
            IndexError: If there is no such row.
        """
        take = rows if isinstance(rows, slice) else torch.from_numpy(self._numbers(rows))
        factors = self.factors.iloc[take if isinstance(take, slice) else take.numpy()].reset_index(drop=True)
        return Features({k: z[take] for k, z in self.layers.items()}, factors)

    def _numbers(self, rows: str | np.ndarray | Tensor | Sequence[int]) -> np.ndarray:
        n = len(self.factors)
        if isinstance(rows, str):
            rows = satisfying(self.factors, rows, "features")
        rows = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iub"):
            raise TypeError(
                f"features are picked by a query, a mask, a slice or row numbers, but got an array of shape {rows.shape} "
                f"and type {rows.dtype}"
            )
        if rows.dtype == bool:
            if len(rows) != n:
                raise ValueError(f"a mask of {len(rows)} for {n} rows of features; give one value a row")
            return np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        wrong = rows[(rows < -n) | (rows >= n)]
        if wrong.size:
            raise IndexError(f"features have rows 0 to {n - 1}, but row {wrong[0]} was asked for")
        return np.where(rows < 0, rows + n, rows)

    def chunks(self, layer: str, size: int = 8192) -> Iterator[Tensor]:
        """Yields a layer's rows, ``size`` at a time; for measures of what does not fit in memory."""
        yield from self[layer].split(size)

    def save(self, folder: str | Path) -> None:
        """Writes the store, whole or not at all."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))  # others may be saving the same
        part.chmod(0o755)
        try:
            for name, z in self.layers.items():
                z = z.detach().cpu()
                np.save(part / file_of(name), (z.float() if z.dtype is torch.bfloat16 else z).numpy())
            complete(part, folder, self.factors, {})
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Features":
        """Reads a store as a memory map; nothing in it is executed.

        Raises:
            FileNotFoundError: If the folder is no store.
            ValueError: If a file in it is damaged.
        """
        folder = Path(folder)
        if not (folder / "factors.parquet").exists():
            raise FileNotFoundError(f"{folder} holds no features: it has no factors.parquet")
        layers, factors = {}, pd.DataFrame()
        for path in (*sorted(folder.glob("*.npy")), folder / "factors.parquet"):
            if path.resolve().parent != folder.resolve():
                raise ValueError(f"{path} points outside its folder; it is not read")
            try:
                if path.suffix == ".npy":
                    layers[urllib.parse.unquote(path.stem)] = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
                else:
                    factors = pd.read_parquet(path)
            except Exception as error:  # NumPy, torch and Arrow each raise kinds of their own
                raise ValueError(f"{path} is damaged ({error}); delete the folder and take the features again") from error
        return cls(layers, factors)


def extract(
    model: nn.Module,
    images: Images,
    layers: str | Sequence[str],
    *,
    batch_size: int = 512,
    tokens: str = "mean",
    views: Callable[[Tensor, Tensor], Views] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Features:
    """Runs ``model`` over ``images`` once, in evaluation mode, and keeps the output of every named layer.

    Everything is computed in float32, or the type of the model, also on a GPU.

    Maps are averaged over space, (B, C, H, W) and (B, H, W, C) alike. Of a layer that runs more than once, its last output is
    kept. The images are given in the type of the model's parameters.

    Arguments:
        model: Any module that takes images in [0, 1], on whatever device it is.
        layers: Module paths, such as ``"backbone"`` or ``["backbone.stage3", "projector"]``.
        batch_size: Images a forward pass; memory grows with it, results do not change but for rounding.
        tokens: What becomes of token sequences (B, T, D): ``"mean"`` of all tokens; ``"patches"``, the mean of those that are
            neither class nor register tokens; ``"first"``, the class token. The pooling that the model itself ends with is in
            its last layers, such as ``"backbone"``.
        views: A view maker, where features of augmented views are wanted: then each image gives one row a view, and
            ``factors`` gains ``source`` (the image's row) and ``view``; and where it records what it did, as
            ``Augment(record=True)`` does, a column ``action.NAME`` for each number an image that every view has.
        seed: Of the views; those of an image depend on it, on the images and on the kind of device, on nothing else.
        out: Folder for the store; needed when the features outgrow memory and under several processes, which share the
            work. An interrupted extraction goes on where it stopped.
        progress: Whether to show a bar.

    Raises:
        KeyError: If the model has no such layer; the message lists those near it.
        TypeError: If the model is no module, the images are no ``Images``, or the view maker gives no ``Views``.
        ValueError: If a layer did not run, or its output is no tensor, has not a row an image, has channels of which it cannot
            be told where they stand, or is not a number; if there are no images or no layers.
        FileExistsError: If the store in ``out`` was taken from something else.
    """
    names = _check(model, images, layers, batch_size, tokens, out)
    settings = {"layers": names, "tokens": tokens, "views": None if views is None else describe(views), "seed": seed}
    store = FolderStore(Path(out), _source(model, images) | settings) if out is not None else MemoryStore()
    if world() == 1 and store.done():  # several processes look once all of them are here, so that all see the same
        return Features.load(store.folder)
    with store.alone():
        if store.done():
            return Features.load(store.folder)
        blocks = -(-len(images) // BLOCK)
        shares = (rank(), rank() + 1)  # of whole blocks
        first, last = (min(-(-blocks * r // world()) * BLOCK, len(images)) for r in shares)
        start, copies = store.start(first)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        shown_as = {"unit": "img", "desc": "features", "disable": not progress or rank() > 0, "leave": False}
        bar = tqdm(total=last - first, initial=start - first, **shown_as)
        try:
            forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
            with torch.no_grad(), forked, bar, all_digits(), Listening(model, names, tokens) as hear:
                for index, shown, did in _batches(images, start, last, batch_size, views, seed, device):
                    copies = len(shown)
                    parts = [hear(image) for image in shown]
                    held = {k: torch.stack([p[k] for p in parts], 1).flatten(0, 1) for k in names}  # (B * V, D)
                    _check_finite(held, index)
                    if did is not None:
                        held[ACTIONS] = did.flatten(0, 1)  # (B * V, A)
                    store.take(int(index[0]), len(images), copies, held)
                    bar.update(len(index))
        finally:
            store.close()
        factors = images.factors
        if views is not None:
            factors = factors.loc[factors.index.repeat(copies)].reset_index(drop=True)
            factors["source"] = np.repeat(np.arange(len(images)), copies)
            factors["view"] = np.tile(np.arange(copies), len(images))
            with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                kinds = _kinds(drawn(images, 0, views, seed, device).actions)
            for (name, kind), column in zip(kinds.items(), store.taken(ACTIONS).T if kinds else (), strict=True):
                factors[f"action.{name}"] = column.astype(kind)
        if isinstance(store, MemoryStore):
            return Features(store.layers(), factors)
        store.finish(factors, besides=[ACTIONS] if any(str(c).startswith("action.") for c in factors) else [])
        return Features.load(store.folder)


def every_token(model: nn.Module, images: Images, layer: str, *, batch_size: int = 512, progress: bool = False) -> Tensor:
    """Returns what a layer gives without pooling, (N, T, D) in memory: every token, or every place of a map, row by row.

    Raises:
        KeyError, TypeError, ValueError: As :func:`extract`; ValueError, too, if the layer gives one vector an image.
    """
    (name,) = _check(model, images, layer, batch_size, TOKENS[0], None)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts = []
    bar = tqdm(total=len(images), unit="img", desc="tokens", disable=not progress, leave=False)
    with torch.no_grad(), bar, all_digits(), Listening(model, [name], "all") as hear:
        for index, shown, _ in _batches(images, 0, len(images), batch_size, None, 0, device):
            held = hear(shown[0])
            _check_finite(held, index)
            parts.append(held[name])
            bar.update(len(index))
    return torch.cat(parts)


@contextmanager
def all_digits() -> Iterator[None]:
    """While entered, convolutions of float32 on a GPU keep its 24 bits.

    By default they keep 11 (TF32), and what is rounded away is spread over directions that are not there: it lies far above
    the floor that spectra of float32 features are read down to.
    """
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def digest(thing: nn.Module | Images) -> str:
    """Returns 16 hexadecimal letters that change with a model's weights, or with a data set's factors and pixels.

    Of more than 256 MB of pixels, 4,096 images spread over the set are read.
    """
    h = hashlib.blake2b(digest_size=8)
    if isinstance(thing, Images):
        size = math.prod(thing.pixels.shape)
        rows = np.arange(len(thing)) if size <= 2**28 else np.unique(np.linspace(0, len(thing) - 1, 4096).astype(int))
        h.update(f"{tuple(thing.pixels.shape)} {list(thing.factors)}".encode())
        h.update(pd.util.hash_pandas_object(thing.factors, index=False).to_numpy().tobytes())
        for part in np.array_split(rows, max(1, len(rows) // 1024)):
            h.update(thing.at(part).cpu().numpy().tobytes())
    else:
        for name, value in thing.state_dict().items():
            h.update(name.encode())
            h.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def _matrix(name: str, z: Tensor | np.ndarray) -> Tensor:
    if isinstance(z, Tensor):
        return z
    if not isinstance(z, np.ndarray) or z.dtype.kind not in "fiub":
        kind = f"an array of {z.dtype}" if isinstance(z, np.ndarray) else type(z).__name__
        raise TypeError(f"layer {name!r} must be a matrix of numbers, a tensor or an array, but is {kind}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing here writes to it
        return torch.from_numpy(np.ascontiguousarray(z))


def _source(model: nn.Module, images: Images) -> dict[str, str]:
    return {"model": digest(model), "images": digest(images)}


def _check(
    model: nn.Module, images: Images, layers: str | Sequence[str], batch_size: int, tokens: str, out: str | Path | None
) -> list[str]:
    """Returns the layers' names, each once, or raises for what :func:`extract` cannot take."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"extract takes a model that is a torch module, but got {type(model).__name__}")
    if not isinstance(images, Images):
        raise TypeError(f"extract takes Images, but got {type(images).__name__}; make them with wb.from_arrays(pixels, factors)")
    if batch_size < 1 or not len(images):
        raise ValueError(f"at least one image is passed at a time, but got {len(images)} images and batch_size={batch_size}")
    if tokens not in TOKENS:
        raise ValueError(f"tokens must be one of {', '.join(TOKENS)}, but is {tokens!r}")
    if out is None and world() > 1:
        raise ValueError("several processes extract together into one folder: say where with out=")
    return named(model, layers)


def named(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Returns the layers' names, each once, or raises where there is none or the model has no such layer."""
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise ValueError("name at least one layer; wb.main_layers(model) gives those worth a look first, wb.layers(model) all")
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            depth = name.count(".") + 1
            near = [n for n in modules if n and n.count(".") < depth and n.startswith(name.split(".")[0])]
            near = near or [n for n in modules if n and n.count(".") < 2]
            raise KeyError(f"the model has no layer {name!r}; among its layers are {', '.join(near[:12])}")
    return names


def _check_finite(held: dict[str, Tensor], index: Tensor) -> None:
    for name, z in held.items():
        if not torch.isfinite(z).all():
            raise ValueError(
                f"layer {name!r} is not finite for images {int(index[0])} to {int(index[-1])}: the model has diverged"
            )


def _batches(
    images: Images,
    start: int,
    last: int,
    size: int,
    views: Callable[[Tensor, Tensor], Views] | None,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, list[Tensor], Tensor | None]]:
    """Yields row numbers, their views and what was done (B, V, A), at most ``size`` images at a time, from ``start`` to ``last``.

    Views are drawn a block of rows at a time, with a seed made of ``seed`` and the block's number, and then cut: neither the
    size of the batches, nor where an extraction was interrupted, nor how many processes share it can change them.
    """
    if views is None:
        for a in range(start, last, size):
            index = torch.arange(a, min(a + size, last))
            yield index, [images.at(index).to(device, non_blocking=True).float() / 255], None
        return
    step = max(size // BLOCK, 1) * BLOCK
    for a in range(start // BLOCK * BLOCK, last, step):
        blocks = [drawn(images, b, views, seed, device) for b in range(a, min(a + step, last), BLOCK)]
        shown = [torch.cat(parts) for parts in zip(*(made.images for made in blocks), strict=True)]
        did = [_numbers(made.actions) for made in blocks]
        did = torch.cat(did) if all(part is not None for part in did) else None
        for b in range(max(start - a, 0), len(shown[0]), size):
            index = torch.arange(a + b, a + min(b + size, len(shown[0])))
            yield index, [x[b : b + size] for x in shown], None if did is None else did[b : b + size]


def drawn(images: Images, a: int, views: Callable, seed: int, device: torch.device) -> Views:
    """Returns the views of the block of images that starts at row ``a``, as :func:`extract` sees them."""
    index = torch.arange(a, min(a + BLOCK, len(images)))
    pixels = images.at(index).to(device, non_blocking=True)
    torch.manual_seed(mixed_seed(seed, a // BLOCK))
    made = views(pixels, index)
    if not isinstance(made, Views):
        raise TypeError(f"a view maker gives Views(images, index), but this one gave {type(made).__name__}")
    return made


def _kinds(actions: list[dict[str, Tensor]] | None) -> dict[str, type]:
    """Returns the kind of each action that is one number an image in every view."""
    first, *others = actions or [{}]
    named = [name for name, t in first.items() if t.ndim == 1 and all(name in other for other in others)]
    kinds = {name: first[name].dtype for name in named}
    return {k: bool if d == torch.bool else float if d.is_floating_point else np.int64 for k, d in kinds.items()}


def _numbers(actions: list[dict[str, Tensor]] | None) -> Tensor | None:
    """Returns those actions as a matrix (B, V, A): float32 holds whole numbers up to 16 million."""
    names = list(_kinds(actions))
    columns = [torch.stack([view[name].float() for name in names], 1) for view in actions or ()] if names else []
    return torch.stack(columns, 1).cpu() if columns else None
