r"""Dimensional collapse: a contrastive loss fills only part of the embedding space, for two reasons seen in linear networks.

Strong augmentation: for one linear layer ``z = W x`` gradient flow of the contrastive loss is :math:`\dot W = W X`, and ``X``
is the spread of the data minus that of the augmentation; where augmentation wins, ``X`` is negative and ``W`` loses those
directions. Implicit regularisation: for ``z = W2 W1 x`` the layers align, and a singular value grows in proportion to the
product of the others; small ones are left behind although ``X`` is positive. A projector spares the representation; so does
DirectCLR.

References:
    Understanding Dimensional Collapse in Contrastive Self-supervised Learning (Jing, Vincent, LeCun, Tian, ICLR 2022),
    https://arxiv.org/abs/2110.09348; settings of the linear networks as in the authors' released toys.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from workbench.data.images import Images
from workbench.data.wardrobe import garments
from workbench.features import Features, extract
from workbench.measures.spectral import rankme, spectrum
from workbench.measures.table import over_layers
from workbench.models.building import backbone
from workbench.models.encoder import Encoder, Projector
from workbench.models.fixed import FixedProjector
from workbench.objectives.base import Objective
from workbench.objectives.directclr import DirectCLR
from workbench.objectives.simclr import SimCLR
from workbench.probes import KNNProbe, LinearProbe, probe_layers
from workbench.run import Run
from workbench.spec import entry
from workbench.train import Trainer
from workbench.views.augment import Augment
from workbench.views.rerender import Rerender

__all__ = [
    "PUBLISHED",
    "SCALES",
    "Moment",
    "Scale",
    "alignment",
    "augmentation_live",
    "augmentation_toy",
    "block_mass",
    "contrast_matrix",
    "dead_dimensions",
    "depth_live",
    "depth_toy",
    "gradient_flow",
    "input_gap",
    "measure",
    "raw_pixels",
    "recipe",
    "reproduce",
    "split_gap",
    "summary",
    "train",
]

WIDTH = 16
SAMPLES = 1000


class Moment(NamedTuple):
    """A linear network after ``step`` updates.

    ``table`` has the columns step, matrix ("W" or "W1", "W2" ..., and "embedding"), rank (from 1) and value: the singular values
    of the weights, and the eigenvalues of the covariance of the embedding of 1000 fresh samples. ``weights`` are the matrices,
    first layer first.
    """

    step: int
    table: pd.DataFrame
    weights: tuple[np.ndarray, ...]


def augmentation_live(
    strength: float, *, steps: int = 5000, every: int = 50, seed: int = 0, augmented: int = 8, lr: float = 1e-3
) -> Iterator[Moment]:
    """Trains one linear layer on isotropic Gaussian data and yields its state every ``every`` steps, the first before training.

    Arguments:
        strength: Standard deviation of the noise that augmentation adds to the last ``augmented`` of 16 dimensions.
        steps: Gradient steps, a batch of 128 fresh pairs each.
        every: Steps between two moments.
        seed: Of the weights, the data and the noise.
        augmented: How many of the 16 dimensions are augmented; the others have identical views.
        lr: Of plain gradient descent.

    Raises:
        ValueError: If the strength is negative or the dimensions are not among the 16.
    """
    if strength < 0 or not 0 <= augmented <= WIDTH:
        raise ValueError(f"strength must not be negative and augmented lie in 0..{WIDTH}, but got {strength} and {augmented}")
    rng = torch.Generator().manual_seed(seed)
    weight = (2 * torch.rand(WIDTH, WIDTH, generator=rng) - 1) / WIDTH**0.5
    noise = torch.zeros(WIDTH)
    noise[WIDTH - augmented :] = strength
    return _train([weight], noise, lr=lr, steps=steps, every=every, nonlinear=False, rng=rng)


def augmentation_toy(
    strength: float, *, steps: int = 5000, every: int = 50, seed: int = 0, augmented: int = 8, lr: float = 1e-3
) -> pd.DataFrame:
    """Returns the tables of :func:`augmentation_live` as one: columns step, matrix, rank, value.

    Example:
        >>> split_gap(augmentation_toy(3.0, steps=200)) < split_gap(augmentation_toy(0.1, steps=200))
        True
    """
    moments = augmentation_live(strength, steps=steps, every=every, seed=seed, augmented=augmented, lr=lr)
    return pd.concat([m.table for m in moments], ignore_index=True)


def depth_live(
    depth: int,
    *,
    decay: float = 0.35,
    strength: float = 1e-3,
    nonlinear: bool = False,
    steps: int = 5000,
    every: int = 50,
    seed: int = 0,
    lr: float = 1e-2,
) -> Iterator[Moment]:
    """Trains ``depth`` linear layers without a bias and yields their state every ``every`` steps, the first before training.

    Arguments:
        depth: Number of layers, at least 1; all are 16 x 16.
        decay: The k-th singular value of every layer starts at ``exp(-decay k)``, k = 0..15.
        strength: Standard deviation of the augmentation noise on all dimensions: weak, so that it cannot be the cause.
        nonlinear: Whether ReLU stands between the layers.
        steps, every, seed, lr: As in :func:`augmentation_live`.

    Raises:
        ValueError: If there is no layer, or the strength or the decay is negative.
    """
    if depth < 1 or strength < 0 or decay < 0:
        raise ValueError(f"depth must be at least 1, strength and decay at least 0, but got {depth}, {strength} and {decay}")
    rng = torch.Generator().manual_seed(seed)
    scale = torch.exp(-decay * torch.arange(WIDTH))
    weights = []
    for _ in range(depth):
        u, _, v = torch.linalg.svd(torch.rand(WIDTH, WIDTH, generator=rng))
        weights.append(u * scale @ v)
    noise = torch.full((WIDTH,), float(strength))
    return _train(weights, noise, lr=lr, steps=steps, every=every, nonlinear=nonlinear, rng=rng)


def depth_toy(depth: int, **settings: float) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Returns the tables of :func:`depth_live` as one, and the :func:`alignment` of the first two layers at the end.

    Arguments:
        depth: Number of layers; with one there is nothing to align, and the second is None.
        settings: As in :func:`depth_live`.
    """
    moments = list(depth_live(depth, **settings))
    table = pd.concat([m.table for m in moments], ignore_index=True)
    return table, alignment(*moments[-1].weights[:2]) if depth > 1 else None


def _train(
    weights: Sequence[Tensor], noise: Tensor, *, lr: float, steps: int, every: int, nonlinear: bool, rng: torch.Generator
) -> Iterator[Moment]:
    """Descends the cross-entropy of ``z z'^T / 0.1`` over a batch of 128 pairs, with the gradient written out."""
    if steps < 1 or every < 1:
        raise ValueError(f"steps and every must be at least 1, but got {steps} and {every}")
    batch, temperature = 128, 0.1
    weights = list(weights)
    probe = torch.randn(SAMPLES, WIDTH, generator=rng, dtype=torch.float64)
    matched = torch.eye(batch)

    def forward(x: Tensor) -> list[Tensor]:
        layers = [x]
        for k, w in enumerate(weights):
            x = x @ w.to(x.dtype).T
            x = x.relu() if nonlinear and k < len(weights) - 1 else x
            layers.append(x)
        return layers

    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            yield _moment(step, weights, forward(probe)[-1])
        if step == steps:
            return
        x = torch.randn(batch, WIDTH, generator=rng)
        layers = forward((x + noise * torch.randn(2, batch, WIDTH, generator=rng)).flatten(0, 1))
        z1, z2 = layers[-1].chunk(2)
        error = ((z1 @ z2.T / temperature).softmax(1) - matched) / (batch * temperature)
        back = torch.cat([error @ z2, error.T @ z1])
        for k in reversed(range(len(weights))):
            gradient = back.T @ layers[k]
            if k:
                back = back @ weights[k]
                back = back * (layers[k] > 0) if nonlinear else back
            weights[k] = weights[k] - lr * gradient


def _moment(step: int, weights: Sequence[Tensor], z: Tensor) -> Moment:
    names = ["W"] if len(weights) == 1 else [f"W{k}" for k in range(1, len(weights) + 1)]
    values = [torch.linalg.svdvals(w.double()) for w in weights]
    values.append(torch.linalg.svdvals(z - z.mean(0)).square() / (len(z) - 1))
    table = pd.DataFrame(
        {
            "step": step,
            "matrix": np.repeat([*names, "embedding"], WIDTH),
            "rank": np.tile(np.arange(1, WIDTH + 1), len(values)),
            "value": torch.cat(values).numpy(),
        }
    )
    return Moment(step, table, tuple(w.double().numpy() for w in weights))


def input_gap(weight: np.ndarray, *, augmented: int = 8) -> float:
    """Returns the mean ln norm of the last ``augmented`` columns of ``weight`` (K, D) minus that of the others.

    Column j is what the layer reads of input j. The gap is near 0 where augmentation does nothing, and falls as the layer stops
    reading what is augmented.
    """
    log = np.log(np.linalg.norm(weight, axis=0))
    return float(log[-augmented:].mean() - log[:-augmented].mean())


def split_gap(table: pd.DataFrame, *, matrix: str = "W", kept: int = 8) -> float:
    """Returns, at the last step, the mean ln of the values beyond rank ``kept`` minus that of the first ``kept``.

    Values are in falling order, so that it is a little below 0 even where nothing collapses; it falls as the last ones do.
    Whether those are the augmented inputs, :func:`input_gap` says.
    """
    last = table[(table.step == table.step.max()) & (table.matrix == matrix)]
    log = np.log(last.value)
    return float(log[last["rank"] > kept].mean() - log[last["rank"] <= kept].mean())


def dead_dimensions(table: pd.DataFrame, *, below: float = -8.0) -> int:
    """Returns how many eigenvalues of the embedding's covariance have, at the last step, a natural logarithm under ``below``."""
    last = table[(table.step == table.step.max()) & (table.matrix == "embedding")]
    return int((last.value < np.exp(below)).sum())


def alignment(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns ``|V2^T U1|`` (D, D): how the input directions of the second layer meet the output directions of the first.

    It tends to the identity where singular values are distinct (theorem 2), and to blocks where values have grown to be alike.
    """
    return np.abs(np.linalg.svd(second)[2] @ np.linalg.svd(first)[0])


def block_mass(first: np.ndarray, second: np.ndarray) -> float:
    """Returns ``||A[:r, :r]||^2 / r`` of the alignment ``A``; ``r`` counts singular values of the product over 1% of the largest.

    1 means that the ``r`` directions that grew are the same in both layers; random layers give about ``r / D``.
    """
    values = np.linalg.svd(second @ first, compute_uv=False)
    r = int((values > 1e-2 * values[0]).sum())
    return float(np.square(alignment(first, second)[:r, :r]).sum() / r)


def contrast_matrix(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    r"""Returns ``X`` (D, D) of gradient flow :math:`\dot W = W X`, for the paper's loss (equation 2).

    The loss is :math:`-\sum_i \log a_{ii}`, where :math:`a_i` is the softmax over j of :math:`-|z_i - z_j|^2/2`, with
    :math:`-|z_i - z'_i|^2/2` in place of j = i; then ``X = S0 - S1`` (lemma 1) with the weighted spreads
    :math:`S_0 = \sum_{ij} a_{ij} (x_i - x_j)(x_i - x_j)^T` of the data and
    :math:`S_1 = \sum_i (1 - a_{ii}) (x'_i - x_i)(x'_i - x_i)^T` of the augmentation.

    Arguments:
        x, other: The two views, (N, D) each.
        weight: ``W`` (K, D).
    """
    z, move = x @ weight.T, other - x
    logits = -torch.cdist(z, z).square() / 2
    logits = logits.diagonal_scatter(-(move @ weight.T).square().sum(1) / 2)
    a = logits.softmax(1)
    pair = a - torch.diag(a.diagonal())
    pair = pair + pair.T
    data = x.T @ (torch.diag(pair.sum(1)) - pair) @ x
    return data - (move.T * (1 - a.diagonal())) @ move


def gradient_flow(first: Tensor, second: Tensor, x: Tensor, *, h: float, time: float) -> tuple[Tensor, Tensor]:
    r"""Integrates :math:`\dot W_1 = W_2^T W_2 W_1 X, \dot W_2 = W_2 W_1 X W_1^T` (``X`` fixed) by Euler steps of length ``h``.

    The exact flow keeps :math:`W_1 W_1^T - W_2^T W_2` unchanged; Euler steps drift from it in proportion to ``h``.

    Raises:
        ValueError: If the weights are infinite by ``time``: with ``X`` fixed they get there in finite time.
    """
    for _ in range(round(time / h)):
        g = second @ first @ x
        first, second = first + h * second.T @ g, second + h * g @ first.T
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError(f"with X fixed the weights are infinite before time {time}; choose a shorter time or smaller weights")
    return first, second


PUBLISHED = {
    "2-layer MLP": 66.5,
    "linear": 61.1,
    "none": 51.5,
    "DirectCLR": 62.7,
    "fixed low-rank": 62.3,
    "resampled": 43.0,
}
"""The paper's conditions, and the accuracy (%) of a linear probe on ImageNet that it gives them (tables 1 and 2, appendix F)."""


class Scale(NamedTuple):
    """How large a reproduction is; ``dim`` is the paper's d0, how many dimensions DirectCLR contrasts."""

    backbone: dict[str, object]
    images: int
    held_out: int
    epochs: int
    batch_size: int
    lr: float
    embedding: int
    dim: int
    temperature: float


SCALES = {
    "smoke": Scale({"name": "convnet-residual", "width": 4}, 512, 256, 1, 64, 2e-3, 16, 6, 0.2),
    "cpu": Scale({"name": "convnet-residual", "width": 16}, 10_000, 2_000, 10, 256, 2e-3, 64, 22, 0.2),
    "gpu": Scale({"name": "resnet18"}, 50_000, 2_000, 100, 512, 2e-3, 128, 90, 0.2),
}

VIEWS = {"crops": lambda images: Augment(), "redrawn": Rerender}
"""What two views of a garment are: cropped and coloured, as in the paper, or drawn under two poses, lights and backgrounds."""

DRAWN = ["rotation", "scale", "x", "y", "saturation", "value", "background_value", "frequency", "light"]
"""What redrawn views do not share, as far as a linear map can read it (angles that come full circle are left out)."""


def recipe(condition: str, *, scale: str = "cpu", seed: int = 0) -> tuple[Encoder, Objective]:
    """Returns a model, freshly made from ``seed``, and the objective of one of the conditions in ``PUBLISHED``.

    The backbone is the same in all, and its last block is residual: DirectCLR's argument rests on that.

    Raises:
        KeyError: If there is no such condition or scale.
    """
    s = entry(SCALES, scale)
    entry(PUBLISHED, condition)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = backbone(**s.backbone)
        d = body.out
        projector = {
            "2-layer MLP": lambda: Projector([d, d, s.embedding], norm_last=True),
            "linear": lambda: Projector([d, s.embedding]),
            "fixed low-rank": lambda: FixedProjector(d, s.dim, kind="orthogonal", seed=seed),
            "resampled": lambda: FixedProjector(d, s.dim, kind="resampled"),
        }.get(condition, lambda: Projector([]))()
    objective = DirectCLR(dim=s.dim, temperature=s.temperature) if condition == "DirectCLR" else SimCLR(temperature=s.temperature)
    return Encoder(body, projector), objective


def train(
    condition: str, out: str | Path, *, scale: str = "cpu", views: str = "crops", seed: int = 0, progress: bool = True
) -> Run:
    """Trains one condition into ``out/scale-views-condition-seed``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such condition, scale or kind of views.
    """
    s, views_of = entry(SCALES, scale), entry(VIEWS, views)
    model, objective = recipe(condition, scale=scale, seed=seed)
    trainer = Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=s.lr, seed=seed)
    folder = Path(out) / f"{scale}-{views}-{condition.replace(' ', '-').lower()}-{seed}"
    images = _images(scale)[0]
    return trainer.fit(model, objective, images, views_of(images), out=folder, resume=True, snapshots=8, progress=progress)


def measure(run: Run, *, scale: str = "cpu", step: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns what one run's representation and embedding are worth on held-out garments, after ``step`` or at the end.

    Returns:
        measures: Columns layer, measure, value, n, d, convention. ``linear`` and ``knn``: accuracies of the label; ``drawn``:
            mean R2 of ridge regression to the factors in ``DRAWN``; ``rankme``; ``directions``, how many hold 99% of the variance
            of the normalised features. Probes are fitted on the training images.
        spectra: Columns layer, rank, value, n, d ...: DirectCLR's spectrum of the held-out images.
    """
    model = run.model(step).to("cuda" if torch.cuda.is_available() else "cpu")
    layers = ["backbone", *(["projector"] if len(list(model.projector.children())) else [])]
    known, seen = (extract(model, images, layers, progress=False) for images in _images(scale))
    return _probed(known, seen), over_layers(seen, spectrum=spectrum)


def raw_pixels(*, scale: str = "cpu") -> pd.DataFrame:
    """Returns the same measures of the pixels themselves: what is to be had without learning."""
    parts = (Features({"pixels": images.at(range(len(images))).flatten(1).float()}, images.factors) for images in _images(scale))
    return _probed(*parts)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    views: str = "crops",
    seeds: Sequence[int] = (0, 1, 2),
    conditions: Sequence[str] = tuple(PUBLISHED),
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trains every condition with every seed and measures it beside an untrained network, raw pixels and chance.

    Runs that stand in ``out`` are not trained again.

    Returns:
        measures: Columns condition, seed, layer, measure, value, n, d, convention; see :func:`measure`.
        spectra: Columns condition, seed, layer, rank, value, n, d ...

    Raises:
        ValueError: If there is no seed or no condition.
    """
    if not seeds or not conditions:
        raise ValueError(f"name at least one seed and one condition, but got seeds={seeds} and conditions={conditions}")
    rows, curves = [raw_pixels(scale=scale).assign(condition="raw pixels", seed=seeds[0])], []
    labels = garments(SCALES[scale].held_out, split="test").factors["label"]
    chance = {"layer": "pixels", "measure": "linear", "value": labels.value_counts(normalize=True).max()}
    rows.append(pd.DataFrame([chance]).assign(condition="chance", seed=seeds[0]))
    bar = tqdm([(c, seed) for seed in seeds for c in conditions], desc="conditions", unit="run", disable=not progress)
    for condition, seed in bar:
        bar.set_postfix_str(f"{condition}, seed {seed}")
        run = train(condition, out, scale=scale, views=views, seed=seed, progress=False)
        looks = {condition: None} | ({"untrained": 0} if condition == conditions[-1] else {})
        for name, step in looks.items():
            table, curve = measure(run, scale=scale, step=step)
            rows.append(table.assign(condition=name, seed=seed))
            curves.append(curve.assign(condition=name, seed=seed))
    return pd.concat(rows, ignore_index=True), pd.concat(curves, ignore_index=True)


def summary(measures: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a condition: mean and standard deviation over seeds of each measure of the representation, and the published.

    Accuracies and R2 are in percent; the last column is the paper's linear probe on ImageNet.
    """
    table = measures[measures["layer"].isin(["backbone", "pixels"])].copy()
    table.loc[table["measure"].isin(["linear", "knn", "drawn"]), "value"] *= 100
    cells = table.groupby(["condition", "measure"])["value"].agg(["mean", "std", "size"])
    text = [f"{m:.1f} ± {s:.1f}" if n > 1 else f"{m:.1f}" for m, s, n in cells.itertuples(index=False)]
    wide = pd.Series(text, cells.index).unstack().reindex(columns=["linear", "knn", "drawn", "rankme", "directions"])
    order = [c for c in [*PUBLISHED, "untrained", "raw pixels", "chance"] if c in wide.index]
    return wide.loc[order].assign(published=pd.Series(PUBLISHED)).fillna("")


@functools.lru_cache(maxsize=2)
def _images(scale: str) -> tuple[Images, Images]:
    s = entry(SCALES, scale)
    return garments(s.images), garments(s.held_out, split="test")


def _probed(known: Features, seen: Features) -> pd.DataFrame:
    probes = {"linear": LinearProbe(), "knn": KNNProbe()}
    tables = [probe_layers(known, seen, factor="label", probe=p).assign(measure=name) for name, p in probes.items()]
    drawn = probe_layers(known, seen, factor=DRAWN).groupby("layer", sort=False)["value"].mean()
    drawn = drawn.reset_index().assign(measure="drawn", convention=f"mean R2 of {', '.join(DRAWN)}")
    facts = {"n": len(seen.factors), "d": drawn["layer"].map({layer: z.shape[1] for layer, z in seen.items()})}
    tables += [drawn.assign(**facts), over_layers(seen, rankme=rankme, directions=_directions)]
    return pd.concat(tables, ignore_index=True).reindex(columns=["layer", "measure", "value", "n", "d", "convention"])


def _directions(z: Tensor) -> float:
    value = spectrum(z)["value"]
    return float((value.cumsum() < 0.99 * value.sum()).sum() + 1)
