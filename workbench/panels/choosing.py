"""Choosing a run without labels: which measure against which probe, what is chosen, what it costs. No browser is needed here."""

import html
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import param

from workbench.figures.theme import QUIET, palette
from workbench.measures.selection import choose_runs, plateau_band, regret, seed_floor
from workbench.panels.outcomes import Outcomes, best_of, label_free
from workbench.run import Run

__all__ = ["Choice"]

BEST = {"the highest": "high", "the lowest": "low", "nearest to 1": 1.0}
WRITTEN = {"rankme": "RankMe", "lidar": "LiDAR", "alpha_req": "α-ReQ", "nesum": "NESum", "twonn": "TwoNN"}
COMPARED = 4
KEYS = {"method": "method", "sweep": "sweep", "setting": "recipe", "seed": "seed"}
EVERY = "all settings at once"
FIRST = {"measure": ("rankme", "lidar", "alpha_req"), "probe": ("label", "knn", "accuracy", "r2")}


class Choice(param.Parameterized):
    """State and derivations: of which runs, by which measure, judged by which probe, and which setting is looked at.

    A recipe is one combination of settings; its runs differ in the seed. By ``measure`` one recipe is chosen in every seed, and
    the regret is what the ``probe`` has of its best recipe minus what it has of the chosen one. RankMe's rule goes along one
    hyper-parameter, the others held: of the recipes on the measure's plateau the first is taken. Held is, for each method,
    the combination under which ``along`` takes the most values.

    Arguments:
        found: Outcomes by name.

    Example:
        ``Choice(read_outcomes(["sweeps/mine"])[0], measure="lidar").regrets()``
    """

    folder = param.Selector(doc="Whose runs", label="Runs")
    measure = param.Selector(doc="What is known without labels", label="Measure (needs no labels)")
    best = param.Selector(default="high", objects=BEST, label="Take the run whose measure is", doc="What is best of the measure")
    probe = param.Selector(doc="What labels say; the higher the better", label="Probe (what labels say)")
    along = param.Selector(default=EVERY, objects=[EVERY], label="Along", doc="The hyper-parameter that varies, the others held")
    plateau = param.Number(
        default=0.05,
        bounds=(0, 0.5),
        step=0.01,
        label="Plateau",
        doc="The share of the measure's range by which a run may fall short of the best and still count as equal to it",
    )
    colour = param.Selector(doc="The setting that colours stand for", label="Colour")
    across = param.Boolean(default=False, label="Rank across methods", doc="Whether methods are ranked against each other")
    picked = param.String(default="", doc="The recipe that is looked at; none: the one that was chosen")
    curve = param.Selector(doc="What is drawn of the training of the runs", label="Curve")

    def __init__(self, found: Mapping[str, Outcomes], **params: Any) -> None:
        super().__init__()
        self.found = dict(found)
        self._logged: dict[str, pd.DataFrame] = {}
        self._lines: dict[str, dict[str, pd.DataFrame]] = {}
        names = list(self.found)
        self.param.folder.objects = names or [""]
        self.folder = (names or [""])[0]
        self._turn()
        self.param.watch(lambda event: self._turn(), "folder")
        self.param.watch(lambda event: setattr(self, "best", best_of(self.measure)), "measure")
        for name in [n for n in ("folder", "measure") if n in params]:  # what the others follow from
            setattr(self, name, params.pop(name))
        self.param.update(**params)

    def _turn(self) -> None:
        """Takes up what there is to choose from in the folder."""
        known = self.outcomes
        offered = {"measure": known.measures + known.probes, "probe": known.probes + known.measures} if known else {}
        offered |= {"colour": known.settings if known else [], "curve": list(self.metrics())}
        with param.parameterized.batch_call_watchers(self):
            self.picked, self.across = "", False
            for name, columns in offered.items():
                columns = columns or [""]
                self.param[name].objects = columns
                setattr(self, name, _first(columns, FIRST.get(name, ("loss",))))
            self.best = best_of(self.measure) if self.measure else "high"
            lines = self.lines()
            self.param.along.objects = [*lines, EVERY]
            covered = {run for line in lines.values() for run in line["run"]}
            self.along = next(iter(lines)) if lines and covered == set(known.table["run"]) else EVERY

    @property
    def outcomes(self) -> Outcomes | None:
        """The runs of the folder."""
        return self.found.get(self.folder)

    @property
    def methods(self) -> list[str]:
        """The methods that there are, or in which the hyper-parameter varies, where they differ."""
        known = self.outcomes
        if known is None or not known.method:
            return []
        return sorted((known.table if self.along == EVERY else self.lines()[self.along])[known.method].astype(str).unique())

    @property
    def refused(self) -> bool:
        """Whether there are several methods, and nobody asked to rank them against each other."""
        return len(self.methods) > 1 and not self.across

    def lines(self) -> dict[str, pd.DataFrame]:
        """The rows of the table in which one hyper-parameter varies while the others are held, by its name."""
        known = self.outcomes
        if self.folder in self._lines:
            return self._lines[self.folder]
        found = self._lines.setdefault(self.folder, {})
        for name in [c for c in known.settings if c != known.method] if known else []:
            others = [c for c in known.settings if c not in (name, known.method)]
            held = pd.Series([_recipe(row) for row in known.table[others].to_dict("records")], known.table.index)
            parts = []
            there = known.table[known.table[name].notna()]
            for _, part in there.groupby(known.method) if known.method else [("", there)]:
                values = part.groupby(held.loc[part.index], sort=False)[name].nunique()
                parts.append(part[held.loc[part.index] == values.idxmax()] if values.max() > 1 else part[:0])
            if len(line := pd.concat(parts)):
                found[name] = line
        return found

    def held(self) -> dict[str, str]:
        """What the other hyper-parameters are held at, by method, while one varies; empty where all vary at once."""
        if self.along == EVERY:
            return {}
        known, rows = self.outcomes, self.lines()[self.along]
        others = [c for c in known.settings if c not in (self.along, known.method)]
        firsts = rows.drop_duplicates(known.method) if known.method else rows[:1]
        words = [_recipe(row) for row in firsts[others].to_dict("records")] if others else ["" for _ in range(len(firsts))]
        return dict(zip(firsts[known.method].astype(str) if known.method else [known.name], words, strict=True))

    def points(self, along: str | None = None) -> pd.DataFrame:
        """A row a run that has both numbers: run, recipe, seed, method, sweep, setting, colour, and all results.

        Where ``along`` (that of the state, unless one is given) names a hyper-parameter, those in which it varies and the
        others are held; ``setting`` is then its value, else the recipe.
        """
        known, along = self.outcomes, along or self.along
        if known is None or not (self.measure and self.probe):
            return pd.DataFrame(columns=["run", "recipe", "seed", "method", "sweep", "setting", "colour"])
        table = known.table if along == EVERY else self.lines()[along]
        order = [c for c in known.settings if table[c].map(type).nunique() == 1]
        table = table.sort_values(order, kind="stable") if order else table
        table = table[np.isfinite(table[[self.measure, self.probe]].astype(float)).all(axis=1)]
        recipe = [_recipe(row) for row in table[known.settings].to_dict("records")]
        method = table[known.method].astype(str) if known.method and not self.across else known.name
        colour = table[self.colour].map(written) if self.colour else known.name
        if along != EVERY:
            colour = table[known.method].astype(str) if known.method else known.name
        kept = table[["run", "seed", *dict.fromkeys(known.results)]]
        setting = recipe if along == EVERY else table[along]
        return kept.assign(recipe=recipe, method=method, sweep=spoken(along), setting=setting, colour=colour)

    def colours(self) -> dict[str, str]:
        """A colour for each value of the setting that they stand for; numbers have an order."""
        points = self.points()
        values = list(dict.fromkeys(points["colour"]))
        if self.along != EVERY:
            return palette(self.methods or values)
        column = self.outcomes.table[self.colour].dropna() if self.colour else pd.Series(dtype=object)
        ordered = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if not ordered:
            return palette(values)
        ranked = [written(v) for v in sorted(column.unique())]
        return palette([v for v in ranked if v in values], "step") | {v: QUIET for v in values if v not in ranked}

    def joined(self) -> bool:
        """Whether a line through the points of a colour has a meaning: one setting varies within it."""
        if self.outcomes is None or self.along != EVERY:
            return self.outcomes is not None
        groups = self.outcomes.table.groupby(self.colour, dropna=False) if self.colour else [("", self.outcomes.table)]
        return all(
            sum(part[c].nunique(dropna=False) > 1 for c in self.outcomes.settings if c != self.colour) == 1 for _, part in groups
        )

    def complete(self, along: str | None = None) -> pd.DataFrame:
        """The points among which a choice can be made once a seed: of recipes that have every seed, where there are several."""
        points = self.points(along)
        if points.empty:
            return points
        seeds = points.groupby("method")["seed"].transform("nunique")
        points = points[points.groupby(["method", "recipe"])["seed"].transform("nunique") == seeds]
        return points[points.groupby("method")["recipe"].transform("nunique") > 1]

    def equal(self) -> float:
        """The plateau where it has a meaning: along one hyper-parameter of one method, else 0."""
        return 0.0 if self.across or self.along == EVERY else self.plateau

    def regrets(self) -> pd.DataFrame:
        """What choosing costs, as :func:`workbench.regret` has it: by the measure, by some others, and at random.

        A row a method, unless ``across``, and where one hyper-parameter varies, a row for each that could. Empty where no recipe
        has every seed, or only one has.
        """
        ways = [EVERY] if self.along == EVERY else list(self.lines())
        points = pd.concat([self.complete(way) for way in ways], ignore_index=True)
        if points.empty:
            return pd.DataFrame(columns=["method", "sweep", "measure", "chosen", "regret", "regret_std"])
        others = [c for c in self.outcomes.measures if c not in (self.measure, self.probe) and np.isfinite(points[c]).all()]
        asked = {self.measure: self.best} | {c: best_of(c) for c in others[:COMPARED]}
        labels = self.probe
        if self.probe in asked:
            points, labels = points.assign(**{"labels' verdict": points[self.probe]}), "labels' verdict"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what seeds alone would choose stands in brackets
            return regret(points, asked, oracle=labels, plateau=self.equal(), **KEYS)

    def chosen(self) -> list[tuple[str, str]]:
        """Method and recipe of what the measure chooses most often over the seeds, for each method."""
        table = self.regrets()
        table = table[(table["measure"] == self.measure) & (table["sweep"] == spoken(self.along))]
        return list(zip(table["method"], table["chosen"], strict=True))

    def taken(self) -> pd.DataFrame:
        """The points, and whether the run was ``taken`` in its seed; False too where a choice could not be made."""
        points, complete = self.points(), self.complete()
        taken = choose_runs(complete, self.measure, best=self.best, plateau=self.equal(), **KEYS) if len(complete) else []
        return points.assign(taken=points.index.isin(complete.index[taken] if len(complete) else []))

    def bands(self) -> dict[str, tuple[float, float]]:
        """By colour, which means over seeds of the measure count as equal to the best."""
        means = self.complete().groupby(["colour", "recipe"])[self.measure].mean()
        return {
            kind: plateau_band(part, best=self.best, plateau=self.equal())
            for kind, part in means.groupby("colour", sort=False)
            if len(part) > 1
        }

    def floor(self) -> float | None:
        """What the seed alone does to the probe: its standard deviation over seeds; None where each recipe has one run."""
        points = self.points()
        try:
            return seed_floor(points, self.probe, by=["method", "recipe"]) if len(points) else None
        except ValueError:
            return None

    def looked_at(self) -> str:
        """The recipe that was picked, else the one that was chosen, else the first."""
        recipes = list(self.points()["recipe"])
        wanted = [self.picked, *(recipe for _, recipe in self.chosen()), *recipes[:1]]
        return next((r for r in wanted if r in recipes), "")

    def pick(self, x: float, y: float) -> str:
        """Picks the recipe whose mean lies nearest to a place of the scatter, in shares of its extent, and returns it."""
        return self._pick(self.points(), self.measure, self.probe, x, y)

    def pick_along(self, value: str, x: float, y: float) -> str:
        """Picks the same in a picture of ``value`` along the hyper-parameter that varies, where settings are counted from 0."""
        points = self.points()
        values = points["setting"].drop_duplicates()
        values = values.sort_values() if pd.api.types.is_numeric_dtype(values) else values
        order = {setting: i for i, setting in enumerate(values)}
        return self._pick(points.assign(**{"its place": points["setting"].map(order)}), "its place", value, x, y)

    def _pick(self, points: pd.DataFrame, across: str, up: str, x: float, y: float) -> str:
        means = points.groupby("recipe", sort=False)[list(dict.fromkeys([across, up]))].mean()
        if len(means):
            place = np.stack([means[across], means[up]], 1)
            extent = np.ptp(place, axis=0)
            self.picked = means.index[(((place - [x, y]) / np.where(extent > 0, extent, 1)) ** 2).sum(1).argmin()]
        return self.picked

    def rows(self) -> pd.DataFrame:
        """The runs of the recipe that is looked at, with all settings and results."""
        points = self.points()
        return self.outcomes.table.loc[points.index[points["recipe"] == self.looked_at()]] if len(points) else points

    def metrics(self) -> dict[str, None]:
        """What the runs logged of their training, as far as the first run tells."""
        known = self.outcomes
        first = next((p for paths in known.folders.values() for p in paths), None) if known else None
        logged = self._metrics(str(first)) if first else pd.DataFrame()
        return dict.fromkeys(c for c in logged if c not in ("step", "epoch", "rate", "waiting"))

    def curves(self) -> pd.DataFrame:
        """Columns step, run (its seed) and ``curve``, of the runs of the recipe that is looked at; empty where none trained."""
        parts = []
        for run, seed in self.rows()[["run", "seed"]].itertuples(index=False):
            for path in self.outcomes.folders.get(run, []):
                logged = self._metrics(str(path))
                if {"step", self.curve} <= set(logged):
                    parts.append(logged[["step", self.curve]].assign(run=f"seed {seed}", path=str(path)))
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["step", "run", "path"])
        if table.groupby("run")["path"].nunique().max() > 1:  # a row trained several
            table["run"] = [path.rpartition("/")[2] for path in table["path"]] + pd.Series(", ", table.index) + table["run"]
        return table.drop(columns="path")

    def _metrics(self, path: str) -> pd.DataFrame:
        if path not in self._logged:
            try:
                self._logged[path] = Run(path).metrics
            except (OSError, ValueError):
                self._logged[path] = pd.DataFrame()
        return self._logged[path]

    def refusal(self) -> str:
        """Why methods are not ranked against each other, or what to think of it where they are; empty where there is one."""
        if len(self.methods) < 2:
            return ""
        name, listed = spoken(self.measure), " and ".join([", ".join(self.methods[:-1]), self.methods[-1]])
        if self.refused:
            return (
                f"{name} is not ranked across methods: it is made for runs of one, and the numbers of {listed} do not compare, "
                f"since each objective shapes the spectrum in its own way. A choice is made within each."
            )
        return (
            f"{listed} are ranked against each other by {name}, which no paper licenses: "
            f"look at what it costs here before it chooses elsewhere."
        )

    def finding(self) -> str:
        """What choosing by the measure costs, beside what chance and the seed do, in a sentence a method."""
        table, floor = self.regrets(), self.floor()
        table = table[table["sweep"] == spoken(self.along)]
        if table.empty:
            return "There is nothing to choose: fewer than two settings have this measure and this probe in every seed."
        d, probe = self.digits(self.probe), html.escape(spoken(self.probe))
        said = []
        for method, part in table.groupby("method", sort=False):
            rows = part.set_index("measure")
            own, random = rows.loc[self.measure], rows.loc["random"]
            spread = f" ± {own['regret_std']:.{d}f}" if own["regret_std"] == own["regret_std"] else ""
            where = f"{html.escape(method)} " if self.refused else ""
            by_chance = "" if own.get("told", True) else ", though seeds alone move the measure as far as settings do"
            said.append(f"{where}**{own['regret']:.{d}f}{spread}**{by_chance} (at random {random['regret']:.{d}f})")
        how, name = next(words for words, best in BEST.items() if best == self.best), html.escape(spoken(self.measure))
        taken = f"the {name} {how}" if self.best == 1.0 else f"{how} {name}"
        taken = f"Taking {taken}" if self.along == EVERY else f"Along **{html.escape(spoken(self.along))}**, taking {taken}"
        taken += ", or the first of those on its plateau," if self.equal() else ""
        seeds = f"Seeds alone scatter {probe} by {floor:.{d}f}." if floor is not None else "One seed: its scatter is not known."
        return f"{taken} costs, in {probe}: {'; '.join(said)}. {seeds}"

    def digits(self, column: str) -> int:
        """Decimals enough to tell parts of a column's extent."""
        span = float(np.ptp(self.points()[column].to_numpy(float)))
        return int(np.clip(1 - np.floor(np.log10(span)), 1, 6)) if span > 0 else 1


def _first(columns: list[str], wanted: tuple[str, ...]) -> str:
    """The column to begin with: of the first name that is there, the plain one, else that of the projector or the backbone."""
    for name in wanted:
        fits = [c for c in columns if name in c]
        if fits:
            layers = ("projector", "backbone") if label_free(fits[0]) else ("backbone", "projector")
            exact = [c for c in fits if c == name] + [c for layer in layers for c in fits if f"({layer})" in c]
            return next(itertools.chain(exact, fits))
    return columns[0]


def _recipe(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{spoken(k)} {written(v)}" for k, v in settings.items() if v is not None and v == v) or "all alike"


def written(value: Any) -> str:
    """Returns a setting as people write it."""
    if value is None or value != value:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def spoken(column: str) -> str:
    """Returns a column's name as people write it: ``rankme_backbone`` is RankMe backbone."""
    name, measure = column.removesuffix(".is"), label_free(column)
    name = name.replace(measure, WRITTEN[measure]) if measure in WRITTEN else name
    return name.replace("_", " ")
