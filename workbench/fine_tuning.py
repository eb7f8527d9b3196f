"""Fine-tuning: the whole of a trained backbone goes on learning, to name classes, under a fresh linear head.

What a probe leaves as it is, fine-tuning changes: it asks how good a start the weights are, not what the representation holds.
With few images it is the low-shot protocol.

References:
    A Cookbook of Self-Supervised Learning (Balestriero et al., 2023), section 3.7, https://arxiv.org/abs/2304.12210
    Rates that fall from layer to layer: BEiT (Bao et al., 2022), https://arxiv.org/abs/2106.08254, and MAE (He et al., 2022),
    https://arxiv.org/abs/2111.06377
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.core import Views
from workbench.data.images import Images
from workbench.estimators import accuracy
from workbench.features import digest, extract
from workbench.models.encoder import Encoder, Projector, main_layers
from workbench.objectives.supervised import Supervised
from workbench.run import Run
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = ["fine_tune", "head_accuracy", "head_answers"]

LIGHT = Augment(1, scale=(0.35, 1.0), jitter_p=0, grey=0)


def fine_tune(
    model: Encoder | Run,
    images: Images,
    *,
    out: str | Path,
    factor: str = "label",
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    smoothing: float = 0.0,
    views: Callable[[Tensor, Tensor], Views] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Trains a copy of the backbone with a fresh linear head on the classes of ``images``, into the folder ``out``.

    The projector is left out; a backbone that was frozen learns. ``model`` itself is not changed. Fewer images make it low-shot:
    ``fine_tune(model, images[rows], ...)``; a batch then holds at most all of them.

    Arguments:
        model: An encoder, or a run, whose last kept weights are taken.
        factor: The factor whose classes are learned.
        epochs: Passes over the images; the cookbook takes 100, and 50 for networks larger than ViT-B.
        layer_decay: What the rate is multiplied by from stage to stage downwards, see :class:`workbench.train.Trainer`; the
            cookbook finds .65 to .85 best for vision transformers.
        smoothing: Of the labels, from 0 to 1.
        views: How images are shown; by default a crop of at least 35 % of the area and a flip, without any change of colour.
        seed: Of the head, of the order of the images and of the views.
        resume: Whether to go on with, or return, the run that stands in ``out``.

    ``batch_size``, ``lr``, ``weight_decay`` and ``device`` are the Trainer's.

    Returns:
        The run: its model is the encoder without a projector, :func:`head_accuracy` says how well its head names classes.

    Raises:
        TypeError: If ``model`` is neither an encoder nor a run.
        KeyError, ValueError: If the images have no such factor or it names no classes.
        FileExistsError: If ``out`` holds a run and ``resume`` is false.
        ValueError: If the run that stands in ``out`` started from other weights.

    Example:
        What a run's weights are worth with a tenth of the labels::

            tuned = wb.fine_tune(wb.Run("runs/simclr"), images[:1000], out="runs/simclr-tuned", epochs=30)
            wb.head_accuracy(tuned, held_out)
    """
    start, out = _start(model), Path(out)
    there = Run(out) if resume and (out / "run.json").exists() else None
    if there and 0 in there.steps and digest(there.model(0, into=copy.deepcopy(start))) != digest(start):
        raise ValueError(f"{out} was fine-tuned from other weights; give another folder")
    settings = {"epochs": epochs, "batch_size": min(batch_size, len(images)), "lr": lr, "weight_decay": weight_decay}
    trainer = Trainer(**settings, layer_decay=layer_decay, seed=seed, device=device)
    objective = Supervised(factor=factor, smoothing=smoothing)
    return trainer.fit(start, objective, images, views or LIGHT, out=out, resume=resume, snapshots=2, progress=progress)


def _start(model: Encoder | Run) -> Encoder:
    """Returns a copy that learns, without a projector."""
    model = model.model() if isinstance(model, Run) else model
    if not isinstance(model, Encoder):
        raise TypeError(
            f"fine_tune takes an Encoder or a Run, but got {type(model).__name__}; wrap a backbone as "
            f"wb.Encoder(backbone, wb.Projector([]), mean=..., std=...)"
        )
    backbone = copy.deepcopy(model.backbone).requires_grad_(requires_grad=True)
    return Encoder(backbone, Projector([]), mean=model.mean, std=model.std)


def head_answers(run: Run, images: Images, *, batch_size: int = 512) -> np.ndarray:
    """Returns the class (N) that the head of a supervised run names for each image.

    Raises:
        ValueError: If the run did not learn by :class:`workbench.objectives.Supervised`.
    """
    objective = run.objective()
    if not isinstance(objective, Supervised):
        raise ValueError(f"{run.path} learned by {type(objective).__name__}, which has no head that names classes; fine_tune it")
    model = run.model().to("cuda" if torch.cuda.is_available() else "cpu")
    layer = main_layers(model)[-1]
    z = extract(model, images, layer, batch_size=batch_size, progress=False)[layer]
    with torch.no_grad():
        best = objective.head.to(z.device)(z.float()).argmax(1)
    return np.asarray(objective.known_classes())[best.cpu().numpy()]


def head_accuracy(run: Run, images: Images, *, batch_size: int = 512) -> float:
    """Returns the share of images, from 0 to 1, whose class the head of a supervised run names rightly.

    Raises:
        KeyError: If the images lack the factor that was learned.
        ValueError: As :func:`head_answers`.
    """
    factor = run.spec["objective"].get("factor")
    said = head_answers(run, images, batch_size=batch_size)
    if factor not in images.factors:
        raise KeyError(f"{run.path} learned the factor {factor!r}, but the images have {', '.join(images.factors)}")
    return accuracy(said, images.factors[factor])
