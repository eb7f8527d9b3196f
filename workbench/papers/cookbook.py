"""The cookbook of self-supervised learning: which of the many knobs matter, and by which protocol one would know.

Views decide what is learned: crops and a little colour are the core, and what they vary is forgotten. A projector gains many
points, whatever its output's width. Large batches are not needed, where the rate is set for small ones; without negatives a
predictor is. Protocols that learn more of their own (a network, fine-tuning, many labels) hide more of the difference.

What is reproduced: one knob at a time around one recipe (SimCLR on garments): views, projector, batch size, learning rate,
temperature, and BYOL with its predictor and without; and kNN, linear, MLP, fine-tuning, with all labels, low-shot and k-shot,
side by side. The cookbook gathers ImageNet results of ResNet-50s and vision transformers from many papers.

References:
    A Cookbook of Self-Supervised Learning (Balestriero et al., 2023), section 3, https://arxiv.org/abs/2304.12210
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from workbench.data.fashion import fashion_mnist
from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.evaluating import protocols
from workbench.features import Features, extract
from workbench.measures.spectral import rankme
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder, Projector, main_layers
from workbench.objectives.byol import BYOL
from workbench.objectives.simclr import SimCLR
from workbench.probes import KNNProbe, LinearProbe, RidgeProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.splits import probe_actions
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = [
    "ACTIONS",
    "CONTROLS",
    "EVALUATED",
    "KNOBS",
    "MEASURES",
    "forgotten",
    "live",
    "measure",
    "reproduce",
    "row",
    "side_by_side",
    "train",
]

STILL = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
PLAIN = {"jitter_p": 0.0, "grey": 0.0}

KNOBS: dict[str, dict[str, dict[str, Any]]] = {
    "views": {
        "nothing": {"views": STILL | PLAIN},
        "colour": {"views": STILL},
        "crop": {"views": PLAIN},
        "crop, grey": {"views": {"jitter_p": 0.0}},
        "crop, colour": {},
    },
    "projector": {
        "none": {"projector": ()},
        "linear": {"projector": (1.0,)},
        "two layers": {},
        "narrow end": {"projector": (4.0, 0.25)},
    },
    "batch": {
        "a quarter, half the rate": {"batch": 0.25, "rate": 0.5},
        "as it is": {},
        "fourfold, twice the rate": {"batch": 4.0, "rate": 2.0},
    },
    "rate": {"a tenth": {"rate": 0.1}, "as it is": {}, "tenfold": {"rate": 10.0}},
    "temperature": {"0.05": {"temperature": 0.05}, "0.2": {}, "1": {"temperature": 1.0}},
    "teacher": {
        "BYOL": {"objective": "BYOL"},
        "no predictor": {"objective": "BYOL", "hidden": 0},
        "no teacher: SimCLR": {},
    },
}
"""Settings by knob, in order; what is empty is the base recipe, and widths are in those of the embedding."""

CONTROLS = ("untrained", "raw pixels")

MEASURES = {
    "label": "label, linear probe (%)",
    "knn": "label, 20 neighbours (%)",
    "head": "label, linear probe of z (%)",
    "plain": "garments as photographed (%)",
    "x": "where it lies (R², %)",
    "saturation": "its saturation (R², %)",
    "rankme": "RankMe of z",
}
"""What :func:`measure` gives, in words; of the backbone where nothing else is said."""

EVALUATED = ("SimCLR", *CONTROLS)

ACTIONS = {
    "x": "crop x (R²)",
    "y": "crop y (R²)",
    "area": "crop area (R²)",
    "brightness": "brightness (R²)",
    "hue": "hue (R²)",
    "flip": "flipped (accuracy)",
    "grey": "greyed (accuracy)",
}
"""What was done to a view, and the words for how it is read."""


class Scale(NamedTuple):
    """How large a reproduction is."""

    backbone: dict[str, Any]
    embedding: int
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float
    tuning: int
    shots: tuple[float, ...]
    draws: int


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, 16, 512, 256, 1, 64, 2e-3, 1, (5, 0.1, math.inf), 1),
    "cpu": Scale({"name": "convnet", "width": 16}, 64, 6_000, 2_000, 5, 256, 2e-3, 8, (1, 5, 0.01, 0.1, math.inf), 5),
    "gpu": Scale({"name": "resnet18"}, 128, 50_000, 2_000, 100, 512, 2e-3, 50, (1, 5, 10, 0.01, 0.1, math.inf), 10),
}


def train(out: str | Path, *, scale: str = "cpu", seed: int = 0, progress: bool = True, **changes: Any) -> Run:
    """Trains the base recipe, with the changes of a setting of :data:`KNOBS`, into ``out``, or opens the run that is there.

    Raises:
        KeyError: If there is no such scale.
        TypeError: If a change is not one of those that :data:`KNOBS` makes.
    """
    s = entry(SCALES, scale)
    parts = _recipe(s, seed=seed, **changes)
    return parts.pop("trainer").fit(
        **parts, images=_images(scale)["label"][0], out=out, resume=True, snapshots=2, progress=progress
    )


def _recipe(
    s: Scale,
    *,
    seed: int,
    views: dict[str, Any] | None = None,
    projector: Sequence[float] = (4.0, 1.0),
    batch: float = 1.0,
    rate: float = 1.0,
    objective: str = "SimCLR",
    temperature: float = 0.2,
    hidden: float = 4.0,
    momentum: float = 0.97,
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_encoder(projector=[round(w * s.embedding) for w in projector], **s.backbone)
    losses = {
        "SimCLR": lambda: SimCLR(temperature=temperature),
        "BYOL": lambda: BYOL(hidden=round(hidden * s.embedding), momentum=momentum),
    }
    trainer = Trainer(epochs=s.epochs, batch_size=round(batch * s.batch_size), lr=rate * s.lr, seed=seed)
    return {"trainer": trainer, "model": model, "objective": losses[objective](), "views": Augment(**(views or {}))}


def measure(model: nn.Module, *, scale: str = "cpu") -> dict[str, float]:
    """Returns what a network's layers tell: the keys of :data:`MEASURES`; RankMe is a number, all else in %."""
    model, parts = model.to("cuda" if torch.cuda.is_available() else "cpu"), _images(scale)
    whole = bool(len(model.projector))
    layers = ["backbone", "projector"] if whole else ["backbone"]
    known, seen = (extract(model, images, layers, progress=False) for images in parts["label"])
    found = {"label": _linear(known, seen, "backbone"), "head": _linear(known, seen, layers[-1])}
    near = KNNProbe().fit(known["backbone"], known.factors["label"])
    found["knn"] = 100 * near.score(seen["backbone"], seen.factors["label"])
    drawn = ["x", "saturation"]
    ridge = RidgeProbe().fit(known["backbone"], known.factors[drawn].to_numpy(float))
    found |= dict(zip(drawn, 100 * ridge.scores(seen["backbone"], seen.factors[drawn].to_numpy(float)), strict=True))
    found["rankme"] = float(rankme(known[layers[-1]]))
    found["plain"] = _linear(*(extract(model, images, "backbone", progress=False) for images in parts["plain"]), "backbone")
    return {name: float(found[name]) for name in MEASURES}


def _linear(known: Features, seen: Features, layer: str) -> float:
    return 100 * LinearProbe().fit(known[layer], known.factors["label"]).score(seen[layer], seen.factors["label"])


def row(out: str | Path, *, knob: str, setting: str, seed: int, scale: str) -> dict[str, float]:
    """Trains, where there is something to train, and measures one network; a row of the sweep."""
    if knob == "control":
        return measure(_control(setting, scale=scale, seed=seed), scale=scale)
    changes = {} if knob == "base" else KNOBS[knob][setting]
    return measure(train(out, scale=scale, seed=seed, progress=False, **changes).model(), scale=scale)


def _control(name: str, *, scale: str, seed: int) -> Encoder:
    if name == "raw pixels":
        return Encoder(nn.Flatten(), Projector([]))
    return _recipe(entry(SCALES, scale), seed=seed)["model"].eval()


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    knobs: dict[str, dict[str, dict[str, Any]]] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every setting of every knob with every seed and measures it; what stands in ``out`` is not made again.

    Arguments:
        knobs: By default :data:`KNOBS`.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        A row a network and a knob that it belongs to (the base recipe belongs to several): columns knob, setting, seed, and
        :data:`MEASURES`. The knob ``"control"`` has what was not trained, raw pixels with the first seed alone.

    Raises:
        RuntimeError: If a training failed.
    """
    wanted = [
        {"knob": knob, "setting": setting, "seed": seed}
        for knob, settings in (KNOBS if knobs is None else knobs).items()
        for setting, seed in ((r["setting"], r["seed"]) for r in grid(setting=list(settings), seed=list(seeds)))
    ]
    wanted += [
        {"knob": "control", "setting": c, "seed": seed}
        for c in CONTROLS
        for seed in seeds
        if c == "untrained" or seed == seeds[0]
    ]
    rows = [_row_of(w) for w in wanted]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, rows, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    keys = ["knob", "setting", "seed"]
    found = swept.drop_duplicates(keys).set_index(keys)[list(MEASURES)]
    return pd.DataFrame([w | found.loc[tuple(r.values())].to_dict() for w, r in zip(wanted, rows, strict=True)])


def _row_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """The base recipe, whatever knob it stands at, is one row."""
    base = wanted["knob"] != "control" and not KNOBS.get(wanted["knob"], {}).get(wanted["setting"], {"": 0})
    return wanted | {"knob": "base", "setting": "base"} if base else wanted


def side_by_side(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluates the base recipe and the controls by every protocol; what stands in ``out`` is not made again.

    Returns:
        The columns of :func:`workbench.protocols`, and before them ``model`` and ``seed``. Fine-tuning an untrained network is
        supervised training from the start; raw pixels are not fine-tuned.

    Raises:
        RuntimeError: If a row failed.
    """
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    rows = grid(model=list(EVALUATED), seed=list(seeds))
    swept = sweep(evaluate, rows, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    return swept.drop(columns=["run", "scale", "state", "seconds", "error"], errors="ignore")


def evaluate(out: str | Path, *, model: str, seed: int, scale: str) -> pd.DataFrame:
    """Returns every protocol of one network; the rows of :func:`side_by_side`."""
    s, (known, seen) = entry(SCALES, scale), _images(scale)["label"]
    trained = model == "SimCLR"
    network = (
        train(Path(out) / "run", scale=scale, seed=seed, progress=False).model()
        if trained
        else _control(model, scale=scale, seed=seed)
    )
    tuned = None if model == "raw pixels" else Path(out) / "tuned"
    return protocols(network, known, seen, shots=s.shots, draws=s.draws, out=tuned, epochs=s.tuning, seed=seed, progress=False)


def forgotten(out: str | Path, *, scale: str = "cpu", seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Returns what each layer of the base recipe, and of untrained networks, tells of what was done to a view.

    The runs are those of :func:`side_by_side` in ``out``; where they are not there, they are trained.

    Returns:
        The columns of :func:`workbench.probe_layers` behind ``model`` and ``seed``; the factors are words of :data:`ACTIONS`.
    """
    images, tables = _images(scale)["label"][0][:2_000], []
    for model, seed in ((model, seed) for model in EVALUATED[:2] for seed in seeds):
        folder = Path(out) / f"model={model},seed={seed}" / "run"
        trained = train(folder, scale=scale, seed=seed, progress=False).model() if model == "SimCLR" else None
        network = trained or _control(model, scale=scale, seed=seed)
        network = network.to("cuda" if torch.cuda.is_available() else "cpu")
        views = extract(network, images, main_layers(network), views=Augment(2, record=True), seed=seed, progress=False)
        table = probe_actions(views, factor=list(ACTIONS), seed=seed)
        table["factor"] = table["factor"].str.removeprefix("action.").map(ACTIONS)
        tables.append(pd.DataFrame({"model": model, "seed": seed}, index=table.index).join(table))
    return pd.concat(tables, ignore_index=True)


def live(*, steps: int = 60, every: int = 6, seed: int = 0, **changes: Any) -> pd.DataFrame:
    """Trains a small network for some steps while one waits, and returns how it went.

    Arguments:
        steps: Of 128 garments; sixty take about three seconds on one core.
        every: Steps between rows.
        changes: As of a setting of :data:`KNOBS`.

    Returns:
        Columns step, loss, kNN (accuracy of the backbone on held-out garments, in %), RankMe (of the embedding).
    """
    s = Scale({"name": "convnet", "width": 8}, 32, 1_024, 512, math.ceil(steps / 8), 128, 4e-3, 1, (), 1)
    images, held = garments(s.images), garments(s.held_out, split="test")
    parts = _recipe(s, seed=seed, **changes)
    rows, model = [], parts["model"]
    for step in parts.pop("trainer").steps(**parts, images=images):
        if step.number % every == 0 or step.number == 1:
            known, seen = (extract(model, x, "backbone", progress=False) for x in (images, held))
            near = KNNProbe().fit(known["backbone"], known.factors["label"]).score(seen["backbone"], seen.factors["label"])
            layer = "projector" if len(model.projector) else "backbone"
            rank = float(rankme(extract(model, held, layer, progress=False)[layer]))
            rows.append({"step": step.number, "loss": float(step.terms["loss"]), "kNN": 100 * near, "RankMe": rank})
        if step.number == steps:
            break
    return pd.DataFrame(rows)


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> dict[str, tuple[Images, Images]]:
    s = entry(SCALES, scale)
    few = min(s.images, 4_000)
    return {
        "label": (garments(s.images), garments(s.held_out, split="test")),
        "plain": (fashion_mnist("train", channels=3)[:few], fashion_mnist("test", channels=3)[: s.held_out]),
    }
