"""Features: what a model's layers say about each image, beside the image's factors.

A store is a folder: one ``.npy`` a layer (float32, images x dimensions), ``factors.parquet`` for the rows, ``store.json`` for
what they were taken from. It is written a batch at a time and read as a memory map, so that neither needs more memory
than the rows in hand.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from torch import Tensor
from tqdm.auto import tqdm

from workbench.core import Views
from workbench.data.images import Images
from workbench.distributed import rank, world
from workbench.spec import describe

__all__ = ["Features", "digest", "extract"]


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, Tensor]):
    """Row ``i`` of every layer's matrix (N, D), and of ``factors``, is one image (or one view of it: ``source``, ``view``)."""

    layers: dict[str, Tensor]
    factors: pd.DataFrame

    def __post_init__(self) -> None:
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

    def where(self, rows: np.ndarray | Tensor | Sequence[int] | slice) -> "Features":
        """Returns the rows of a mask, a slice or row numbers, factors still joined."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        factors = self.factors.iloc[rows].reset_index(drop=True)
        take = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return Features({k: z[take] for k, z in self.layers.items()}, factors)

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
                np.save(part / _file(name), z.numpy())
            _finish(part, folder, self.factors, {})
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
    views: Callable[[Tensor, Tensor], Views] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Features:
    """Runs ``model`` over ``images`` once, in evaluation mode, and keeps the output of every named layer.

    Feature maps (B, C, H, W) are averaged over space and token sequences (B, T, D) over tokens.

    Arguments:
        model: Any module that takes float images in [0, 1], on whatever device it is.
        layers: Module paths, such as ``"backbone"`` or ``["backbone.stage3", "projector"]``.
        batch_size: Images a forward pass; memory grows with it, results do not change.
        views: A view maker, where features of augmented views are wanted: then each image gives one row a view, and
            ``factors`` gains ``source`` (the image's row) and ``view``.
        seed: Of the views.
        out: Folder for the store; needed when the features outgrow memory and under several processes, which share the
            work. An interrupted extraction goes on where it stopped.
        progress: Whether to show a bar.

    Raises:
        KeyError: If the model has no such layer; the message lists those near it.
        ValueError: If a layer's output is no tensor, or not a number; if there are no images.
    """
    if batch_size < 1 or not len(images):
        raise ValueError(f"at least one image is passed at a time, but got {len(images)} images and batch_size={batch_size}")
    names = [layers] if isinstance(layers, str) else list(layers)
    modules = _modules(model, names)
    sink = _Memory() if out is None else _Disk(Path(out), _key(model, images, names, views, seed))
    if out is None and world() > 1:
        raise ValueError("several processes extract together into one folder: say where with out=")
    if isinstance(sink, _Disk) and sink.done():
        return Features.load(sink.folder)
    first, last = (len(images) * r // world() for r in (rank(), rank() + 1))
    held: dict[str, Tensor] = {}
    hooks = [module.register_forward_hook(_keeper(name, held)) for name, module in modules.items()]
    training, device = model.training, next((p.device for p in model.parameters()), torch.device("cpu"))
    start, copies = sink.start(first)
    bar = tqdm(
        total=last - first, initial=start - first, unit="img", desc="features", disable=not progress or rank() > 0, leave=False
    )
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), bar:
            for a in range(start, last, batch_size):
                index = torch.arange(a, min(a + batch_size, last))
                x = images.at(index).to(device, non_blocking=True)
                if views is None:
                    model(x.float() / 255)
                else:
                    torch.manual_seed(seed + a)
                    made = views(x, index).images
                    copies = len(made)
                    parts = []
                    for image in made:
                        model(image)
                        parts.append(dict(held))
                    held.update({k: torch.stack([p[k] for p in parts], 1).flatten(0, 1) for k in names})  # (B * V, D)
                for name in names:
                    if not torch.isfinite(held[name]).all():
                        raise ValueError(
                            f"layer {name!r} is not finite for images {a} to {int(index[-1])}: the model has diverged"
                        )
                sink.take(a, len(images), copies, held)
                bar.update(len(index))
    finally:
        model.train(training)
        sink.close()
        for hook in hooks:
            hook.remove()
    factors = images.factors
    if views is not None:
        factors = factors.loc[factors.index.repeat(copies)].reset_index(drop=True)
        factors["source"] = np.repeat(np.arange(len(images)), copies)
        factors["view"] = np.tile(np.arange(copies), len(images))
    return sink.finish(factors)


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


def _key(model: nn.Module, images: Images, names: list[str], views: object, seed: int) -> dict:
    made = describe(views) if views is not None else None
    return {"model": digest(model), "images": digest(images), "layers": names, "views": made, "seed": seed}


def _modules(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            depth = name.count(".") + 1
            near = [n for n in modules if n and n.count(".") < depth and n.startswith(name.split(".")[0])]
            near = near or [n for n in modules if n and n.count(".") < 2]
            raise KeyError(f"the model has no layer {name!r}; among its layers are {', '.join(near[:12])}")
    return {name: modules[name] for name in names}


def _keeper(name: str, held: dict[str, Tensor]) -> Callable:
    def keep(_module: nn.Module, _input: tuple, output: object) -> None:
        output = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise ValueError(
                f"layer {name!r} gives {type(output).__name__}, not a tensor with a row an image; take a layer inside it"
            )
        if output.ndim == 4:
            output = output.mean((2, 3))  # (B, C, H, W) -> (B, C)
        elif output.ndim > 2:
            output = output.flatten(1, -2).mean(1)  # (B, ..., D) -> (B, D)
        held[name] = output.float().cpu().clone()

    return keep


class _Memory:
    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def start(self, first: int) -> tuple[int, int]:
        return first, 1

    def take(self, _image: int, _images: int, _copies: int, held: dict[str, Tensor]) -> None:
        for name, z in held.items():
            self.parts.setdefault(name, []).append(z)

    def close(self) -> None:
        pass

    def finish(self, factors: pd.DataFrame) -> Features:
        return Features({name: torch.cat(parts) for name, parts in self.parts.items()}, factors)


class _Disk:
    """Rows straight to their place in the files; a mark for each process remembers how far it came."""

    def __init__(self, folder: Path, key: dict) -> None:
        self.folder, self.key, self.part = folder, key, folder.with_name(folder.name + ".part")
        self.mark = self.part / f"done-{rank()}-of-{world()}.json"
        self.files: dict[str, tuple[int, int]] = {}

    def done(self) -> bool:
        if not (self.folder / "store.json").exists():
            return False
        if json.loads((self.folder / "store.json").read_text()) != self.key:
            raise FileExistsError(
                f"{self.folder} holds features of another model or other images; give another folder, or delete it"
            )
        return True

    def start(self, first: int) -> tuple[int, int]:
        if rank() == 0:
            known = self.part / "store.json"
            if not known.exists() or json.loads(known.read_text()) != self.key:
                _fresh(self.part)
                _write(known, self.key)
        _barrier()
        return tuple(json.loads(self.mark.read_text())) if self.mark.exists() else (first, 1)

    def take(self, image: int, images: int, copies: int, held: dict[str, Tensor]) -> None:
        for name, z in held.items():
            if name not in self.files:
                self.files[name] = self._open(name, images * copies, z.shape[1])
            fd, offset = self.files[name]
            os.pwrite(fd, np.ascontiguousarray(z.numpy(), dtype="<f4").data, offset + image * copies * z.shape[1] * 4)
        _write(self.mark, [image + len(z) // copies, copies])

    def _open(self, name: str, rows: int, width: int) -> tuple[int, int]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
        fd = os.open(self.part / _file(name), os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(fd, header.getvalue(), 0)  # the same from every process, so that none waits for another
        os.ftruncate(fd, header.tell() + rows * width * 4)
        return fd, header.tell()

    def close(self) -> None:
        for fd, _ in self.files.values():
            os.fsync(fd)
            os.close(fd)

    def finish(self, factors: pd.DataFrame) -> Features:
        _barrier()
        if rank() == 0:
            _finish(self.part, self.folder, factors, self.key)
        _barrier()
        return Features.load(self.folder)


def _finish(part: Path, folder: Path, factors: pd.DataFrame, key: dict) -> None:
    factors.to_parquet(part / "factors.parquet")
    (part / "store.json").write_text(json.dumps(key))
    for mark in part.glob("done-*.json"):
        mark.unlink()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    part.rename(folder)


def _fresh(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write(path: Path, content: dict | list) -> None:
    after = path.with_suffix(".new")
    after.write_text(json.dumps(content))
    after.replace(path)


def _file(layer: str) -> str:
    return urllib.parse.quote(layer, safe="") + ".npy"


def _barrier() -> None:
    if world() > 1:
        torch.distributed.barrier()
