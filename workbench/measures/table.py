"""Measures over layers, as one tidy table."""

import functools
import inspect
from collections.abc import Callable, Mapping

import pandas as pd

from workbench.measures.measured import Measured
from workbench.measures.moments import Matrix, Moments, shape, sharing
from workbench.measures.resampling import bootstrap

__all__ = ["over_layers"]


def over_layers(
    features: Mapping[str, Matrix | Moments],
    *,
    interval: float | None = None,
    resamples: int = 200,
    seed: int = 0,
    **measures: Callable[..., float | pd.DataFrame],
) -> pd.DataFrame:
    """Returns every measure of every layer.

    Spectral measures of one layer share its eigenvalues, so that seven cost little more than one.

    Arguments:
        features: Layer names to matrices (N, D), such as ``Features``, or to ``Moments``.
        interval: Coverage of an interval for each number, from random halves of the rows; see ``bootstrap``.
        resamples, seed: Of the interval.
        measures: Functions of a matrix, by the name that the table shall give them. One that takes ``source`` (``lidar``,
            ``alignment``) gets the column ``source`` of ``features.factors``.

    Returns:
        Columns ``layer``, ``measure``, ``value``, ``n``, ``d``, ``convention``, then ``low`` and ``high`` where an interval
        was asked for, then the columns of the tables that measures such as ``spectrum`` give, a row each.

    Raises:
        ValueError: If no measure is given.

    Example:
        >>> over_layers({"backbone": torch.eye(4)}, rank=wb.rankme)[["layer", "measure", "value", "n", "d"]]
              layer measure   value  n  d
        0  backbone    rank  4.000001  4  4
    """
    if not measures:
        raise ValueError("name at least one measure: over_layers(features, rankme=rankme, spectrum=spectrum).")
    source = getattr(features, "factors", {}).get("source")
    rows = []
    for layer, z in features.items():
        with sharing(z):
            for name, measure in measures.items():
                beside = [source] if source is not None and _takes_source(measure) else []
                got = measure(z, *beside)
                if interval is not None and not isinstance(got, pd.DataFrame):
                    got = bootstrap(measure, z, *beside, interval=interval, resamples=resamples, seed=seed, groups=source)
                rows.append(_frame(got, z).assign(layer=layer, measure=name))
    table = pd.concat(rows, ignore_index=True)
    first = [c for c in ("layer", "measure", "value", "n", "d", "convention", "low", "high") if c in table]
    return table[first + [c for c in table if c not in first]]


def _frame(got: float | pd.DataFrame, z: Matrix | Moments) -> pd.DataFrame:
    n, d = shape(z)
    facts = {"n": n, "d": d, "convention": ""}
    if isinstance(got, pd.DataFrame):
        return got.assign(**{k: got.attrs.get(k, v) for k, v in facts.items() if k not in got})
    if isinstance(got, Measured):
        facts = {"n": got.n, "d": got.d, "convention": got.convention}
        facts |= {} if got.low is None else {"low": got.low, "high": got.high}
    return pd.DataFrame({"value": [float(got)]} | {k: [v] for k, v in facts.items()})


def _takes_source(measure: Callable) -> bool:
    if isinstance(measure, functools.partial) and "source" in measure.keywords:
        return False
    try:
        return "source" in inspect.signature(measure).parameters
    except (TypeError, ValueError):
        return False
