r"""Which factors of an image its samples keep, and which a change of its representation moves, by what an oracle reads off them.

With readings a of the samples and b of what they are held against, agreement is the share of pairs that are equal (or, of a
quantity, within so much of each other). Its chance is the same share of all pairs from *different* sources: what a shuffled
control gives on average, from the very values that occur.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from workbench.measures.factor_tables import Factors, table_of
from workbench.measures.resampling import by_source
from workbench.measures.scores import Scores

__all__ = ["factor_agreement", "factor_changes"]

BLOCK = 1 << 22  # pairs held at a time: 32 MB
SAME = 1e-5  # of the largest value: what single precision may move a number by

Within = Mapping[str, float]


def factor_agreement(
    read: Factors,
    wanted: Factors,
    *,
    copies: int | None = None,
    within: Within | None = None,
    periods: Mapping[str, float] | None = None,
    interval: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns, for each factor, how often samples have their source's value of it, and how often each other's.

    What the samples of a source agree upon without agreeing with it is not its own: the oracle or the denoiser is off there.

    Arguments:
        read: The factors that an oracle reads off the samples, a row a sample, those of a source together.
        wanted: The factors of the sources, a row a source, with the same columns; further ones are left out.
        copies: Samples of each source; by default as many as the rows say.
        within: Of factors that are quantities, how far apart two values still agree, in the factor's own unit:
            ``{"x": 0.05}``. Others agree when they are equal.
        periods: Of factors that go round, after how much: ``{"hue": 1.0, "orientation": 360.0}``.
        interval, resamples, seed: Of the intervals, from random halves of the sources; with fewer than four there are none (NaN).

    Returns:
        Columns ``factor``, ``measure`` (``"kept"``: equal to the source's; ``"shared"``: two samples of a source equal, where
        there are several), ``value`` from 0 to 1, ``low``, ``high``, ``chance``, ``n`` samples, ``sources``, ``convention``
        and ``interval``.

    Raises:
        ValueError: If rows do not fit, no factor is in both, values are missing, or readings of a factor of decimals never are
            values of it.

    Example:
        >>> wanted = pd.DataFrame({"shape": ["disc", "star", "disc", "star"]})
        >>> read = pd.DataFrame({"shape": ["disc", "disc", "star", "star", "disc", "star", "star", "star"]})
        >>> factor_agreement(read, wanted)[["factor", "measure", "value", "chance"]].round(3)
          factor measure  value  chance
        0  shape    kept  0.875   0.375
        1  shape  shared  0.750   0.417
    """
    one, other, names = _both(read, wanted)
    copies = len(one) // max(len(other), 1) if copies is None else copies
    if not copies or len(one) != copies * len(other):
        raise ValueError(
            f"read has a row a sample, those of a source together, and wanted a row a source: {len(other)} sources with "
            f"copies={copies} want {len(other) * copies} rows, but got {len(one)}."
        )
    settings = (interval, resamples, seed)
    rows = []
    for name in names:
        a, b, near, how = _values(name, one[name], other[name], within or {}, periods or {})
        grouped, facts = a.reshape(-1, copies), {"factor": name, "n": len(a), "sources": len(b), "convention": how}
        kept = near(grouped, b[:, None])
        chance = _of_others(_agreeing(a, b, near) - kept.sum(), len(b), copies)
        rows.append(facts | {"measure": "kept", "chance": chance} | _measured(kept.mean(1), settings))
        if copies > 1:
            held = near(grouped[:, :, None], grouped[:, None]).sum((1, 2))
            chance = _of_others(_agreeing(a, a, near) - held.sum(), len(b), copies**2)
            shared = (held - copies) / (copies * (copies - 1))
            rows.append(facts | {"measure": "shared", "chance": chance} | _measured(shared, settings))
    columns = ["factor", "measure", "value", "low", "high", "chance", "n", "sources", "convention"]
    return pd.DataFrame(rows)[columns].assign(interval=interval)


def factor_changes(
    before: Factors,
    after: Factors | Mapping[str, Factors],
    *,
    against: str | None = None,
    copies: int = 1,
    within: Within | None = None,
    periods: Mapping[str, float] | None = None,
    interval: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns how often a factor that is read off a sample changes when its representation is changed and its noise is not.

    Arguments:
        before: The factors read off the samples as they were (n rows), those of a source together.
        after: The same of samples from changed representations and the same noise, row by row; or several by name, such as
            ``{"common dimensions": ..., "as many at random": ...}``.
        against: The name of those that the others are held against, such as the random ones.
        copies: Samples of each source.
        within, periods, interval, resamples, seed: As of :func:`factor_agreement`.

    Returns:
        Columns ``change`` (the name), ``factor``, ``measure`` (``"changed"``, and ``"beyond"`` what ``against`` changes, image by
        image, which is news where its interval leaves out 0), ``value``, ``low``, ``high``, ``n`` samples, ``sources``,
        ``convention`` and ``interval``.

    Raises:
        ValueError: As of :func:`factor_agreement`, or if there is nothing named ``against``.

    Example:
        >>> before = pd.DataFrame({"hue": [0, 1, 2, 3]})
        >>> after = {"common": pd.DataFrame({"hue": [1, 1, 0, 0]}), "random": before}
        >>> factor_changes(before, after, against="random")[["change", "measure", "value"]]
           change  measure  value
        0  common  changed   0.75
        1  common   beyond   0.75
        2  random  changed   0.00
    """
    named = {name: table_of(t) for name, t in after.items()} if _several(after) else {"changed": table_of(after)}
    if against is not None and against not in named:
        raise ValueError(f"against is one of {list(named)}, but got {against!r}.")
    settings = (interval, resamples, seed)
    rows, moved = [], {}
    for name, table in named.items():
        one, other, factors = _both(table, before)
        if len(one) != len(other) or not copies or len(one) % copies:
            raise ValueError(
                f"samples before and after are the same, row by row, {copies} of each source, but got {len(other)} before "
                f"and {len(one)} after ({name})."
            )
        for factor in factors:
            a, b, near, how = _values(factor, one[factor], other[factor], within or {}, periods or {})
            moved[name, factor] = (1 - near(a, b)).reshape(-1, copies).mean(1), how
    for (name, factor), (share, how) in moved.items():
        facts = {"change": name, "factor": factor, "n": len(share) * copies, "sources": len(share), "convention": how}
        rows.append(facts | {"measure": "changed"} | _measured(share, settings))
        if against not in (None, name) and (against, factor) in moved:
            rows.append(facts | {"measure": "beyond"} | _measured(share - moved[against, factor][0], settings, lowest=-1))
    columns = ["change", "factor", "measure", "value", "low", "high", "n", "sources", "convention"]
    return pd.DataFrame(rows)[columns].assign(interval=interval)


def _several(after: Factors | Mapping) -> bool:
    return isinstance(after, Mapping) and all(isinstance(t, pd.DataFrame | Mapping) for t in after.values())


def _both(read: Factors, wanted: Factors) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    one, other = table_of(read), table_of(wanted)
    names = [name for name in one if name in other]
    if not names or one.empty or other.empty:
        raise ValueError(f"no factor is in both tables, or one is empty: read has {list(one)}, wanted {list(other)}.")
    for name in names:
        missing = int(one[name].isna().sum() + other[name].isna().sum())
        if missing:
            raise ValueError(f"the factor {name!r} misses {missing} values: leave those rows out.")
    return one, other, names


def _values(name: str, read: pd.Series, wanted: pd.Series, within: Within, periods: Mapping[str, float]) -> tuple:
    """Returns both as arrays, the function that says which pairs agree (1 or 0), and what agreement is."""
    number = pd.api.types.is_numeric_dtype(wanted) and pd.api.types.is_numeric_dtype(read)
    if not number:
        if name in within or name in periods:
            raise ValueError(
                f"{name!r} is no quantity, so its values agree when they are equal; leave it out of within, periods."
            )
        both = np.unique([*read.astype(str), *wanted.astype(str)], return_inverse=True)[1]
        a, b = np.split(both, [len(read)])
        return a, b, lambda p, q: (p == q).astype(float), "equal"
    a, b, period = read.to_numpy(float), wanted.to_numpy(float), periods.get(name)
    slack = within.get(name, 0.0) + SAME * max(float(np.abs(b).max()), 1e-30)

    def near(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        off = np.abs(p - q)
        off = off if period is None else np.minimum(off % period, period - off % period)
        return (off <= slack).astype(float)

    if name not in within and pd.api.types.is_float_dtype(read) and not near(a[:, None], np.unique(b)).any():
        raise ValueError(
            f"readings of {name!r} never are one of its values (such as {a[0]:.4g}, of {b[0]:.4g}): it is a quantity, so say how "
            f'far apart two values still agree, within={{"{name}": ...}}.'
        )
    return a, b, near, f"within {within[name]:g}" if name in within else "equal"


def _agreeing(a: np.ndarray, b: np.ndarray, near: Callable) -> float:
    """Returns how many of all pairs agree."""
    size = max(BLOCK // len(b), 1)
    return float(sum(near(a[start : start + size, None], b).sum() for start in range(0, len(a), size)))


def _of_others(agreeing: float, sources: int, pairs: int) -> float:
    """Returns the share of pairs from different sources that agree."""
    return float(agreeing / (sources * (sources - 1) * pairs)) if sources > 1 else np.nan


def _measured(shares: np.ndarray, settings: tuple[float, int, int], lowest: float = 0.0) -> dict[str, float]:
    """Returns the mean over sources and its interval."""
    got = by_source(_mean, shares[:, None], np.arange(len(shares)), *settings)
    low, high = np.clip(got.ends["value"], lowest, 1)
    return {"value": float(got), "low": float(low), "high": float(high)}


def _mean(z: np.ndarray) -> Scores:
    return Scores({"value": float(z.mean())}, n=len(z), d=1, convention="mean")
