"""Where to cut, as one sees it: every layer and task as a table to click, and the images on which two layers part."""

import base64
import html
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
from bokeh.events import Tap

from workbench.figures import theme
from workbench.figures.cuts import cut_curves, cut_order, cut_table, frame_cells
from workbench.figures.lines import spectra
from workbench.panels.layer_cuts import CutState, find_subjects
from workbench.panels.picture import Picture
from workbench.panels.working import Working
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["WhereToCut"]

SHOWN = 24  # images a side
BLANK = (
    "**{}** was not probed yet. *Probe every layer* asks each of its layers for everything that is known of the images (labels, "
    "factors): linear probes learn from at most 2,048 of them and are asked about as many others. Layers appear here one by one, "
    "and stay with the run."
)


class WhereToCut(pn.viewable.Viewer):
    """What every layer knows of every task. Click a cell: on which images it and another layer part, and both spectra.

    What was probed before shows at once, without torch; probing runs in a thread, shows each layer when it is done, and can be
    stopped and gone on with.

    Arguments:
        given: Runs, their paths, folders of runs, names of timm's models (``"timm:resnet50"``: random weights; a tag means
            published ones); without any, the runs in ``runs/``.
        out: Folder in which timm's models and their tables are kept.
        images: To probe with, or what gives them: a random half to learn from, the other to be asked about. By default
            each run's own, and garments for timm's models.

    Example:
        >>> WhereToCut("timm:test_vit").state.subject
        'timm:test_vit'
    """

    def __init__(
        self,
        given: Run | str | Path | Sequence[Run | str | Path] = (),
        *,
        out: str | Path = "runs",
        images: "Images | Callable[[], Images] | None" = None,
        **params: Any,
    ) -> None:
        super().__init__(**params)
        found, complaints = find_subjects(given, out=out, images=images)
        self.state, self._seen = CutState(found), None
        self._plots: weakref.WeakSet = weakref.WeakSet()
        self._renewing = False
        self._build(complaints)
        self.state.param.watch(lambda *events: self._renewing or self.draw(), ["task", "layer", "against"])
        self.state.param.watch(lambda event: self.renew(), "subject")
        self.renew()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def _build(self, complaints: Sequence[str]) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        state = self.state.param
        self.table, self.curves, self.spectrum = Picture(least=560), Picture(least=380), Picture(least=380)
        self.said = pn.pane.Markdown("", styles={"font-size": "18px"}, min_height=48, **wide)
        self.blank = pn.pane.Markdown("", styles={"font-size": "18px"}, **wide)
        self.grids = [pn.pane.HTML("", min_width=420, styles={"flex": "1 1 420px"}, **wide) for _ in range(2)]
        alerts = [pmui.Alert(object=html.escape(c), severity="warning", **wide) for c in complaints]
        self.trouble = pmui.Alert(object="", severity="error", visible=False, **wide)
        self.work = Working(self._begin, self._come, label="Probe every layer")
        self._choices = [
            pmui.Select.from_param(state.task, label="Task", **wide),
            pmui.Select.from_param(state.layer, label="Layer (or click a cell)", **wide),
            pmui.Select.from_param(state.against, label="Held against", **wide),
        ]
        subject = pmui.Select.from_param(state.subject, label="Run or model", **wide)
        controls = pn.Column(subject, *self._choices, self.work, width=280, margin=(12, 10, 0, 5))
        controls.visible = bool(self.state.found)
        right = pn.Column(
            pn.Row(self.curves, **wide), pn.Row(self.spectrum, **wide), min_width=380, styles={"flex": "1 1 380px"}, **wide
        )
        top = pn.FlexBox(self.table, right, flex_wrap="wrap", align_items="flex-start", min_height=500, **wide)
        self.pictures = pn.Column(self.said, top, pn.FlexBox(*self.grids, align_items="flex-start", **wide), **wide)
        self._page = pn.Column(*alerts, self.trouble, pn.Row(controls, self.blank, self.pictures, **wide), **wide)

    def renew(self) -> None:
        """Takes up the tables of the subject as they are now, and draws."""
        with pn.io.hold():
            self._seen, self._renewing = None, True  # menus and layers follow one another, each a reason to draw: once is enough
            try:
                self.state.refresh()
            finally:
                self._renewing = False
            self.draw()

    def draw(self) -> None:
        """Draws everything that depends on the choice, as one message to the browser."""
        with pn.io.hold():
            ready, trouble = self.state.measured(), ""
            try:
                if ready:
                    self._draw()
            except (ValueError, KeyError, TypeError) as error:
                ready, trouble = False, f"The tables cannot be drawn: {error}"
            known = [words for (subject, _), words in self.state.troubles.items() if subject == self.state.subject]
            trouble = " ".join(known) or trouble
            self.trouble.param.update(object=html.escape(trouble), visible=bool(trouble))
            self.pictures.visible = ready
            asked = bool(self.state.found) and not ready and not trouble
            self.blank.param.update(object=BLANK.format(html.escape(self.state.subject)) if asked else "", visible=asked)
            for choice in self._choices:
                choice.visible = ready and not self.work.running  # menus answer when theirs grow
            self.work.button.label = "Probe what is missing" if ready else "Probe every layer"
            self.work.button.variant = "outlined" if ready else "contained"

    def _draw(self) -> None:
        state, probes = self.state, self.state.probes()
        now = (state.subject, len(probes), float(probes["value"].sum()))
        if self._seen != now:
            self._seen = now
            self._plots.clear()
            looks = {"responsive": True, "height": 30 * probes["factor"].nunique() + 150}
            figure = cut_table(probes, title="What can be read from each layer", **looks)
            self.table.show(None)
            self.table.show(figure.opts(hooks=[*figure.opts.get("plot").kwargs["hooks"], self._wire]))
        for plot in list(self._plots):
            frame_cells(plot, self._cells())
            plot.push()
        self.said.object = html.escape(state.finding())
        at = {"factor": state.task, "layer": state.layer, "against": state.against, "title": f"{state.task} by depth"}
        self.curves.show(cut_curves(probes, **at, responsive=True, height=300))
        table = state.spectra()
        table = table.assign(layer=table["layer"].map(state.short))
        colours = dict(zip(dict.fromkeys(table["layer"]), theme.PAIR, strict=False))
        looks = {"quantity": "eigenvalue", "title": "Spectrum of the two layers", "responsive": True, "height": 300}
        self.spectrum.show(spectra(table, by="layer", colours=colours, **looks) if len(table) else None)
        for grid, side, mine in zip(self.grids, state.parted(), (True, False), strict=True):
            grid.object = self._grid(side, mine=mine)

    def _cells(self) -> list[tuple[int, int, str]]:
        """Column, row from below, and colour of the two cells that are chosen."""
        layers, tasks = cut_order(self.state.probes())
        row = len(tasks) - 1 - tasks.index(self.state.task)
        pair = (self.state.against, theme.PAIR[1]), (self.state.layer, theme.PAIR[0])
        return [(layers.index(layer), row, colour) for layer, colour in pair]

    def _wire(self, plot: Any, element: Any) -> None:
        """The hook that makes the drawn table one that can be clicked."""
        if plot not in self._plots:
            self._plots.add(plot)
            plot.handles["plot"].on_event(Tap, self.click)
        frame_cells(plot, self._cells())

    def click(self, event: Tap) -> None:
        """Takes the cell that was clicked; chance and the margins are no layers."""
        layers, tasks = cut_order(self.state.probes())
        column, row = int(event.x // 1), len(tasks) - 1 - int(event.y // 1)
        if 0 <= column < len(layers) and 0 <= row < len(tasks):
            self.state.choose(layers[column], tasks[row])

    def _grid(self, side: pd.DataFrame, *, mine: bool) -> str:
        """The images of one side as HTML: each with its truth and what the two layers said."""
        state = self.state
        names = [html.escape(state.short(name)) for name in (state.layer, state.against)]
        here, there = names if mine else names[::-1]
        numbers = state.measure() == "r2"
        title = f"Told better at {here} than at {there}" if numbers else f"Right at {here}, wrong at {there}"
        shown = side.head(SHOWN)
        count = f"{len(side):,} images" + (f", {len(shown)} shown" if len(shown) < len(side) else "")
        count += ", the largest difference of error first" if numbers and len(side) else ""
        pictures = state.pictures(list(shown["row"]))
        cells = [self._cell(row, *pictures[row.row]) for row in shown.itertuples() if row.row in pictures]
        key = "".join(_dot(colour) + f"{name}&ensp;" for name, colour in zip(names, theme.PAIR, strict=True))
        return (
            f'<div class="parted" style="font-family:{theme.FONT},sans-serif;color:{theme.INK}">'
            f'<div style="font-weight:bold;font-size:{theme.SIZE["title"]}">{title}</div>'
            f'<div style="color:{theme.QUIET};font-size:{theme.SIZE["note"]};margin:4px 0 10px;line-height:1.4">{count}.<br>'
            f"Below each: the truth, then what is read at&ensp;{key}</div>"
            f'<div style="display:flex;flex-wrap:wrap;gap:10px 8px">{"".join(cells)}</div></div>'
        )

    @staticmethod
    def _cell(row: Any, png: bytes, about: str) -> str:
        picture = base64.b64encode(png).decode()
        colours = (theme.INK, *theme.PAIR)
        lines = zip((row.truth, row.answer, row.answer_there), colours, ("bold", "normal", "normal"), strict=True)
        style = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;"
        said = "".join(f'<div style="{style}color:{c};font-weight:{w}">{html.escape(str(t))}</div>' for t, c, w in lines)
        return (
            f'<div class="thumb" data-row="{row.row}" title="{html.escape(about)}" '
            f'style="width:72px;font-size:{theme.SIZE["note"]};line-height:1.25;text-align:center">'
            f'<img width="72" style="image-rendering:pixelated;border-radius:3px" src="data:image/png;base64,{picture}">'
            f"{said}</div>"
        )

    def _begin(self) -> Iterator[Any]:
        self._first = not self.state.measured()
        return self.state.found[self.state.subject].probe()

    def _come(self) -> None:
        """Takes up the layers that were done since."""
        ended = not self.work.running
        if ended and self._first:
            self.state.forget()
        if ended or len(self.state.probes()) != (self._seen or (0, 0))[1]:
            self.renew()


def _dot(colour: str) -> str:
    return f'<span style="color:{colour}">●</span> '
