r"""What a projection head is for: each layer makes features more unequal, so the one before it is the fairer one.

Data whose features j are independent, with strength :math:`\phi_j` (standard deviation) and of whose variance augmentation keeps
the share :math:`\alpha_j`, pass a linear network :math:`z = W_L \cdots W_1 x`. The spectral contrastive loss of the product F is

.. math:: L = -2 \, \mathrm{tr}(F A F^\top) + \mathrm{tr}((F S F^\top)^2), \qquad
    S = \mathrm{diag}(\phi_j^2), \quad A = \mathrm{diag}(\alpha_j \phi_j^2),

whose minimum weighs feature j by :math:`f_j = \sqrt{\alpha_j} / \phi_j`. Layers that start small and balanced stay balanced, so
after l of L layers the weight is :math:`f_j^{l/L}` and the feature's standard deviation :math:`\phi_j f_j^{l/L}`: it goes
evenly, in the logarithm, from :math:`\phi_j` to :math:`\sqrt{\alpha_j}`. A feature that augmentation disrupts is therefore read
better before the head, one that is weak in the input and kept by augmentation after it. In the paper's words, layer-wise
progressive feature weighting; instead of a trained head a fixed one that weighs dimensions unequally will do.

The closed form is ours, for the population and independent features; the paper's theorems treat more. The weights of its fixed
head could not be looked up: ``FixedProjector(kind="reweighted")`` takes :math:`\kappa^i`.

References:
    Investigating the Benefits of Projection Head for Representation Learning (Xue, Gan, Ni, Joshi, Mirzasoleiman, ICLR 2024),
    https://arxiv.org/abs/2403.11391
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.features import Features, extract
from workbench.models.building import backbone
from workbench.models.encoder import Encoder, Projector
from workbench.models.fixed import FixedProjector
from workbench.objectives.simclr import SimCLR
from workbench.probes import LinearProbe, probe_layers
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = [
    "CONDITIONS",
    "DRAWN",
    "SCALES",
    "few_shot",
    "fresh",
    "measure",
    "predicted",
    "raw_pixels",
    "reproduce",
    "row",
    "train",
    "trained",
]


def predicted(strength: Sequence[float], kept: Sequence[float], *, depth: int = 2) -> pd.DataFrame:
    """Returns the closed form: columns feature, layer (0 is the input), weight and deviation (of the feature in that layer).

    Arguments:
        strength: Standard deviation of each feature in the input, above 0.
        kept: Which share of its variance two views have in common, above 0 and at most 1.
        depth: Number of linear layers.

    Raises:
        ValueError: If they are not as many, or out of range.
    """
    phi, alpha = _checked(strength, kept)
    f = np.sqrt(alpha) / phi
    rows = [
        {"feature": j + 1, "layer": layer, "weight": f[j] ** (layer / depth), "deviation": phi[j] * f[j] ** (layer / depth)}
        for layer in range(depth + 1)
        for j in range(len(phi))
    ]
    return pd.DataFrame(rows)


def trained(
    strength: Sequence[float],
    kept: Sequence[float],
    *,
    depth: int = 2,
    steps: int = 6000,
    lr: float = 0.02,
    start: float = 0.3,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns the same table as :func:`predicted` of a network that gradient descent trained on the population's loss.

    The weight of a feature in a layer is the length of its column in the product of the matrices so far.

    Arguments:
        steps, lr: Of plain gradient descent in float64.
        start: Every layer starts as this multiple of a random orthogonal matrix: small, and balanced.
        seed: Of those.
    """
    phi, alpha = (torch.tensor(v) for v in _checked(strength, kept))
    g = torch.Generator().manual_seed(seed)
    d = len(phi)
    weights = [start * torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q for _ in range(depth)]
    weights = [w.requires_grad_() for w in weights]
    spread, shared = phi.square(), alpha * phi.square()
    for _ in range(steps):
        f = torch.linalg.multi_dot(weights[::-1]) if depth > 1 else weights[0]
        loss = -2 * (f.square() * shared).sum() + ((f * spread) @ f.T).square().sum()
        for w, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            w.data -= lr * slope
    rows, product = [], torch.eye(d, dtype=torch.float64)
    for layer in range(depth + 1):
        length = product.norm(dim=0)
        rows += [
            {"feature": j + 1, "layer": layer, "weight": float(length[j]), "deviation": float(length[j] * phi[j])}
            for j in range(d)
        ]
        product = weights[layer].detach() @ product if layer < depth else product
    return pd.DataFrame(rows)


def few_shot(deviations: Sequence[float], *, feature: int, shots: int = 2, draws: int = 2000, seed: int = 0) -> float:
    """Returns the accuracy of a nearest-mean reader of a feature's sign from a few examples of each, among all the features.

    Arguments:
        deviations: Standard deviation of every feature in the layer; they are Gaussian but for the one asked, which is
            plus or minus its deviation.
        feature: Which one carries the label, from 1.
        shots: Examples of each sign.
        draws: Times that examples and a point to read are drawn.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    scale = np.asarray(deviations, float)
    others = rng.normal(size=(draws, 2 * shots + 1, len(scale))) * scale
    others[:, :, feature - 1] = 0
    sign = np.r_[np.ones(shots), -np.ones(shots)]
    label = rng.choice([-1.0, 1.0], draws)
    means = {s: others[:, :-1][:, sign == s].mean(1) for s in (1.0, -1.0)}
    for s in means:
        means[s][:, feature - 1] = s * scale[feature - 1]
    point = others[:, -1]
    point[:, feature - 1] = label * scale[feature - 1]
    far = {s: np.square(point - mean).sum(1) for s, mean in means.items()}
    return float((np.where(far[1.0] < far[-1.0], 1.0, -1.0) == label).mean())


def _checked(strength: Sequence[float], kept: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    phi, alpha = np.asarray(strength, float), np.asarray(kept, float)
    if phi.ndim != 1 or phi.shape != alpha.shape or not (phi > 0).all() or not ((alpha > 0) & (alpha <= 1)).all():
        raise ValueError(f"each feature has a strength above 0 and a kept share in (0, 1], but got {strength} and {kept}")
    return phi, alpha


class Scale(NamedTuple):
    """How large a reproduction is."""

    backbone: dict[str, Any]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float
    embedding: int


SCALES = {
    "smoke": Scale({"name": "convnet", "width": 4}, 512, 256, 1, 64, 2e-3, 16),
    "cpu": Scale({"name": "convnet", "width": 16}, 10_000, 2_000, 8, 256, 2e-3, 64),
    "gpu": Scale({"name": "resnet18"}, 50_000, 2_000, 100, 512, 2e-3, 128),
}

CONDITIONS = ("none", "reweighted", "linear", "2-layer MLP")
"""What stands between representation and loss."""

DRAWN = ["x", "scale", "saturation", "background_value", "light"]
"""Factors that crops and colours disrupt, some more and some less."""


def train(condition: str, out: str | Path, *, scale: str = "cpu", seed: int = 0, progress: bool = True) -> Run:
    """Trains one condition with SimCLR into ``out``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such condition or scale.
    """
    s = entry(SCALES, scale)
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=s.lr, seed=seed)
    parts = fresh(condition, scale=scale, seed=seed), SimCLR(temperature=0.2), _images(scale)[0], Augment()
    return trainer.fit(*parts, out=out, resume=True, snapshots=2, progress=progress)


def fresh(condition: str, *, scale: str = "cpu", seed: int = 0) -> Encoder:
    """Returns the network that a condition starts from with this seed."""
    s = entry(SCALES, scale)
    entry(dict.fromkeys(CONDITIONS), condition)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = backbone(**s.backbone)
        d = body.out
        head = {
            "reweighted": lambda: FixedProjector(d, d, kind="reweighted", decay=0.01 ** (1 / d)),
            "linear": lambda: Projector([d, s.embedding]),
            "2-layer MLP": lambda: Projector([d, d, s.embedding]),
        }.get(condition, lambda: Projector([]))()
    return Encoder(body, head)


def measure(model: Encoder, *, scale: str = "cpu") -> pd.DataFrame:
    """Returns what backbone and projector know of held-out garments: columns layer, task, measure, value, chance."""
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    layers = ["backbone", "projector"]
    return _probed(*(extract(model, images, layers, progress=False) for images in _images(scale)))


def raw_pixels(*, scale: str = "cpu") -> pd.DataFrame:
    """Returns the same of the pixels themselves: what is to be had without learning."""
    return _probed(*(Features({"pixels": x.at(range(len(x))).flatten(1).float()}, x.factors) for x in _images(scale)))


def _probed(known: Features, seen: Features) -> pd.DataFrame:
    table = probe_layers(known, seen, factor=["label", *DRAWN], probe=LinearProbe())
    return table.rename(columns={"factor": "task"})[["layer", "task", "measure", "value", "chance"]]


def row(out: str | Path, *, condition: str, seed: int, scale: str) -> pd.DataFrame:
    """Trains, where there is something to train, and measures one condition with one seed; a row of the sweep."""
    if condition == "raw pixels":
        return raw_pixels(scale=scale)
    if condition == "untrained":
        return measure(fresh("2-layer MLP", scale=scale, seed=seed).eval(), scale=scale)
    return measure(train(condition, out, scale=scale, seed=seed, progress=False).model(), scale=scale)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every condition with every seed, beside an untrained network and raw pixels, and measures it.

    What stands in ``out`` is not made again.

    Returns:
        Columns condition, seed, layer, task, measure, value, chance.

    Raises:
        RuntimeError: If a training failed.
    """
    table = [{"condition": "raw pixels", "seed": 0}, *grid(condition=["untrained", *CONDITIONS], seed=list(seeds))]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    return swept[["condition", "seed", "layer", "task", "measure", "value", "chance"]]


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> tuple[Images, Images]:
    s = entry(SCALES, scale)
    return garments(s.images), garments(s.held_out, split="test")
