"""Where extracted rows go: into memory, or straight to their place in the files of a store, by one process or several."""

import contextlib
import io
import json
import os
import shutil
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.distributed import rank, world

__all__: list[str] = []


class MemoryStore:
    """Keeps the rows of every layer, a batch after another."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def alone(self) -> contextlib.AbstractContextManager:
        """Waits for nobody."""
        return contextlib.nullcontext()

    def done(self) -> bool:
        """Returns False: nothing is there before it is taken."""
        return False

    def start(self, first: int) -> tuple[int, int]:
        """Returns the image to begin with and the views an image has so far."""
        return first, 1

    def take(self, _image: int, _images: int, _copies: int, held: dict[str, Tensor]) -> None:
        """Keeps a batch."""
        for name, z in held.items():
            self.parts.setdefault(name, []).append(z)

    def close(self) -> None:
        """Does nothing."""

    def taken(self, name: str) -> np.ndarray:
        """Returns a matrix, which is then no longer kept."""
        return torch.cat(self.parts.pop(name)).numpy()

    def layers(self) -> dict[str, Tensor]:
        """Returns the matrices."""
        return {name: torch.cat(parts) for name, parts in self.parts.items()}


class FolderStore:
    """Rows straight to their place in the files; a mark for each process remembers how far it came.

    Until it is finished it is the folder ``<name>.part``. ``key`` says what it is taken from, as JSON.
    """

    def __init__(self, folder: Path, key: dict) -> None:
        self.folder, self.key, self.part = folder, key, folder.with_name(folder.name + ".part")
        self.mark = self.part / f"done-{rank()}-of-{world()}.json"
        self.files: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While entered, other programs that want to write the same store wait; then they find it finished."""
        from filelock import FileLock

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_name(f".{self.folder.name}.lock")) if rank() == 0 else contextlib.nullcontext():
            wait()
            yield

    def done(self) -> bool:
        """Returns whether it is finished.

        Raises:
            FileExistsError: If what is there was taken from something else.
        """
        if not (self.folder / "store.json").exists():
            return False
        there = json.loads((self.folder / "store.json").read_text())
        differ = [k for k in self.key if there.get(k) != self.key[k]]
        if differ:
            raise FileExistsError(
                f"{self.folder} holds features of another model or other images, or taken otherwise (other "
                f"{', '.join(differ)}); give another folder, or delete it"
            )
        return True

    def start(self, first: int) -> tuple[int, int]:
        """Returns the image to go on with and the views an image has, as far as this process came."""
        if rank() == 0:
            known = self.part / "store.json"
            if not known.exists() or json.loads(known.read_text()) != self.key:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.part)
                self.part.mkdir(parents=True)
                _write(known, self.key)
        wait()
        return tuple(json.loads(self.mark.read_text())) if self.mark.exists() else (first, 1)

    def take(self, image: int, images: int, copies: int, held: dict[str, Tensor]) -> None:
        """Writes the rows of a batch that begins with ``image``, of so many ``images`` with ``copies`` rows each."""
        for name, z in held.items():
            if name not in self.files:
                self.files[name] = self._open(name, images * copies, z.shape[1])
            fd, offset = self.files[name]
            os.pwrite(fd, np.ascontiguousarray(z.numpy(), dtype="<f4").data, offset + image * copies * z.shape[1] * 4)
        _write(self.mark, [image + len(z) // copies, copies])

    def _open(self, name: str, rows: int, width: int) -> tuple[int, int]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
        fd = os.open(self.part / file_of(name), os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(fd, header.getvalue(), 0)  # the same from every process, so that none waits for another
        os.ftruncate(fd, header.tell() + rows * width * 4)
        return fd, header.tell()

    def close(self) -> None:
        """Closes the files; what was written stays for another time."""
        for fd, _ in self.files.values():
            os.fsync(fd)
            os.close(fd)

    def taken(self, name: str) -> np.ndarray:
        """Returns a matrix when all processes have written it; :meth:`finish` is told that it is no layer."""
        wait()
        return np.load(self.part / file_of(name))

    def finish(self, factors: pd.DataFrame, *, besides: Sequence[str] = ()) -> None:
        """Makes it the finished store, when all processes came here, without the matrices that are no layers."""
        wait()
        if rank() == 0:
            complete(self.part, self.folder, factors, self.key, besides=besides)
        wait()


def complete(part: Path, folder: Path, factors: pd.DataFrame, key: dict, *, besides: Sequence[str] = ()) -> None:
    """Puts the table and the key beside the matrices in ``part``, and ``part`` in the place of ``folder``."""
    factors.to_parquet(part / "factors.parquet")
    (part / "store.json").write_text(json.dumps(key))
    for mark in part.glob("done-*.json"):
        mark.unlink()
    for name in besides:  # after the marks: interrupted here, all is taken again
        (part / file_of(name)).unlink()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    part.rename(folder)


def file_of(layer: str) -> str:
    """Returns the name of a layer's file, whatever letters the layer's name has."""
    return urllib.parse.quote(layer, safe="") + ".npy"


def wait() -> None:
    """Waits for the other processes, where there are any."""
    if world() > 1:
        torch.distributed.barrier()


def _write(path: Path, content: dict | list) -> None:
    after = path.with_suffix(".new")
    after.write_text(json.dumps(content))
    after.replace(path)
