"""Guillotine regularization: where to cut a trained network depends on what the cut is for.

What a self-supervised network is trained with, its views and its objective, shapes its last layers most. They forget what the
views do not share, so a task that needs it is read better from a layer before, by more than 30 points on ImageNet; where views
and task agree (positives of the same class, views that vary the nuisance of the task) the last layers are the better ones.

What is reproduced: probes of every layer of trunk and projector, for the label, for every factor that was drawn, and for labels
of other data; objectives, temperatures, positives of the same class, views that agree with the task or do not. The paper trains
ResNet-50s on ImageNet; here it is a small network on garments. Its tables could not be had: what is held against it are the
claims of its abstract.

References:
    Guillotine Regularization: Why removing layers is needed to improve generalization in Self-Supervised Learning (Bordes,
    Balestriero, Garrido, Bardes, Vincent, TMLR 2023), https://arxiv.org/abs/2206.13378
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from workbench.data.fashion import fashion_mnist
from workbench.data.images import Images
from workbench.data.shapes import sprites
from workbench.data.wardrobe import garments
from workbench.features import Features, extract
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder, main_layers
from workbench.objectives.barlow import BarlowTwins
from workbench.objectives.base import Objective
from workbench.objectives.simclr import SimCLR
from workbench.objectives.supcon import SupCon
from workbench.objectives.supervised import Supervised
from workbench.objectives.vicreg import VICReg
from workbench.probes import KNNProbe, LinearProbe, probe_layers
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment
from workbench.views.rerender import Rerender

__all__ = [
    "CONDITIONS",
    "DRAWN",
    "SCALES",
    "TASKS",
    "best_cut",
    "by_depth",
    "fresh",
    "measure",
    "raw_pixels",
    "reproduce",
    "row",
    "train",
]


class Scale(NamedTuple):
    """How large a reproduction is."""

    backbone: dict[str, Any]
    projector: tuple[int, ...]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, (32, 32, 16), 512, 256, 1, 64, 2e-3),
    "cpu": Scale({"name": "convnet", "width": 16}, (256, 256, 64), 10_000, 2_000, 8, 256, 2e-3),
    "gpu": Scale({"name": "resnet18"}, (2048, 2048, 2048), 50_000, 2_000, 100, 512, 2e-3),
}


class Condition(NamedTuple):
    """An objective, and what its two views share."""

    objective: Callable[[], Objective]
    views: str = "crops"


CONDITIONS = {
    "SimCLR": Condition(lambda: SimCLR(temperature=0.2)),
    "SimCLR, t = 0.05": Condition(lambda: SimCLR(temperature=0.05)),
    "SimCLR, t = 1": Condition(lambda: SimCLR(temperature=1.0)),
    "VICReg": Condition(VICReg),
    "Barlow Twins": Condition(BarlowTwins),
    "SimCLR, redrawn": Condition(lambda: SimCLR(temperature=0.2), "redrawn"),
    "VICReg, redrawn": Condition(VICReg, "redrawn"),
    "same class": Condition(lambda: SupCon(temperature=0.2)),
    "same class, redrawn": Condition(lambda: SupCon(temperature=0.2), "redrawn"),
    "supervised, redrawn": Condition(Supervised, "redrawn"),
}

VIEWS: dict[str, Callable[[Images], Any]] = {"crops": lambda images: Augment(), "redrawn": Rerender}

DRAWN = ["rotation", "scale", "x", "y", "saturation", "value", "background_value", "frequency", "light"]
"""The factors of garments that a linear map can read (angles and hues that come full circle are left out)."""

TASKS = ["label", *DRAWN, "plain garments", "sprites"]
"""What every layer is asked: held-out garments' label and factors; classes of garments as photographed, and of drawn shapes."""


def train(condition: str, out: str | Path, *, scale: str = "cpu", seed: int = 0, progress: bool = True) -> Run:
    """Trains one condition into the folder ``out``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such condition or scale.
    """
    s, how = entry(SCALES, scale), entry(CONDITIONS, condition)
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=s.lr, seed=seed)
    images = _images(scale)["garments"][0]
    parts = fresh(scale=scale, seed=seed), how.objective(), images, VIEWS[how.views](images)
    return trainer.fit(*parts, out=out, resume=True, snapshots=2, progress=progress)


def fresh(*, scale: str = "cpu", seed: int = 0) -> Encoder:
    """Returns the network that every condition starts from with this seed."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(projector=s.projector, **s.backbone)


def measure(model: Encoder, *, scale: str = "cpu") -> pd.DataFrame:
    """Returns what every layer of ``model`` knows of every task: columns layer, task, probe, measure, value, chance.

    Linear probes fitted on training images, scored on others (accuracy, or R2 of the factors in ``DRAWN``); for labels also 20
    nearest neighbours. The last stage is not among the layers: averaged over space, it is ``backbone``.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    *stages, _, backbone = [name for name in main_layers(model) if name.startswith("backbone")]
    layers = [*stages, backbone, *(name for name in main_layers(model) if name.startswith("projector"))]
    tables = []
    for name, parts in _images(scale).items():
        known, seen = (extract(model, images, layers, progress=False) for images in parts)
        tables += _probed(known, seen, name)
    return pd.concat(tables, ignore_index=True)


def raw_pixels(*, scale: str = "cpu") -> pd.DataFrame:
    """Returns the same of the pixels themselves: what is to be had without learning."""
    tables = []
    for name, parts in _images(scale).items():
        known, seen = (Features({"pixels": x.at(range(len(x))).flatten(1).float()}, x.factors) for x in parts)
        tables += _probed(known, seen, name)
    return pd.concat(tables, ignore_index=True)


def row(out: str | Path, *, condition: str, seed: int, scale: str) -> pd.DataFrame:
    """Trains one condition with one seed into ``out`` and returns :func:`measure` of it; a row of the sweep."""
    if condition == "raw pixels":
        return raw_pixels(scale=scale)
    if condition == "untrained":
        return measure(fresh(scale=scale, seed=seed).eval(), scale=scale)
    return measure(train(condition, out, scale=scale, seed=seed, progress=False).model(), scale=scale)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    conditions: Sequence[str] = tuple(CONDITIONS),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every condition with every seed, beside an untrained network and raw pixels, and measures every layer.

    It is a sweep: rows that stand in ``out`` are not made again.

    Arguments:
        out: Folder of the sweep.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        Columns condition, seed, layer, task, probe, measure, value, chance.
    """
    table = [{"condition": "raw pixels", "seed": 0}, *grid(condition=["untrained", *conditions], seed=list(seeds))]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    return swept[["condition", "seed", "layer", "task", "probe", "measure", "value", "chance"]]


def best_cut(table: pd.DataFrame) -> pd.DataFrame:
    """Returns, for each condition and task, which layer is best on average over seeds, and what the last and the backbone have.

    Columns condition, task, best, and in points (100 times accuracy or R2), mean and spread over seeds: ``best_points``,
    ``backbone``, ``head`` (the projector's output), ``cut`` (backbone minus head, ``cut_std``). Linear probes alone are asked.
    """
    asked = table[(table["probe"] != "KNNProbe") & ~table["condition"].isin(["raw pixels"])]
    wide = asked.pivot_table(index=["condition", "task", "seed"], columns="layer", values="value", sort=False) * 100
    mean = wide.groupby(level=["condition", "task"], sort=False).mean()
    cut = (wide["backbone"] - wide["projector"]).groupby(level=["condition", "task"], sort=False)
    return pd.DataFrame(
        {
            "best": mean.idxmax(axis=1),
            "best_points": mean.max(axis=1),
            "backbone": mean["backbone"],
            "head": mean["projector"],
            "cut": cut.mean(),
            "cut_std": cut.std(),
        }
    ).reset_index()


def by_depth(table: pd.DataFrame, *, knn: bool = False) -> pd.DataFrame:
    """Returns a row a condition, seed and layer, a column a task (in %), as :func:`workbench.training_curves` draws them.

    ``depth`` counts the layers from 0; of labels, ``knn`` asks for the neighbours' accuracies in place of the linear probe's.
    """
    nearest = table["probe"] == "KNNProbe"
    labels = table["measure"] == "accuracy"
    asked = table[(nearest if knn else ~nearest) | ~labels]
    asked = asked[asked["layer"] != "pixels"]
    depth = {layer: i for i, layer in enumerate(dict.fromkeys(asked["layer"]))}
    wide = asked.assign(value=100 * asked["value"]).pivot(index=["condition", "seed", "layer"], columns="task", values="value")
    wide = wide.reset_index().rename_axis(columns=None)
    order = {condition: i for i, condition in enumerate(dict.fromkeys(asked["condition"]))}
    wide = wide.assign(depth=wide["layer"].map(depth), place=wide["condition"].map(order))
    return wide.sort_values(["place", "seed", "depth"], ignore_index=True).drop(columns="place")


def _probed(known: Features, seen: Features, data: str) -> list[pd.DataFrame]:
    task = {"garments": "label"}.get(data, data)
    tables = [probe_layers(known, seen, factor="label", probe=p).assign(factor=task) for p in (LinearProbe(), KNNProbe())]
    if data == "garments":
        tables.append(probe_layers(known, seen, factor=DRAWN))
    keep = ["layer", "factor", "probe", "measure", "value", "chance"]
    return [t[keep].rename(columns={"factor": "task"}) for t in tables]


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> dict[str, tuple[Images, Images]]:
    s = entry(SCALES, scale)
    few = min(s.images, 5_000)
    return {
        "garments": (garments(s.images), garments(s.held_out, split="test")),
        "plain garments": (fashion_mnist("train", channels=3)[:few], fashion_mnist("test", channels=3)[: s.held_out]),
        "sprites": (sprites(few), sprites(s.held_out, seed=1)),
    }
