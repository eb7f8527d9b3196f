"""A run, replayed: the spectrum of every layer at every kept step, beside what it is worth, and another run laid over it."""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param

from workbench.figures.lines import NEAR, spectra, spectra_range, training_curves
from workbench.figures.tables import layer_table
from workbench.figures.theme import palette
from workbench.panels.jobs import Job
from workbench.panels.picture import Picture, beside
from workbench.run import Run

__all__ = ["CollapseRun", "RunPair", "find_runs"]

ORDER = {"rankme": 0, "knn": 1}
COLUMNS = {"spectrum": {"step", "layer", "rank", "value"}, "measures": {"step", "layer", "measure", "value"}}


def find_runs(paths: Sequence[str | Path]) -> tuple[dict[str, Run], list[str]]:
    """Returns the runs at the paths, or in the folders there, by a short name; and a sentence for each that cannot be opened."""
    found: dict[str, Run] = {}
    complaints = []
    for path in map(Path, paths):
        inside = [path] if (path / "run.json").exists() or not path.is_dir() else _inside(path)
        if not inside:
            complaints.append(f"{path} holds no runs yet; `workbench train --out {path}/NAME` makes one.")
        for folder in inside:
            try:
                run = Run(folder)
            except (OSError, ValueError) as error:
                complaints.append(f"{error}.".replace("..", "."))
                continue
            if any(folder.resolve() == other.path.resolve() for other in found.values()):
                continue  # named, and in a folder that was named
            name = folder.name if folder.name not in found else str(folder)
            found[name] = run
    return found, complaints


def _inside(folder: Path) -> list[Path]:
    """The runs in a folder, at most three folders down, however much lies below; not the denoisers of runs."""
    found = (p.parent for depth in range(1, 4) for p in folder.glob("*/" * depth + "run.json"))
    return sorted(path for path in found if path.parent.name != "denoisers")


class RunPair(param.Parameterized):
    """State and derivations: which run, which other one over it, which step and layers. Tables are read, never computed.

    Arguments:
        found: Runs by name.
    """

    run = param.Selector(doc="The run that is looked at")
    other = param.Selector(doc="A second run, drawn dashed")
    step = param.Integer(0, doc="A step that was kept; snaps to the last at or before it")
    layers = param.ListSelector(default=[], doc="Which layers are drawn")

    def __init__(self, found: Mapping[str, Run], **params: Any) -> None:
        super().__init__(**params)
        self.found = dict(found)
        self.read: dict[tuple[str, str], tuple[float, pd.DataFrame]] = {}
        self.troubles: dict[tuple[str, str], str] = {}
        names = list(self.found)
        self.param.run.objects = names or [""]
        self.param.other.objects = ["none", *names]
        self.run, self.other = (names or [""])[0], "none"
        self.other = next((name for name in names[1:] if self.alike(self.run, name) and self._has_tables(name)), "none")
        self.known: list[int] = []
        self.refresh()

    def refresh(self) -> None:
        """Takes up layers and steps of the tables as they are now."""
        layers = list(dict.fromkeys(self.tidy("spectrum")["layer"]))
        if layers != self.param.layers.objects:
            self.param.layers.objects = layers
            self.layers = self._distinct(layers)
        before, self.known = self.known, self.steps()
        if self.known and (not before or self.step not in self.known):
            self.step = self.known[-1]

    def _distinct(self, layers: list[str]) -> list[str]:
        """The layers without those whose spectrum is that of ``backbone``, as its pooled last stage's is."""
        table = self.table(self.run, "spectrum") if self.run in self.found else pd.DataFrame(columns=["layer"])
        known = {name: part["value"].to_numpy() for name, part in table.groupby("layer", sort=False)}
        whole = known.get("backbone")
        same = {n for n, v in known.items() if n != "backbone" and whole is not None and np.array_equal(v, whole)}
        return [name for name in layers if name not in same]

    def alike(self, one: str, other: str) -> bool:
        """Whether two runs were trained on the same images, towards the same objective."""
        return self._about(one) == self._about(other)

    def _about(self, name: str) -> tuple[str | None, str | None]:
        spec = self.found[name].spec
        return (spec.get("images") or {}).get("digest"), self._objective(name)

    def _objective(self, name: str) -> str | None:
        return (self.found[name].spec.get("objective") or {}).get("is")

    def _has_tables(self, name: str) -> bool:
        return (self.found[name].path / "tables" / "spectrum.parquet").is_file()

    def remarks(self) -> list[str]:
        """What the reader misses of the run that is laid over, a sentence each."""
        if self.other not in self.found or self.other == self.run:
            return []
        said = []
        if not len(self.table(self.other, "spectrum")) and (self.other, "spectrum") not in self.troubles:
            said.append(f"{self.other} has no tables yet: workbench replay {self.found[self.other].path}")
        if self._objective(self.run) != self._objective(self.other):
            said.append(f"The loss of {self.other} is left out: it is of another objective, in other units.")
        return said

    def pair(self) -> list[str]:
        """The names of the runs that are drawn."""
        return [n for n in dict.fromkeys([self.run, self.other]) if n in self.found]

    def table(self, name: str, which: str) -> pd.DataFrame:
        """A run's table, read again only when its file changed; empty where there is none, and where ``troubles`` says why."""
        run = self.found[name]
        path = run.path / "tables" / f"{which}.parquet"
        when = path.stat().st_mtime if path.is_file() else 0.0
        if self.read.get((name, which), (-1.0,))[0] != when:
            self.troubles.pop((name, which), None)
            table = None
            try:
                table = run.table(which)
                if table is not None and (missing := COLUMNS[which] - set(table)):
                    raise ValueError(f"{path} lacks the columns {sorted(missing)}; delete it and measure the run again")
            except ValueError as error:
                self.troubles[name, which], table = str(error), None
            self.read[name, which] = when, pd.DataFrame(columns=sorted(COLUMNS[which])) if table is None else table
        return self.read[name, which][1]

    def tidy(self, which: str) -> pd.DataFrame:
        """The table of both runs, with a column ``run``."""
        parts = [self.table(name, which).assign(run=name) for name in self.pair()]
        parts = [p for p in parts if len(p)] or parts[:1]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS[which], "run"])

    def measured(self) -> bool:
        """Whether the run has its tables."""
        return self.run in self.found and len(self.table(self.run, "spectrum")) > 0

    def steps(self) -> list[int]:
        """The steps that were kept and measured, of the run that is looked at."""
        return sorted(map(int, self.table(self.run, "spectrum")["step"].unique())) if self.run in self.found else []

    def at_step(self, which: str) -> pd.DataFrame:
        """Of each run the rows of its last measured step at or before ``step``, in the chosen layers."""
        table = self.tidy(which)
        table = table[table["layer"].isin(self.layers)]
        before = table[table["step"] <= self.step]
        last = before.groupby("run")["step"].transform("max")
        return before[before["step"] == last]

    def span(self) -> tuple[float, float]:
        """A range of values that stays along the slider; down to the floor only where a curve of this step comes near it."""
        now, every = self.at_step("spectrum"), self.tidy("spectrum")
        every = every[every["layer"].isin(self.layers)]
        if "floor" in every:
            near = every["value"].between(0, NEAR * every["floor"], inclusive="neither")
            every = every[~near.groupby([every[c] for c in ("run", "layer", "step")]).transform("any")]
        return spectra_range(pd.concat([every, now]))

    def course(self) -> pd.DataFrame:
        """The measures as columns, a row a run, layer and step; ``step + 1``, since a log axis has no 0."""
        table = self.tidy("measures")
        table = table[table["layer"].isin(self.layers)]
        keys = {name: pd.Categorical(table[name], list(dict.fromkeys(table[name]))) for name in ("run", "layer")}
        wide = table.assign(**keys).pivot_table(index=["run", "layer", "step"], columns="measure", values="value", observed=True)
        wide = wide.reset_index().astype({"run": object, "layer": object})
        return wide.assign(**{"step + 1": wide["step"] + 1})

    def metrics(self) -> pd.DataFrame:
        """What the runs logged, with a column ``run``; of the other only where the objective, so the loss, is the same."""
        same = [name for name in self.pair() if self._objective(name) == self._objective(self.run)]
        logged = [self.found[name].metrics.assign(run=name) for name in same]
        logged = [m for m in logged if {"step", "loss"} <= set(m)]
        if not logged:
            return pd.DataFrame(columns=["step", "loss", "run", "step + 1"])
        table = pd.concat(logged, ignore_index=True)
        return table.assign(**{"step + 1": table["step"] + 1})

    def finding(self) -> str:
        """The step, and RankMe and neighbours' accuracy of the deepest of the chosen layers, for each run that of its own."""
        rows = self.at_step("measures")
        if rows.empty:
            return f"Step {self.step:,}"
        order, said, first = self.param.layers.objects, [], ""
        for name, part in rows.groupby("run", sort=False):
            deepest = max(part["layer"], key=order.index)
            first = first or deepest
            value = part[part["layer"] == deepest].set_index("measure")["value"]
            numbers = [
                f"{word} **{value[m]:.{d}f}**" for m, word, d in (("rankme", "RankMe", 1), ("knn", "kNN", 2)) if m in value
            ]
            where = "" if deepest == first else f" ({html.escape(deepest)})"
            said.append(f"{html.escape(name)}{where} {', '.join(numbers)}")
        return f"Step {self.step:,}, {html.escape(first)}: {'; '.join(said)}"


class CollapseRun(pn.viewable.Viewer):
    """One slider through training that drives the spectra, RankMe, neighbours and loss of one or two runs."""

    def __init__(
        self, runs: RunPair, complaints: Sequence[str] = (), measure: Callable[[Run], Any] | None = None, **params: Any
    ) -> None:
        super().__init__(**params)
        self.runs, self.job, self._measure = runs, None, measure
        self.spectrum, self.table = Picture(least=480, grow=4), Picture(least=380)
        self.rank, self.near, self.loss = Picture(least=260), Picture(least=260), Picture(least=260)
        self.said = pn.pane.Markdown(sizing_mode="stretch_width", styles={"font-size": "18px"}, min_height=48)
        if not runs.found and not complaints:
            complaints = ["There are no runs yet; `workbench train --out runs/mine` makes one."]
        self.alert = pn.Column(
            *[pmui.Alert(object=html.escape(c), severity="warning", sizing_mode="stretch_width") for c in complaints]
        )
        self.trouble = pmui.Alert(object="", severity="error", visible=False, sizing_mode="stretch_width")
        self.remark = pmui.Alert(object="", severity="info", visible=False, sizing_mode="stretch_width")
        self.player = pmui.DiscretePlayer(
            options=[0], value=0, interval=500, show_loop_controls=False, sizing_mode="stretch_width"
        )
        self.button = pmui.Button(label="Measure this run", color="primary", variant="contained", sizing_mode="stretch_width")
        self.progress = pmui.LinearProgress(value=0, visible=False, sizing_mode="stretch_width")
        state = self.runs.param
        self._layers = pmui.CheckBoxGroup.from_param(state.layers, label="Layers")
        self._controls = pn.Column(
            pmui.Select.from_param(state.run, label="Run", sizing_mode="stretch_width"),
            pmui.Select.from_param(state.other, label="Laid over it, dashed", sizing_mode="stretch_width"),
            self._layers,
            self.button,
            self.progress,
            visible=bool(runs.found),
            width=300,
            margin=(12, 10, 0, 5),
        )
        self.pictures = pn.Column(
            self.said,
            beside(self.spectrum, self.table, height=340),
            self.player,
            beside(self.rank, self.near, self.loss, height=210),
            sizing_mode="stretch_width",
        )
        page = pn.Row(self._controls, self.pictures, sizing_mode="stretch_width")
        self._page = pn.Column(self.alert, self.trouble, self.remark, page, sizing_mode="stretch_width")
        self.button.on_click(lambda event: self.measure())
        self.player.param.watch(lambda event: setattr(self.runs, "step", event.new), "value")
        self.runs.param.watch(lambda *events: self.draw(), ["step", "layers"])
        self.runs.param.watch(lambda *events: self.renew(), ["run", "other"])
        self.renew()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def renew(self) -> None:
        """Takes up the tables of the chosen runs, and draws."""
        with pn.io.hold():
            self.runs.refresh()
            steps = self.runs.steps()
            self.player.param.update(options=steps or [0], value=self.runs.step if steps else 0)
            troubles = [words for (name, _), words in self.runs.troubles.items() if name in self.runs.pair()]
            self.trouble.param.update(object=html.escape(" ".join(troubles)), visible=bool(troubles))
            remarks = self.runs.remarks()
            self.remark.param.update(object=html.escape(" ".join(remarks)), visible=bool(remarks))
            self.draw()

    def draw(self) -> None:
        """Draws everything for the chosen step, as one message to the browser."""
        with pn.io.hold():
            try:
                ready = self.runs.measured()
                if ready:
                    self._draw()
            except (ValueError, KeyError, TypeError) as error:
                ready = False
                self.trouble.param.update(object=html.escape(f"The tables cannot be drawn: {error}"), visible=True)
            self.pictures.visible = self._layers.visible = ready
            self.button.visible = self.runs.run in self.runs.found and (not ready or (self.job is not None and self.job.running))

    def _draw(self) -> None:
        runs = self.runs
        self.said.object = runs.finding()
        colours = palette(runs.param.layers.objects, "layer")
        common = {"by": "layer", "dash": "run", "colours": colours, "responsive": True}
        now = runs.at_step("spectrum")
        if now.empty:
            for picture in (self.spectrum, self.table, self.rank, self.near):
                picture.show(None)
            return
        self.spectrum.show(spectra(now, ylim=runs.span(), title="Spectrum", height=340, **common))
        numbers = runs.at_step("measures")
        numbers = numbers[numbers["run"] == runs.run].sort_values(
            "measure", key=lambda names: names.map(ORDER.get), kind="stable"
        )
        self.table.show(layer_table(numbers, title=runs.run, responsive=True, height=340) if len(numbers) else None)
        course = runs.course()
        below = common | {"x": "step + 1", "logx": True, "height": 210, "show_legend": False, "marker": runs.step + 1}
        below |= {"xlim": (0.9, max(course["step + 1"].max(), 2) * 1.1)}
        for picture, name, title in ((self.rank, "rankme", "RankMe"), (self.near, "knn", "kNN accuracy")):
            picture.show(training_curves(course, values=[name], title=title, **below) if name in course else None)
        metrics = runs.metrics()
        below |= {"by": "run", "dash": None, "colours": None, "show_legend": True}
        self.loss.show(training_curves(metrics, title="Loss", **below) if len(metrics) else None)

    def measure(self) -> None:
        """Replays the chosen run in a thread; what is measured shows at once."""
        if self.job is not None and self.job.running:
            return
        run = self.runs.found[self.runs.run]

        def work(job: Job) -> None:
            if self._measure is not None:
                self._measure(run)
                return
            from workbench.replaying import replay  # torch comes only now

            replay(run, progress=False)

        self.job = Job(work).start()
        self.button.disabled, self.progress.visible = True, True
        self.job.follow(self.look, every=0.5)

    def look(self) -> None:
        """Shows how far the measuring has come."""
        ended, error = self.job.done.is_set(), self.job.error
        kept, known = len(self.runs.found[self.runs.run].steps), len(self.runs.steps())
        with pn.io.hold():
            if known != len(self.runs.known) or ended:
                self.renew()
            self.progress.value = round(100 * known / max(kept, 1))
            if ended:
                self.button.disabled, self.progress.visible = False, False
                self.button.visible = not self.runs.measured()
            if error is not None:
                self.trouble.param.update(object=html.escape(f"Measuring failed: {error}"), visible=True)
