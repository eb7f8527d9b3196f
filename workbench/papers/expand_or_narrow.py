"""Expand or narrow: how wide the representation should be depends on who trains it and what it is for.

Only the last block's number of channels changes: the width D of the representation. Self-supervised training gains by width, in
distribution and beyond; supervised training gains nothing where it was trained, but what it knows of everything else rises. With
a linear projector to K dimensions the gradient reaches at most K directions of the representation, so K may be small where D is
large. Wide representations are sparse, tell as much when only "on" and "off" are kept, and leave a non-linear probe less to gain.

What is reproduced: widths 8 to 2,048 of the last stage of a small convnet, SimCLR against supervised training, on garments; the
label against what was drawn, garments as photographed and drawn shapes; sparsity, binarised features, the gap between a linear
and a two-layer probe; and linear projectors to K dimensions. The paper trains ResNet-50s on ImageNet, of widths 512 to 32,768,
with SimCLR, VICReg and BYOL on projectors 8,192 wide. ``scale="gpu"`` has that projector and widths to 8,192; what it has not are
ImageNet, the ResNet-50 under the last block, VICReg and BYOL, batches of two classes alone, and the paper's optimiser.

References:
    A surprisingly simple technique to control the pretraining bias for better transfer: Expand or Narrow your representation
    (Bordes, Lavoie, Balestriero, Ballas, Vincent, 2023), https://arxiv.org/abs/2304.05369
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.data.fashion import fashion_mnist
from workbench.data.images import Images
from workbench.data.shapes import sprites
from workbench.data.wardrobe import garments
from workbench.features import Features, extract
from workbench.measures.spectral import rankme
from workbench.models.convnet import ConvNet
from workbench.models.encoder import Encoder, Projector
from workbench.objectives.simclr import SimCLR
from workbench.objectives.supervised import Supervised
from workbench.perceptron import MLPProbe
from workbench.probes import LinearProbe, RidgeProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = ["DRAWN", "SCALES", "STUDIES", "measure", "raw_pixels", "reproduce", "row", "train"]

DRAWN = ["x", "y", "scale", "saturation", "background_value", "frequency"]
"""What garments were drawn with and no label speaks of."""


class Scale(NamedTuple):
    """How large a reproduction is."""

    stem: int
    projector: tuple[int, ...]
    widths: tuple[int, ...]
    narrow: tuple[int, ...]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float


SCALES = {
    "smoke": Scale(4, (256, 64), (4, 16), (2, 8), 512, 256, 1, 64, 2e-3),
    "cpu": Scale(16, (256, 64), (8, 32, 128, 512, 2048), (4, 256), 10_000, 2_000, 6, 256, 2e-3),
    "gpu": Scale(64, (8192, 8192), (8, 32, 128, 512, 2048, 8192), (4, 32, 256, 2048), 50_000, 2_000, 100, 512, 2e-3),
}

STUDIES = ("width", "projector")
"""The width of the representation, SimCLR against supervised; a linear projector to K dimensions, of a narrow and a wide one."""


def train(
    out: str | Path,
    *,
    objective: str,
    width: int,
    scale: str = "cpu",
    seed: int = 0,
    linear: int | None = None,
    progress: bool = True,
) -> Run:
    """Trains one network into ``out``, or goes on with, or opens, the run that is there.

    Arguments:
        objective: ``"SimCLR"`` (on a two-layer projector, or a linear one to ``linear`` dimensions) or ``"supervised"`` (a linear
            head on the representation).
        width: Of the representation.

    Raises:
        KeyError: If there is no such objective or scale.
    """
    s = entry(SCALES, scale)
    loss = entry({"SimCLR": lambda: SimCLR(temperature=0.2), "supervised": Supervised}, objective)()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [width] if objective == "supervised" else [width, linear] if linear else [width, *s.projector]
        model = Encoder(ConvNet(s.stem, last=width), Projector(hidden))
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=s.lr, seed=seed)
    images = _images(scale)["label"][0]
    return trainer.fit(model, loss, images, Augment(), out=out, resume=True, snapshots=2, progress=progress)


def measure(model: Encoder, *, scale: str = "cpu", seed: int = 0) -> dict[str, float]:
    """Returns what the representation knows, in %: accuracy of ``label``, ``plain garments``, ``sprites``; mean R2 of ``DRAWN``.

    And ``binary`` (the label, from which dimensions are above 0), ``mlp`` (the label, by two layers), ``sparsity`` (zeros),
    ``half zero`` (images of which at least half of the dimensions are); ``rankme``, which is a number and no share.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return _told(lambda images: extract(model, images, "backbone", progress=False), scale=scale, seed=seed)


def raw_pixels(*, scale: str = "cpu", seed: int = 0) -> dict[str, float]:
    """Returns the same of the pixels themselves: what is to be had without a network."""

    def pixels(images: Images) -> Features:
        return Features({"backbone": images.at(range(len(images))).flatten(1).float()}, images.factors)

    return _told(pixels, scale=scale, seed=seed)


def _told(see: Callable[[Images], Features], *, scale: str, seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, parts in _images(scale).items():
        known, seen = (see(images) for images in parts)
        found[name] = 100 * _accuracy(known, seen, known["backbone"], seen["backbone"])
        if name == "label":
            z, other = known["backbone"], seen["backbone"]
            found["binary"] = 100 * _accuracy(known, seen, (z > 0).float(), (other > 0).float())
            network = MLPProbe(epochs=30, seed=seed).fit(z, known.factors["label"])
            found["mlp"] = 100 * network.score(other, seen.factors["label"])
            ridge = RidgeProbe().fit(z, known.factors[DRAWN].to_numpy(float))
            found["drawn"] = 100 * float(np.mean(ridge.scores(other, seen.factors[DRAWN].to_numpy(float))))
            zero = (other <= 0).float().mean(1)
            found |= {"sparsity": 100 * float(zero.mean()), "half zero": 100 * float((zero >= 0.5).float().mean())}
            found["rankme"] = float(rankme(other))
    return found


def _accuracy(known: Features, seen: Features, z: Tensor, other: Tensor) -> float:
    varied = z.std(0) > 0  # a dimension that is off for all images
    if not varied.any():
        return float((seen.factors["label"] == known.factors["label"].mode()[0]).mean())
    return LinearProbe().fit(z[:, varied], known.factors["label"]).score(other[:, varied], seen.factors["label"])


def row(out: str | Path, *, objective: str, width: int, seed: int, scale: str, linear: int | None = None) -> dict[str, float]:
    """Trains and measures one network; a row of the sweep."""
    if objective == "raw pixels":
        return raw_pixels(scale=scale, seed=seed)
    if objective == "untrained":
        s = entry(SCALES, scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return measure(Encoder(ConvNet(s.stem, last=width), Projector([])).eval(), scale=scale, seed=seed)
    run = train(out, objective=objective, width=width, scale=scale, seed=seed, linear=linear, progress=False)
    return measure(run.model(), scale=scale, seed=seed)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    studies: Sequence[str] = STUDIES,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every width with every objective and seed and measures it; what stands in ``out`` is not made again.

    Returns:
        A row a network: columns objective, width, linear (NaN where the projector is not a linear one), seed, and what
        :func:`measure` gives. The controls are ``"untrained"`` networks, and ``"raw pixels"`` (of the first seed).

    Raises:
        RuntimeError: If a training failed.
    """
    s = entry(SCALES, scale)
    pixels = {"objective": "raw pixels", "width": 3 * 32 * 32, "seed": next(iter(seeds))}
    known = {
        "width": [pixels, *grid(objective=["untrained", "SimCLR", "supervised"], width=list(s.widths), seed=list(seeds))],
        "projector": grid(objective="SimCLR", width=[s.widths[1], s.widths[-2]], linear=list(s.narrow), seed=list(seeds)),
    }
    table = [settings for study in studies for settings in entry(known, study)]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    settings = ["objective", "width", "linear", "seed"]
    about = {*settings, "run", "scale", "state", "seconds", "error"}
    return swept.reindex(columns=[*settings, *(c for c in swept if c not in about)])


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> dict[str, tuple[Images, Images]]:
    s = entry(SCALES, scale)
    few = min(s.images, 5_000)
    return {
        "label": (garments(s.images), garments(s.held_out, split="test")),
        "plain garments": (fashion_mnist("train", channels=3)[:few], fashion_mnist("test", channels=3)[: s.held_out]),
        "sprites": (sprites(few), sprites(s.held_out, seed=1)),
    }
