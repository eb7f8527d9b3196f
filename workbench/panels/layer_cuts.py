"""Where to cut, without a picture: runs and models, what their layers know of each task, and where two layers part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import param

from workbench.figures.cuts import cut_order, short_layers
from workbench.panels.replayed import find_runs
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["CutState", "Subject", "find_subjects"]

HOME = Path("runs")

COLUMNS = {
    "probes": {"step", "layer", "factor", "measure", "value", "chance"},
    "answers": {"step", "layer", "factor", "row", "truth", "answer", "off"},
    "cuts": {"step", "layer", "rank", "value"},
    "held_out": {"row", "thumbnail"},
}


@dataclass(frozen=True)
class Subject:
    """What is looked at: a run, or a model by name that becomes one in ``path`` when it is probed.

    ``images`` gives those to probe with; without it a run's own are taken, and garments for a model.
    """

    name: str
    path: Path
    model: str = ""
    images: "Callable[[], Images] | None" = None
    allow: tuple[str, ...] = ()

    @property
    def there(self) -> bool:
        """Whether it stands on disk; a model by name does once it was looked at."""
        return (self.path / "run.json").exists()

    def run(self, images: "Images | None" = None) -> Run:
        """Returns the run; of a model by name one is made, to be looked at with ``images`` (garments by default)."""
        if not self.model or self.there:
            return Run(self.path, allow=self.allow)
        from workbench.cutting import keep_model
        from workbench.data.wardrobe import garments

        return keep_model(self.model, self.path, images=garments(4096) if images is None else images)

    def probe(self) -> Iterator[Any]:
        """Probes layer by layer, and keeps the tables; yields how far it has come. Torch comes now."""
        from workbench.cutting import probing

        images = self.images() if self.images else None
        yield from probing(self.run(images), images)


def find_subjects(
    given: Run | str | Path | Sequence[Run | str | Path],
    *,
    out: str | Path = "runs",
    images: "Images | Callable[[], Images] | None" = None,
) -> tuple[dict[str, Subject], list[str]]:
    """Returns what can be looked at, by name, and a sentence for each that cannot.

    Arguments:
        given: A run or several: runs, their paths, paths of folders of runs, and names of timm's models (``"timm:resnet50"``);
            without any, the runs in ``runs/``.
        out: Folder in which each of timm's models gets a folder of its own.
        images: To probe with, a random half to learn from, the other to be asked about; or what gives them.
    """
    given = [given] if isinstance(given, Run | str | Path) else list(given) or [HOME] * HOME.is_dir()
    names = [str(g) for g in given if isinstance(g, str) and g.startswith("timm:")]
    paths = [g.path if isinstance(g, Run) else g for g in given if str(g) not in names]
    runs, complaints = find_runs(paths)
    give = images if callable(images) or images is None else lambda: images
    trusted = {g.path: g.allow for g in given if isinstance(g, Run)}
    found = {name: Subject(name, run.path, "", give, trusted.get(run.path, ())) for name, run in runs.items()}
    for name in names:
        found[name] = Subject(name, Path(out) / name.replace(":", "-").replace("/", "-"), name, give)
    if not found and not complaints:
        complaints = ["There are no runs yet; `workbench train --out runs/mine` makes one. Or name a model: timm:resnet18."]
    return found, complaints


class CutState(param.Parameterized):
    """State and derivations: which subject, task and two layers. Tables are read, never computed.

    A layer is never held against itself: where one takes the place of the other, the two change places.

    Arguments:
        found: Subjects by name.
    """

    subject = param.Selector(doc="The run or model that is looked at")
    task = param.Selector(doc="The factor that is asked for")
    layer = param.Selector(doc="The layer that was chosen")
    against = param.Selector(doc="The layer that it is held against")

    def __init__(self, found: dict[str, Subject], **params: Any) -> None:
        super().__init__(**params)
        self.found, self.troubles = dict(found), {}
        self._given = {"task": "", "layer": "", "against": ""}
        self._read: dict[tuple[str, str], tuple[float, pd.DataFrame]] = {}
        names = list(self.found) or [""]
        self.param.subject.objects, self.subject = names, names[0]
        self.refresh()

    @param.depends("layer", watch=True)
    def _layer_moved(self) -> None:
        self._apart("layer", "against")

    @param.depends("against", watch=True)
    def _against_moved(self) -> None:
        self._apart("against", "layer")

    def _apart(self, moved: str, other: str) -> None:
        before, self._before = getattr(self, "_before", {}), {"layer": self.layer, "against": self.against}
        if self.layer and self.layer == self.against and before.get(moved) in self.param.layer.objects:
            setattr(self, other, before[moved])

    def refresh(self) -> None:
        """Takes up the tasks and layers of the subject's tables as they are now, and keeps what was chosen where it is there."""
        table = self.probes()
        layers, tasks = cut_order(table) if len(table) else ([], [])
        main = "backbone" if "backbone" in layers else layers[-1] if layers else ""
        task = self._kept("task", tasks) or ("label" if "label" in tasks else (tasks or [""])[0])
        against = self._kept("against", layers) or main
        layer = self._kept("layer", layers) or (layers or [""])[-1]
        layer = layer if layer != against else self._best(table, task, against)
        self._given = {"task": task, "layer": layer, "against": against}
        self._before = {}
        with param.parameterized.batch_call_watchers(self):
            self.param.task.objects, self.param.layer.objects, self.param.against.objects = tasks or [""], layers, layers
            self.param.update(task=task, layer=layer, against=against)
        self._before = {"layer": layer, "against": against}

    def forget(self) -> None:
        """Lets the next refresh choose task and layers anew."""
        self._given = {name: getattr(self, name) for name in self._given}

    def _kept(self, name: str, known: list[str]) -> str:
        """What somebody chose, where it is still known; what was only given at the last refresh is given anew."""
        value = getattr(self, name)
        return value if value in known and value != self._given[name] else ""

    @staticmethod
    def _best(table: pd.DataFrame, task: str, against: str) -> str:
        """The layer that knows most of the task, of those that are not the other."""
        rows = table[(table["factor"] == task) & (table["layer"] != against)]
        return against if rows.empty else str(rows.loc[rows["value"].idxmax(), "layer"])

    def table(self, which: str) -> pd.DataFrame:
        """A table of the subject, read again only when its file changed; empty where there is none (``troubles`` may say why)."""
        if self.subject not in self.found:
            return pd.DataFrame(columns=sorted(COLUMNS[which]))
        path = self.found[self.subject].path / "tables" / f"{which}.parquet"
        when = path.stat().st_mtime if path.is_file() else 0.0
        if self._read.get((self.subject, which), (-1.0,))[0] != when:
            table = None
            self.troubles.pop((self.subject, which), None)
            try:
                table = Run(self.found[self.subject].path).table(which) if when else None
                if table is not None and (missing := COLUMNS[which] - set(table)):
                    raise ValueError(f"{path} lacks the columns {sorted(missing)}; delete it and probe again")
            except (ValueError, OSError) as error:
                table, self.troubles[self.subject, which] = None, str(error)
            self._read[self.subject, which] = when, pd.DataFrame(columns=sorted(COLUMNS[which])) if table is None else table
        return self._read[self.subject, which][1]

    def probes(self) -> pd.DataFrame:
        """What every layer knows of every task."""
        return self.table("probes")

    def measured(self) -> bool:
        """Whether there is something to see."""
        return len(self.probes()) > 0

    def choose(self, layer: str, task: str) -> None:
        """Takes one cell of the table."""
        self.param.update(layer=layer, task=task)

    def both(self) -> pd.DataFrame:
        """A row a held-out image: truth, what is answered at the layer and at the other (``there``), and by how much each is off.

        Columns row, truth, answer, off, answer_there, off_there.
        """
        table = self.table("answers")
        one, other = (table[(table["factor"] == self.task) & (table["layer"] == layer)] for layer in (self.layer, self.against))
        other = other[["row", "answer", "off"]].rename(columns={"answer": "answer_there", "off": "off_there"})
        return one[["row", "truth", "answer", "off"]].merge(other, on="row", how="inner")

    def measure(self) -> str:
        """``"accuracy"`` or ``"r2"``: how the task is scored."""
        rows = self.probes()
        rows = rows[rows["factor"] == self.task]
        return str(rows["measure"].iloc[0]) if len(rows) else "accuracy"

    def parted(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The images that the layer has right and the other wrong, and those the other way round, in the order of the rows.

        Of numbers those that the layer tells better, and worse, the largest difference of error first.
        """
        table = self.both()
        gain = table["off_there"] - table["off"]
        sides = [table.assign(gain=sign * gain)[sign * gain > 0] for sign in (1, -1)]
        if self.measure() == "r2":
            sides = [side.sort_values("gain", ascending=False, kind="stable") for side in sides]
        return sides[0], sides[1]

    def value(self, layer: str) -> float:
        """What the layer has of the task."""
        rows = self.probes()
        found = rows[(rows["factor"] == self.task) & (rows["layer"] == layer)]["value"]
        return float(found.iloc[0]) if len(found) else float("nan")

    def spectra(self) -> pd.DataFrame:
        """The spectra of the two layers, the chosen one first."""
        table = self.table("cuts")
        return pd.concat([table[table["layer"] == layer] for layer in dict.fromkeys([self.layer, self.against])])

    def pictures(self, rows: Sequence[int]) -> dict[int, tuple[bytes, str]]:
        """PNG and description of the held-out images of these rows."""
        table = self.table("held_out")
        table = table[table["row"].isin(rows)]
        factors = [c for c in table if c.startswith("factor.")]
        said = [
            "\n".join(f"{name[7:]}: {value:.3g}" if isinstance(value, float) else f"{name[7:]}: {value}" for name, value in about)
            for about in (list(zip(factors, row, strict=True)) for row in table[factors].itertuples(index=False))
        ]
        return {int(r): (png, words) for r, png, words in zip(table["row"], table["thumbnail"], said, strict=True)}

    def short(self, layer: str) -> str:
        """The layer's short name."""
        return short_layers(self.param.layer.objects).get(layer, layer)

    def finding(self) -> str:
        """What the two layers have of the task, on which images they part, and how sure the difference is."""
        table, (here, there) = self.both(), self.parted()
        n, a, b = len(table), len(here), len(there)
        if not n:
            return ""
        at, other = self.short(self.layer), self.short(self.against)
        if self.layer == self.against:
            name = "R²" if self.measure() == "r2" else "accuracy"
            return f"{self.task}: {name} **{self.value(self.layer):.2f}** at {at}; no other layer to hold it against yet."
        if not a + b:
            return f"{self.task}: {at} and {other} answer alike about every one of {n:,} held-out images."
        values = self.value(self.layer), self.value(self.against)
        if self.measure() == "r2":
            said = f"R² **{values[0]:.2f}** at {at}, **{values[1]:.2f}** at {other}"
            return f"{self.task}: {said}; {at} comes nearer for **{a:,}** of {n:,} held-out images, {other} for **{b:,}**."
        spread = np.sqrt(max(a + b - (a - b) ** 2 / n, 0)) / n
        said = f"accuracy **{values[0]:.2f}** at {at}, **{values[1]:.2f}** at {other}"
        more = f"a difference of {100 * (a - b) / n:+.1f} ± {100 * spread:.1f} points (standard error)".replace("-", "−")
        alone = f"**{a:,}** are right at {at} alone, **{b:,}** at {other} alone"
        return f"{self.task}: {said}. Of {n:,} held-out images {alone}: {more}."
