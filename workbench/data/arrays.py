"""Images that are already in memory: arrays, a Hugging Face data set, and scikit-learn's digits."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.data.decoding import Fit, fit_square
from workbench.data.images import Images

if TYPE_CHECKING:
    import datasets

__all__ = ["digits", "from_arrays", "huggingface"]


def from_arrays(
    pixels: np.ndarray | Tensor,
    factors: pd.DataFrame | Mapping[str, Sequence] | None = None,
    *,
    labels: Sequence | np.ndarray | Tensor | None = None,
    name: str = "arrays",
    layout: Literal["NCHW", "NHWC", "auto"] = "auto",
) -> Images:
    """Returns ``Images`` of arrays.

    Arguments:
        pixels: uint8, or floating-point numbers in [0, 1], of shape (n, channels, height, width), (n, height, width, channels)
            or (n, height, width), with 1 or 3 channels.
        factors: A table, or columns by name, of one row an image.
        labels: The factor ``label``, where it stands by itself; names become numbers, and ``class_name`` keeps them.
        name: Short name of the data set.
        layout: Where the channels are. ``"auto"`` finds out, and warns where it took them to be last.

    Raises:
        ValueError: If the layout cannot be told, values lie outside [0, 1], or the rows do not agree.
        TypeError: If the values are neither uint8 nor floating-point.

    Example:
        >>> from_arrays(np.zeros((5, 3, 8, 8)), labels=[0, 1, 1, 0, 2]).factors["label"].tolist()
        [0, 1, 1, 0, 2]
    """
    array = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else np.asarray(pixels)
    array = _bytes(_channels_first(array, layout))
    table = pd.DataFrame(index=range(len(array))) if factors is None else pd.DataFrame(factors).reset_index(drop=True)
    if labels is not None:
        labels = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if labels.shape != (len(array),):
            raise ValueError(f"{name}: labels must be one an image, ({len(array)},), but have shape {labels.shape}")
        table = pd.concat([_label_columns(labels), table.drop(columns="label", errors="ignore")], axis=1)
    return Images(torch.from_numpy(array), table, name)


def _channels_first(array: np.ndarray, layout: str) -> np.ndarray:
    if layout not in ("NCHW", "NHWC", "auto"):
        raise ValueError(f"layout is 'NCHW', 'NHWC' or 'auto', but got {layout!r}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise ValueError(
            f"pixels must have 3 or 4 dimensions, (n, channels, height, width) or the like, but have shape {array.shape}"
        )
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if layout == "auto":
        if first == last:
            raise ValueError(
                f"pixels of shape {array.shape} have {'1 or 3 channels both ways' if first else 'no side of 1 or 3 channels'}; "
                f"say layout='NCHW' or layout='NHWC', and give 1 or 3 channels"
            )
        layout = "NCHW" if first else "NHWC"
        if last:
            warnings.warn(f"pixels of shape {array.shape} were taken as NHWC; say layout='NHWC' to be sure", stacklevel=3)
    return array if layout == "NCHW" else array.transpose(0, 3, 1, 2)


def _bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.require(array, requirements=["C", "W"])
    if array.dtype.kind != "f":
        raise TypeError(f"pixels must be uint8 (0 to 255) or floating-point (0 to 1), but are {array.dtype}; convert them first")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"floating-point pixels must lie in [0, 1], but go from {low:.4g} to {high:.4g}; undo the normalisation, "
            f"or divide by 255, or convert to uint8"
        )
    return np.round(array * 255).astype(np.uint8)


def _label_columns(labels: np.ndarray, names: Sequence[str] | None = None) -> pd.DataFrame:
    if names is not None:
        return pd.DataFrame({"label": labels, "class_name": np.append(names, "")[labels]})  # -1, unknown, is the last
    if labels.dtype.kind in "iubf":
        return pd.DataFrame({"label": labels})
    return pd.DataFrame({"label": pd.factorize(labels, sort=True)[0], "class_name": labels})


def huggingface(
    dataset: "datasets.Dataset",
    *,
    image: str = "image",
    label: str | None = None,
    size: int | None = None,
    fit: Fit = "crop",
    channels: int = 3,
    background: str = "white",
    name: str = "huggingface",
    progress: bool = True,
) -> Images:
    """Returns the images of a ``datasets.Dataset``, decoded into memory; every column of numbers or words is a factor.

    Arguments:
        dataset: One split.
        image: The column of images.
        label: The column that becomes the factor ``label``; by default ``label``, or the only column of class labels. Its names
            become ``class_name``.
        size: Side of the images; None leaves them as they are, where all have one shape.
        fit, channels, background: As in :func:`workbench.data.folders.folder`.
        name: Short name of the data set.
        progress: Whether to show a progress bar.

    Raises:
        KeyError: If a column is missing.
        ValueError: If the images differ in shape and no ``size`` is given, or several splits are given at once.
        TypeError: If the column holds no images.
    """
    from tqdm.auto import tqdm

    if isinstance(dataset, Mapping):
        raise ValueError(
            f"huggingface takes one split, but got {list(dataset)}; write huggingface(dataset[{next(iter(dataset))!r}])"
        )
    kinds = dataset.features
    label = label or _label_of(kinds)
    for column in (image, label):
        if column is not None and column not in kinds:
            raise KeyError(f"the data set has no column {column!r}; it has {list(kinds)}: say image=... or label=...")
    settings = {"size": size, "fit": fit, "channels": channels, "background": background}
    rows = tqdm(dataset.select_columns(image), desc="decoding", unit=" images", disable=not progress)
    parts = [fit_square(_picture(row[image], image), **settings) for row in rows]
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise ValueError(f"the images have {len(shapes)} shapes, from {shapes[0]} to {shapes[-1]}; say size=... to make them one")
    if not parts:
        raise ValueError("the data set has no rows")
    scalars = [c for c, kind in kinds.items() if c not in (image, label) and hasattr(kind, "dtype") and _scalar(kind)]
    factors = dataset.select_columns(scalars).to_pandas() if scalars else pd.DataFrame(index=range(len(parts)))
    if label is not None:
        factors = pd.concat(
            [_label_columns(np.asarray(dataset[label][:]), getattr(kinds[label], "names", None)), factors], axis=1
        )
    return Images(torch.from_numpy(np.stack(parts)), factors, name)


def _label_of(kinds: Mapping[str, Any]) -> str | None:
    classes = [column for column, kind in kinds.items() if type(kind).__name__ == "ClassLabel"]
    return "label" if "label" in kinds else classes[0] if len(classes) == 1 else None


def _scalar(kind: Any) -> bool:
    return type(kind).__name__ == "ClassLabel" or (type(kind).__name__ == "Value" and not str(kind.dtype).startswith("binary"))


def _picture(value: Any, column: str) -> Any:
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    if isinstance(value, Mapping) and value.get("bytes"):
        return Image.open(io.BytesIO(value["bytes"]))
    raise TypeError(
        f"column {column!r} holds {type(value).__name__}, not images; "
        f"cast it with dataset.cast_column({column!r}, datasets.Image())"
    )


def digits(split: Literal["all", "train", "test"] = "all", *, channels: int = 1) -> Images:
    """Returns scikit-learn's 1,797 handwritten digits (uint8, 1 8 8) with the factors ``label`` and ``row``.

    Every fifth digit of a class is a test image: 1,442 train and 355 test. (Alpaydin and Kaynak, UCI repository, 1998.)

    Raises:
        ValueError: If there is no such split or number of channels.

    Example:
        >>> digits().pixels.shape
        torch.Size([1797, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    if split not in ("all", "train", "test"):
        raise ValueError(f"digits have the splits 'all', 'train' and 'test', but got {split!r}")
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, but got channels={channels}")
    data = load_digits()
    factors = pd.DataFrame({"label": data.target, "row": np.arange(len(data.target))})
    test = factors.groupby("label").cumcount().to_numpy() % 5 == 4
    kept = np.flatnonzero({"all": test | True, "train": ~test, "test": test}[split])
    pixels = torch.from_numpy(np.round(data.images * (255 / 16)).astype(np.uint8))[kept].unsqueeze(1).repeat(1, channels, 1, 1)
    recipe = {"is": "workbench.data.arrays:digits", "split": split, "channels": channels}
    return Images(pixels, factors.iloc[kept].reset_index(drop=True), "digits", recipe=recipe)
