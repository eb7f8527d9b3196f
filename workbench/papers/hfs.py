r"""Support instead of independence: factors that go together can still be told apart, as long as no combination is missing.

Independent codes are the wrong thing to want where factors are correlated. Factorised support asks less: that every
combination of the values that codes take occurs, however rarely. The claim: encoders trained for it (HFS) disentangle
correlated factors better, and what they learn holds under other correlations.

Reproduced here, first without any network: two factors go together by degrees and are mixed; the directions that unmix them
are looked for by factorised support, by independence (FastICA) and by decorrelation (PCA). And the limit of it: as far as one
can see from a batch, an unlikely combination is a missing one, so with few samples or a strong correlation support itself
prefers other axes. The paper's table could not be had: its abstract's claims are what is held against.

References:
    Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth, Ibrahim, Akata, Vincent, Bouchacourt, ICLR
    2023), https://arxiv.org/abs/2210.07347; code: https://github.com/facebookresearch/disentangling-correlated-factors
"""

import itertools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from workbench.measures.support import hausdorff_support
from workbench.spec import entry

__all__ = ["METHODS", "directions", "drawn_pairs", "limit", "recovered", "recovery", "support_map"]

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
