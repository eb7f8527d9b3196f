"""Two networks as one sees them: the map of all their layers to click, and an image with its neighbours in both."""

import base64
import html
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui
from bokeh.events import Tap

from workbench.figures import theme
from workbench.figures.comparisons import similarity_map
from workbench.figures.cuts import frame_cells
from workbench.figures.lines import spectra
from workbench.panels.clickable import Clickable
from workbench.panels.layer_cuts import find_subjects
from workbench.panels.picture import Picture
from workbench.panels.two_networks import CompareState
from workbench.panels.working import Working
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["Compare"]

SHOWN = 24  # images to choose from
FRAME = "outline:3px solid {};outline-offset:1px;"


class Compare(pn.viewable.Viewer):
    """How alike every two layers of two networks are. Click a cell: its numbers, spectra, and an image's neighbours in both.

    What was compared before shows at once, without torch; comparing runs in a thread, shows what the first images say, then
    what more of them say, and can be stopped.

    Arguments:
        given: Runs, their paths, folders of runs, names of timm's models (``"timm:resnet50"``: random weights; a tag means
            published ones); without any, the runs in ``runs/``. The first two are shown first; one alone is held against
            itself as it was at the start.
        out: Folder in which timm's models are kept.
        images: What both look at, or what gives them; by default held-out images of the first run's kind.

    Example:
        >>> Compare(["timm:test_vit", "timm:resnet18"]).state.other
        'timm:resnet18'
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
        self.state = CompareState(found)
        self._drawn: Any = None
        self._chosen: list[list[Any]] = []
        self._renewing = False
        self._plots: weakref.WeakSet = weakref.WeakSet()
        self._build(complaints)
        self.state.param.watch(lambda *events: self._turn(), list(PAIR + CHOICE))
        self.renew()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def _build(self, complaints: Sequence[str]) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        state = self.state.param
        self.map, self.spectrum = Picture(least=430), Picture(least=430)
        self.said = pn.pane.HTML("", min_height=76, margin=(12, 10, 6, 10), **wide)
        self.near = Clickable(self._show_image, **wide)
        self.strip = Clickable(self._show_image, **wide)
        self.work = Working(self.state.begin, self._come, label="Compare layer by layer")
        alerts = [pmui.Alert(object=html.escape(c), severity="warning", **wide) for c in complaints]
        self.trouble = pmui.Alert(object="", severity="error", visible=False, **wide)
        self.remark = pmui.Alert(object="", severity="info", visible=False, **wide)
        small = {"size": "small", "description": ""} | wide
        subjects = [
            pmui.Select.from_param(state.one, label="Run or model (rows)", **small),
            pmui.Select.from_param(state.step, label="Its step", **small),
            pmui.Select.from_param(state.other, label="Against (columns)", **small),
            pmui.Select.from_param(state.other_step, label="Its step", **small),
        ]
        self._choices = pn.Column(
            pmui.Select.from_param(state.measure, label="How alike", **small),
            pmui.Select.from_param(state.layer, label="Layer, row (or click)", **small),
            pmui.Select.from_param(state.other_layer, label="Layer, column (or click)", **small),
            pmui.Select.from_param(state.factor, label="Below each image", **small),
            **wide,
        )
        controls = pn.Column(
            *subjects, self.work, self._choices, width=230, margin=(12, 10, 0, 5), visible=bool(self.state.found)
        )
        order = pmui.Select.from_param(state.order, label="Images", width=190, size="small", description="")
        back = pmui.Button(label="Previous", variant="outlined", size="small", on_click=lambda event: self.state.move(-1))
        on = pmui.Button(label="Next", variant="outlined", size="small", on_click=lambda event: self.state.move(1))
        left = pn.Column(pn.Row(self.map, **wide), pn.Row(self.spectrum, **wide), styles={"flex": "1 1 430px"}, min_width=430)
        looks = {"styles": {"flex": "1 1 600px"}, "min_width": 560}
        right = pn.Column(self.near, pn.Row(order, back, on, align="end", **wide), self.strip, **looks)
        sides = pn.FlexBox(left, right, flex_wrap="wrap", align_items="flex-start", **wide)
        self.pictures = pn.Column(self.said, sides, **wide)
        self._page = pn.Column(*alerts, self.trouble, self.remark, pn.Row(controls, self.pictures, **wide), **wide)

    def _show_image(self, row: int) -> None:
        self.state.row = row

    def _turn(self) -> None:
        """Draws what was chosen, once, though one choice may bring about others."""
        before, now = self._chosen, self._choice()
        if self._renewing or before == now:
            return
        self._chosen = now
        if before[0] != now[0]:
            self.renew()
        else:
            self.draw()

    def _choice(self) -> list[list[Any]]:
        return [[getattr(self.state, name) for name in names] for names in (PAIR, CHOICE)]

    def _come(self) -> None:
        """Takes up what the comparing has kept since."""
        if self.state.kept() != self._kept or not self.work.running:
            self.renew()

    def renew(self) -> None:
        """Takes up the tables of the two as they are now, and draws."""
        with pn.io.hold():
            self._drawn, self._renewing, self._kept = None, True, self.state.kept()
            try:
                self.state.refresh()
            finally:
                self._renewing, self._chosen = False, self._choice()
            self.draw()

    def draw(self) -> None:
        """Draws everything that depends on the choice, as one message to the browser."""
        with pn.io.hold():
            state = self.state
            ready, trouble = state.compared(), state.trouble
            try:
                if ready:
                    self._draw()
            except (ValueError, KeyError, TypeError, IndexError) as error:
                ready, trouble = False, f"The tables cannot be drawn: {error}"
            self.trouble.param.update(object=html.escape(trouble), visible=bool(trouble))
            remarks = state.remarks()
            self.remark.param.update(object=html.escape(" ".join(remarks)), visible=bool(remarks))
            self.pictures.visible = self._choices.visible = ready
            self.work.button.label = "Compare again" if ready else "Compare layer by layer"
            self.work.button.variant = "outlined" if ready else "contained"

    def _draw(self) -> None:
        state = self.state
        if self._drawn != state.measure:
            self._drawn = state.measure
            self._plots.clear()
            table = state.similarity()
            table = table.assign(**{c: [state.short(s, layer) for layer in table[c]] for c, s in COLUMNS.items()})
            null = {"null": "null" if state.measure == "cka" else "chance"}
            looks = {
                "responsive": True,
                "height": 32 * len(state.layers("one")) + 190,
                "title": f"{WORDS[state.measure]}, layer by layer",
            }
            figure = similarity_map(table, **null, xlabel=state.called("other"), ylabel=state.called("one"), **looks)
            self.map.show(None)
            self.map.show(figure.opts(hooks=[*figure.opts.get("plot").kwargs["hooks"], self._wire]))
        for plot in list(self._plots):
            frame_cells(plot, self._cells())
            plot.push()
        self.said.object = (
            f'<div style="{TEXT}"><div style="font-size:22px;font-weight:bold">{html.escape(state.title())}</div>'
            f'<div class="finding" style="font-size:16px;margin-top:6px">{_bold(state.finding())}.</div></div>'
        )
        both = state.spectra()
        colours = dict(zip(dict.fromkeys(both["which"]), theme.PAIR, strict=True))
        looks = {"by": "which", "quantity": "eigenvalue", "title": "Spectra of the two layers", "responsive": True, "height": 260}
        self.spectrum.show(spectra(both, colours=colours, legend_position="bottom", legend_opts={"title": None}, **looks))
        self.near.object = self._neighbours()
        self.strip.object = self._to_choose()

    def _cells(self) -> list[tuple[int, int, str]]:
        """Column, row from below, and colour of the cell that is chosen."""
        state = self.state
        return [(state.layers("other").index(state.other_layer), state.layers("one").index(state.layer), CHOSEN)]

    def _wire(self, plot: Any, element: Any) -> None:
        """The hook that makes the drawn map one that can be clicked."""
        if plot not in self._plots:
            self._plots.add(plot)
            plot.handles["plot"].on_event(Tap, self.click)
        frame_cells(plot, self._cells())

    def click(self, event: Tap) -> None:
        """Takes the cell that was clicked; the margins are no layers."""
        layers, others = self.state.layers("one"), self.state.layers("other")
        column, row = int(event.x // 1), int(event.y // 1)
        if 0 <= column < len(others) and 0 <= row < len(layers):
            self.state.choose(layers[row], others[column])

    def _neighbours(self) -> str:
        """The pair's numbers, the image, and its neighbours on both sides, as HTML."""
        state = self.state
        names = [f"{html.escape(state.called(s))}, {html.escape(state.short(s))}" for s in SIDES]
        own = self._picture(state.row, side=76, style=FRAME.format(theme.INK), bold=True)
        both = [state.neighbours(s) for s in SIDES]
        rows = "".join(self._side(*each) for each in zip(SIDES, names, both, theme.PAIR, strict=True))
        framed = f'<span style="{FRAME.format(SHARED)}border-radius:3px;padding:0 4px;margin:0 6px 0 3px">framed</span>'
        key = f"{framed} neighbour in both"
        key += f"; <b>bold</b>: same {html.escape(state.factor)}" if state.kinds(state.factor) else ""
        shared = int(both[0]["shared"].sum())
        return (
            f'<div class="near" style="{TEXT}"><div style="font-weight:bold;font-size:{theme.SIZE["title"]};margin-bottom:4px">'
            f"{names[0]} · {names[1]}</div>"
            f'<div style="font-size:{theme.SIZE["tick"]};line-height:1.45;margin-bottom:12px">{_bold(state.about_pair())}.</div>'
            f'<div style="display:flex;gap:20px"><div style="flex:none">{own}</div>'
            f'<div style="{SMALL}line-height:1.6">An image and its {len(both[0])} nearest, nearest first: '
            f'<b class="shared">{shared} in both</b>.<br>{key}.<br>Click any image to see its neighbours.</div></div>{rows}</div>'
        )

    def _side(self, side: str, name: str, table: Any, colour: str) -> str:
        state = self.state
        share = state.kept_kinds(side)
        about = ""
        if share == share:
            about = f"{int(table['alike'].sum())} of the same {html.escape(state.factor)} (over all images {share:.0%})"
        cells = [
            self._picture(
                int(one.row),
                side=50,
                style=FRAME.format(SHARED) if one.shared else "",
                bold=bool(one.alike),
                more=f"cosine {one.cosine:.3f}",
            )
            for one in table.itertuples()
        ]
        return (
            f'<div class="side {side}" style="margin-top:12px"><div style="margin-bottom:7px;font-size:{theme.SIZE["tick"]}">'
            f'<b style="color:{colour}">{name}</b>&ensp;<span style="color:{theme.QUIET}">{about}</span></div>'
            f'<div style="display:flex;gap:8px;flex-wrap:wrap">{"".join(cells)}</div></div>'
        )

    def _to_choose(self) -> str:
        """Images to choose from as HTML, the one that is looked at framed."""
        state = self.state
        order, agreement, k = state.ordered(), state.agreement(), state.ids("one").shape[1]
        cells = [
            self._picture(
                row,
                side=44,
                style=FRAME.format(theme.INK) if row == state.row else "",
                bold=False,
                word=f"{agreement[row]} / {k}",
            )
            for row in map(int, order[:SHOWN])
        ]
        said = f"Below each image: how many of its {k} neighbours are in both."
        return (
            f'<div style="{TEXT}"><div style="{SMALL}color:{theme.QUIET};margin:2px 0 8px">{said}</div>'
            f'<div class="strip" style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div></div>'
        )

    def _picture(self, row: int, *, side: int, style: str, bold: bool, more: str = "", word: str | None = None) -> str:
        """One image with a word below it, to be clicked."""
        png, value, about = self.state.described(row)
        looks = f"color:{theme.INK if bold else theme.QUIET};font-weight:{'bold' if bold else 'normal'}"
        tip = html.escape("\n".join(part for part in (more, about) if part))
        return (
            f'<div class="thumb" data-row="{row}" tabindex="0" role="button" title="{tip}" '
            f'style="width:{side}px;cursor:pointer;text-align:center;{SMALL}line-height:1.25">'
            f'<img width="{side}" style="image-rendering:pixelated;border-radius:3px;{style}" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f'<div style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap;margin-top:3px;{looks}">'
            f"{html.escape(value if word is None else word)}</div></div>"
        )


def _bold(words: str) -> str:
    """Words as HTML, in which what stands between two pairs of asterisks is bold."""
    return "".join(f"<b>{part}</b>" if i % 2 else part for i, part in enumerate(html.escape(words).split("**")))


PAIR = ("one", "step", "other", "other_step")
CHOICE = ("measure", "layer", "other_layer", "order", "factor", "row")
SIDES = ("one", "other")
COLUMNS = {"layer": "one", "other": "other"}
WORDS = {"cka": "CKA", "mutual_knn": "Shared neighbours"}
CHOSEN = theme.CATEGORIES[4]
SHARED = theme.CATEGORIES[2]
TEXT = f"font-family:{theme.FONT},sans-serif;color:{theme.INK};"
SMALL = f"font-size:{theme.SIZE['note']};"
