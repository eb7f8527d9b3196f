"""RankMe: the rank of the embeddings says, without labels, which hyper-parameter of a method to take.

RankMe is the exponential of the entropy of the singular values of the embeddings of training images. Within one method, along
one hyper-parameter, the run of the highest RankMe is taken, on a plateau the first; its representation is then nearly as good as
the one that labels would have chosen. Across methods the numbers do not compare.

What is reproduced: SimCLR and VICReg, one hyper-parameter at a time (temperature, learning rate, weight decay; weights of the
covariance and the invariance), chosen by RankMe, LiDAR, alpha-ReQ, at random and by labels, within three seeds, whose own spread
is the floor under every difference. Left out are DINO, VICReg's weight decay, and the data sets of the paper's own evaluation.

The paper trains ResNet-50s with projectors 8192-8192-2048 for 100 epochs on ImageNet with LARS. ``scale="cpu"`` is a small
network trained with AdamW on garments. ``scale="gpu"`` has the paper's epochs, optimizer, projector and number of measured
images, but ResNet-18 with the stem for small images, 50,000 garments of 32 pixels, and batches of 512. Its learning rates and
weight decays are those of the small network in LARS' units: 0.6 (0.3 for every 256 images) and 1e-6 as the base, the same
multiples around them; the paper's own grids are not known here. It has not been run yet: 72 trainings of 9,700 steps.

References:
    RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank (Garrido,
    Balestriero, Najman, LeCun, ICML 2023), section 3.3 and table 1, https://arxiv.org/abs/2210.02885
    LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures (Thilak et al., ICLR 2024),
    https://arxiv.org/abs/2312.04000
"""

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from workbench.data.fashion import fashion_mnist
from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.features import Features, extract
from workbench.measures.geometry import lidar
from workbench.measures.selection import regret
from workbench.measures.spectral import alpha_req, rankme
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder
from workbench.objectives.simclr import SimCLR
from workbench.objectives.vicreg import VICReg
from workbench.probes import LinearProbe, RidgeProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = [
    "BASE",
    "BEST",
    "PUBLISHED",
    "SWEEPS",
    "TARGETS",
    "beside_published",
    "controls",
    "costs",
    "fresh",
    "measure",
    "one_by_one",
    "regrets",
    "reproduce",
    "row",
    "settings_of",
    "train",
]

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
    """How large a reproduction is; ``lr`` and ``decay`` multiply the learning rates and decays of ``BASE`` and ``SWEEPS``."""

    backbone: dict[str, Any]
    projector: tuple[int, ...]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    measured: int
    optimizer: str = "adamw"
    lr: float = 1.0
    decay: float = 1.0


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, (32, 16), 512, 256, 1, 64, 256),
    "cpu": Scale({"name": "convnet", "width": 16}, (256, 64), 10_000, 2_000, 6, 256, 5_000),
    "gpu": Scale({"name": "resnet18"}, (8192, 8192, 2048), 50_000, 2_000, 100, 512, 25_600, "lars", 300, 0.01),
}


def train(out: str | Path, *, method: str, scale: str = "cpu", seed: int = 0, progress: bool = True, **settings: float) -> Run:
    """Trains one method with one set of settings into ``out``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such method, scale or setting.
    """
    s, known = entry(SCALES, scale), settings_of(method, scale=scale)
    for name in settings:
        entry(known, name)
    known |= settings
    lr, decay = known.pop("lr"), known.pop("weight_decay")
    objective = {"SimCLR": SimCLR, "VICReg": VICReg}[method](**known)
    how = {"lr": lr, "weight_decay": decay, "optimizer": s.optimizer, "seed": seed}
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, **how)
    images, model = _images(scale)["label"][0], fresh(scale=scale, seed=seed)
    return trainer.fit(model, objective, images, Augment(), out=out, resume=True, snapshots=2, progress=progress)


def settings_of(method: str, *, scale: str = "cpu") -> dict[str, float]:
    """Returns what a method is trained with at a scale where nothing else is said."""
    return {name: _in_units(name, value, scale) for name, value in entry(BASE, method).items()}


def fresh(*, scale: str = "cpu", seed: int = 0) -> Encoder:
    """Returns the network that every run starts from with this seed."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(projector=s.projector, **s.backbone)


def measure(run: Run, *, scale: str = "cpu") -> dict[str, float]:
    """Returns the measures that choose, and the targets (in %) that judge the choice.

    RankMe (``rankme`` of the embeddings, the paper's; ``rankme_backbone`` of the representation) and alpha-ReQ (of the
    representation) are taken of training images, LiDAR of embeddings of ten of the run's own views of each of some.
    """
    return _measured(run.model(), scale)


def controls(*, scale: str = "cpu", seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Returns what is to be had without training: columns method, seed, the measures and the targets.

    Methods: ``"untrained"``, the network that each seed's runs start from; ``"raw pixels"`` and ``"chance"``, of which there are
    targets alone.
    """
    rows = [{"method": "untrained", "seed": s} | _measured(fresh(scale=scale, seed=s).eval(), scale) for s in seeds]
    parts = _images(scale)

    def pixels(images: Images) -> Features:
        return Features({"backbone": images.at(range(len(images))).flatten(1).float()}, images.factors)

    chance = {name: 100 / both[0].factors["label"].nunique() for name, both in parts.items()}
    rows.append({"method": "raw pixels", "seed": seeds[0]} | _judged(pixels, parts))
    rows.append({"method": "chance", "seed": seeds[0]} | chance | {"x": 0.0})
    return pd.DataFrame(rows)[["method", "seed", *BEST, *TARGETS]]


def costs(*, scale: str = "cpu") -> pd.DataFrame:
    """Returns what RankMe and LiDAR of one run cost here: columns measure, images, passes (through the network), seconds.

    Seconds are of the processor (on a GPU they miss what it does by itself). What a network learned does not change them.
    """
    s, images, model = entry(SCALES, scale), _images(scale)["label"][0], fresh(scale=scale).eval()
    extract(model, images[:256], "projector", progress=False)  # so that neither pays for what is made once
    rows = []
    for name, taken in (("rankme", _rankme), ("lidar", _lidar)):
        start = time.process_time()
        n = len(taken(model, images, s)[0])
        views = 10 if name == "lidar" else 1
        rows.append({"measure": name, "images": n // views, "passes": n, "seconds": time.process_time() - start})
    return pd.DataFrame(rows)


def _rankme(model: Encoder, images: Images, s: Scale) -> tuple[torch.Tensor, dict[str, float]]:
    known = extract(model, images[: s.measured], ["backbone", "projector"], progress=False)
    return known["projector"], {
        "rankme": float(rankme(known["projector"])),
        "rankme_backbone": float(rankme(known["backbone"])),
        "alpha_req": float(alpha_req(known["backbone"], last=min(100, known["backbone"].shape[1]))),
    }


def _lidar(model: Encoder, images: Images, s: Scale) -> tuple[torch.Tensor, dict[str, float]]:
    few = images[: max(s.measured // 10, 2 * s.projector[-1])]
    views = extract(model, few, "projector", views=Augment(10), progress=False)
    return views["projector"], {"lidar": float(lidar(views["projector"], views.factors["source"]))}


def _measured(model: Encoder, scale: str) -> dict[str, float]:
    s, parts = entry(SCALES, scale), _images(scale)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = _rankme(model, parts["label"][0], s)[1] | _lidar(model, parts["label"][0], s)[1]

    def representation(images: Images) -> Features:
        return extract(model, images, "backbone", progress=False)

    return {name: found[name] for name in BEST} | _judged(representation, parts)


def _judged(features: Callable[[Images], Features], parts: dict[str, tuple[Images, Images]]) -> dict[str, float]:
    found = {}
    for name, both in parts.items():
        known, seen = map(features, both)
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
        sweeps: Values by hyper-parameter by method, in the units of :data:`SWEEPS`, which is the default.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        A row a run and a sweep that it belongs to (the base settings belong to all of their method): columns method, sweep,
        setting, seed, the measures and the targets.

    Raises:
        RuntimeError: If a training failed.
    """
    wanted = [
        {"method": method, "sweep": name, "setting": value, "seed": seed, **settings_of(method, scale=scale), name: value}
        for method, ways in (SWEEPS if sweeps is None else sweeps).items()
        for name, values in ways.items()
        for value in [_in_units(name, v, scale) for v in values]
        for seed in seeds
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


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """Returns regrets beside the paper's: a row a method and sweep, in points, ours as mean ± spread over seeds.

    Arguments:
        table: As :func:`regrets` gives it; of the targets the label is taken, since the published are of ImageNet's labels.
    """
    own = table[(table["target"] == "label") & (table["measure"] != "oracle")]
    words = [f"{r:.1f} ± {s:.1f}" if s == s else f"{r:.1f}" for r, s in zip(own["regret"], own["regret_std"], strict=True)]
    own = own.assign(words=words).pivot(index=["method", "sweep"], columns="measure", values="words")
    lost = PUBLISHED[["rankme", "alpha_req"]].rsub(PUBLISHED["oracle"], axis=0).round(1)
    lost.columns = [f"{name}, published" for name in lost]
    return own[["rankme", "lidar", "alpha_req", "random"]].join(lost).reindex(table.set_index(["method", "sweep"]).index.unique())


def one_by_one(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a run, a column a hyper-parameter, of a table of :func:`reproduce` at ``scale="cpu"``.

    So :func:`workbench.panels.outcomes_of` takes it. What a method does not have is empty.
    """
    rows = [BASE[r["method"]] | {r["sweep"]: r["setting"]} | r for r in table.to_dict("records")]
    names = list(dict.fromkeys(name for ways in SWEEPS.values() for name in ways))
    wide = pd.DataFrame(rows).drop_duplicates(["method", "seed", *names], ignore_index=True)
    return wide[["method", "seed", *names, *BEST, *TARGETS]]


def _in_units(name: str, value: float, scale: str) -> float:
    """A learning rate or weight decay in the units of a scale's optimizer."""
    s = entry(SCALES, scale)
    return float(f"{value * {'lr': s.lr, 'weight_decay': s.decay}.get(name, 1):.6g}")


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> dict[str, tuple[Images, Images]]:
    s = entry(SCALES, scale)
    few = min(s.images, 5_000)
    return {
        "label": (garments(s.images), garments(s.held_out, split="test")),
        "plain garments": (fashion_mnist("train", channels=3)[:few], fashion_mnist("test", channels=3)[: s.held_out]),
    }
