r"""How far a measure moves when other images are drawn: intervals by half-sampling.

The bootstrap draws rows with replacement, so that about a third of them are copies. A copy adds no direction: measures
of rank then fall below what any sample without copies gives, and the interval misses the very number it is of. So half of
the rows are drawn, without replacement. For a statistic that is smooth in the rows, the spread of these halves about
their own mean is the spread of the full sample about its mean, as it is for a mean,

.. math:: \operatorname{var}(\text{mean of } m \text{ of } n \text{ rows}) = \frac{s^2}{m} \Big(1 - \frac{m}{n}\Big)
          = \frac{s^2}{n} \quad \text{at } m = n / 2,

and what changes because there are fewer rows (the bias) cancels in the difference. Where a measure does not change to
first order (the rank of perfectly isotropic features) the interval is wider than it need be.

References:
    | A General Theory for Jackknife Variance Estimation (Shao, Wu, 1989): the delete-d jackknife
    | Subsampling (Politis, Romano, Wolf, 1999), section 2.3
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.measures.measured import Measured
from workbench.measures.moments import Matrix, shape
from workbench.measures.scores import Scores

__all__ = ["bootstrap"]

Rows = Sequence | np.ndarray | Tensor | pd.Series | pd.DataFrame


def bootstrap(
    measure: Callable[..., float | Scores],
    z: Matrix,
    *beside: Rows,
    interval: float = 0.95,
    resamples: int = 200,
    groups: Rows | None = None,
    seed: int = 0,
) -> Measured | Scores:
    """Returns ``measure(z, *beside)`` with an interval (scores: one for each number), from measuring random halves of the rows.

    The interval is for the measure's expectation over samples of this size N, not for its limit at infinitely many
    rows: it says whether two runs measured on N images each differ by more than the choice of images.

    Arguments:
        measure: A function of a matrix that returns a number, or :class:`~workbench.measures.scores.Scores`.
        z: Features (N, D), in memory or a memory map.
        beside: What else the measure takes a row at a time, such as the ``source`` of ``lidar``.
        interval: Coverage wanted, between 0 and 1.
        resamples: Halves measured.
        groups: Which rows stay together (N); ``factors["source"]`` where images have several views. By default the
            ``source`` of a measure that takes one, so that no image loses views.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer than four rows (or groups), if ``groups`` or what stands beside is not of N rows, or if
            ``groups`` part the views of one image.

    Example:
        >>> bootstrap(wb.rankme, torch.randn(500, 32), resamples=50)
        RankMe 31... [31..., 31...] (N=500, D=32, entropy of the singular values, uncentred, eps=1e-07)
    """
    n, d = shape(z)
    if not 0 < interval < 1 or resamples < 20:
        raise ValueError(f"interval must lie between 0 and 1 and resamples be at least 20, but got {interval} and {resamples}.")
    if not isinstance(z, Tensor | np.ndarray):
        raise TypeError("an interval needs the rows: moments have forgotten them. Give the matrix, a memory map for instance.")
    for other in beside:
        _require_rows("what stands beside the features", other, n)
    source = _source(measure, z, beside)
    groups = source if groups is None else groups
    unit = np.arange(n) if groups is None else _numbered("groups", groups, n)
    if source is not None:
        image = _numbered("source", source, n)
        if len(set(zip(image.tolist(), unit.tolist(), strict=True))) > image.max() + 1:
            raise ValueError("groups part the views of one image: all rows of one source must be in one group.")
    value = measure(z, *beside)
    value = (
        value if isinstance(value, Measured | Scores) else Measured(value, name=getattr(measure, "__name__", "measure"), n=n, d=d)
    )
    units = int(unit.max()) + 1
    if units < 4:
        raise ValueError(f"an interval needs at least 4 rows (or groups) to draw from, but got {units}.")
    kept, rng = units // 2, np.random.default_rng(seed)
    halves = np.empty((resamples, len(value) if isinstance(value, Scores) else 1))
    for i in range(resamples):
        drawn = np.zeros(units, dtype=bool)
        drawn[rng.permutation(units)[:kept]] = True
        rows = np.flatnonzero(drawn[unit])
        got = measure(rows_of(z, rows), *(rows_of(b, rows) for b in beside))
        halves[i] = list(got.numbers.values()) if isinstance(got, Scores) else got
    off = (halves - halves.mean(0)) * (kept / (units - kept)) ** 0.5
    low, high = np.quantile(off, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
    if isinstance(value, Scores):
        numbers = value.numbers.items()
        return value.within({name: (v - b, v - a) for (name, v), a, b in zip(numbers, low.tolist(), high.tolist(), strict=True)})
    return value.within(float(value - high[0]), float(value - low[0]))


def by_source(
    measure: Callable[[np.ndarray], Scores], z: np.ndarray, source: Rows, interval: float, resamples: int, seed: int
) -> Scores:
    """Returns scores with an interval each from random halves of the sources; of NaN, where there are fewer than four."""
    if len(np.unique(_array(source))) < 4:
        got = measure(z)
        return got.within(dict.fromkeys(got, (np.nan, np.nan)))
    return bootstrap(measure, z, interval=interval, resamples=resamples, groups=source, seed=seed)


def _source(measure: Callable, z: Matrix, beside: Sequence[Rows]) -> Rows | None:
    """Returns what ``measure`` gets as the argument ``source``, if it takes one."""
    try:
        return inspect.signature(measure).bind(z, *beside).arguments.get("source")
    except (TypeError, ValueError):
        return None


def _numbered(what: str, x: Rows, n: int) -> np.ndarray:
    """Returns which of the different values each row has, from 0."""
    _require_rows(what, x, n)
    return np.unique(_array(x), return_inverse=True)[1].reshape(-1)


def _require_rows(what: str, x: Rows, n: int) -> None:
    if len(x) != n:
        raise ValueError(f"{what} must have a value for each of the {n} rows, but got {len(x)}.")


def _array(x: Rows) -> np.ndarray:
    return x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def rows_of(x: Rows, rows: np.ndarray) -> np.ndarray | Tensor | pd.DataFrame:
    """Returns rows of a matrix or table, by number."""
    if isinstance(x, pd.DataFrame):
        return x.iloc[rows].reset_index(drop=True)
    return x[torch.from_numpy(rows).to(x.device)] if isinstance(x, Tensor) else np.asarray(x)[rows]
