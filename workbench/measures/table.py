"""Measures over layers, as one tidy table."""

import functools
import inspect
from collections.abc import Callable, Mapping

import pandas as pd

from workbench.measures.decomposition import sharing
from workbench.measures.measured import Measured
from workbench.measures.moments import Matrix, Moments, shape
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
        measures: Functions of a matrix, by the name that the table shall give them: all of them give a number, or all of them
            a table, such as ``spectrum``. One that takes ``source`` (``lidar``, ``alignment``) gets the column ``source`` of
            ``features.factors``.

    Returns:
        Columns ``layer``, ``measure``, ``value``, ``n``, ``d``, ``convention``, then ``low`` and ``high`` where an interval
        was asked for, a row a number; of tables all their rows and columns.

    Raises:
        TypeError: If the features are not layers by name, or a measure is not a function.
        ValueError: If there is no layer or no measure, or numbers and tables are asked for at once.

    Example:
        >>> over_layers({"backbone": torch.eye(4)}, rank=wb.rankme)[["layer", "measure", "value", "n", "d"]]
              layer measure   value  n  d
        0  backbone    rank  4.000001  4  4
    """
    _check(features, measures)
    source = getattr(features, "factors", {}).get("source")
    rows, tables = [], {}
    for layer, z in features.items():
        with sharing(z):
            for name, measure in measures.items():
                beside = [source] if source is not None and _takes_source(measure) else []
                got = measure(z, *beside)
                tables[name] = isinstance(got, pd.DataFrame)
                if len(set(tables.values())) > 1:
                    raise ValueError(
                        f"{', '.join(k for k, table in tables.items() if table)} gives a table a layer, and "
                        f"{', '.join(k for k, table in tables.items() if not table)} a number: ask for them one after the other."
                    )
                if interval is not None and not tables[name]:
                    got = bootstrap(measure, z, *beside, interval=interval, resamples=resamples, seed=seed, groups=source)
                rows.append(_frame(got, z).assign(layer=layer, measure=name))
    table = pd.concat(rows, ignore_index=True)
    first = [c for c in ("layer", "measure", "value", "n", "d", "convention", "low", "high") if c in table]
    return table[first + [c for c in table if c not in first]]


def _check(features: Mapping[str, Matrix | Moments], measures: Mapping[str, Callable]) -> None:
    if not isinstance(features, Mapping):
        raise TypeError(f"over_layers takes layers by name, Features or {{name: matrix}}, but got {type(features).__name__}.")
    if not features:
        raise ValueError("over_layers takes at least one layer, but the features are empty.")
    if not measures:
        raise ValueError("name at least one measure: over_layers(features, rankme=rankme, nesum=nesum).")
    for name, measure in measures.items():
        if not callable(measure):
            raise TypeError(f"a measure is a function of a matrix, such as wb.rankme, but {name} is {measure!r}.")


def _frame(got: float | pd.DataFrame, z: Matrix | Moments) -> pd.DataFrame:
    n, d = shape(z)
    facts = {"n": n, "d": d, "convention": ""}
    if isinstance(got, pd.DataFrame):
        return got.assign(**{k: v for k, v in facts.items() if k not in got})
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
