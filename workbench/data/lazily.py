"""Arrays that stay in their files: packed ones are unpacked once into the cache, and rows are read when they are asked for."""

import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from workbench.data.local import data_home

__all__: list[str] = []


class Arranged:
    """Pixels (uint8, n C H W) whose rows are read from a file that has them in another order of axes.

    Arguments:
        read: Gives the pixels (n, C, H, W) of a slice of rows or of row numbers.
        shape: Of all pixels.
    """

    def __init__(self, read: Callable[[Any], np.ndarray], shape: tuple[int, int, int, int]) -> None:
        self.read, self.shape, self.dtype = read, shape, np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.read(rows)


def found(path: str | Path | None, names: tuple[str, ...], what: str, where: str) -> Path:
    """Returns the first file of ``names`` in a folder, the file itself where ``path`` is one, or what lies in ``data_home()``.

    Raises:
        FileNotFoundError: If there is none; the message says from ``where`` to fetch it.
    """
    place = data_home() if path is None else Path(path).expanduser()
    if place.is_file():
        return place
    for name in names:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"{what} is not in {place}: there is no {' nor '.join(names)}. Fetch it from {where}, and say path=... or put it into "
        f"{data_home()} ($WORKBENCH_DATA)"
    )


def member(path: Path, key: str) -> np.ndarray:
    """Returns an array of an npz file, memory-mapped: where it lies if it is stored as it is, else unpacked into the cache.

    Raises:
        ValueError: If the file is damaged, has no such array, or it is of Python objects.
        OSError: If the disk has no room for the cache.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if f"{key}.npy" not in names:
                kept = ", ".join(name.removesuffix(".npy") for name in names)
                raise ValueError(f"{path} has no array {key!r}; it has {kept}")
            about = archive.getinfo(f"{key}.npy")
            if about.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, _start(path, about))
            return _mapped(unpacked(path, lambda: archive.open(about), about.file_size, key), 0)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise ValueError(f"{path} is no npz file, or is damaged ({error}); fetch it again") from error


def unpacked(path: Path, opened: Callable[[], BinaryIO], size: int, key: str) -> Path:
    """Returns the file of the cache that holds what is packed in ``path``, unpacking it where it is not there yet.

    Raises:
        OSError: If the disk has no room for ``size`` bytes.
    """
    state = path.stat()
    digest = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{key}".encode()).hexdigest()[:12]
    folder = data_home() / "unpacked"
    kept = folder / f"{path.name}-{key}-{digest}"
    if kept.exists():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        raise OSError(
            f"{path.name} unpacks to {size / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; make room, or set "
            f"$WORKBENCH_DATA to where there is"
        )
    handle, part = tempfile.mkstemp(dir=folder, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file, opened() as source:
            shutil.copyfileobj(source, file, 2**22)
        Path(part).rename(kept)
    finally:
        Path(part).unlink(missing_ok=True)
    return kept


def _start(path: Path, about: zipfile.ZipInfo) -> int:
    """Returns where the bytes of a stored member begin: after the header before it, which ends in a name and an extra part."""
    with path.open("rb") as file:
        file.seek(about.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return about.header_offset + 30 + name + extra


def _mapped(path: Path, start: int) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{path} holds an array of NumPy's format {version}, which is not known")
        shape, by_columns, kind = read(file)
        at = file.tell()
    if kind.hasobject or by_columns:
        raise ValueError(f"{path} holds an array of {kind}{' by columns' * by_columns}, but one of numbers by rows is wanted")
    return np.memmap(path, kind, "r", at, shape)
