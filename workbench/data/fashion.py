"""Fashion-MNIST: 28x28 grey photographs of garments in ten classes, a sample of which comes with the library.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
arXiv 1708.07747, 2017; MIT licence. The embedded sample and how it was made: ``embedded/PROVENANCE.md``.
"""

import functools
import gzip
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.data.images import Images
from workbench.data.local import data_home

__all__ = ["FASHION_CLASSES", "fashion_mnist"]

FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

EMBEDDED = Path(__file__).parent / "embedded"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = {"train": "train", "test": "t10k"}
SIDE = 28


def fashion_mnist(split: Literal["train", "test", "all"] = "train", *, full: bool = False, channels: int = 1) -> Images:
    """Returns Fashion-MNIST with the factors ``label`` (0 to 9), ``class_name`` and ``row`` (in the original split).

    Arguments:
        split: ``"train"``, ``"test"``, or ``"all"``, which is the one followed by the other.
        full: False for the embedded sample (10,000 + 2,000 images, as many of each class); True for all 60,000 + 10,000,
            read from ``$WORKBENCH_DATA``, from the folder of the Debian package ``dataset-fashion-mnist``, or downloaded
            by torchvision, whichever is found first.
        channels: 1, or 3 for the same grey in red, green and blue.

    Raises:
        ValueError: If there is no such split or number of channels.
        FileNotFoundError: If all images are asked for, and none of the three ways has them.

    Example:
        >>> fashion_mnist("test").pixels.shape
        torch.Size([2000, 1, 28, 28])
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"Fashion-MNIST has the splits 'train', 'test' and 'all', but got {split!r}")
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, but got channels={channels}")
    wanted = ["train", "test"] if split == "all" else [split]
    parts = [_complete(s) if full else embedded(s) for s in wanted]
    pixels = torch.cat([pixels for pixels, _ in parts])
    factors = pd.concat([table for _, table in parts], ignore_index=True)
    factors.insert(1, "class_name", np.array(FASHION_CLASSES)[factors["label"]])
    recipe = {"is": "workbench.data.fashion:fashion_mnist", "split": split, "full": full, "channels": channels}
    return Images(pixels.repeat(1, channels, 1, 1), factors, "fashion_mnist", recipe=recipe)


@functools.cache
def embedded(split: str) -> tuple[Tensor, pd.DataFrame]:
    """Returns the pixels (uint8, n 1 28 28) and the table (label, row) of the embedded sample of a split."""
    from PIL import Image

    table = pd.read_csv(EMBEDDED / "fashion_mnist.csv").query("split == @split")
    mosaic = np.asarray(Image.open(EMBEDDED / f"fashion_mnist_{split}.png"))
    tiles = mosaic.reshape(-1, SIDE, mosaic.shape[1] // SIDE, SIDE).swapaxes(1, 2).reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(tiles.copy()), table[["label", "row"]].reset_index(drop=True)


def _complete(split: str) -> tuple[Tensor, pd.DataFrame]:
    folder = _find()
    pixels = read_idx(folder / f"{FILES[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{FILES[split]}-labels-idx1-ubyte.gz")
    if len(pixels) != len(labels):
        raise ValueError(f"{folder} has {len(pixels)} images but {len(labels)} labels of {split!r}; fetch it again")
    return torch.from_numpy(pixels).unsqueeze(1), pd.DataFrame({"label": labels.astype(np.int64), "row": np.arange(len(labels))})


def _find() -> Path:
    home = data_home()
    downloaded = home / "FashionMNIST" / "raw"
    folders = [home, home / "fashion-mnist", downloaded, DEBIAN]
    for folder in folders:
        if all(
            (folder / f"{f}-{kind}.gz").is_file() for f in FILES.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ):
            return folder
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(home), download=True)
    except Exception as error:
        raise FileNotFoundError(
            f"all of Fashion-MNIST is not on this machine. Do one of three things: install the Debian package with "
            f"`apt-get install dataset-fashion-mnist`; put its four files (train-*-ubyte.gz, t10k-*-ubyte.gz) "
            f"into {home} (or set $WORKBENCH_DATA to where they are); or connect to the internet, so that torchvision can "
            f"download them (it tried: {error}). The embedded sample, fashion_mnist(full=False), needs none of these."
        ) from error
    return downloaded


def read_idx(path: Path) -> np.ndarray:
    """Returns the array in a gzipped IDX file of unsigned bytes, the format of MNIST.

    Raises:
        ValueError: If the file is no such file, or is cut short.
    """
    with gzip.open(path) as file:
        try:
            data = file.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it begins with {data[:4]!r}")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != np.prod(shape):
        raise ValueError(f"{path} promises {shape} values but holds {values.size}; fetch it again")
    return values.reshape(shape).copy()
