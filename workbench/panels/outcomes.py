"""What came out of many runs, as one table: a row a run, its settings, and every number that is known of its end."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.run import Run, runs
from workbench.spec import names

__all__ = ["Outcomes", "outcomes_of", "read_outcomes"]

METHOD = ("method", "objective", "objective.is")
SEED = ("seed", "trainer.seed")
PARTS = ("trainer.", "model.", "objective.", "views.", "images.")
NOT_RESULTS = ("step", "epoch", "lr", "rate", "waiting", "seconds", "finished", "error")
BESIDE = ("chance", "n", "d")
LABEL_FREE = {"loss": "low", "alignment": "low", "uniformity": "low", "selfcluster": "low", "alpha_req": 1.0}


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Runs that can be compared.

    Attributes:
        name: Of the folder.
        table: A row a run: columns run, the settings, seed, method, and the results.
        settings: The columns that hold settings and are not the same in all runs, without the seed's.
        results: The columns that hold numbers.
        method: The setting that says how a run was trained, or None where it is the same in all or not told.
        folders: For each run, the folders below it that training wrote.
    """

    name: str
    table: pd.DataFrame
    settings: list[str]
    results: list[str]
    method: str | None
    folders: dict[str, list[Path]]

    @property
    def measures(self) -> list[str]:
        """The results that need no labels, by their names: ``rankme``, ``rankme_backbone``, ``rankme (projector)``."""
        return [c for c in self.results if label_free(c)]

    @property
    def probes(self) -> list[str]:
        """The other results."""
        return [c for c in self.results if not label_free(c)]


def label_free(column: str) -> str | None:
    """Returns the name of the measure that a column holds, None if it is none.

    Example:
        >>> label_free("rankme_backbone"), label_free("alpha_req (projector)"), label_free("label")
        ('rankme', 'alpha_req', None)
    """
    known = {n for n in names("workbench.measures") if n.islower()} | set(LABEL_FREE)
    words = re.split(r"[ ,()]+", column)
    fits = [n for n in known if any(w == n or w.startswith(f"{n}_") for w in words)]
    return max(fits, key=len, default=None)


def best_of(column: str) -> str | float:
    """Returns what is best of a measure: ``"high"``, ``"low"``, or a number to be near."""
    return LABEL_FREE.get(label_free(column) or "", "high")


def outcomes_of(table: pd.DataFrame, *, settings: Sequence[str], name: str = "table") -> Outcomes:
    """Returns outcomes from any table, so that it can be looked at without folders of runs.

    Arguments:
        table: A row a run: its settings, its results, and the column ``seed`` where there are several.
        settings: The columns that hold settings; a method's is called ``method``.
        name: For people.

    Raises:
        KeyError: If the table lacks a setting.

    Example:
        ``Choosing(Choice({"mine": outcomes_of(table, settings=["lr"])}))``
    """
    if missing := [c for c in settings if c not in table]:
        raise KeyError(f"the table has no columns {missing}; it has {list(table)}")
    table = table.reset_index(drop=True)
    table = table.assign(run=[str(i) for i in table.index])
    known = [*settings, *(["seed"] if "seed" in table else [])]
    return _joined(name, table, known, {run: [] for run in table["run"]}, [])


def read_outcomes(paths: Sequence[str | Path]) -> tuple[dict[str, Outcomes], list[str]]:
    """Returns by name what came out of sweeps and of folders of runs, and a sentence for each path that cannot be used.

    A sweep's folder is read from its ``sweep.parquet``; of other folders, the runs below are taken, those of single runs
    together. Where runs were replayed, the measures of their last step come along, as ``rankme (projector)``. Nothing is
    computed, and torch is not imported.
    """
    found: dict[str, Outcomes] = {}
    complaints: list[str] = []
    single: list[Path] = []
    for path in map(Path, paths):
        if (path / "run.json").exists():
            single.append(path)
            continue
        try:
            known = _sweep(path, complaints) if (path / "sweep.parquet").is_file() else _plain([path], complaints, path.name)
        except (OSError, ValueError) as error:
            complaints.append(f"{error}.".replace("..", "."))
            continue
        if known is None:
            complaints.append(f"{path} holds nothing that ended; `workbench sweep train --grid ... --out {path}` fills it.")
        else:
            found[known.name if known.name not in found else str(path)] = known
    if single and (known := _plain(single, complaints, "runs")) is not None:
        found["runs" if "runs" not in found else "single runs"] = known
    return found, complaints


def _sweep(path: Path, complaints: list[str]) -> Outcomes | None:
    try:
        table = pd.read_parquet(path / "sweep.parquet")
    except Exception as error:
        raise ValueError(f"{path / 'sweep.parquet'} is damaged ({error}); the command that made it writes it anew") from error
    if not {"run", "state"} <= set(table):
        raise ValueError(f"{path / 'sweep.parquet'} lacks the columns run and state, so no sweep wrote it")
    states = table.drop_duplicates("run")["state"].value_counts()
    if missing := ", ".join(f"{states[s]} {s}" for s in ("failed", "waiting") if s in states):
        complaints.append(f"{path.name}: {missing} of {states.sum()} rows, which are left out.")
    settings = [c for c in table.columns[: table.columns.get_loc("state")] if c != "run"]
    done = _wide(table[table["state"] == "done"], settings)
    if done.empty:
        return None
    folders = {run: _trained(path / run) for run in done["run"]}
    return _joined(path.resolve().name, done, settings, folders, complaints)


def _wide(table: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """One row a run: where a task returned a table, its words name the columns, as ``backbone, rotation, r2``."""
    if table["run"].is_unique:
        return table
    results = [c for c in table.columns[table.columns.get_loc("state") + 1 :] if c not in NOT_RESULTS]
    words = [c for c in results if not pd.api.types.is_numeric_dtype(table[c]) and table[c].nunique() > 1]
    numbers = [c for c in results if pd.api.types.is_numeric_dtype(table[c]) and c not in BESIDE]
    parts = []
    for number in numbers:
        said = table[words].fillna("").agg(lambda row: ", ".join(filter(None, map(str, row))), axis=1)
        column = said if number == "value" or len(numbers) == 1 else number + ", " + said
        parts.append(pd.DataFrame({"run": table["run"], "column": column, "value": table[number]}))
    long = pd.concat(parts)
    if long.duplicated(["run", "column"]).any():
        raise ValueError(f"the rows of one run are told apart by none of their words ({', '.join(words) or 'there are none'})")
    wide = long.pivot(index="run", columns="column", values="value")[list(dict.fromkeys(long["column"]))]
    return table.drop_duplicates("run")[["run", *settings]].merge(wide.reset_index(), on="run")


def _trained(folder: Path) -> list[Path]:
    return sorted(p.parent for depth in range(3) for p in folder.glob("*/" * depth + "run.json"))


def _plain(paths: Sequence[Path], complaints: list[str], name: str) -> Outcomes | None:
    """What came out of the runs below some folders; settings are those that the runs recorded."""
    frames, folders = [], {}
    for path in paths:
        rows = runs(path)
        for row in rows.to_dict("records"):
            if isinstance(row.get("error"), str):
                complaints.append(f"{path / row['run']}: {row['error']}".rstrip(".") + ".")
        rows = rows[rows["error"].isna()] if "error" in rows else rows
        if rows.empty:
            continue
        there = [path if run == "." else path / run for run in rows["run"]]
        short = [path.name if run == "." else run for run in rows["run"]]
        called = [name if name not in folders else str(p) for name, p in zip(short, there, strict=True)]
        folders |= {run: [p] for run, p in zip(called, there, strict=True)}
        frames.append(rows.assign(run=called))
    if not frames:
        return None
    table = pd.concat(frames, ignore_index=True)
    settings = [c for c in table if c.startswith(PARTS) and c != "images.digest"]
    return _joined(name or paths[0].resolve().name, table, settings, folders, complaints)


def _joined(
    name: str, table: pd.DataFrame, settings: list[str], folders: dict[str, list[Path]], complaints: list[str]
) -> Outcomes:
    replayed = pd.DataFrame([{"run": run} | _last_measures(paths, complaints) for run, paths in folders.items()])
    other = [c for c in table if c != "run" and c not in settings]
    results = [c for c in other if c not in NOT_RESULTS and not c.startswith("made.") and c not in ("total", "images.digest")]
    table = table.merge(replayed[["run", *(c for c in replayed if c != "run" and c not in table)]], on="run")
    results += [c for c in replayed if c != "run" and c not in results]
    results = [c for c in results if pd.api.types.is_numeric_dtype(table[c]) and np.isfinite(table[c].astype(float)).any()]
    seed = next((c for c in SEED if c in settings), None)
    method = next((c for c in METHOD if c in settings and table[c].nunique() > 1), None)
    return Outcomes(name, _with_seeds(table, settings, seed), _varying(table, settings, seed, method), results, method, folders)


def _last_measures(paths: Sequence[Path], complaints: list[str]) -> dict[str, float]:
    """The measures that replaying kept of the last step, of the only run in a row's folder."""
    if len(paths) != 1:
        return {}
    try:
        table = Run(paths[0]).table("measures")
    except (OSError, ValueError) as error:
        complaints.append(f"{error}.".replace("..", "."))
        return {}
    if table is None or not {"step", "layer", "measure", "value"} <= set(table):
        return {}
    last = table[table["step"] == table["step"].max()]
    return {f"{m} ({layer})": v for m, layer, v in zip(last["measure"], last["layer"], last["value"], strict=True)}


def _varying(table: pd.DataFrame, settings: list[str], seed: str | None, method: str | None) -> list[str]:
    """The settings in which runs differ, the method first; of those that always change together, the first."""
    kept: dict[bytes, str] = {}
    for column in sorted(settings, key=lambda c: c != method):
        codes = pd.factorize(table[column].astype(object), use_na_sentinel=False)[0]
        if column != seed and codes.max(initial=0) > 0:
            kept.setdefault(codes.tobytes(), column)
    return list(kept.values())


def _with_seeds(table: pd.DataFrame, settings: list[str], seed: str | None) -> pd.DataFrame:
    """Adds the column seed; where there is none, or a setting has one seed twice, runs of a setting are numbered."""
    keys = [c for c in settings if c != seed]
    plain = table[keys].astype(str)
    if seed is None or pd.concat([plain, table[[seed]]], axis=1).duplicated().any():
        numbers: Any = plain.groupby(keys, sort=False).cumcount() if keys else range(len(table))
        return table.assign(seed=numbers)
    return table.assign(seed=table[seed])
