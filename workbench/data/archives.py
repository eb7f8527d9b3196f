"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32x32 pixels, read from the archives that their authors publish.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009, https://www.cs.toronto.edu/~kriz/cifar.html. Both of
the published forms are read, packed or unpacked. The Python form consists of pickles, which can run any code when they are
loaded: here they are loaded by a reader that makes arrays, lists, dictionaries and strings, and refuses everything else.
"""

import codecs
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.data.images import Images
from workbench.data.local import data_home

__all__ = ["cifar10", "cifar100"]

Split = Literal["train", "test"]


class Form(NamedTuple):
    """One of the two published forms: its folder and archive, the files of each split and of the names, and their readers."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, ...]
    table: Callable[[bytes, int], tuple[np.ndarray, np.ndarray]]
    words: Callable[[Mapping[str, bytes]], list[list[str]]]


def cifar10(split: Split = "train", *, path: str | Path | None = None) -> Images:
    """Returns CIFAR-10 (50,000 train or 10,000 test images, uint8, 3 32 32) with the factors ``label`` and ``class_name``.

    Arguments:
        split: ``"train"`` or ``"test"``.
        path: ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, or the folder in which it is or was unpacked. By default
            :func:`workbench.data.local.data_home` is looked in, and torchvision downloads the archive to there.

    Raises:
        ValueError: If there is no such split, or a file is damaged or holds anything but arrays.
        FileNotFoundError: If the archive is neither there nor can be downloaded.
    """
    return _cifar("cifar10", split, path)


def cifar100(split: Split = "train", *, path: str | Path | None = None) -> Images:
    """Returns CIFAR-100; its factors are ``label`` (100 classes), ``coarse_label`` (20), and their names.

    ``class_name`` and ``coarse_class_name`` hold the names. The arguments and errors are those of :func:`cifar10`; the
    archives are ``cifar-100-python.tar.gz`` and ``cifar-100-binary.tar.gz``.
    """
    return _cifar("cifar100", split, path)


def _cifar(name: str, split: str, path: str | Path | None) -> Images:
    if split not in ("train", "test"):
        raise ValueError(f"{name} has the splits 'train' and 'test', but got {split!r}")
    form, files = _files(name, split, path)
    columns = ("label",) if name == "cifar10" else ("coarse_label", "label")
    parts = [form.table(files[file], len(columns)) for file in getattr(form, split)]
    pixels, labels = (np.concatenate(x) for x in zip(*parts, strict=True))
    factors = pd.DataFrame(labels, columns=columns)
    for column, words in zip(columns, form.words(files), strict=True):
        if labels.min() < 0 or factors[column].max() >= len(words):
            raise ValueError(
                f"{name}: {column} goes to {factors[column].max()}, but there are {len(words)} names; fetch it again"
            )
        factors[column.replace("label", "class_name")] = np.array(words)[factors[column]]
    order = [c for c in ("label", "class_name", "coarse_label", "coarse_class_name") if c in factors]
    recipe = {"is": f"workbench.data.archives:{name}", "split": split, "path": path and str(path)}
    return Images(torch.from_numpy(pixels), factors[order], f"{name}_{split}", recipe=recipe)


def _files(name: str, split: str, path: str | Path | None) -> tuple[Form, dict[str, bytes]]:
    """Returns the first form that is found, and the bytes of its files by name."""
    home = Path(path).expanduser() if path else data_home()
    for form in FORMS[name]:
        wanted = (*getattr(form, split), *form.names)
        for place in (home, home / form.folder):
            if all((place / file).is_file() for file in wanted):
                return form, {file: (place / file).read_bytes() for file in wanted}
        for archive in (home, home / form.archive):
            if archive.is_file():
                found = _unpack(archive, wanted)
                if len(found) == len(wanted):
                    return form, found
                if archive == home / form.archive:
                    raise ValueError(f"{archive} lacks {sorted(set(wanted) - set(found))}; fetch it again")
    if path is None:
        _download(name, home)
        return _files(name, split, home)
    archives = " nor ".join(form.archive for form in FORMS[name])
    raise FileNotFoundError(f"{home} is or holds neither {archives}, nor what is in them (in full)")


def _unpack(archive: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    try:
        with tarfile.open(archive) as tar:
            members = {Path(m.name).name: m for m in tar if m.isfile()}
            return {file: tar.extractfile(members[file]).read() for file in wanted if file in members}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} is no archive, or is damaged ({error}); fetch it again") from error


def _download(name: str, home: Path) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, name.upper())(str(home), download=True)
    except Exception as error:
        archives = " or ".join(form.archive for form in FORMS[name])
        raise FileNotFoundError(
            f"{name} is not on this machine. Do one of three things: fetch {archives} from "
            f"https://www.cs.toronto.edu/~kriz/cifar.html and say {name}(path=...); put it into {home} (or set $WORKBENCH_DATA "
            f"to where it is); or connect to the internet, so that torchvision can download it (it tried: {error})."
        ) from error


class _Array:
    """What a pickled array becomes: nothing of NumPy is called before its parts were looked at."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes(self) -> np.ndarray:
        _, shape, kind, by_columns, data = self.state
        if kind.arguments[:1] != ("u1",) or by_columns:
            raise ValueError(f"its array is not of bytes by rows, but {kind.arguments}")
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, np.uint8).reshape(shape)


class _Kind:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None: ...


class _Plain(pickle.Unpickler):
    """Loads pickles that hold plain values and arrays; a pickle that names anything else is refused before it is made."""

    allowed = {("_codecs", "encode"): codecs.encode, ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Kind} | {
        (f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such data set needs: do not trust this file")
        return self.allowed[module, name]


def _load(data: bytes) -> dict[str, Any]:
    try:
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:
        raise ValueError(f"a file of the data set could not be read: {error}") from error


def _pickled(data: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (n, 3, 32, 32) and labels (n, labels) of one pickled batch, coarse labels first."""
    batch = _load(data)
    try:
        columns = [batch["labels"]] if labels == 1 else [batch["coarse_labels"], batch["fine_labels"]]
        return batch["data"].bytes().reshape(-1, 3, 32, 32), np.stack(columns, 1).astype(np.int64)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"a batch of the data set is not as published ({error!r}); fetch it again") from error


def _binary(data: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of a file of records: one byte a label, then 3,072 of pixels."""
    if len(data) % (labels + 3072) or not data:
        raise ValueError(
            f"a batch of the data set has {len(data)} bytes, which are no whole records of {labels + 3072}; fetch it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, labels + 3072)
    return records[:, labels:].reshape(-1, 3, 32, 32).copy(), records[:, :labels].astype(np.int64)


def _words_of_pickle(*keys: str) -> Callable[[Mapping[str, bytes]], list[list[str]]]:
    def words(files: Mapping[str, bytes]) -> list[list[str]]:
        meta = _load(next(data for name, data in files.items() if "meta" in name))
        return [list(meta[key]) for key in keys]

    return words


def _words_of_text(*names: str) -> Callable[[Mapping[str, bytes]], list[list[str]]]:
    return lambda files: [files[name].decode().split() for name in names]


FORMS = {
    "cifar10": (
        Form(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test=("test_batch",),
            names=("batches.meta",),
            table=_pickled,
            words=_words_of_pickle("label_names"),
        ),
        Form(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test=("test_batch.bin",),
            names=("batches.meta.txt",),
            table=_binary,
            words=_words_of_text("batches.meta.txt"),
        ),
    ),
    "cifar100": (
        Form(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            train=("train",),
            test=("test",),
            names=("meta",),
            table=_pickled,
            words=_words_of_pickle("coarse_label_names", "fine_label_names"),
        ),
        Form(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            train=("train.bin",),
            test=("test.bin",),
            names=("coarse_label_names.txt", "fine_label_names.txt"),
            table=_binary,
            words=_words_of_text("coarse_label_names.txt", "fine_label_names.txt"),
        ),
    ),
}
