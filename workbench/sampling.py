"""Denoisers of a run's layers: trained on its images and what its layers say of them, each a run in a folder of the run."""

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
    run: Run | str | Path,
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
        run: Of the encoder; its last kept weights are taken.
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
        ValueError: If the folder holds a training of other settings, the images cannot be made again and none are given,
            they cannot be halved so often, or there is not a representation an image.

    Example:
        Eight samples of each of the first four images::

            pipe = wb.train_denoiser("runs/first", "projector").model().pipeline()
            pipe(wb.represent(wb.Run("runs/first"), images[:4], "projector"), num_images_per_rep=8, num_inference_steps=20)
    """
    run = run if isinstance(run, Run) else Run(run)
    images = run.images() if images is None else images
    channels, height, width = images.pixels.shape[1:]
    if height != width:
        raise ValueError(f"denoisers draw square images, but {images.name} has {height} x {width} pixels; crop them")
    if h is None:
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
