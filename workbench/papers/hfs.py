r"""Support instead of independence: factors that go together can still be told apart, as long as no combination is missing.

Independent codes are the wrong thing to want where factors are correlated. Factorised support asks less: that every
combination of the values that codes take occurs, however rarely. The claim: encoders trained for it (HFS) disentangle
correlated factors better, and what they learn holds under other correlations.

Reproduced here, first without any network: two factors go together by degrees and are mixed; the directions that unmix them
are looked for by factorised support, by independence (FastICA) and by decorrelation (PCA). And the limit of it: as far as one
can see from a batch, an unlikely combination is a missing one, so with few samples or a strong correlation support itself
prefers other axes.

Then with autoencoders of drawn scenes, trained under each of several correlations: do codes disentangle better with HFS than
with a prior or a total correlation, judged on all combinations alike; do they hold under other correlations, the inverse
among them; and does a classifier of factors, learned under one correlation, hold under the others? Of each method several
strengths are trained; the one that counts for a seed is chosen on the others, by labels.

The paper's table could not be had: its abstract's claims are what is held against. It trains for 300,000 steps at 64 pixels;
scale ``"cpu"`` for 1,800 at 16.

References:
    Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth, Ibrahim, Akata, Vincent, Bouchacourt, ICLR
    2023), https://arxiv.org/abs/2210.07347; code: https://github.com/facebookresearch/disentangling-correlated-factors
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.data.correlation import correlate, correlation_settings, correlation_weights
from workbench.data.gridded import factor_numbers
from workbench.data.images import Images
from workbench.data.stage import scenes
from workbench.features import extract
from workbench.measures.gaps import mig
from workbench.measures.importances import dci
from workbench.measures.suite import disentanglement
from workbench.measures.support import hausdorff_support
from workbench.models.autoencoder import Autoencoder
from workbench.models.building import build_autoencoder
from workbench.objectives.base import Objective
from workbench.objectives.betatcvae import BetaTCVAE
from workbench.objectives.betavae import BetaVAE
from workbench.objectives.factorvae import FactorVAE
from workbench.objectives.hfs import HFS
from workbench.probes import LinearProbe
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.plain import Plain

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "SCALES",
    "codes",
    "directions",
    "drawn_pairs",
    "fresh",
    "judged",
    "limit",
    "looked_at",
    "recovered",
    "recovery",
    "reproduce",
    "row",
    "support_map",
    "train",
    "transferred",
    "tuned",
]

STEP = 6
"""Degrees between the directions that are tried."""


def drawn_pairs(n: int, *, sigma: float | None = None, seed: int = 0) -> np.ndarray:
    r"""Returns two factors (n, 2), each in [0, 1], that go together as :math:`e^{-(a - b)^2 / 2 \sigma^2}`; None: not at all."""
    rng, found = np.random.default_rng(seed), np.empty((0, 2))
    while len(found) < n:
        pairs = rng.uniform(size=(2 * n, 2))
        odds = 1.0 if sigma is None else np.exp(-((pairs[:, 0] - pairs[:, 1]) ** 2) / (2 * sigma**2))
        found = np.concatenate([found, pairs[rng.uniform(size=len(pairs)) < odds]])
    return found[:n]


def directions(degrees: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the unit vector (len, 2) of each angle from the first axis."""
    angles = np.deg2rad(np.asarray(degrees, dtype=float))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def support_map(x: np.ndarray, *, step: float = STEP, grid: int = 32) -> pd.DataFrame:
    """Returns factorised support (standardised) of a cloud (N, 2) along any two directions: columns first, second, value.

    Arguments:
        x: The cloud.
        step: Degrees between directions; each pair stands once, the first direction before the second.
        grid: As of :func:`workbench.hausdorff_support`.
    """
    degrees = np.arange(0, 180, step)
    seen = (x - x.mean(0)) @ directions(degrees).T
    pairs = itertools.combinations(range(len(degrees)), 2)
    rows = [(degrees[i], degrees[j], float(hausdorff_support(seen[:, [i, j]], grid=grid))) for i, j in pairs]
    return pd.DataFrame(rows, columns=["first", "second", "value"])


def _by_support(x: np.ndarray, seed: int) -> np.ndarray:
    table = support_map(x)
    return directions(table.loc[table["value"].idxmin(), ["first", "second"]])


def _by_independence(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import FastICA

    with warnings.catch_warnings(action="ignore"):  # where nothing is independent it does not converge
        return FastICA(2, whiten="unit-variance", random_state=seed).fit(x).components_


def _by_decorrelation(x: np.ndarray, seed: int) -> np.ndarray:
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2]


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "factorised support": _by_support,
    "FastICA": _by_independence,
    "PCA": _by_decorrelation,
    "chance": lambda x, seed: directions(np.random.default_rng(seed).uniform(0, 180, 2)),
}
"""Ways to two directions (2, 2) of a cloud (N, 2); ``"chance"`` looks at nothing."""


def recovered(method: str, *, sigma: float | None, n: int = 3_000, seed: int = 0) -> dict[str, float]:
    """Returns how far the directions that a method finds are from those that unmix the factors.

    Two factors (:func:`drawn_pairs`) are mixed by a random rotation, and the directions found are turned back.

    Returns:
        ``error``, the mean angle in degrees between each direction and its factor's axis (the better of the two assignments), and
        ``correlation`` of the factors.

    Raises:
        KeyError: If there is no such method.
    """
    factors = drawn_pairs(n, sigma=sigma, seed=seed)
    turn = directions(np.random.default_rng(seed + 1).uniform(0, 90) + np.array([0, 90]))
    found = entry(METHODS, method)(factors @ turn, seed) @ turn.T
    cosines = np.abs(found) / np.linalg.norm(found, axis=1, keepdims=True)
    angles = np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))
    error = min(angles[0, 0] + angles[1, 1], angles[0, 1] + angles[1, 0]) / 2
    return {"error": float(error), "correlation": float(np.corrcoef(factors.T)[0, 1])}


def recovery(
    sigmas: Sequence[float | None] = (None, 0.6, 0.4, 0.3, 0.2, 0.1),
    *,
    n: int = 3_000,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
    """Returns :func:`recovered` of every method as the correlation grows.

    Returns:
        Columns sigma (NaN: none), method, seed, error, correlation.
    """
    rows = tqdm(list(itertools.product(sigmas, methods, seeds)), desc="directions", unit="cloud", leave=False)
    return pd.DataFrame(
        [{"sigma": s, "method": m, "seed": seed} | recovered(m, sigma=s, n=n, seed=seed) for s, m, seed in rows]
    ).astype({"sigma": float})


def limit(
    sigmas: Sequence[float | None] = (None, 0.4, 0.3, 0.2, 0.1),
    *,
    sizes: Sequence[int] = (64, 256, 1024, 4096),
    seeds: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """Returns factorised support (standardised) along the factors' own axes and along those turned by 45 degrees.

    Where the turned axes have the lower number, whoever minimises support is led away from the factors.

    Returns:
        Columns sigma (NaN: none), n, seed, axes (``"the factors'"`` or ``"turned by 45°"``), value.
    """
    rows = []
    for sigma, n, seed in itertools.product(sigmas, sizes, seeds):
        x = drawn_pairs(n, sigma=sigma, seed=seed)
        for axes, degrees in (("the factors'", (0, 90)), ("turned by 45°", (45, 135))):
            value = float(hausdorff_support(x @ directions(degrees).T))
            rows.append({"sigma": sigma, "n": n, "seed": seed, "axes": axes, "value": value})
    return pd.DataFrame(rows).astype({"sigma": float})


class Scale(NamedTuple):
    """How large the reproduction with autoencoders is.

    ``rows`` are judged, and half as many under other correlations. ``strengths`` are, of each of :data:`OBJECTIVES`, tables of
    the arguments that it is tried with.
    """

    scenes: dict[str, Any]
    network: str
    latents: int
    images: int
    epochs: int
    lr: float
    pixel_std: float | None
    rows: int
    settings: tuple[str, ...] | None
    strengths: dict[str, list[dict[str, float]]]


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "beta-VAE": lambda pixels, beta: BetaVAE(beta=beta, **pixels),
    "beta-TCVAE": lambda pixels, beta: BetaTCVAE(beta=beta, **pixels),
    "FactorVAE": lambda pixels, weight: FactorVAE(gamma=weight, **pixels),
    "HFS": lambda pixels, weight: HFS(BetaVAE(beta=0, **pixels), weight=weight),
    "beta-VAE + HFS": lambda pixels, beta, weight: HFS(BetaVAE(beta=beta, **pixels), weight=weight),
    "beta-TCVAE + HFS": lambda pixels, beta, weight: HFS(BetaTCVAE(beta=beta, **pixels), weight=weight),
}
"""What is compared, from ``pixels`` (the likelihood of a pixel) and strengths: beta, and gamma of FactorVAE or HFS as weight."""

QUICK = functools.partial(dci, trees=10)

WHOLE = 20_000
"""Scenes of a grid of which all are judged; of a larger one to draw and encode all would take longer than to train."""

CONTROLS = ("untrained", "PCA of pixels", "the factors")

BETAS = [1, 2, 4, 6, 8, 10, 16]

SCALES = {
    "smoke": Scale(
        {"size": 16, "solids": ["cube", "cone"], "sizes": 2, "hues": 2, "floor_hues": 4, "wall_hues": 4, "orientations": 1,
         "lights": 1},
        "locatello-small", 4, 256, 1, 2e-3, 0.1, 300, ("none", "floor_hue-wall_hue@0.1"),
        {"beta-VAE": grid(beta=4), "beta-VAE + HFS": grid(beta=1, weight=3)},
    ),
    "cpu": Scale(
        {"size": 16, "sizes": 3, "hues": 6, "floor_hues": 6, "wall_hues": 6, "orientations": 3, "lights": 1},
        "locatello-small", 10, 8_192, 14, 2e-3, 0.1, 2_000,
        ("none", "floor_hue-wall_hue@0.1", "size-label+floor_hue-wall_hue@0.4", "size-label+floor_hue-wall_hue@0.1",
         "wall_hue-all@0.2"),
        {
            "beta-VAE": grid(beta=[4, 16]),
            "beta-TCVAE": grid(beta=16),
            "HFS": grid(weight=1),
            "beta-VAE + HFS": grid(beta=1, weight=1),
            "beta-TCVAE + HFS": grid(beta=4, weight=1),
        },
    ),
    # the paper's: the grid of Shapes3D, 300,000 steps of 64, Adam at 1e-4, and the strengths that its authors try; but each
    # training draws 64,000 scenes once, where the paper draws from the grid at every step
    "gpu": Scale(
        {"size": 64, "solids": ["cube", "cylinder", "sphere", "cone"], "sizes": 8, "hues": 10, "floor_hues": 10, "wall_hues": 10,
         "orientations": 15, "lights": 1},
        "locatello", 10, 64_000, 300, 1e-4, None, 10_000, None,
        {
            "beta-VAE": grid(beta=BETAS),
            "beta-TCVAE": grid(beta=BETAS),
            "FactorVAE": grid(weight=[5, 10, 25, 50, 75, 100, 150]),
            "HFS": grid(weight=[80, 200, 500, 1_000, 2_000]),
            "beta-VAE + HFS": grid(beta=[1, 4, 16], weight=[0.1, 1, 10, 100, 1_000, 10_000]),
            "beta-TCVAE + HFS": grid(beta=[1, 4, 16], weight=[0.1, 1, 10, 100, 1_000, 10_000]),
        },
    ),
}  # fmt: skip


def train(
    setting: str,
    method: str,
    out: str | Path,
    *,
    beta: float | None = None,
    weight: float | None = None,
    scale: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> Run:
    """Trains an autoencoder under a correlation into the folder ``out``, or goes on with, or opens, the run that is there.

    Arguments:
        setting: One of :func:`workbench.correlation_settings` of the scenes.
        method: One of :data:`OBJECTIVES`.
        beta, weight: Its strengths.

    Raises:
        KeyError: If there is no such setting, method or scale.
    """
    s = entry(SCALES, scale)
    strengths = {name: value for name, value in (("beta", beta), ("weight", weight)) if value is not None}
    objective = entry(OBJECTIVES, method)({"pixel_std": s.pixel_std}, **strengths)
    images = correlate(_scenes(scale), **entry(_settings(scale), setting), n=s.images, seed=seed).to("cpu")  # drawn once
    trainer = Trainer(epochs=s.epochs, batch_size=64, lr=s.lr, weight_decay=0.0, seed=seed)
    model = fresh(scale=scale, seed=seed)
    return trainer.fit(model, objective, images, Plain(), out=out, resume=True, snapshots=2, progress=progress)


def fresh(*, scale: str = "cpu", seed: int = 0) -> Autoencoder:
    """Returns the network that every method starts from with this seed."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_autoencoder(s.network, s.latents, image_size=s.scenes["size"])


def codes(model: Autoencoder, *, scale: str = "cpu", rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the codes (N, K) of the scenes of the grid, and the squared error a pixel that each is drawn again with (N).

    Arguments:
        rows: Of these scenes alone (:func:`looked_at`); those of the others are NaN.
    """
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    every = _scenes(scale)
    rows = np.arange(len(every)) if rows is None else rows
    images = every[rows].to("cpu")  # drawn once
    z = extract(model, images, "latent", progress=False)["latent"]
    off = [
        (model.decode(z[part]).cpu() - images.at(part).float() / 255).square().mean((1, 2, 3))
        for part in torch.arange(len(z)).split(1024)
    ]
    return _spread(z.cpu().numpy(), rows, len(every)), _spread(torch.cat(off).numpy(), rows, len(every))


def looked_at(setting: str, *, scale: str = "cpu", seed: int = 0) -> np.ndarray:
    """Returns the scenes that :func:`judged` takes codes of: all of a grid of up to 20,000, else those it draws."""
    drawn, n = _drawn(setting, scale=scale, seed=seed), len(_scenes(scale))
    return np.arange(n) if n <= WHOLE else np.unique(np.concatenate(list(drawn.values())))


def judged(z: np.ndarray, setting: str, *, scale: str = "cpu", seed: int = 0, errors: np.ndarray | None = None) -> pd.DataFrame:
    """Returns what codes are worth on all scenes alike, and under every correlation and its inverse.

    Arguments:
        z: Codes (N, K) of all scenes, NaN of any that are not :func:`looked_at`.
        setting: Under which they were learned; the classifiers learn there, too.
        errors: Of the pictures drawn (N).

    Returns:
        Columns judged_on (``"uniform"``, a setting, or a setting and ``" inverse"``), factor, measure, value, chance. Where all
        combinations are as likely there are all numbers of :func:`workbench.disentanglement`, and ``active``, the codes of
        variance above .01 over all scenes that have codes. Everywhere, of half as many rows, there are DCI (10 trees a class)
        and MIG, named ``"quick ..."``, ``error``, and ``accuracy``: of a linear classifier of a factor, learned from codes under
        ``setting``.
    """
    factors, drawn = factor_numbers(_scenes(scale)), _drawn(setting, scale=scale, seed=seed)
    known, rows = drawn.pop("known"), drawn.pop("all numbers")
    varied = z[np.isfinite(z).all(1)].var(0)
    probes = {name: LinearProbe().fit(z[known], factors[name].iloc[known]) for name in factors}
    with warnings.catch_warnings(action="ignore"):  # that factors are correlated is the question
        everything = disentanglement(z[rows], factors.iloc[rows])[["measure", "value"]].assign(judged_on="uniform")
        tables = [everything, _number("uniform", "active", float((varied > 0.01).sum()))]
        for name, rows in drawn.items():
            for score in (QUICK, mig):
                table = score(z[rows], factors.iloc[rows]).table()[["measure", "value"]]
                tables.append(table.assign(judged_on=name, measure="quick " + table["measure"]))
            if errors is not None:
                tables.append(_number(name, "error", float(errors[rows].mean())))
            for factor, probe in probes.items():
                value = float((probe.predict(z[rows]) == factors[factor].iloc[rows]).mean())
                tables.append(_number(name, "accuracy", value).assign(factor=factor, chance=1 / factors[factor].nunique()))
    return pd.concat(tables, ignore_index=True).reindex(columns=["judged_on", "factor", "measure", "value", "chance"])


def row(
    out: str | Path,
    *,
    setting: str,
    method: str,
    seed: int,
    scale: str,
    beta: float | None = None,
    weight: float | None = None,
) -> pd.DataFrame:
    """Trains one autoencoder into ``out``, or takes a control, and returns :func:`judged` of it; a row of the sweep."""
    if method == "the factors":
        z, errors = factor_numbers(_scenes(scale)).to_numpy(float), None
    elif method == "PCA of pixels":
        z, errors = _principal(setting, scale=scale, seed=seed), None
    else:
        how = {"beta": beta, "weight": weight, "scale": scale, "seed": seed}
        model = (
            fresh(scale=scale, seed=seed) if method == "untrained" else train(setting, method, out, **how, progress=False).model()
        )
        z, errors = codes(model, scale=scale, rows=looked_at(setting, scale=scale, seed=seed))
    return judged(z, setting, scale=scale, seed=seed, errors=errors)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    settings: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains every method with every strength under every correlation, beside controls (untrained, PCA of pixels, the factors).

    It is a sweep: rows that stand in ``out`` are not made again.

    Arguments:
        out: Folder of the sweep.
        settings, methods: Some of the scale's.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        Columns setting, method, beta, weight (both empty of controls), seed, judged_on, factor, measure, value, chance.
    """
    strengths = entry(SCALES, scale).strengths
    chosen = {method: entry(strengths, method) for method in methods or strengths}
    table = []
    for setting in settings or _settings(scale):
        table += grid(setting=setting, method=list(CONTROLS), seed=list(seeds))
        table += [
            g | strength
            for m, tried in chosen.items()
            for g in grid(setting=setting, method=m, seed=list(seeds))
            for strength in tried
        ]
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    wanted = ["setting", "method", "beta", "weight", "seed", "judged_on", "factor", "measure", "value", "chance"]
    return swept.reindex(columns=wanted)


def tuned(table: pd.DataFrame, *, by: str = "disentanglement") -> pd.DataFrame:
    """Returns of each method, setting and seed the rows of one strength: the best on the other seeds.

    So no number stands here because it was the best of several; of a single seed the strength is chosen on itself.

    Arguments:
        table: As :func:`reproduce` gives it.
        by: The measure, of the uniform grid, that decides.
    """
    strength = ["beta", "weight"]
    filled = table.assign(**{name: table[name].fillna(-1) for name in strength})
    deciding = filled[(filled["judged_on"] == "uniform") & (filled["measure"] == by)]
    parts = []
    for (setting, method, seed), rows in filled.groupby(["setting", "method", "seed"], sort=False):
        own = deciding[(deciding["setting"] == setting) & (deciding["method"] == method)]
        others = own[own["seed"] != seed] if own["seed"].nunique() > 1 else own
        best = others.groupby(strength, sort=False)["value"].mean().idxmax()
        parts.append(table.loc[rows.index[(rows[strength] == list(best)).all(axis=1)]])
    return pd.concat(parts, ignore_index=True)


def transferred(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a run and set of images it is judged on: disentanglement, mig, error, and accuracy of tied and free factors.

    Tied are the factors that go together where the run was trained; without any, all are free. The numbers are the quick ones of
    :func:`judged`, so that all sets are judged alike.

    Arguments:
        table: As :func:`reproduce` gives it.
    """
    run = ["setting", "method", "beta", "weight", "seed", "judged_on"]
    factor = table["factor"].where(table["measure"] == "accuracy")
    tied_by = {setting: _tied(setting, set(factor.dropna())) for setting in table["setting"].unique()}
    tied = [f in tied_by[setting] for f, setting in zip(factor, table["setting"], strict=True)]
    kind = np.where(factor.isna(), table["measure"], np.where(tied, "accuracy of tied", "accuracy of free"))
    rows = table.assign(measure=kind).groupby([*run, "measure"], dropna=False, sort=False)["value"].mean().unstack()
    names = {"quick disentanglement": "disentanglement", "quick mig": "mig"}
    kept = [*names, "error", "accuracy of tied", "accuracy of free"]
    return rows.reindex(columns=kept).rename(columns=names).rename_axis(columns=None).reset_index()


def _tied(setting: str, factors: set[str]) -> set[str]:
    """The factors that a setting's name ties; a confounder ties all."""
    names = {name for pair in setting.split("@")[0].split("+") for name in pair.split("-")}
    return factors if "all" in names else names & factors


def _number(judged_on: str, measure: str, value: float) -> pd.DataFrame:
    return pd.DataFrame({"judged_on": [judged_on], "measure": [measure], "value": [value]})


def _principal(setting: str, *, scale: str, seed: int) -> np.ndarray:
    """As many principal components of pixels as a code has dimensions, of the correlated images."""
    from sklearn.decomposition import PCA

    images, rows = _scenes(scale), looked_at(setting, scale=scale, seed=seed)
    learned = images.at(_drawn(setting, scale=scale, seed=seed)["known"]).flatten(1).numpy() / 255.0
    found = PCA(entry(SCALES, scale).latents, random_state=seed).fit(learned)
    parts = [found.transform(images.at(part).flatten(1).numpy() / 255.0) for part in torch.from_numpy(rows).split(16_384)]
    return _spread(np.concatenate(parts), rows, len(images))


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Values of some rows of n, NaN where there are none."""
    spread = np.full((n, *values.shape[1:]), np.nan, values.dtype)
    spread[rows] = values
    return spread


def _drawn(setting: str, *, scale: str, seed: int) -> dict[str, np.ndarray]:
    """Scenes that classifiers learn from, those of all numbers, and those of the quick ones by what they are judged on."""
    n = entry(SCALES, scale).rows
    drawn = {"known": _rows(scale, setting, n=n, seed=seed), "all numbers": _rows(scale, "uniform", n=n, seed=seed)}
    return drawn | {name: _rows(scale, name, n=n // 2, seed=seed + 1) for name in ("uniform", *_targets(scale))}


def _targets(scale: str) -> list[str]:
    """Correlations to judge under, and their inverses."""
    tied = [name for name in _settings(scale) if name != "none"]
    return tied + [f"{name} inverse" for name in tied]


def _rows(scale: str, name: str, *, n: int, seed: int) -> np.ndarray:
    """Rows of scenes drawn under a setting or its inverse, or, for ``"uniform"``, from all alike."""
    images = _scenes(scale)
    if name == "uniform":
        return np.random.default_rng(seed).permutation(len(images))[:n]
    how = _settings(scale)[name.removesuffix(" inverse")]
    odds = correlation_weights(images.factors, **how, inverse=name.endswith(" inverse"))
    return np.random.default_rng(seed).choice(len(images), n, p=odds / odds.sum())


@functools.lru_cache(maxsize=1)
def _scenes(scale: str) -> Images:
    return scenes(None, **entry(SCALES, scale).scenes)


def _settings(scale: str) -> Mapping[str, dict[str, Any]]:
    known, wanted = correlation_settings(_scenes(scale)), entry(SCALES, scale).settings
    return {name: known[name] for name in wanted or known}
