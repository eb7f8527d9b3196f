"""One run's codes as one sees them: sliders that turn them, what is drawn, what each says of each factor, what is missing."""

import base64
import html
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
from bokeh.events import Tap

from workbench.figures import theme
from workbench.figures.factor_maps import factor_map, frame_row
from workbench.figures.supports import support_scatter
from workbench.panels.clickable import Clickable
from workbench.panels.factor_side import FactorSide
from workbench.panels.picture import Picture

__all__ = ["FactorColumn"]

ROW = 42  # screen pixels of a code: its slider, and what is drawn when it is turned
QUANTITIES = {"information": "share of the factor's entropy", "importance": "importance, each factor's of sum 1"}
SCORES = (
    ("disentanglement", "DCI-D"),
    ("completeness", "C"),
    ("informativeness", "I"),
    ("mig", "MIG"),
    ("sap", "SAP"),
    ("infom", "InfoM"),
    ("infoe", "E"),
    ("infoc", "C"),
    ("hausdorff_support", "Hausdorff"),
)


class FactorColumn(pn.viewable.Viewer):
    """A column of the page: whatever is chosen in any of its parts is chosen in all.

    Arguments:
        side: The state.
        alone: Whether it is the only one, whose title the page has already.
    """

    def __init__(self, side: FactorSide, *, alone: bool = False, **params: Any) -> None:
        super().__init__(**params)
        self.side, self.alone, self.kind = side, alone, "information"
        self._drawn: Any = None
        self._coloured: Any = None
        self._png: bytes | None = None
        self._setting = False
        self._plots: weakref.WeakSet = weakref.WeakSet()
        self.sliders: dict[int, pmui.FloatSlider] = {}
        self._build()
        self.side.param.watch(lambda *events: self.side.moving or self.redraw(), "values")

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        state, small = self.side.param, {"size": "small", "description": ""} | wide
        self.trouble = pmui.Alert(object="", severity="error", visible=False, **wide)
        self.remark = pmui.Alert(object="", severity="info", visible=False, **wide)
        self.said = pn.pane.HTML("", margin=(2, 10, 4, 10), **wide)
        self.map, self.scatter = Picture(least=255, tapped=None), Picture(least=255, tapped=self._tap_scatter)
        self.examples = Clickable(self._show_image, margin=(0, 10, 6, 10), **wide)
        self._turning = pn.Column(width=116, margin=(0, 0, 0, 4))
        self.strips = Clickable(lambda code: self.side.choose(code), margin=0, styles={"flex": "none"})
        self.image = pn.pane.HTML("", margin=(0, 0, 0, 10))
        self._latents = pn.Column(self.examples, pn.Row(self._turning, self.strips, self.image, margin=0), margin=0, **wide)
        self.without = pn.pane.HTML("", margin=(4, 10), visible=False, **wide)
        self.note = pn.pane.HTML("", margin=(0, 10), **wide)
        self.tied = pn.pane.HTML("", margin=(2, 10), visible=False, **wide)
        self.suite = pn.pane.HTML("", margin=(10, 10), **wide)
        subject = pmui.Select.from_param(state.subject, label="Run or model", **small)
        self._layer = pmui.Select.from_param(state.layer, label="Layer", **small)
        self._codes = pn.Row(
            pmui.Select.from_param(state.code, label="Code across (or click)", **small),
            pmui.Select.from_param(state.other, label="Code upwards", **small),
            **wide,
        )
        pictures = pn.FlexBox(self.map, self.scatter, flex_wrap="wrap", **wide)
        self.pictures = pn.Column(
            self.said, self.tied, self._latents, self.without, pictures, self.note, self._codes, self.suite, **wide
        )
        self._layout = pn.Column(
            pn.Row(subject, self._layer, **wide),
            self.trouble,
            self.remark,
            self.pictures,
            min_width=540,
            styles={"flex": "1 1 540px"},
        )

    # choosing

    def _show_image(self, row: int) -> None:
        self.side.row = row

    def _tap_map(self, event: Tap) -> None:
        """Takes the cell that was clicked; the margins are no codes."""
        codes, factors = self.side.codes(), self._factors()
        column, row = int(event.x // 1), len(codes) - 1 - int(event.y // 1)
        if 0 <= column < len(factors) and 0 <= row < len(codes):
            self.side.choose(codes[row], factors[column])

    def _tap_scatter(self, x: float, y: float) -> None:
        """Takes the image whose point is nearest to where was clicked."""
        points = self._standardised(self.side.scatter())
        self.side.row = int(((points - np.array([x, y])) ** 2).sum(1).argmin())

    def _turn(self, code: int, value: float) -> None:
        if not self._setting:
            self.side.turn(code, value)

    # drawing

    def draw(self) -> None:
        """Draws everything that depends on the choice, as one message to the browser."""
        side = self.side
        with pn.io.hold():
            ready, trouble = side.judged(), side.trouble
            try:
                if ready:
                    self._draw()
            except (ValueError, KeyError, TypeError, IndexError) as error:
                ready, trouble = False, f"The tables cannot be drawn ({error}); delete tables/factored and judge again."
            self.trouble.param.update(object=html.escape(trouble), visible=bool(trouble))
            remarks = side.remarks()
            self.remark.param.update(object=html.escape(" ".join(remarks)), visible=bool(remarks))
            self.pictures.visible = ready

    def _draw(self) -> None:
        side = self.side
        self.said.object = self._words()
        tied = side.where == "training"
        self.tied.param.update(object=_correlations(side) if tied else "", visible=tied)
        now = (side.subject, side.layer, side.where, self.kind, side.about("images"), side.about("n"))
        if self._drawn != now:
            self._drawn = now
            self._plots.clear()
            table = side.matrix(self.kind)
            looks = {"responsive": True, "height": self._height(), "ylabel": "", "title": "Code by factor"}
            figure = factor_map(table, note="", **looks).opts(hv.opts.HeatMap(colorbar=False))
            if len(self._factors()) > MANY:
                figure = figure.opts(hv.opts.Labels(text_font_size="10px"))
            self.map.show(None)
            self.map.show(figure.opts(hooks=[*figure.opts.get("plot").kwargs["hooks"], self._wire]))
            self._build_sliders()
            self.suite.object = _suite(side)
        for plot in list(self._plots):
            self._frame(plot)
            plot.push()
        self._draw_scatter()
        self._latents.visible = side.decodes()
        why = " ".join(filter(None, [side.left_out(), side.without_traversals()]))
        self.without.param.update(object=f'<div style="{SMALL}color:{theme.QUIET}">{html.escape(why)}</div>', visible=bool(why))
        if side.decodes():
            self.examples.object = self._examples()
            self.redraw()
            self._draw_strips()

    def _height(self) -> int:
        return max(22 * len(self.side.codes()), 130) + 135

    def _factors(self) -> list[str]:
        return list(dict.fromkeys(self.side.matrix(self.kind)["factor"]))

    def _wire(self, plot: Any, element: Any) -> None:
        """The hook that makes the drawn map one that can be clicked."""
        if plot not in self._plots:
            self._plots.add(plot)
            plot.handles["plot"].on_event(Tap, self._tap_map)
        self._frame(plot)

    def _frame(self, plot: Any) -> None:
        codes = self.side.codes()
        frame_row(plot, len(codes) - 1 - codes.index(self.side.code), len(self._factors()))

    def _words(self) -> str:
        side = self.side
        told = {name: side.score(name) for name, _ in SCORES}
        numbers = "&ensp;".join(f"{word} <b>{told[name]:.2f}</b>" for name, word in SCORES)
        title = f'<div class="title" style="font-weight:bold;font-size:{theme.SIZE["title"]}">{html.escape(side.title())}</div>'
        return (
            f'<div style="{TEXT}">{"" if self.alone else title}'
            f'<div class="finding" style="font-size:{theme.SIZE["tick"]};margin-top:3px">{html.escape(side.finding())}</div>'
            f'<div class="scores" style="{SMALL}margin-top:3px;color:{theme.QUIET}">{numbers}</div></div>'
        )

    def _standardised(self, table: Any) -> np.ndarray:
        dims = self.side.dims().set_index("code")
        columns = [
            (table[name] - dims.loc[code, "mean"]) / (dims.loc[code, "spread"] or 1)
            for name, code in (("x", self.side.code), ("y", self.side.other))
        ]
        return np.stack(columns, 1)

    def _draw_scatter(self) -> None:
        side = self.side
        table, corner = side.scatter(), side.corner()
        witness = None
        if corner is not None:
            ends = {"x": np.array([corner["x"], corner["near_x"]]), "y": np.array([corner["y"], corner["near_y"]])}
            witness = self._standardised(ends)
        dead = {side.code, side.other} & side.dead()
        gap = corner["distance"] if corner else 0.0
        said = f"Empty corner: {gap:.2f}" if gap > FULL else f"Support full: {gap:.2f}"
        squared = f"{corner['distance'] ** 2:.2f}" if corner else "–"
        words = f"Left: {QUANTITIES[self.kind]}; dead codes grey; click a cell. Right: codes in standard deviations; "
        words += (
            "×: corners of the product of their supports that no image comes near; the line leads from its emptiest place to "
        )
        words += f"the nearest image, squared {squared} (mean of all pairs {side.score('hausdorff_support'):.2f})"
        words += f"; code {min(dead)} is dead, its unit is noise." if dead else "."
        self.note.object = f'<div style="{TEXT}{SMALL}color:{theme.QUIET};line-height:1.35">{words}</div>'
        axes = tuple(f"code {code}" for code in (side.code, side.other))
        looks = {"responsive": True, "height": self._height(), "note": "", "title": said}
        figure = support_scatter(
            self._standardised(table), factor=side.values_of_factor(), name=side.factor, witness=witness, axes=axes, **looks
        )
        now = (*self._drawn, side.factor)
        if now != self._coloured:  # colours are drawn anew; of other codes only the numbers change
            self._coloured = now
            self.scatter.show(None)
        self.scatter.show(figure.opts(hv.opts.Points(colorbar_position="bottom", colorbar_opts={"height": 8})))

    # traversals

    def _build_sliders(self) -> None:
        """A slider a code, with its range; those that are there are taken again."""
        ranges = self.side.ranges() if self.side.decodes() else {}
        if list(ranges) != list(self.sliders):
            self.sliders = {}
            for code in ranges:
                looks = {"show_value": False, "size": "small", "label": "", "width": 104, "height": ROW, "margin": (0, 0, 0, 6)}
                self.sliders[code] = pmui.FloatSlider(start=-1, end=1, step=0.01, value=0, **looks)
                self.sliders[code].param.watch(lambda event, code=code: self._turn(code, event.new), "value")
            self._turning[:] = [pn.Spacer(height=HEAD), *self.sliders.values()]
        self._set_sliders(ranges)

    def _set_sliders(self, ranges: Mapping[int, tuple[float, float]]) -> None:
        """Sets the sliders to the codes that are drawn, each as far as it goes or the code lies."""
        self._setting = True
        for code, (low, high) in ranges.items():
            value = self.side.values[code]
            start, end = min(low, value), max(high, value)
            new = {"start": start, "end": end, "step": (end - start) / 100 or 1e-6, "value": value}
            slider = self.sliders[code]
            slider.param.update(**{name: v for name, v in new.items() if getattr(slider, name) != v})
        self._setting = False

    def redraw(self) -> None:
        """Draws the codes as they are turned; where the decoder is not there yet, begins to load it."""
        side = self.side
        if not side.decodes() or not side.values:
            return
        with pn.io.hold():
            self._set_sliders(side.ranges())
            png, words = side.drawn(), "as decoded"
            if png is None:
                side.decoder().load(self._loaded)
                words = "loading the decoder…"
            if side.decoder().trouble:
                words = f"cannot be drawn: {side.decoder().trouble}"
            elif side.turned() and png is not None:
                words = "codes turned"
            self._png = png or self._png  # until the decoder is there, the last picture stays
            own, about = side.original()
            width = 220 if self.alone else 88
            pair = _image(own, "the image", about, width), _image(self._png, words, "", width, name="decoded")
            self.image.object = (
                f'<div style="display:flex;gap:16px;flex-direction:{"row" if self.alone else "column"}">{"".join(pair)}</div>'
            )

    def _loaded(self) -> None:
        self.redraw()
        self._draw_strips()

    def _draw_strips(self) -> None:
        side = self.side
        table = side.traversals()
        if table is None:
            side.decoder().load(self._loaded)
            self.strips.object = f'<div style="{SMALL}color:{theme.QUIET};padding:12px">Loading the decoder…</div>'
            return
        dead = side.dead()
        rows = "".join(
            self._strip(code, part["thumbnail"], dead=code in dead) for code, part in table.groupby("code", sort=False)
        )
        words = "each code alone, from its 1st to its 99th percentile"
        head = f'<div style="height:{HEAD}px;{SMALL}color:{theme.QUIET}">{words}</div>'
        self.strips.object = f'<div class="strips" style="{TEXT}">{head}{rows}</div>'

    def _strip(self, code: int, pictures: Sequence[bytes], *, dead: bool) -> str:
        side = self.side
        chosen = code == side.code
        best = side.best_factor(code)
        said = "dead" if dead else f"{html.escape(best)} {100 * side.says(code, best):.0f}%"
        frame = f"outline:3px solid {theme.PAIR[1]};outline-offset:-1px;" if chosen else ""
        looks = "opacity:.35;" if dead else ""
        side_px = ROW - 6
        images = "".join(f'<img height="{side_px}" style="{PIXELS}{looks}" src="{_source(png)}">' for png in pictures)
        return (
            f'<div class="strip{" chosen" if chosen else ""}" data-row="{code}" tabindex="0" role="button" '
            f'title="code {code}" style="display:flex;align-items:center;gap:2px;height:{ROW}px;box-sizing:border-box;'
            f'padding:0 3px;cursor:pointer;{frame}"><div style="width:{110 if self.alone else 62}px;{SMALL}line-height:1.2">'
            f"<b>code {code}</b><br>"
            f'<span style="color:{theme.QUIET}">{said}</span></div>{images}</div>'
        )

    def _examples(self) -> str:
        side = self.side
        cells = []
        for row in list(dict.fromkeys([*side.examples(), side.row])):
            png = side.tables["images"]["thumbnail"].iloc[row]
            frame = f"outline:3px solid {theme.INK};outline-offset:1px;" if row == side.row else ""
            cells.append(
                f'<img class="example" data-row="{row}" tabindex="0" role="button" height="30" '
                f'style="{PIXELS}cursor:pointer;{frame}" src="{_source(png)}">'
            )
        words = f'<span style="{SMALL}color:{theme.QUIET}">An image to turn the codes of:</span>'
        return f'<div style="{TEXT}display:flex;gap:7px;align-items:center">{words}{"".join(cells)}</div>'


def _correlations(side: FactorSide) -> str:
    """How strongly factors go together in the images judged on, as an HTML table; the bluer, the stronger."""
    table = side.correlations()
    cell = "padding:1px 8px;text-align:right;"
    head = "".join(f'<td style="{cell}color:{theme.QUIET}">{html.escape(name)}</td>' for name in table)
    rows = ""
    for name, row in table.iterrows():
        cells = "".join(f'<td style="{cell}background:{_pale(value)}">{value:.2f}</td>' for value in row)
        rows += f'<tr><td style="{cell}color:{theme.QUIET}">{html.escape(str(name))}</td>{cells}</tr>'
    words = "Correlation of the factors in these images"
    begin = '<table class="correlations" style="border-collapse:collapse;margin:3px 0">'
    return f'<div style="{TEXT}{SMALL}">{words}{begin}<tr><td></td>{head}</tr>{rows}</table></div>'


def _pale(value: float) -> str:
    return theme.PALE[round(min(abs(value), 1) * (len(theme.PALE) - 1))]


def _suite(side: FactorSide) -> str:
    """Every measure as an HTML table, with how it was taken and what is doubtful about it."""
    table = side.tables["suite"]
    said = list(dict.fromkeys(part for words in table["warnings"] for part in words.split("; ") if part))
    cell = "padding:1px 12px 1px 0;"
    rows = "".join(
        f'<tr><td style="{cell}">{html.escape(one.measure.replace("_", " "))}</td>'
        f'<td style="{cell}text-align:right"><b>{one.value:.3f}</b></td>'
        f'<td style="{cell}color:{theme.QUIET}">{html.escape(one.convention)}</td></tr>'
        for one in table.itertuples()
    )
    doubts = "".join(f"<li>{html.escape(words)}</li>" for words in said)
    doubts = f'<div style="margin-top:6px">Warnings:<ul style="margin:2px 0">{doubts}</ul></div>' if said else ""
    n, d = side.about("n"), side.about("d")
    return (
        f'<div class="suite" style="{TEXT}{SMALL}"><b style="font-size:{theme.SIZE["label"]}">Every measure</b> '
        f'<span style="color:{theme.QUIET}">N = {n:,} {html.escape(str(side.about("images")))}, D = {d:,}</span>'
        f'<table style="border-collapse:collapse;margin-top:4px">{rows}</table>{doubts}</div>'
    )


def _image(png: bytes | None, words: str, about: str, width: int, *, name: str = "original") -> str:
    picture = (
        f'<img class="{name}" width="{width}" style="{PIXELS}" src="{_source(png)}">'
        if png
        else '<div style="height:88px;width:88px"></div>'
    )
    return (
        f'<div title="{html.escape(about)}" style="{TEXT}{SMALL}text-align:center;width:{width}px">'
        f'<div style="color:{theme.QUIET};margin-bottom:2px">{html.escape(words)}</div>{picture}</div>'
    )


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


FULL = 0.75  # standard deviations: a gap below which hardly a combination is missing
MANY = 5  # factors beyond which a cell has room for small numbers only
HEAD = 18  # screen pixels above the rows
TEXT = f"font-family:{theme.FONT},sans-serif;color:{theme.INK};"
SMALL = f"font-size:{theme.SIZE['note']};"
PIXELS = "image-rendering:pixelated;border-radius:2px;"
