"""RankMe: the rank of the embeddings says, without labels, which hyper-parameter of a method to take.

RankMe is the exponential of the entropy of the singular values of the embeddings of training images. Within one method, along
one hyper-parameter, the run of the highest RankMe is taken, on a plateau the first; its representation is then nearly as good as
the one that labels would have chosen. Across methods the numbers do not compare.

What is reproduced: SimCLR and VICReg, one hyper-parameter at a time (temperature, learning rate, weight decay; weights of the
covariance and the invariance), chosen by RankMe, LiDAR, alpha-ReQ, at random and by labels, within three seeds, whose own spread
is the floor under every difference. The paper trains ResNet-50s for 100 epochs on ImageNet; here it is a small network on
garments.

References:
    RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank (Garrido,
    Balestriero, Najman, LeCun, ICML 2023), section 3.3 and table 1, https://arxiv.org/abs/2210.02885
    LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures (Thilak et al., ICLR 2024),
    https://arxiv.org/abs/2312.04000
"""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from workbench.data.fashion import fashion_mnist
from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.features import extract
from workbench.measures.geometry import lidar
from workbench.measures.selection import regret
from workbench.measures.spectral import alpha_req, rankme
from workbench.models.building import build_encoder
from workbench.objectives.simclr import SimCLR
from workbench.objectives.vicreg import VICReg
from workbench.probes import LinearProbe, RidgeProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = ["BASE", "BEST", "PUBLISHED", "SWEEPS", "TARGETS", "measure", "regrets", "reproduce", "row", "train"]

BASE = {
    "SimCLR": {"temperature": 0.2, "lr": 2e-3, "weight_decay": 1e-4},
    "VICReg": {"covariance": 1.0, "invariance": 25.0, "lr": 2e-3, "weight_decay": 1e-4},
}
"""What each method is trained with where nothing else is said."""

SWEEPS = {
    "SimCLR": {
        "temperature": [0.05, 0.1, 0.2, 0.5, 1.0],
        "lr": [2e-4, 6e-4, 2e-3, 6e-3, 2e-2],
        "weight_decay": [1e-4, 1e-2, 1e-1, 1.0],
    },
    "VICReg": {
        "covariance": [0.04, 0.2, 1.0, 5.0, 25.0],
        "invariance": [1.0, 5.0, 25.0, 125.0],
        "lr": [2e-4, 6e-4, 2e-3, 6e-3, 2e-2],
    },
}
"""One hyper-parameter at a time, each with its values in order."""

BEST = {"rankme": "high", "rankme_backbone": "high", "lidar": "high", "alpha_req": 1.0}
"""The measures that choose, and what is best of each."""

TARGETS = ["label", "plain garments", "x"]
"""What a chosen backbone is asked, in %: held-out garments, garments as photographed, and where on the picture it lies (R2)."""

PUBLISHED = pd.DataFrame(
    {
        "oracle": [68.2, 68.2, 68.6, 68.0, 68.5, 68.5, 68.3],
        "alpha_req": [67.9, 67.5, 59.5, 67.8, 63.5, 68.1, 32.3],
        "rankme": [67.8, 67.9, 68.2, 67.8, 67.1, 68.0, 68.3],
    },
    index=pd.MultiIndex.from_tuples(
        [("VICReg", s) for s in ("covariance", "invariance", "lr", "weight_decay")]
        + [("SimCLR", s) for s in ("temperature", "lr", "weight_decay")],
        names=["method", "sweep"],
    ),
)
"""The paper's table 1, as a public set of notes has it: ImageNet top-1 (%) of the representation that each measure chooses."""


class Scale(NamedTuple):
    """How large a reproduction is."""

    backbone: dict[str, Any]
    projector: tuple[int, ...]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    measured: int


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, (32, 16), 512, 256, 1, 64, 256),
    "cpu": Scale({"name": "convnet", "width": 16}, (256, 64), 10_000, 2_000, 6, 256, 5_000),
    "gpu": Scale({"name": "resnet18"}, (2048, 2048, 2048), 50_000, 2_000, 100, 512, 25_600),
}


def train(out: str | Path, *, method: str, scale: str = "cpu", seed: int = 0, progress: bool = True, **settings: float) -> Run:
    """Trains one method with one set of settings into ``out``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such method, scale or setting.
    """
    s, known = entry(SCALES, scale), dict(entry(BASE, method))
    for name in settings:
        entry(known, name)
    known |= settings
    lr, decay = known.pop("lr"), known.pop("weight_decay")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_encoder(projector=s.projector, **s.backbone)
    objective = {"SimCLR": SimCLR, "VICReg": VICReg}[method](**known)
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=lr, weight_decay=decay, seed=seed)
    images = _images(scale)["label"][0]
    return trainer.fit(model, objective, images, Augment(), out=out, resume=True, snapshots=2, progress=progress)


def measure(run: Run, *, scale: str = "cpu") -> dict[str, float]:
    """Returns the measures that choose, and the targets (in %) that judge the choice.

    RankMe (``rankme`` of the embeddings, the paper's; ``rankme_backbone`` of the representation) and alpha-ReQ (of the
    representation) are taken of training images, LiDAR of embeddings of ten of the run's own views of each of some.
    """
    s, parts = entry(SCALES, scale), _images(scale)
    model = run.model().to("cuda" if torch.cuda.is_available() else "cpu")
    layers = ["backbone", "projector"]
    known = extract(model, parts["label"][0][: s.measured], layers, progress=False)
    few = parts["label"][0][: max(s.measured // 10, 2 * s.projector[-1])]
    views = extract(model, few, "projector", views=Augment(10), progress=False)
    found = {
        "rankme": rankme(known["projector"]),
        "rankme_backbone": rankme(known["backbone"]),
        "lidar": lidar(views["projector"], views.factors["source"]),
        "alpha_req": alpha_req(known["backbone"], last=min(100, known["backbone"].shape[1])),
    }
    return {k: float(v) for k, v in found.items()} | _judged(model, parts)


def _judged(model: torch.nn.Module, parts: dict[str, tuple[Images, Images]]) -> dict[str, float]:
    found = {}
    for name, both in parts.items():
        known, seen = (extract(model, images, "backbone", progress=False) for images in both)
        z, other = known["backbone"], seen["backbone"]
        found[name] = 100 * LinearProbe().fit(z, known.factors["label"]).score(other, seen.factors["label"])
        if "x" in known.factors:
            found["x"] = 100 * RidgeProbe().fit(z, known.factors["x"].to_numpy()).score(other, seen.factors["x"].to_numpy())
    return found


def row(out: str | Path, *, method: str, seed: int, scale: str, **settings: float) -> dict[str, float]:
    """Trains and measures one run; a row of the sweep."""
    return measure(train(out, method=method, scale=scale, seed=seed, progress=False, **settings), scale=scale)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    sweeps: dict[str, dict[str, list[float]]] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every setting of every sweep with every seed and measures it; what stands in ``out`` is not made again.

    Arguments:
        sweeps: Values by hyper-parameter by method; by default :data:`SWEEPS`.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        A row a run and a sweep that it belongs to (the base settings belong to all of their method): columns method, sweep,
        setting, seed, the measures and the targets.

    Raises:
        RuntimeError: If a training failed.
    """
    wanted = [
        {"method": method, "sweep": name, "setting": value, "seed": seed, **BASE[method], name: value}
        for method, ways in (SWEEPS if sweeps is None else sweeps).items()
        for name, values in ways.items()
        for value, seed in ((r["value"], r["seed"]) for r in grid(value=values, seed=list(seeds)))
    ]
    table = [{k: v for k, v in w.items() if k not in ("sweep", "setting")} for w in wanted]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    keys = [k for k in ["method", *{k: 0 for base in BASE.values() for k in base}, "seed"] if k in swept]
    joined = pd.DataFrame(wanted).merge(swept[[*keys, *BEST, *TARGETS]], on=keys, how="left", validate="many_to_one")
    return joined[["method", "sweep", "setting", "seed", *BEST, *TARGETS]]


def regrets(table: pd.DataFrame, *, plateau: float = 0.05) -> pd.DataFrame:
    """Returns :func:`workbench.regret` of every measure in ``BEST`` for every target, in points, with a column ``target``."""
    tables = []
    for target in TARGETS:
        with warnings.catch_warnings():
            if tables:  # what is said of a measure is said once
                warnings.simplefilter("ignore")
            tables.append(regret(table, BEST, oracle=target, plateau=plateau).assign(target=target))
    return pd.concat(tables, ignore_index=True)


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> dict[str, tuple[Images, Images]]:
    s = entry(SCALES, scale)
    few = min(s.images, 5_000)
    return {
        "label": (garments(s.images), garments(s.held_out, split="test")),
        "plain garments": (fashion_mnist("train", channels=3)[:few], fashion_mnist("test", channels=3)[: s.held_out]),
    }
