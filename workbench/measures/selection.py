r"""Choosing a run without labels, and what the choice costs against an oracle that has them.

Of runs that differ in one hyper-parameter, take the one whose measure is best; where several are alike (a plateau), the first, in
the order of the hyper-parameter, that reaches it (RankMe, section 3.3). The regret of a choice is what the oracle has of its best
setting minus what it has of the chosen one. A choice means something only where the measure differs more between settings than
between seeds, and only among runs of one method: RankMe is licensed for no more.

References:
    RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank (Garrido,
    Balestriero, Najman, LeCun, ICML 2023), section 3.3, https://arxiv.org/abs/2210.02885
"""

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

__all__ = ["choose_run", "choose_runs", "plateau_band", "regret", "seed_floor"]

Best = Literal["high", "low"] | float


def choose_run(
    table: pd.DataFrame,
    by: str,
    *,
    best: Best = "high",
    plateau: float = 0.0,
    method: str = "method",
    setting: str = "setting",
    across: bool = False,
) -> int:
    """Returns the place (from 0) of the row to take, by a measure and without labels.

    Arguments:
        table: A row a run: columns ``by``, ``method`` and, for the plateau, ``setting``.
        by: The measure's column.
        best: Whether it should be ``"high"``, ``"low"``, or near a number (alpha-ReQ: near 1).
        plateau: Runs whose measure falls short of the best by at most this share of its range over the table count as equal;
            of equals the first in the order of ``setting`` is taken.
        method: The column that says how a run was trained.
        setting: The column of the hyper-parameter, whose order is that of numbers, or of first appearance.
        across: Whether runs of several methods may be ranked against each other.

    Raises:
        KeyError: If a column is missing.
        ValueError: If there are several methods (unless ``across``), no rows, or a measure that is not a number.
    """
    _need(table, [by, method, setting])
    methods = list(dict.fromkeys(table[method]))
    if len(methods) > 1 and not across:
        raise ValueError(
            f"{by} ranks runs of one method, but the table holds {', '.join(map(str, methods))}, whose numbers do not compare. "
            f"Choose within each, or say across=True if you know better"
        )
    equal = np.flatnonzero(_shortfall(table[by], best, by) <= _still_equal(table[by], best, plateau, by))
    return int(min(equal, key=lambda i: _order(table[setting])[i]))


def choose_runs(
    table: pd.DataFrame,
    by: str,
    *,
    best: Best = "high",
    plateau: float = 0.0,
    method: str = "method",
    sweep: str = "sweep",
    setting: str = "setting",
    seed: str = "seed",
) -> pd.Series:
    """Returns which rows are taken, with the table's index: in every sweep of every method one in every seed.

    Arguments and errors as in :func:`choose_run`; ``sweep`` and ``seed`` are columns too.

    Example:
        >>> table = pd.DataFrame({"method": "SimCLR", "sweep": "lr", "setting": [1, 2] * 2, "seed": [0, 0, 1, 1]})
        >>> choose_runs(table.assign(rankme=[5.0, 9.0, 7.0, 6.0]), "rankme").tolist()
        [False, True, True, False]
    """
    _need(table, [by, method, sweep, setting, seed])
    taken = pd.Series(data=False, index=table.index)
    for places in table.groupby([method, sweep, seed], sort=False).indices.values():
        part = table.iloc[places]
        taken.iloc[places[choose_run(part, by, best=best, plateau=plateau, method=method, setting=setting)]] = True
    return taken


def plateau_band(values: pd.Series, *, best: Best = "high", plateau: float = 0.0) -> tuple[float, float]:
    """Returns the least and the greatest value that count as equal to the best, as :func:`choose_run` has it.

    Example:
        >>> plateau_band(pd.Series([10.0, 86, 90]), plateau=0.1), plateau_band(pd.Series([0.5, 1.25]), best=1.0)
        ((82.0, inf), (0.75, 1.25))
    """
    short = float(_still_equal(values, best, plateau, values.name or "the measure", slack=0.0))
    if best == "high":
        return -short, float("inf")
    return (float("-inf"), short) if best == "low" else (best - short, best + short)


def regret(
    table: pd.DataFrame,
    measures: Mapping[str, Best],
    *,
    oracle: str,
    plateau: float = 0.0,
    method: str = "method",
    sweep: str = "sweep",
    setting: str = "setting",
    seed: str = "seed",
) -> pd.DataFrame:
    """Returns what choosing by each measure costs, in every sweep of every method; a choice is made once in every seed.

    Arguments:
        table: A row a run, each seed with every setting: columns ``method``, ``sweep`` (the hyper-parameter that varies),
            ``setting`` (its value), ``seed``, ``oracle`` (what labels say, the higher the better) and those of the measures.
        measures: For each measure's column, what is best: ``"high"``, ``"low"`` or a number to be near.
        oracle: The column of the labels' verdict.
        plateau: As in :func:`choose_run`.

    Returns:
        Columns method, sweep, measure, chosen (the setting chosen most often), value (the oracle's of the choices: mean over
        seeds), regret, regret_std (mean and spread over seeds of the best minus the chosen), rank_correlation (Spearman's, of
        the measure with the oracle, mean over seeds; of the distance where a number is to be near), and told: whether the
        measure differs more between settings than between seeds. The measure ``"random"`` is the mean over settings, ``"oracle"``
        the best of them.

    Raises:
        KeyError: If a column is missing.
        ValueError: If a seed lacks a setting or has it twice.

    Warns:
        UserWarning: For measures that do not tell settings from seeds.
    """
    _need(table, [method, sweep, setting, seed, oracle, *measures])
    rows = []
    for (how, name), runs in table.groupby([method, sweep], sort=False):
        counts = runs.groupby([seed, setting], sort=False).size().unstack()
        if not (counts == 1).all(axis=None):
            raise ValueError(f"{how}, {name}: every seed needs every setting once, but has\n{counts.fillna(0).astype(int)}")
        parts = [part.reset_index(drop=True) for _, part in runs.groupby(seed, sort=False)]
        top = np.array([part[oracle].max() for part in parts])
        rows.append(_row(how, name, "oracle", [part[setting][part[oracle].idxmax()] for part in parts], top, top))
        rows.append(_row(how, name, "random", [], np.array([part[oracle].mean() for part in parts]), top))
        for measure, best in measures.items():
            keys = {"method": method, "setting": setting}
            places = [choose_run(part, measure, best=best, plateau=plateau, **keys) for part in parts]
            got = np.array([part[oracle][i] for part, i in zip(parts, places, strict=True)])
            chosen = [part[setting][i] for part, i in zip(parts, places, strict=True)]
            along = np.mean([_spearman(-_shortfall(part[measure], best, measure), part[oracle]) for part in parts])
            between, floor = _spreads(runs, measure, setting)
            told = bool(len(parts) < 2 or between > floor)
            rows.append(_row(how, name, measure, chosen, got, top) | {"rank_correlation": along, "told": told})
    frame = pd.DataFrame(rows)
    silent = frame[frame["told"].eq(False)]  # noqa: FBT003
    if len(silent):
        listed = "; ".join(f"{r.measure} in {r.method}, {r.sweep}" for r in silent.itertuples())
        warnings.warn(f"differs less between settings than between seeds, so that its choice is chance: {listed}", stacklevel=2)
    return frame


def seed_floor(table: pd.DataFrame, column: str, *, by: str | list[str]) -> float:
    """Returns the standard deviation over seeds of a column, pooled over the groups of ``by``: what the seed alone does.

    Raises:
        KeyError: If a column is missing.
        ValueError: If no group has two rows.
    """
    by = [by] if isinstance(by, str) else list(by)
    _need(table, [column, *by])
    groups = table.groupby(by, sort=False)[column]
    free = groups.size() - 1
    if not (free > 0).any():
        raise ValueError(f"each group of {', '.join(by)} has one row: the spread over seeds needs two seeds at least")
    return float(np.sqrt((groups.var(ddof=1) * free)[free > 0].sum() / free.sum()))


def _row(how: str, name: str, measure: str, chosen: list, got: np.ndarray, top: np.ndarray) -> dict:
    lost = top - got
    return {
        "method": how,
        "sweep": name,
        "measure": measure,
        "chosen": max(dict.fromkeys(chosen), key=chosen.count) if chosen else None,
        "value": float(got.mean()),
        "regret": float(lost.mean()),
        "regret_std": float(lost.std(ddof=1)) if len(lost) > 1 else float("nan"),
    }


def _spreads(runs: pd.DataFrame, column: str, setting: str) -> tuple[float, float]:
    """The standard deviations of a column between settings (of their means) and between seeds."""
    groups = runs.groupby(setting, sort=False)[column]
    within = groups.var(ddof=1).mean()
    return float(groups.mean().std(ddof=1)), float(np.sqrt(within)) if within == within else 0.0


def _shortfall(values: pd.Series, best: Best, name: str) -> np.ndarray:
    """How far each value is from the best there could be, up to a constant."""
    values = values.to_numpy(float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name} is missing or infinite in {int((~np.isfinite(values)).sum())} of {len(values)} rows")
    if best in ("high", "low"):
        return -values if best == "high" else values
    if isinstance(best, str):
        raise ValueError(f"best is 'high', 'low' or a number to be near, but got {best!r}")
    return np.abs(values - best)


def _still_equal(values: pd.Series, best: Best, plateau: float, name: str, *, slack: float = 1e-12) -> float:
    """The shortfall up to which values count as equal to the best."""
    short = _shortfall(values, best, name)
    span = short.max() - short.min()
    return short.min() + plateau * span + slack * max(span, 1)


def _order(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return pd.factorize(values)[0]


def _spearman(a: np.ndarray, b: pd.Series) -> float:
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _need(table: pd.DataFrame, wanted: list[str]) -> None:
    missing = [c for c in wanted if c not in table]
    if missing:
        raise KeyError(f"the table needs the columns {wanted}, but {missing} are missing; it has {list(table)}")
