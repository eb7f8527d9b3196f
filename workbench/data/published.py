"""The published sets of images with known factors, from the files that their authors distribute.

All but SmallNORB show every combination of their factors once, in order: :func:`correlate` and :func:`factor_numbers` take them
as they take what is drawn here. What is large stays in its file, or is unpacked once into the cache, and is read when it is
looked at; ``.to("cpu")`` reads it all.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from workbench.data.images import Images
from workbench.data.lazily import Arranged, found, member, unpacked
from workbench.data.local import data_home

__all__ = ["cars3d", "dsprites", "mpi3d", "shapes3d", "small_norb"]

ARM = ("object_color", "label", "object_size", "camera_height", "background_color", "horizontal_axis", "vertical_axis")
ARM_GRIDS = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))
ARM_FILES = {
    "toy": "mpi3d_toy.npz",
    "realistic": "mpi3d_realistic.npz",
    "real": "mpi3d_real.npz",
    "complex": "real3d_complicated_shapes_ordered.npz",
}
TOYS = ("animal", "human", "airplane", "truck", "car")
NORB = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
NORB_KINDS = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}


def dsprites(*, path: str | Path | None = None) -> Images:
    """Returns dSprites (uint8, 1 64 64, black and white): 3 x 6 x 40 x 32 x 32 = 737,280 images.

    Matthey, Higgins, Hassabis and Lerchner, 2017, https://github.com/google-deepmind/dsprites-dataset. The file unpacks to 3 GB
    in the cache.

    Arguments:
        path: ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz``, or the folder in which it is; by default that of
            :func:`workbench.data.local.data_home`.

    Factors: ``label`` and ``shape``, its name (square, ellipse, heart); ``scale`` (.5 to 1); ``orientation`` in degrees
    (0 to 360, both ends among the values); ``x`` and ``y`` (0 to 1).

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged, or holds anything else.
    """
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    file = found(path, (name,), "dSprites", "https://github.com/google-deepmind/dsprites-dataset")
    classes, values, stored = (member(file, key) for key in ("latents_classes", "latents_values", "imgs"))
    _agree(file, stored, values, axes=3, columns=6)
    _full(file, np.asarray(classes))
    factors = pd.DataFrame({"label": classes[:, 1].astype(np.int64)})
    if factors["label"].max() > 2:
        raise ValueError(f"{file} has {factors['label'].max() + 1} shapes, but dSprites has 3")
    factors["shape"] = np.array(["square", "ellipse", "heart"])[factors["label"]]
    factors["scale"], factors["orientation"] = values[:, 2], np.rad2deg(values[:, 3])
    factors["x"], factors["y"] = values[:, 4], values[:, 5]
    n, height, width = stored.shape
    pixels = Arranged(lambda rows: np.asarray(stored[rows])[:, None] * np.uint8(255), (n, 1, height, width))
    return Images(pixels, factors, "dsprites", recipe=_recipe("dsprites", path))


def shapes3d(*, path: str | Path | None = None) -> Images:
    """Returns 3D Shapes (uint8, 3 64 64): 10 x 10 x 10 x 8 x 4 x 15 = 480,000 images.

    Burgess and Kim, 2018, https://github.com/google-deepmind/3d-shapes. Rows are read from the HDF5 file, by ``h5py``
    (``pip install h5py``); neighbouring rows are read faster than scattered ones.

    Arguments:
        path: ``3dshapes.h5``, or the folder in which it is; by default that of :func:`workbench.data.local.data_home`.

    Factors: ``label``, the number of the shape; ``size`` and ``orientation`` in degrees (-30 to 30) as in the file; ``hue`` of
    the object, ``floor_hue`` and ``wall_hue`` (0 to 1).

    Raises:
        FileNotFoundError: If the file is not there.
        ModuleNotFoundError: If ``h5py`` is not installed.
        ValueError: If the file is damaged, or holds anything else.
    """
    file = found(path, ("3dshapes.h5",), "3D Shapes", "https://github.com/google-deepmind/3d-shapes")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("3D Shapes is an HDF5 file, which is read by h5py: `pip install h5py`", name="h5py") from error
    try:
        opened = h5py.File(file, "r")
        stored, values = opened["images"], opened["labels"][:]
    except (OSError, KeyError) as error:
        raise ValueError(f"{file} is no HDF5 file with 'images' and 'labels', or is damaged ({error}); fetch it again") from error
    _agree(file, stored, values, axes=4, columns=6)
    _full(file, np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in values.T], 1))
    order = ("floor_hue", "wall_hue", "hue", "size", "label", "orientation")
    factors = pd.DataFrame(values, columns=list(order)).astype({"label": np.int64})
    factors.insert(0, "label", factors.pop("label"))
    return Images(_channels_last(_rows_of(stored), stored.shape), factors, "shapes3d", recipe=_recipe("shapes3d", path))


def mpi3d(version: Literal["toy", "realistic", "real", "complex"] = "toy", *, path: str | Path | None = None) -> Images:
    """Returns MPI3D (uint8, 3 64 64): 6 x 6 x 2 x 3 x 3 x 40 x 40 = 1,036,800 images of a robot's arm that holds an object.

    Gondal et al., NeurIPS 2019, https://arxiv.org/abs/1906.03292 and https://github.com/rr-learning/disentanglement_dataset.
    ``"complex"`` has 4 x 4 x 2 x 3 x 3 x 40 x 40 = 460,800. The files say nothing of the factors: they are told by the number of
    images. A packed file is unpacked into the cache, to 12.7 or 5.7 GB.

    Arguments:
        version: Which of the sets; of no account where ``path`` is a file.
        path: ``mpi3d_toy.npz``, ``mpi3d_realistic.npz``, ``mpi3d_real.npz`` or ``real3d_complicated_shapes_ordered.npz``, or the
            folder in which it is; by default that of :func:`workbench.data.local.data_home`.

    Factors, as numbers: ``label``, the object's shape; ``object_color``, ``object_size``, ``camera_height``,
    ``background_color``, ``horizontal_axis`` and ``vertical_axis``, the turns of the arm.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If there is no such version, the file is damaged, or its images are no such grid.
    """
    if version not in ARM_FILES:
        raise ValueError(f"MPI3D has the versions {list(ARM_FILES)}, but got {version!r}")
    file = found(path, (ARM_FILES[version],), "MPI3D", "https://github.com/rr-learning/disentanglement_dataset")
    stored = member(file, "images")
    if stored.ndim != 4 or stored.shape[3] != 3 or stored.dtype != np.uint8:
        got = f"{stored.dtype} of shape {stored.shape}"
        raise ValueError(f"{file} holds {got}, but (images, height, width, 3) of uint8 is wanted")
    lengths = next((grid for grid in ARM_GRIDS if np.prod(grid) == len(stored)), None)
    if lengths is None:
        raise ValueError(f"{file} holds {len(stored):,} images, but MPI3D has 1,036,800, or 460,800 of complex objects")
    at = np.unravel_index(np.arange(len(stored)), lengths)
    factors = pd.DataFrame(dict(zip(ARM, (a.astype(np.int64) for a in at), strict=True)))
    factors.insert(0, "label", factors.pop("label"))
    recipe = _recipe("mpi3d", path, version=version)
    return Images(_channels_last(stored.__getitem__, stored.shape), factors, f"mpi3d_{version}", recipe=recipe)


def cars3d(*, path: str | Path | None = None, size: int = 64) -> Images:
    """Returns Cars3D (uint8, 3 ``size`` ``size``): 183 cars x 24 azimuths x 4 elevations = 17,568 images, read into memory.

    Reed, Zhang, Zhang and Lee, "Deep visual analogy-making", NeurIPS 2015; the archive is
    http://www.scottreed.info/files/nips2015-analogy-data.tar.gz, whose folder ``data/cars`` has a file of MATLAB for each car.

    Arguments:
        path: The folder of the files; by default ``cars`` in :func:`workbench.data.local.data_home`.
        size: Side to which the images are resized.

    Factors, as numbers: ``label``, the car, in the order of the files' names; ``azimuth`` (0 to 23) and ``elevation`` (0 to 3).

    Raises:
        FileNotFoundError: If the folder holds no such files.
        ValueError: If one is damaged, or holds anything else.
    """
    from PIL import Image
    from scipy.io import loadmat

    from workbench.data.decoding import fit_square

    folder = data_home() / "cars" if path is None else Path(path).expanduser()
    files = sorted(folder.glob("*.mat")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no .mat files of Cars3D. Unpack http://www.scottreed.info/files/nips2015-analogy-data.tar.gz, and "
            f"say path=... to its folder data/cars, or put that into {data_home()} ($WORKBENCH_DATA)"
        )
    pixels = np.empty((len(files), 24, 4, 3, size, size), np.uint8)
    for car, file in enumerate(files):
        try:
            turned = loadmat(file, variable_names=["im"])["im"]  # height width 3 azimuths elevations
        except Exception as error:  # a damaged file makes SciPy raise many kinds
            raise ValueError(f"{file} is no file of MATLAB with 'im', or is damaged ({error!r}); fetch it again") from error
        if turned.dtype != np.uint8 or turned.ndim != 5 or turned.shape[2:] != (3, 24, 4):
            raise ValueError(
                f"{file} holds {turned.dtype} of shape {turned.shape}, but (height, width, 3, 24, 4) of uint8 is wanted"
            )
        for azimuth, elevation in np.ndindex(24, 4):
            pixels[car, azimuth, elevation] = fit_square(Image.fromarray(turned[..., azimuth, elevation]), size=size)
    at = np.unravel_index(np.arange(len(files) * 96), (len(files), 24, 4))
    factors = pd.DataFrame(dict(zip(("label", "azimuth", "elevation"), (a.astype(np.int64) for a in at), strict=True)))
    return Images(torch.from_numpy(pixels).flatten(0, 2), factors, "cars3d", recipe=_recipe("cars3d", path, size=size))


def small_norb(
    split: Literal["train", "test", "all"] = "train",
    *,
    camera: Literal["left", "right"] = "left",
    path: str | Path | None = None,
) -> Images:
    """Returns SmallNORB (uint8, 1 96 96, grey): 24,300 train and 24,300 test photographs of 25 toys each.

    LeCun, Huang and Bottou, "Learning methods for generic object recognition with invariance to pose and lighting", CVPR 2004,
    https://cs.nyu.edu/~ylclab/data/norb-v1.0-small. Packed files (``.gz``) are unpacked into the cache, to 450 MB a split.

    Arguments:
        split: ``"train"``, ``"test"`` or ``"all"``; the toys of the splits are others, so that only ``"all"`` is a full grid of
            5 x 10 x 9 x 18 x 6 = 48,600.
        camera: Which of the two photographs of a scene.
        path: The folder of ``smallnorb-...-training-dat.mat``, ``-cat.mat``, ``-info.mat`` and those of testing, packed or not;
            by default :func:`workbench.data.local.data_home`.

    Factors: ``label`` and ``class_name`` (animal, human, airplane, truck, car); ``instance`` (0 to 9); ``elevation`` (30 to 70)
    and ``azimuth`` (0 to 340) in degrees; ``lighting`` (0 to 5).

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If there is no such split or camera, or a file is damaged or holds anything else.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"SmallNORB has the splits 'train', 'test' and 'all', but got {split!r}")
    if camera not in ("left", "right"):
        raise ValueError(f"SmallNORB has the cameras 'left' and 'right', but got {camera!r}")
    parts = [_norb(s, path) for s in (("train", "test") if split == "all" else (split,))]
    factors = pd.concat([table for _, table in parts], ignore_index=True)
    side, first, rest = int(camera == "right"), parts[0][0], parts[-1][0]

    def read(rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(factors))[rows]
        picked = np.empty((len(rows), 1, *first.shape[2:]), np.uint8)
        later = rows >= len(first)
        picked[~later, 0], picked[later, 0] = first[rows[~later], side], rest[rows[later] - len(first), side]
        return picked

    pixels = Arranged(read, (len(factors), 1, *first.shape[2:]))
    recipe = _recipe("small_norb", path, split=split, camera=camera)
    return Images(pixels, factors, f"small_norb_{split}", recipe=recipe)


def _norb(split: str, path: str | Path | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Returns the photographs (n, 2, 96, 96) of a split, and its factors."""
    where = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small"
    path = Path(path).parent if path is not None and Path(path).is_file() else path
    files = {
        kind: found(path, (f"{NORB[split]}-{kind}.mat", f"{NORB[split]}-{kind}.mat.gz"), "SmallNORB", where)
        for kind in ("dat", "cat", "info")
    }
    stored, labels, about = (_matrix(file) for file in files.values())
    if stored.ndim != 4 or stored.shape[1] != 2 or stored.dtype != np.uint8:
        got = f"{stored.dtype} of shape {stored.shape}"
        raise ValueError(f"{files['dat']} holds {got}, but (scenes, 2, 96, 96) of bytes is wanted")
    if labels.shape != (len(stored),) or about.shape != (len(stored), 4) or not (labels < len(TOYS)).all():
        raise ValueError(f"{files['dat']} holds {len(stored)} scenes, to which cat and info do not fit; fetch them again")
    table = pd.DataFrame({"label": labels.astype(np.int64), "class_name": np.array(TOYS)[labels]})
    instance, elevation, azimuth, lighting = about.astype(np.int64).T
    return stored, table.assign(instance=instance, elevation=30 + 5 * elevation, azimuth=10 * azimuth, lighting=lighting)


def _matrix(file: Path) -> np.ndarray:
    """Returns the array in a file of NORB's format: its type, how many axes it has, their lengths (three at least), its values.

    Raises:
        ValueError: If the file is no such file, or is cut short.
    """
    if file.suffix == ".gz":
        packed = file
        try:
            file = unpacked(packed, lambda: gzip.open(packed), packed.stat().st_size, "matrix")  # noqa: SIM115
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{file} is damaged ({error}); fetch it again") from error
    with file.open("rb") as opened:
        head = opened.read(8)
        magic, axes = struct.unpack("<Ii", head) if len(head) == 8 else (0, 0)
        if magic not in NORB_KINDS or not 1 <= axes <= 8:
            raise ValueError(f"{file} is no matrix of bytes or integers in NORB's format: it begins with {head!r}")
        lengths = struct.unpack(f"<{max(axes, 3)}i", opened.read(4 * max(axes, 3)))[:axes]
        start = opened.tell()
    kind = NORB_KINDS[magic]
    if file.stat().st_size != start + kind.itemsize * int(np.prod(lengths)):
        raise ValueError(f"{file} promises {lengths} values, but has {file.stat().st_size - start} bytes of them; fetch it again")
    return np.memmap(file, kind, "r", start, lengths)


def _agree(file: Path, stored: Any, values: np.ndarray, *, axes: int, columns: int) -> None:
    if len(stored.shape) != axes or stored.dtype != np.uint8 or values.shape != (stored.shape[0], columns):
        raise ValueError(
            f"{file} holds images of {stored.dtype} of shape {tuple(stored.shape)} and factors {values.shape}, but uint8 of "
            f"{axes} axes and a row of {columns} factors an image are wanted"
        )


def _full(file: Path, classes: np.ndarray) -> None:
    """Raises ValueError unless every combination of the factors is there once, in order."""
    lengths = classes.max(0) + 1
    full = len(classes) == np.prod(lengths) and (np.ravel_multi_index(classes.T, lengths) == np.arange(len(classes))).all()
    if not full:
        raise ValueError(
            f"{file} holds {len(classes):,} images, which are not the full grid of {' x '.join(map(str, lengths))} in order; "
            f"fetch it again"
        )


def _channels_last(read: Callable[[Any], np.ndarray], shape: Sequence[int]) -> Arranged:
    n, height, width, channels = shape
    return Arranged(lambda rows: np.ascontiguousarray(np.moveaxis(read(rows), 3, 1)), (n, channels, height, width))


def _rows_of(stored: Any) -> Callable[[Any], np.ndarray]:
    """Returns what reads rows of an HDF5 data set, in any order and with repeats, a run of neighbours at a time."""

    def read(rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(stored.shape[0])[rows]
        wanted, back = np.unique(rows, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if len(wanted) else []
        parts = [stored[int(run[0]) : int(run[-1]) + 1] for run in runs]
        return np.concatenate(parts)[back] if parts else np.empty((0, *stored.shape[1:]), np.uint8)

    return read


def _recipe(name: str, path: str | Path | None, **settings: Any) -> Mapping[str, Any]:
    return {"is": f"workbench.data.published:{name}", **settings, "path": path and str(path)}
