"""Denoisers of a run's layers: trained on its images and what its layers say of them, each a run in a folder of the run."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch

from workbench.data.images import Images
from workbench.generate.learning import Conditioned, Denoiser, Denoising
from workbench.generate.representations import Representation, represent
from workbench.run import Run
from workbench.train import Trainer

__all__ = ["denoisers", "train_denoiser"]

FOLDER = "denoisers"
STEPS = 675  # of a training, where nothing is said


def train_denoiser(
    run: Run | str | Path | None,
    layer: str = "backbone",
    images: Images | None = None,
    *,
    h: Representation | None = None,
    out: str | Path | None = None,
    widths: Sequence[int] | None = None,
    trainer: Trainer | None = None,
    null: float = 0.1,
    decay: float = 0.9999,
    minutes: float | None = None,
    snapshots: int = 6,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Trains what draws images of a layer's representations and returns its run; a training that was stopped goes on.

    Arguments:
        run: Of the encoder; its last kept weights are taken. None for features of an encoder that is no run, with ``images``,
            ``h`` and ``out``.
        layer: A module path.
        images: Drawn, and represented; by default those that the run was trained on.
        h: Their representations, where they were taken elsewhere; by default taken from the run, and kept with it, or its tokens
            for ``conditioning="xattn"``.
        out: Folder; by default ``denoisers/LAYER`` in that of the run, where :func:`denoisers` finds it.
        widths: Filters of each level; by default (32, 64), and for more than 16 pixels that can be halved twice (16, 32, 64):
            for a processor. Larger ones are for a GPU.
        trainer: Its settings; by default about 675 batches of 64 are seen, at a rate of .002: at most three minutes on two idle
            cores.
        null, decay: As of :class:`Denoising`.
        minutes, snapshots, progress: As of :meth:`Trainer.fit`.
        settings: Of :class:`Denoiser`: ``layers``, ``attention``, ``hidden``, ``prediction``, ``conditioning``.

    Raises:
        KeyError: If there is no such layer.
        TypeError: If the images are no :class:`Images`.
        ValueError: If the folder holds a training of other settings, the images cannot be made again and none are given,
            they cannot be halved so often, or there is not a representation an image.

    Warns:
        UserWarning: If the run was trained on images of another size than those that it represents.

    Example:
        Eight samples of each of the first four images::

            pipe = wb.train_denoiser("runs/first", "projector").model().pipeline()
            pipe(wb.represent(wb.Run("runs/first"), images[:4], "projector"), num_images_per_rep=8, num_inference_steps=20)

        Of features from elsewhere, a row an image::

            h = wb.Representation(torch.from_numpy(np.load("features.npy")), {"model": "mine"})
            wb.train_denoiser(None, "cls", wb.folder("photos", size=16), h=h, out="runs/mine").model().pipeline()(h[:4])
    """
    run = Run(run) if isinstance(run, str | Path) else run
    if run is None and (images is None or h is None or out is None):
        raise ValueError("without a run there are no images, representations nor folder: give images=, h= and out=")
    images = run.images() if images is None else images
    if not isinstance(images, Images):
        raise TypeError(f"denoisers draw Images, such as wb.folder('photos', size=32), but got {type(images).__name__}")
    channels, height, width = images.pixels.shape[1:]
    if height != width:
        raise ValueError(f"denoisers draw square images, but {images.name} has {height} x {width} pixels; crop them")
    if h is None:
        _warn_of_size(run, images)
        tokens = "all" if settings.get("conditioning") == "xattn" else "mean"
        h = represent(run, images, layer, tokens=tokens, progress=progress)
    if len(h) != len(images):
        raise ValueError(f"row i of h is of image i, but there are {len(h)} rows and {len(images)} images")
    widths = widths or ((32, 64) if height <= 16 or height % 4 else (16, 32, 64))
    trainer = trainer or usual_trainer(images)
    torch.manual_seed(trainer.seed)  # the same call starts from the same weights
    model = Denoiser.of(h, height, widths, channels=channels, **settings)
    out = run.path / FOLDER / quote(layer, safe="") if out is None else out
    record = {"out": out, "resume": True, "minutes": minutes, "snapshots": snapshots, "progress": progress}
    return trainer.fit(model, Denoising(null, decay), images, Conditioned(h), **record)


def _warn_of_size(run: Run, images: Images) -> None:
    trained, here = (run.spec.get("images") or {}).get("shape"), list(images.pixels.shape[1:])
    if trained and list(trained[1:]) != here[1:]:
        sizes = " and ".join(f"{height} x {width}" for _, height, width in (trained, here))
        warnings.warn(
            f"{run.path} was trained on images of another size than {images.name} has: {sizes} pixels. What it says of them may "
            f"be worth little; give it images of its size, or representations of such as h=",
            stacklevel=3,
        )


def views_of(run: Run, images: Images, *, progress: bool = True) -> Conditioned:
    """Returns what a denoiser in a run's folder was trained with: its representations, taken of that run and images again.

    Raises:
        FileNotFoundError: If it stands in no folder of a run.
    """
    source, encoder = run.spec["views"]["h"]["source"], run.path.parent.parent
    if run.path.parent.name != FOLDER or not (encoder / "run.json").exists():
        raise FileNotFoundError(
            f"{run.path} stands in no folder of the run that it draws of; call train_denoiser as before, and it goes on"
        )
    h = represent(Run(encoder, allow=run.allow), images, source["layer"], tokens=source["tokens"], progress=progress)
    return Conditioned(h, size=run.spec["views"].get("size"))


def usual_trainer(images: Images, **settings: Any) -> Trainer:
    """Returns the trainer of about 675 steps of 64 images, but for these settings; as many of another ``batch_size``."""
    batch = settings.get("batch_size", min(64, len(images)))
    epochs = max(1, round(STEPS / max(len(images) // batch, 1)))
    return Trainer(**{"epochs": epochs, "batch_size": batch, "lr": 2e-3, "weight_decay": 0.0} | settings)


def denoisers(run: Run | str | Path) -> dict[str, Run]:
    """Returns the denoisers that stand in a run's folder, by layer, in the order of their names; none where none were trained."""
    folder = (run.path if isinstance(run, Run) else Path(run)) / FOLDER
    found = [Run(path.parent) for path in sorted(folder.glob("*/run.json"))]
    told = [((other.spec.get("model") or {}).get("source") or {}).get("layer") for other in found]
    return {layer or unquote(one.path.name): one for layer, one in zip(told, found, strict=True) if one.steps}
