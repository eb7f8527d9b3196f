r"""The zoo of measures: what each says of codes of which one knows what is wrong with them.

Every measure of disentanglement has a code that it is wrong about. Here factors are known, codes are made of them by hand, and
every measure of :func:`workbench.disentanglement` is asked about every code: perfect ones in several guises, noisy, rotated,
doubled, merged ones, pure noise and a constant. Three questions are told apart, and each measure is held to its own alone:
is each code about one factor (modular), is each factor in one code (compact), can the factors be read (explicit)?

References:
    | Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations (Locatello et al., 2019),
      https://arxiv.org/abs/1811.12359
    | Measuring Disentanglement: A Review of Metrics (Carbonneau, Zaïdi et al., 2020), https://arxiv.org/abs/2012.09276: the
      design, noise and rotation by degrees
    | Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth et al., 2023), https://arxiv.org/abs/2210.07347
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from workbench.data.correlation import correlation_weights
from workbench.measures.factor_tables import factor_correlations, uniform_rows
from workbench.measures.gaps import mig, minimality_sufficiency, sap
from workbench.measures.importances import code_disentanglement, dci, factor_completeness
from workbench.measures.interventions import betavae_score, factorvae_score, irs
from workbench.measures.modules import infomec, modularity_explicitness
from workbench.measures.suite import SUITE, disentanglement
from workbench.spec import entry
from workbench.sweeping import grid, sweep

__all__ = [
    "CHANGES",
    "CODES",
    "MEASURES",
    "VALUES",
    "along",
    "correlated",
    "expected",
    "factors",
    "forest",
    "judged",
    "made",
    "regressors",
    "reproduce",
    "row",
]

VALUES = {"floor": 10, "wall": 10, "object": 10, "size": 8, "shape": 4, "orientation": 15}
"""The factors, and how many values each has: those of Shapes3D, 57 in all."""

QUICK = (mig, sap, modularity_explicitness, infomec, irs, factorvae_score, betavae_score, minimality_sufficiency)
"""The measures that take a fraction of a second."""


class Scale(NamedTuple):
    """How large a reproduction is: rows of codes, and trees a class."""

    rows: int
    trees: int


QUESTIONS = ("modular", "compact", "explicit")

SCALES = {"smoke": Scale(300, 2), "cpu": Scale(3_000, 100), "gpu": Scale(10_000, 100)}


class Code(NamedTuple):
    """A code made of factors in [-1, 1] (N, K), and which of :data:`QUESTIONS` it deserves a yes to."""

    of: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    deserves: tuple[str, ...] = ()


def _guise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In another order, some turned round, in other units."""
    k = x.shape[1]
    return (x * rng.choice([-1, 1], k) * rng.uniform(0.5, 5, k))[:, rng.permutation(k)]


def _turned(x: np.ndarray, degrees: float = 45.0) -> np.ndarray:
    """Codes two by two, each pair turned by an angle."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.hstack([pair @ turn for pair in np.split(x, x.shape[1] // 2, axis=1)])


def _rotated(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x @ np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0]


CODES = {
    "perfect": Code(lambda x, rng: x, QUESTIONS),
    "in disguise": Code(_guise, QUESTIONS),
    "curved": Code(lambda x, rng: np.sinh(1.5 * x), QUESTIONS),
    "beside noise": Code(lambda x, rng: np.hstack([x, 0.05 * rng.normal(size=(len(x), 4))]), QUESTIONS),
    "doubled": Code(lambda x, rng: np.hstack([x, x]), ("modular", "explicit")),
    "noisy": Code(lambda x, rng: x + 0.5 * rng.normal(size=x.shape), ("modular", "compact")),
    "two in one": Code(lambda x, rng: x[:, ::2] + x[:, 1::2], ("compact",)),
    "turned in pairs": Code(lambda x, rng: _turned(x), ("explicit",)),
    "rotated": Code(_rotated, ("explicit",)),
    "pure noise": Code(lambda x, rng: rng.normal(size=(len(x), 10))),
    "constant": Code(lambda x, rng: np.zeros_like(x)),
}
"""Codes by name, the controls last.

Disguised: another order, sign and scale. Curved: sinh(1.5 x). Beside noise: four codes more, of normal noise, sigma .05. Doubled:
each factor twice. Noisy: sigma .5 on each. Two in one: the sum of two factors in each of three codes. Turned in pairs: by 45
degrees. Rotated: by a random rotation of all.
"""


class Asks(NamedTuple):
    """Which questions a measure is about, and what it gives where chance alone is at work."""

    about: tuple[str, ...]
    chance: float = 0.0


MEASURES = {
    "disentanglement": Asks(("modular",)),
    "modularity": Asks(("modular",)),
    "infom": Asks(("modular",)),
    "irs": Asks(("modular",)),
    "factorvae": Asks(("modular",), 1 / len(VALUES)),
    "betavae": Asks(("modular",), 1 / len(VALUES)),
    "minimality": Asks(("modular",)),
    "completeness": Asks(("compact",)),
    "infoc": Asks(("compact",)),
    "mig": Asks(("compact", "explicit")),
    "sap": Asks(("compact", "explicit")),
    "sufficiency": Asks(("compact", "explicit")),
    "informativeness": Asks(("explicit",), float(np.mean([1 / n for n in VALUES.values()]))),
    "explicitness": Asks(("explicit",), 0.5),
    "infoe": Asks(("explicit",)),
}
"""Measures from 0 to 1 of which more is better, and what each asks; one that asks two things is high where both hold."""

HIGH, LOW = 0.9, 0.5
"""From where on a number is a yes, and up to where a no: shares of the way from chance to 1."""


def factors(n: int, *, seed: int = 0, sigma: float | None = None) -> pd.DataFrame:
    """Returns ``n`` rows of factors (:data:`VALUES`), uniform and independent of one another.

    Arguments:
        sigma: If given, floor and wall, and object and size, go together as of :func:`workbench.correlate`.
    """
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({name: rng.integers(0, many, n) for name, many in VALUES.items()})
    for a, b in [("floor", "wall"), ("object", "size")] if sigma else []:
        cells = pd.MultiIndex.from_product([range(VALUES[a]), range(VALUES[b])], names=[a, b]).to_frame(index=False)
        odds = correlation_weights(cells, a, b, sigma=sigma)
        table[[a, b]] = cells.to_numpy()[rng.choice(len(cells), n, p=odds / odds.sum())]
    return table


def made(code: str, known: pd.DataFrame, *, seed: int = 0) -> np.ndarray:
    """Returns a code of :data:`CODES` (N, D) of factors as :func:`factors` gives them.

    Raises:
        KeyError: If there is no such code.
    """
    return entry(CODES, code).of(_scaled(known), np.random.default_rng(seed + 1))


def row(out: str | Path, *, code: str, seed: int, scale: str) -> pd.DataFrame:
    """Returns every score of one code; a row of the sweep."""
    s = entry(SCALES, scale)
    known = factors(s.rows, seed=seed)
    measures = tuple(partial(dci, trees=s.trees) if m is dci else m for m in SUITE)
    return disentanglement(made(code, known, seed=seed), known, measures=measures, seed=seed)


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    codes: Sequence[str] = tuple(CODES),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Asks every measure about every code, with factors, noise and rotations drawn anew for every seed.

    It is a sweep: rows that stand in ``out`` are not made again.

    Arguments:
        out: Folder of the sweep.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        Columns code, seed, measure, value.
    """
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    table = grid(code=list(codes), seed=list(seeds))
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    return swept[["code", "seed", "measure", "value"]]


def expected(code: str, measure: str) -> bool:
    """Returns whether a measure ought to be high of a code.

    Example:
        >>> expected("doubled", "disentanglement"), expected("doubled", "completeness")
        (True, False)
    """
    return set(entry(MEASURES, measure).about) <= set(entry(CODES, code).deserves)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Returns, of each code and measure of :data:`MEASURES`, whether the mean over seeds is what it ought to be.

    Columns code, measure, value (the mean), share (of the way from chance to 1), expected, and ``verdict``: ``"right"``,
    ``"too low"`` (below :data:`HIGH` of a code that deserves a yes) or ``"too high"`` (above :data:`LOW` of one that does not).
    """
    means = table[table["measure"].isin(list(MEASURES))].groupby(["code", "measure"], sort=False)["value"].mean().reset_index()
    chance = means["measure"].map(lambda m: MEASURES[m].chance)
    means["share"] = (means["value"] - chance) / (1 - chance)
    means["expected"] = [expected(c, m) for c, m in zip(means["code"], means["measure"], strict=True)]
    low, high = means["expected"] & (means["share"] < HIGH), ~means["expected"] & (means["share"] > LOW)
    return means.assign(verdict=np.select([low, high], ["too low", "too high"], "right"))


CHANGES: dict[str, tuple[Sequence[float], Callable[[np.ndarray, float, np.random.Generator], np.ndarray]]] = {
    "noise (sigma)": ((0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), lambda x, by, rng: x + by * rng.normal(size=x.shape)),
    "turn (degrees)": ((0, 3, 6, 10, 15, 20, 30, 45), lambda x, by, rng: _turned(x, by)),
    "codes of noise": (
        (0, 1, 2, 4, 8, 16),
        lambda x, by, rng: np.hstack([x, 0.05 * rng.normal(size=(len(x), int(by)))]),
    ),
    "factors left out": ((0, 1, 2, 3, 4, 5), lambda x, by, rng: x[:, : x.shape[1] - int(by)]),
    "bend": ((0.01, 0.5, 1, 2, 4, 8), lambda x, by, rng: np.sinh(by * x) / np.sinh(by)),
}
"""What is done to a perfect code by degrees: how far, and how."""


def along(change: str, *, rows: int = 2_000, trees: int = 20, seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Returns the quick measures while a perfect code is spoilt by degrees.

    Arguments:
        trees: A class, for DCI.

    Returns:
        Columns named as ``change`` (how far), seed, and as each measure.
    """
    degrees, spoil = entry(CHANGES, change)
    found = []
    for seed, by in tqdm([(seed, by) for seed in seeds for by in degrees], desc=change, unit="code", leave=False):
        known = factors(rows, seed=seed)
        codes = spoil(_scaled(known), by, np.random.default_rng(seed + 1))
        table = disentanglement(codes, known, measures=(partial(dci, trees=trees), *QUICK), seed=seed)
        found.append({change: by, "seed": seed} | dict(zip(table["measure"], table["value"], strict=True)))
    return pd.DataFrame(found)


def correlated(sigmas: Sequence[float], *, rows: int = 3_000, seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """Returns the quick measures of a perfect code where factors go together (see :func:`factors`).

    Returns:
        Columns sigma, correlation (of floor and wall), seed, rows, a measure each. ``rows`` is ``"as they are"``, or
        ``"uniform_rows"``, drawn again from the same so that combinations that exist are equally likely.
    """
    found = []
    settings = [(sigma, seed) for sigma in sigmas for seed in seeds]
    for sigma, seed in tqdm(settings, desc="correlated factors", unit="draw", leave=False):
        drawn = factors(rows, seed=seed, sigma=sigma)
        for name, known in (("as they are", drawn), ("uniform_rows", drawn.iloc[uniform_rows(drawn, seed=seed)])):
            table = disentanglement(_scaled(known), known, measures=(partial(dci, backend="lasso"), *QUICK), seed=seed)
            values = dict(zip(table["measure"], table["value"], strict=True))
            together = factor_correlations(known).loc["floor", "wall"]
            found.append({"sigma": sigma, "correlation": together, "seed": seed, "rows": name} | values)
    return pd.DataFrame(found)


def forest(codes: np.ndarray, known: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """Returns D, C and I by a random forest's importances, a regressor that public suites use, and a trap."""
    from sklearn.ensemble import RandomForestClassifier

    held = np.random.default_rng(seed).permutation(len(codes)) < len(codes) // 3
    importances, told = [], []
    for name in known:
        model = RandomForestClassifier(random_state=seed).fit(codes[~held], known[name][~held])
        importances.append(model.feature_importances_)
        told.append(model.score(codes[held], known[name][held]))
    both = np.stack(importances, 1)
    names = ("disentanglement", "completeness", "informativeness")
    return dict(zip(names, (code_disentanglement(both), factor_completeness(both), float(np.mean(told))), strict=True))


def regressors(
    codes: Sequence[str] = ("perfect", "beside noise", "turned in pairs", "rotated", "pure noise"),
    *,
    rows: int = 1_500,
    trees: int = 20,
    seeds: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """Returns DCI of the same codes by four regressors: columns code, regressor, seed, measure, value."""
    how: dict[str, Callable] = {
        f"boosting, {trees} trees": partial(dci, trees=trees),
        f"scikit-learn, {trees} trees": partial(dci, backend="scikit-learn", trees=trees),
        "random forest": forest,
        "lasso": partial(dci, backend="lasso"),
    }
    found = []
    asked = [(seed, code, regressor) for seed in seeds for code in codes for regressor in how]
    for seed, code, regressor in tqdm(asked, desc="regressors", unit="code", leave=False):
        known = factors(rows, seed=seed)
        with warnings.catch_warnings(action="ignore"):  # of the convergence of a lasso on noise
            numbers = how[regressor](made(code, known, seed=seed), known, seed=seed)
        facts = {"code": code, "regressor": regressor, "seed": seed}
        found += [facts | {"measure": name, "value": float(value)} for name, value in numbers.items()]
    return pd.DataFrame(found)


def _scaled(known: pd.DataFrame) -> np.ndarray:
    return 2 * known[list(VALUES)].to_numpy(float) / (np.array(list(VALUES.values())) - 1) - 1
