"""On the duality between contrastive and non-contrastive learning: what pushes samples apart pushes dimensions apart too.

For doubly normalised embeddings the two criteria differ by a constant (theorem 3.3; the identity is a test of
``workbench.objectives.duality``), and a chain of four losses leads from one to the other: VICReg, its covariances under a
log-sum-exp (VICReg-exp), the same of samples (VICReg-ctr), and with more negatives SimCLR. Trained alike and tuned alike they
reach the same accuracy, at every width of the embedding, and in all of them both the inner products of samples and the
covariances of dimensions gather at 0.

What is reproduced: the theorem; the chain and variants beside it (-abs, DCL, spectral contrastive, standardised dimensions), the
off-diagonal Gram and covariance entries at backbone and projector, widths of the embedding, batch sizes, and the temperature at
which exp and ctr collapse. The paper trains ResNet-50s for 100 epochs on ImageNet; here it is a small network on garments.

``scale="gpu"`` has the paper's network, epochs, projector (8192-8192-d), batch (2,048), base rate (.2 for each 256 images, of
SimCLR and its kin .5) and temperature of SimCLR. Garments of 32 pixels, brought to 224, stand for ImageNet; the weights and
temperatures of exp and ctr, which stand in a supplement that we have not seen, are ours, and so is a rate that goes with the
square root of the batch where that is varied.

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
from workbench.features import Features, extract
from workbench.measures.spectral import rankme
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder
from workbench.objectives.base import Objective
from workbench.objectives.duality import VICRegCtr, VICRegExp, dimension_contrast, sample_contrast
from workbench.objectives.simclr import SimCLR
from workbench.objectives.spectral_contrastive import SpectralContrastive
from workbench.objectives.vicreg import VICReg
from workbench.probes import KNNProbe, LinearProbe
from workbench.rows import row_name
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = [
    "CHAIN",
    "LOSSES",
    "PUBLISHED",
    "SCALES",
    "STUDIES",
    "fresh",
    "histograms",
    "identity",
    "measure",
    "off_diagonals",
    "raw_pixels",
    "reproduce",
    "row",
    "train",
]

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

STUDIES = ("losses", "dimensions", "batch size", "temperature")
"""What is varied; the row of ``losses`` is each study's middle (at cpu scale 64 dimensions, batches of 256)."""

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
    widths: tuple[int, ...]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    batches: tuple[int, ...]
    lr: float
    lr_simclr: float
    optimizer: dict[str, Any] = {}


CONVNET = {"name": "convnet", "width": 16}
RESNET = {"name": "timm:resnet50", "resize": True}
LARS = {"optimizer": "lars", "weight_decay": 1e-6}

SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, 32, 16, (8,), 256, 128, 1, 64, (32,), 2e-3, 2e-3),
    "cpu": Scale(CONVNET, 256, 64, (16, 256), 10_000, 2_000, 5, 256, (64, 1024), 2e-3, 2e-3),
    "gpu": Scale(RESNET, 8192, 2048, (256, 512, 1024, 8192), 50_000, 2_000, 100, 2048, (256, 1024), 1.6, 4.0, LARS),
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
            root of the batch, and a batch holds at most half of the images.

    Raises:
        KeyError: If there is no such loss or scale.
    """
    s = entry(SCALES, scale)
    size = min(batch_size or s.batch_size, s.images // 2)
    objective = entry(LOSSES, loss)(temperature)
    lr = (s.lr_simclr if isinstance(objective, SimCLR) else s.lr) * (size / s.batch_size) ** 0.5
    trainer = Trainer(epochs=s.epochs, batch_size=size, lr=lr, seed=seed, **s.optimizer)
    parts = fresh(scale=scale, seed=seed, dimensions=dimensions), objective, _images(scale)[0], Augment()
    return trainer.fit(*parts, out=out, resume=True, snapshots=2, progress=progress)


def fresh(*, scale: str = "cpu", seed: int = 0, dimensions: int | None = None) -> Encoder:
    """Returns the network that every loss starts from with this seed."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(projector=(s.hidden, s.hidden, dimensions or s.dimensions), **s.backbone)


def measure(model: Encoder, *, scale: str = "cpu") -> dict[str, float]:
    """Returns, of backbone and projector on held-out garments: accuracies (%), RankMe, and how far off-diagonals are from 0.

    ``gram`` and ``covariance`` are the root mean squares of :func:`off_diagonals`.
    """
    known, seen = (_seen(model, images) for images in _images(scale))
    return _told(known, seen)


def raw_pixels(*, scale: str = "cpu") -> dict[str, float]:
    """Returns the same of the pixels themselves, under the names of a backbone: what is to be had without a network."""
    known, seen = (Features({"backbone": x.at(range(len(x))).flatten(1).float()}, x.factors) for x in _images(scale))
    return _told(known, seen)


def _seen(model: Encoder, images: Images) -> Features:
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return extract(model, images, ["backbone", "projector"], progress=False)


def _told(known: Features, seen: Features) -> dict[str, float]:
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


def histograms(
    out: str | Path, *, scale: str = "cpu", seed: int = 0, losses: Sequence[str] = CHAIN, bins: int = 60
) -> pd.DataFrame:
    """Returns how the off-diagonals of each loss's run in the sweep ``out``, and of an untrained network, spread from -1 to 1.

    Returns:
        A row a loss and bin: columns loss, seed, cosine (the bin's middle), and of each matrix and layer, such as
        ``gram projector``, the density there.
    """
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
    tables = []
    for loss in ("untrained", *losses):
        run = {"loss": loss, "seed": seed}
        model = (
            fresh(scale=scale, seed=seed).eval()
            if loss == "untrained"
            else train(Path(out) / row_name(run), scale=scale, progress=False, **run).model()
        )
        table = pd.DataFrame(run | {"cosine": (edges[1:] + edges[:-1]) / 2})
        seen = _seen(model, _images(scale)[1])
        for layer in seen:
            for name, values in off_diagonals(seen[layer]).items():
                table[f"{name} {layer}"] = torch.histogram(values.clamp(-1, 1).cpu(), edges, density=True).hist
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def identity(n: int, m: int, *, rounds: int = 20, seed: int = 0) -> pd.DataFrame:
    r"""Theorem 3.3 on a random matrix, whose samples and dimensions, of all lengths at first, are made of one length in turn.

    Arguments:
        n, m: Samples and dimensions.
        rounds: How often samples are brought to length 1 and dimensions then to :math:`\sqrt{N / M}`; both hold in the end.

    Returns:
        A row a round, from 0 (no length made equal): columns round, ``L_nc`` and ``L_c``, both with the lengths that the theorem
        adds (``L_nc + dimensions``, ``L_c + samples``), and ``L_nc - L_c``, which ends at :math:`N - N^2 / M`.
    """
    g = torch.Generator().manual_seed(seed)
    z, samples, dimensions = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((n, m), (n, 1), (1, m)))
    z = z * (samples / 2).exp() * (dimensions / 2).exp() / m**0.5
    rows = []
    for i in range(rounds + 1):
        if i:
            z = F.normalize(F.normalize(z, dim=1), dim=0) * (n / m) ** 0.5
        l_nc, l_c = float(dimension_contrast(z)), float(sample_contrast(z))
        ends = {
            "L_nc + dimensions": l_nc + float(z.norm(dim=0).pow(4).sum()),
            "L_c + samples": l_c + float(z.norm(dim=1).pow(4).sum()),
        }
        rows.append({"round": i, "L_nc": l_nc, "L_c": l_c, **ends, "L_nc - L_c": l_nc - l_c})
    return pd.DataFrame(rows)


def _pairs(matrix: Tensor) -> Tensor:
    return matrix[torch.triu(torch.ones_like(matrix, dtype=torch.bool), diagonal=1)]


def row(out: str | Path, *, seed: int, scale: str, **settings: Any) -> dict[str, float]:
    """Trains and measures one run; a row of the sweep."""
    if settings == {"loss": "raw pixels"}:
        return raw_pixels(scale=scale)
    if settings == {"loss": "untrained"}:
        return measure(fresh(scale=scale, seed=seed).eval(), scale=scale)
    return measure(train(out, scale=scale, seed=seed, progress=False, **settings).model(), scale=scale)


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
    """Trains every row of every study with every seed and measures it; what stands in ``out`` is not made again.

    Arguments:
        studies: Names of :data:`STUDIES`.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        A row a run: columns loss, seed, temperature, dimensions, batch_size (NaN where the study's middle was taken), and what
        :func:`measure` gives. The controls are ``"untrained"`` networks, and ``"raw pixels"`` (of the first seed).

    Raises:
        RuntimeError: If a training failed.
    """
    s, ends = entry(SCALES, scale), ["VICReg", "SimCLR"]
    known = {
        "losses": [{"loss": name} for name in ("untrained", *LOSSES) if name not in ("SimCLR-sq", "SimCLR, centred")],
        "dimensions": grid(loss=ends, dimensions=list(s.widths)),
        "batch size": grid(loss=ends, batch_size=list(s.batches)),
        "temperature": grid(loss=CHAIN[1:], temperature=1.0),
    }
    table = [settings | {"seed": seed} for study in studies for settings in entry(known, study) for seed in seeds]
    if "losses" in studies:
        table.append({"loss": "raw pixels", "seed": next(iter(seeds))})
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    settings = ["loss", "seed", "temperature", "dimensions", "batch_size"]
    measured = [c for c in swept if c.rpartition(" ")[2] in ("backbone", "projector")]
    return swept.reindex(columns=[*settings, *measured])


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> tuple[Images, Images]:
    s = entry(SCALES, scale)
    return garments(s.images), garments(s.held_out, split="test")
