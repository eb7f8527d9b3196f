"""The page for choosing without labels: a scatter to click in, what the choice costs, a recipe and its curves."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from workbench.figures.choices import along_setting, choice_scatter, regret_table
from workbench.figures.lines import training_curves
from workbench.figures.theme import FONT, INK, QUIET
from workbench.panels.choosing import EVERY, Choice, spoken, written
from workbench.panels.outcomes import read_outcomes
from workbench.panels.picture import Picture, beside
from workbench.run import Run

__all__ = ["Choosing"]

HOMES = (Path("sweeps"), Path("runs"))
SHOWN = 14
TITLE = 26  # letters that fit above a picture of the least width
HIGH = 310


class Choosing(pn.viewable.Viewer):
    """A measure without labels against a probe, a point a setting, and what choosing by it would have cost.

    Where one hyper-parameter varies and the others are held, also measure and probe along it, with the measure's plateau.

    Arguments:
        folders: Folders of sweeps, folders of runs, or runs; without any, those in ``sweeps/`` and ``runs/``; or a
            :class:`~workbench.panels.choosing.Choice`, whose state is then shown and changed.

    Example:
        >>> Choosing("no/such/folder").choice.regrets().empty
        True
    """

    def __init__(self, folders: Choice | Run | str | Path | Sequence[Run | str | Path] = (), **params: Any) -> None:
        super().__init__(**params)
        complaints: list[str] = []
        if isinstance(folders, Choice):
            self.choice = folders
        else:
            given = [folders] if isinstance(folders, Run | str | Path) else list(folders)
            found, complaints = read_outcomes([r.path if isinstance(r, Run) else r for r in given] or _at_home())
            self.choice = Choice(found)
        complaints += [
            f"{name}: nothing here was judged by labels; `workbench replay RUN` measures a run, and this page shows it."
            for name, known in self.choice.found.items()
            if not known.probes
        ]
        if not self.choice.found and not complaints:
            complaints = [
                "There are no sweeps yet; `workbench sweep train --grid lr=1e-3,2e-3 seed=0,1 --out sweeps/mine` makes one."
            ]
        self.scatter = Picture(least=330, tapped=self.choice.pick)
        self.measured = Picture(least=330, tapped=lambda x, y: self.choice.pick_along(self.choice.measure, x, y))
        self.judged = Picture(least=330, tapped=lambda x, y: self.choice.pick_along(self.choice.probe, x, y))
        self.costs, self.curves = Picture(least=480), Picture(least=380)
        wide = {"sizing_mode": "stretch_width"}
        self.said = pn.pane.Markdown(**wide, styles={"font-size": "18px"}, min_height=48)
        self.refusal = pmui.Alert(object="", severity="info", visible=False, margin=(0, 20, 10, 10), **wide)
        self.recipe = pn.pane.HTML(**wide)
        self.alert = pn.Column(*[pmui.Alert(object=html.escape(c), severity="warning", **wide) for c in complaints])
        state = self.choice.param
        self._colour = pmui.Select.from_param(state.colour, **wide)
        self._plateau = pmui.FloatSlider.from_param(state.plateau, format="0%", margin=(5, 22), **wide)
        self._across = pmui.Switch.from_param(state.across)
        self._curve = pmui.Select.from_param(state.curve, **wide)
        self._folder = pmui.Select.from_param(state.folder, **wide)
        self._controls = pn.Column(
            self._folder,
            pmui.Select.from_param(state.measure, **wide),
            pmui.RadioBoxGroup.from_param(state.best, label="Take the run whose measure is"),
            pmui.Select.from_param(state.probe, **wide),
            pmui.Select.from_param(state.along, **wide),
            self._plateau,
            self._colour,
            self._across,
            self.recipe,
            self._curve,
            width=300,
            margin=(12, 10, 0, 5),
        )
        self._drawn: tuple[Any, ...] = ()
        self._priced: tuple[Any, ...] = ()
        above = beside(self.measured, self.judged, self.scatter, height=HIGH)
        self._pictures = pn.Column(above, beside(self.costs, self.curves, height=230), **wide)
        main = pn.Column(self.alert, self.said, self.refusal, self._pictures, **wide)
        self._page = pn.Row(self._controls, main, **wide)
        watched = ["folder", "measure", "best", "probe", "along", "plateau", "colour", "across", "picked", "curve"]
        self.choice.param.watch(lambda *events: self.draw(), watched)
        self.draw()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def draw(self) -> None:
        """Draws everything for the present choice, as one message to the browser."""
        with pn.io.hold():
            points = self.choice.points()
            self._pictures.visible = self.recipe.visible = len(points) > 0
            self._across.visible = len(self.choice.methods) > 1
            self._folder.visible = len(self.choice.found) > 1
            one = self.choice.along != EVERY
            self._colour.visible, self._plateau.visible = not one, one and not self.choice.across
            self.measured.hide(hidden=not one)
            self.judged.hide(hidden=not one)
            self.refusal.param.update(
                object=html.escape(self.choice.refusal()),
                visible=bool(self.choice.refusal()),
                severity="info" if self.choice.refused else "warning",
            )
            if points.empty:
                self.said.object = "" if self.choice.outcomes is None else "No run here has both numbers."
                return
            self._draw(points)

    def _draw(self, points: pd.DataFrame) -> None:
        choice = self.choice
        self.said.object = choice.finding()
        what = (choice.folder, choice.measure, choice.best, choice.probe, choice.along, choice.colour, choice.across)
        if what != self._drawn:
            self._drawn = what
            for picture in (self.scatter, self.measured, self.judged, self.costs):
                picture.show(None)
        if (*what, choice.plateau) != self._priced:
            self._priced = (*what, choice.plateau)
            self.costs.show(self._costs())
        self.scatter.show(self._scatter(points))
        if choice.along != EVERY:
            taken = choice.taken()
            bands = choice.bands() if choice.equal() else None
            said = f"{choice.equal():.0%} of the measure's range"
            self.measured.show(self._along(taken, choice.measure, band=bands, banded=said))
            floor, best = choice.floor(), taken.groupby("recipe")[choice.probe].mean().max()
            known = (best - 2 * floor, best + 2 * floor) if floor is not None and not choice.refused else None
            self.judged.show(self._along(taken, choice.probe, band=known, banded="two deviations over seeds from the best"))
        self.recipe.object = self._recipe()
        curves = choice.curves()
        self._curve.visible = len(curves) > 0
        name, looks = spoken(choice.curve), {"by": "run", "x": "training step", "height": 230, "responsive": True}
        curves = curves.rename(columns={"step": "training step", choice.curve: name})
        looks["ylim"] = _room(curves, name, ["run", "training step"]) if len(curves) else None
        title = f"{name[:1].upper()}{name[1:]} of the runs of this setting"
        self.curves.show(training_curves(curves, values=[name], title=title, **looks) if len(curves) else None)

    def _scatter(self, points: pd.DataFrame) -> Any:
        choice = self.choice
        x, y = choice.measure, choice.probe
        first = points.drop_duplicates("recipe").set_index("recipe")["colour"]
        one = choice.refused is False
        looks = {"xlim": _room(points, x, ["recipe"]), "ylim": _room(points, y, ["recipe"])}
        if x == y:
            points, y = points.assign(**{f"{y} again": points[y]}), f"{y} again"
        return choice_scatter(
            points.rename(columns={"colour": "by colour"}),
            x=x,
            y=y,
            by="by colour",
            setting="recipe",
            chosen=[(first[recipe], recipe) for _, recipe in choice.chosen()],
            picked=choice.looked_at(),
            floor=choice.floor() if one else None,
            colours=choice.colours(),
            line=choice.joined(),
            title=f"{spoken(x)} against {spoken(choice.probe)}: a point a setting"
            if choice.along == EVERY
            else self._titles()[-1],
            xlabel=f"{spoken(choice.measure)} (no labels)",
            ylabel=f"{spoken(choice.probe)} (with labels)",
            legend_opts={"title": spoken(choice.colour)},
            height=360 if choice.along == EVERY else HIGH,
            responsive=True,
            **looks,
        )

    def _along(self, taken: pd.DataFrame, value: str, **band: Any) -> Any:
        """Measure or probe along the hyper-parameter that varies."""
        choice, name = self.choice, spoken(self.choice.along)
        looked_at = taken[taken["recipe"] == choice.looked_at()]
        return along_setting(
            taken,
            value,
            by="colour",
            chosen="taken",
            picked=next(looked_at[["colour", "setting"]].itertuples(index=False, name=None), None),
            colours=choice.colours(),
            title=self._titles()[[choice.measure, choice.probe].index(value)],
            xlabel=name,
            ylabel=spoken(value),
            ylim=_room(taken, value, ["recipe"]),
            show_legend=False,
            height=HIGH,
            responsive=True,
            **band,
        )

    def _titles(self) -> list[str]:
        """Of the three pictures side by side: all of one line, or, where one would not fit, all of two."""
        choice = self.choice
        measure, probe, name = spoken(choice.measure), spoken(choice.probe), spoken(choice.along)
        pairs = [(measure, f"along {name}"), (probe, f"along {name}"), (measure, f"against {probe}")]
        between = "\n" if max(len(" ".join(pair)) for pair in pairs) > TITLE else " "
        return [f"{first[:1].upper()}{first[1:]}{between}{then}" for first, then in pairs]

    def _costs(self) -> Any:
        table = self.choice.regrets()
        if table.empty:
            return None
        named = table.assign(measure=table["measure"].map(spoken))
        lines = max(len(set(table["measure"]) - {"oracle"}), len(table.drop_duplicates(["method", "sweep"])))
        high = 186 + 32 * lines
        looks = {"title": "What choosing costs", "responsive": True, "height": high}
        return regret_table(named, unit=f"units of {spoken(self.choice.probe)}", **looks)

    def _recipe(self) -> str:
        choice, rows = self.choice, self.choice.rows()
        known, first = choice.outcomes, rows.iloc[0]
        chosen = choice.looked_at() in [recipe for _, recipe in choice.chosen()]
        facts = {spoken(c): written(first[c]) for c in known.settings if first[c] is not None and first[c] == first[c]}
        numbers = {
            spoken(choice.measure): _mean(rows[choice.measure], choice.digits(choice.measure)),
            spoken(choice.probe): _mean(rows[choice.probe], choice.digits(choice.probe)),
            "seeds": ", ".join(map(written, rows["seed"])),
        }
        lines = "".join(
            f"<tr><td style='color:{QUIET};padding:2px 16px 2px 0'>{html.escape(k)}</td><td><b>{html.escape(v)}</b></td></tr>"
            for k, v in list((facts | numbers).items())[:SHOWN]
        )
        said = f"chosen by {spoken(choice.measure)}" if chosen else "clicked"
        return (
            f"<div style='font:15px {FONT};color:{INK}'><div style='font-size:17px;margin:12px 0 8px'><b>The setting</b> "
            f"<span style='color:{QUIET}'>{html.escape(said)}</span></div><table class='recipe'>{lines}</table></div>"
        )


def _at_home() -> list[Path]:
    sweeps = sorted(path.parent for path in HOMES[0].glob("*/sweep.parquet"))
    return sweeps + [path for path in HOMES[1:] if path.is_dir()]


def _mean(values: pd.Series, decimals: int) -> str:
    return f"{values.mean():.{decimals}f}" + (f" ± {values.std():.{decimals}f}" if len(values) > 1 else "")


def _room(points: pd.DataFrame, column: str, by: list[str]) -> tuple[float, float]:
    """The axis' ends: all means with their deviations, and some air."""
    groups = points.groupby(by)[column]
    mean, spread = groups.mean(), groups.std().fillna(0)
    low, high = float((mean - spread).min()), float((mean + spread).max())
    air = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air
