"""On the duality between contrastive and non-contrastive learning: what pushes samples apart pushes dimensions apart too.

For doubly normalised embeddings the two criteria differ by a constant (theorem 3.3; the identity is a test of
``workbench.objectives.duality``), and a chain of four losses leads from one to the other: VICReg, its covariances under a
log-sum-exp (VICReg-exp), the same of samples (VICReg-ctr), and with more negatives SimCLR. Trained alike and tuned alike they
reach the same accuracy, at every width of the embedding, and in all of them both the inner products of samples and the
covariances of dimensions gather at 0.

What is reproduced: the chain and the variants beside it (-abs, -sq, DCL, spectral contrastive, normalised dimensions), the
off-diagonal Gram and covariance entries at backbone and projector, widths of the embedding, batch sizes, and the temperature at
which exp and ctr collapse. The paper trains ResNet-50s for 100 epochs on ImageNet; here it is a small network on garments.

References:
    On the Duality Between Contrastive and Non-Contrastive Self-Supervised Learning (Garrido, Chen, Bardes, Najman, LeCun, ICLR
    2023), sections 4 and 5, figure 1, https://arxiv.org/abs/2206.02574
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.features import extract
from workbench.measures.spectral import rankme
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder
from workbench.objectives.base import Objective
from workbench.objectives.duality import VICRegCtr, VICRegExp
from workbench.objectives.simclr import SimCLR
from workbench.objectives.spectral_contrastive import SpectralContrastive
from workbench.objectives.vicreg import VICReg
from workbench.probes import KNNProbe, LinearProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = ["CHAIN", "LOSSES", "PUBLISHED", "SCALES", "STUDIES", "measure", "off_diagonals", "reproduce", "row", "train"]

LOSSES: dict[str, Callable[[float | None], Objective]] = {
    "VICReg": lambda t: VICReg(),
    "VICReg-exp": lambda t: VICRegExp(temperature=t or 0.1),
    "VICReg-ctr": lambda t: VICRegCtr(temperature=t or 0.1),
    "SimCLR": lambda t: SimCLR(temperature=t or 0.15),
    "SimCLR-abs": lambda t: SimCLR(temperature=t or 0.15, negatives="abs"),
    "SimCLR-sq": lambda t: SimCLR(temperature=t or 0.15, negatives="sq"),
    "DCL": lambda t: SimCLR(temperature=t or 0.15, decoupled=True),
    "SimCLR, centred": lambda t: SimCLR(temperature=t or 0.15, dimensions="centred"),
    "SimCLR, standardised": lambda t: SimCLR(temperature=t or 0.15, dimensions="standardised"),
    "spectral contrastive": lambda t: SpectralContrastive(radius=3.0),
}
"""The losses by name, each a function of a temperature; None takes the one that the studies without temperatures use."""

CHAIN = ["VICReg", "VICReg-exp", "VICReg-ctr", "SimCLR"]

STUDIES = {
    "losses": [{"loss": name} for name in LOSSES],
    "dimensions": grid(loss=CHAIN, dimensions=[16, 256]),
    "batch size": grid(loss=CHAIN, batch_size=[64, 1024]),
    "temperature": grid(loss=CHAIN[1:], temperature=[0.3, 1.0]),
}
"""What is varied; the row of ``losses`` is each study's middle (64 dimensions, batches of 256)."""

PUBLISHED = pd.DataFrame(
    {
        256: [65.01, 65.24, 67.72, 68.45],
        512: [66.72, 66.71, 67.86, 68.61],
        1024: [68.06, 67.86, 67.84, 68.49],
        2048: [68.07, 68.00, 67.92, 68.48],
        8192: [68.13, 67.93, 67.73, 68.68],
    },
    index=pd.Index(CHAIN, name="loss"),
)
"""Table S5 as a public summary has it: online linear accuracy (%) on ImageNet by the embedding's width, projector 8192-8192-d."""


class Scale(NamedTuple):
    """How large a reproduction is."""

    backbone: dict[str, Any]
    hidden: int
    dimensions: int
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, 32, 16, 512, 256, 1, 64, 2e-3),
    "cpu": Scale({"name": "convnet", "width": 16}, 256, 64, 10_000, 2_000, 5, 256, 2e-3),
    "gpu": Scale({"name": "resnet18"}, 2048, 2048, 50_000, 2_000, 100, 512, 2e-3),
}


def train(
    out: str | Path,
    *,
    loss: str,
    scale: str = "cpu",
    seed: int = 0,
    temperature: float | None = None,
    dimensions: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Run:
    """Trains one loss into ``out``, or goes on with, or opens, the run that is there.

    Arguments:
        temperature, dimensions, batch_size: In place of the loss's own and the scale's. The learning rate goes with the square
            root of the batch, and small scales keep their batch.

    Raises:
        KeyError: If there is no such loss or scale.
    """
    s = entry(SCALES, scale)
    size = min(batch_size or s.batch_size, s.images // 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_encoder(projector=(s.hidden, s.hidden, dimensions or s.dimensions), **s.backbone)
    trainer = Trainer(epochs=s.epochs, batch_size=size, lr=s.lr * (size / s.batch_size) ** 0.5, seed=seed)
    objective = entry(LOSSES, loss)(temperature)
    return trainer.fit(model, objective, _images(scale)[0], Augment(), out=out, resume=True, snapshots=2, progress=progress)


def measure(model: Encoder, *, scale: str = "cpu") -> dict[str, float]:
    """Returns, of backbone and projector on held-out garments: accuracies (%), RankMe, and how far off-diagonals are from 0.

    ``gram`` and ``covariance`` are the root mean squares of :func:`off_diagonals`.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    known, seen = (extract(model, images, ["backbone", "projector"], progress=False) for images in _images(scale))
    y, y_seen = known.factors["label"], seen.factors["label"]
    found = {}
    for layer in known:
        found[f"linear {layer}"] = 100 * LinearProbe().fit(known[layer], y).score(seen[layer], y_seen)
        found[f"knn {layer}"] = 100 * KNNProbe().fit(known[layer], y).score(seen[layer], y_seen)
        found[f"rankme {layer}"] = float(rankme(seen[layer]))
        for name, values in off_diagonals(seen[layer]).items():
            found[f"{name} {layer}"] = float(values.square().mean().sqrt())
    return found


def off_diagonals(z: Tensor, *, rows: int = 1024) -> dict[str, Tensor]:
    """Returns the off-diagonal cosines of samples and of dimensions, both after each dimension was centred.

    Arguments:
        z: Features (N, D).
        rows: At most so many samples are compared with each other.
    """
    z = (z - z.mean(0)).double()
    samples = F.normalize(z[:rows], dim=1)
    gram, covariance = samples @ samples.T, F.normalize(z, dim=0).T @ F.normalize(z, dim=0)
    return {"gram": _pairs(gram), "covariance": _pairs(covariance)}


def _pairs(matrix: Tensor) -> Tensor:
    return matrix[torch.triu(torch.ones_like(matrix, dtype=torch.bool), diagonal=1)]


def row(out: str | Path, *, seed: int, scale: str, **settings: Any) -> dict[str, float]:
    """Trains and measures one run; a row of the sweep."""
    return measure(train(out, scale=scale, seed=seed, progress=False, **settings).model(), scale=scale)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    studies: Sequence[str] = tuple(STUDIES),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every row of every study with every seed and measures it; what stands in ``out`` is not made again.

    Arguments:
        studies: Names of :data:`STUDIES`.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        A row a run: columns loss, seed, temperature, dimensions, batch_size (NaN where the study's middle was taken), and what
        :func:`measure` gives.

    Raises:
        RuntimeError: If a training failed.
    """
    table = [settings | {"seed": seed} for study in studies for settings in entry(STUDIES, study) for seed in seeds]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    settings = ["loss", "seed", "temperature", "dimensions", "batch_size"]
    measured = [c for c in swept if c.rpartition(" ")[2] in ("backbone", "projector")]
    return swept.reindex(columns=[*settings, *measured])


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> tuple[Images, Images]:
    s = entry(SCALES, scale)
    return garments(s.images), garments(s.held_out, split="test")
