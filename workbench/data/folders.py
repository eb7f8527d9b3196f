"""Your own images: any tree of image files, or a table of paths and factors, decoded once into a memory-mapped cache."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.data.decoding import Fit, decode
from workbench.data.images import Images
from workbench.data.local import data_home

__all__ = ["folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TABLES = {".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t"), ".parquet": pd.read_parquet}
FORMAT = 1  # of the cache; a new number makes old caches be decoded again
CHUNK = 1024  # files given to the threads at once: an interruption waits for no more


def folder(
    path: str | Path,
    *,
    size: int = 64,
    fit: Fit = "crop",
    channels: int = 3,
    background: str = "white",
    level: int | None = 0,
    column: str = "path",
    root: str | Path | None = None,
    corrupt: Literal["skip", "raise"] = "skip",
    cache: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Images:
    """Returns the images in a folder, or in the rows of a table, as squares of ``size`` pixels.

    The first call decodes all files in parallel into a cache on disk, the next ones open that; where a file was added,
    removed or changed (name, size or time), all are decoded again and the old cache is removed. Pixels stay on disk and are
    read when they are used.

    Arguments:
        path: A folder of jpg, jpeg, png, webp and bmp files at any depth, or a table (csv, tsv, parquet) with a column of
            paths, whose other columns become factors. Hidden files and folders are passed over.
        size: Side of the images in pixels.
        fit: ``"crop"`` resizes the short side and keeps the centre, ``"pad"`` shows all and fills up, ``"stretch"`` distorts.
        channels: 3 for RGB, 1 for grey.
        background: Colour of transparent or padded parts.
        level: Which folder on the way to an image is its class: 0 the first below ``path``, -1 the innermost, None none.
        column: The table's column of paths.
        root: Where relative paths of the table begin; by default the folder in which the table is.
        corrupt: ``"skip"`` leaves out what cannot be decoded, with a warning; ``"raise"`` stops, after trying all. Either
            way ``skipped.csv`` in the cache lists every such file and why.
        cache: Folder of the cache; by default ``folders`` in :func:`workbench.data.local.data_home`.
        workers: Threads that decode; by default one a core that this process may use.
        progress: Whether to show a progress bar.

    Factors: ``path``, relative to the root; with class folders ``label``, the class's number in alphabetical order, and
    ``class_name``. A table's column ``label`` of names becomes numbers, and its names ``class_name``.

    Raises:
        FileNotFoundError: If the path, an image of the table or every image is missing.
        ValueError: If the table or an argument is wrong, or files are corrupt and ``corrupt="raise"``.
        OSError: If the disk has no room for the cache.
    """
    settings = {"size": size, "fit": fit, "channels": channels, "background": background}
    _check(settings, corrupt)
    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a folder of images, or a table (csv, tsv, parquet) of their paths")
    if path.is_dir():
        base, factors = path, _tree(path, level)
    else:
        base = path.parent if root is None else Path(root).expanduser()
        factors = _table(path, base, column)
    name = (path.resolve().name if path.is_dir() else path.stem) or "root"
    place = (Path(cache).expanduser() if cache else data_home() / "folders") / f"{name}-{_digest(path.resolve(), settings)}"
    files = [base / file for file in factors["path"]]
    store = _cached(files, place, settings, workers=workers, progress=progress)
    skipped = pd.read_csv(store / "skipped.csv")
    _report(skipped, len(files), store, corrupt)
    images = Images(np.load(store / "pixels.npy", mmap_mode="r"), factors, name)
    if len(skipped):
        images = images[np.setdiff1d(np.arange(len(files)), skipped["row"])]
    asked = {"level": level, "column": column, "root": root and str(root)}
    recipe = {"is": "workbench.data.folders:folder", "path": str(path), **settings, **asked}
    return Images(images.pixels, images.factors, images.name, recipe=recipe)


def _check(settings: Mapping[str, Any], corrupt: str) -> None:
    from PIL import ImageColor

    if settings["size"] < 1:
        raise ValueError(f"images have at least 1x1 pixels, but size is {settings['size']}")
    if settings["channels"] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, but got channels={settings['channels']}")
    if settings["fit"] not in ("crop", "pad", "stretch"):
        raise ValueError(f"fit is 'crop', 'pad' or 'stretch', but got {settings['fit']!r}")
    if corrupt not in ("skip", "raise"):
        raise ValueError(f"corrupt is 'skip' or 'raise', but got {corrupt!r}")
    ImageColor.getrgb(settings["background"])


def _tree(path: Path, level: int | None) -> pd.DataFrame:
    """Returns the factors of the images in a folder, in the order of their paths."""
    found = sorted(name for name in _walk(path) if name.lower().endswith(SUFFIXES))
    if not found:
        raise FileNotFoundError(f"{path} holds no image, at any depth; files that end in {', '.join(SUFFIXES)} are read")
    factors = pd.DataFrame({"path": found})
    parents = [name.split("/")[:-1] for name in found]
    if level is None or not any(parents):
        return factors
    try:
        classes = [p[level] if p else "." for p in parents]
    except IndexError as error:
        raise ValueError(
            f"not every image in {path} has a folder of level {level} above it; level=0 or -1 always works"
        ) from error
    return _labelled(factors, pd.Series(classes))


def _walk(root: Path) -> Iterator[str]:
    """Yields the paths of all visible files below a folder, relative to it; links are followed, but not in circles."""
    denied: list[OSError] = []
    for here, folders, names in os.walk(root, followlinks=True, onerror=denied.append):
        folders[:] = [f for f in folders if not f.startswith(".") and not _circular(Path(here, f))]
        inside = Path(here).relative_to(root)
        yield from ((inside / name).as_posix() for name in names if not name.startswith("."))
    if denied:
        raise PermissionError(f"{len(denied)} folders in {root} cannot be read: {denied[0].filename} ({denied[0].strerror}), ...")


def _circular(link: Path) -> bool:
    return link.is_symlink() and any(link.resolve() == parent.resolve() for parent in link.parents)


def _table(path: Path, base: Path, column: str) -> pd.DataFrame:
    """Returns the factors in a table; its paths stand in the column ``path``."""
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} is neither a folder nor a table that can be read ({', '.join(TABLES)})")
    table = TABLES[path.suffix.lower()](path)
    if column not in table:
        raise ValueError(f"{path} has no column {column!r} of paths; it has {list(table)}: say column=... for another")
    if not len(table):
        raise ValueError(f"{path} has no rows")
    if table[column].isna().any():
        raise ValueError(f"{path} gives no path in row {int(table[column].isna().to_numpy().argmax())}; drop or fill such rows")
    table = table.rename(columns={column: "path"})
    missing = [name for name in table["path"] if not (base / str(name)).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(table)} files in {path} do not exist, the first being {base / str(missing[0])}; "
            f"say root=... if the paths begin elsewhere, or drop the rows"
        )
    numbers = "label" not in table or pd.api.types.is_numeric_dtype(table["label"])
    return table if numbers else _labelled(table.drop(columns="label"), table["label"])


def _labelled(factors: pd.DataFrame, classes: pd.Series) -> pd.DataFrame:
    numbers, _ = pd.factorize(classes, sort=True)
    return factors.assign(label=numbers, class_name=classes.to_numpy())


def _digest(*things: Any) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _cached(files: list[Path], place: Path, settings: Mapping[str, Any], *, workers: int | None, progress: bool) -> Path:
    """Returns the folder with the decoded pixels of files, decoding them where there is none for just these files."""
    listing = hashlib.sha256(f"{FORMAT}".encode())
    for file in files:
        listing.update(f"{file}\0{_state(file)}\n".encode())
    store = place.with_name(f"{place.name}-{listing.hexdigest()[:12]}")
    with _alone(place):
        if store.exists():
            return store
        _make_room(place, len(files) * settings["channels"] * settings["size"] ** 2)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            _decode_all(files, work, settings, workers=workers, progress=progress)
            _clear(place.parent, f"{place.name}-")
            work.rename(store)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return store


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Makes other processes that want the same cache wait, so that one decodes and the rest find it done."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{place.name}.lock").open("w") as lock:
        with contextlib.suppress(ImportError, OSError):  # Windows, and file systems without locks
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_room(place: Path, need: int) -> None:
    _clear(place.parent, f".{place.name}-")  # what a killed process left
    free = shutil.disk_usage(place.parent).free
    if need > 0.95 * free:
        raise OSError(
            f"the cache of these images needs {need / 1e9:.1f} GB, but {place.parent} has {free / 1e9:.1f} GB free; "
            f"make room, or say cache=... to keep it elsewhere"
        )


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _clear(folder: Path, prefix: str) -> None:
    for old in folder.iterdir():
        if old.name.startswith(prefix):
            shutil.rmtree(old, ignore_errors=True)


def _decode_all(files: list[Path], work: Path, settings: Mapping[str, Any], *, workers: int | None, progress: bool) -> None:
    """Writes ``pixels.npy``, one image a file, and ``skipped.csv``, the files that could not be decoded."""
    from tqdm.auto import tqdm

    shape = (len(files), settings["channels"], settings["size"], settings["size"])
    pixels = np.lib.format.open_memmap(work / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    skipped = []

    def put(row: int) -> None:
        try:
            pixels[row] = decode(files[row], **settings)
        except MemoryError:
            raise
        except Exception as error:  # damaged files make PIL raise many kinds
            skipped.append((row, str(files[row]), f"{type(error).__name__}: {error}"))

    with ThreadPoolExecutor(workers or _cores()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PIL says of odd EXIF and palettes
        with tqdm(total=len(files), desc="decoding", unit=" images", disable=not progress) as bar:
            for start in range(0, len(files), CHUNK):
                for _ in pool.map(put, range(start, min(start + CHUNK, len(files)))):
                    bar.update()
    pixels.flush()
    pd.DataFrame(sorted(skipped), columns=["row", "path", "reason"]).to_csv(work / "skipped.csv", index=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report(skipped: pd.DataFrame, files: int, store: Path, corrupt: str) -> None:
    if not len(skipped):
        return
    first = "".join(f"\n  {row.path}: {row.reason}" for row in skipped.head(5).itertuples())
    text = f"{len(skipped)} of {files} images could not be decoded, all listed in {store / 'skipped.csv'}:{first}"
    text += "\n  ..." if len(skipped) > 5 else ""
    if corrupt == "raise":
        raise ValueError(f"{text}\nMend or remove them, or leave them out with corrupt='skip'.")
    if len(skipped) == files:
        raise ValueError(f"{text}\nNone is left.")
    warnings.warn(f"{text}\nThey are left out.", stacklevel=3)
