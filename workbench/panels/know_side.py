"""One layer's samples as one sees them: images in rows, what they say together, and about each when it is pointed at."""

import base64
import html
from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
import panel_material_ui as pmui

from workbench.figures import theme
from workbench.panels.clickable import Clickable
from workbench.panels.know_drawing import FRAMES, Drawn, png_of
from workbench.panels.know_state import CHANGES, KnowState

__all__ = ["KnowSide"]

TEXT = f"font-family:{theme.FONT},sans-serif;color:{theme.INK};"
SMALL = f"font-size:{theme.SIZE['note']};line-height:1.45;"
QUIET = f"color:{theme.QUIET};"
MOST = 0.5  # deviation of the darkest pixel of the map
STYLE = f"""<style>
.know {{ {TEXT} position:relative }}
.know img {{ image-rendering:pixelated; display:block; border-radius:2px }}
.sheet {{ display:flex; flex-wrap:wrap; gap:5px; position:relative }}
.sample {{ outline-offset:1px }}
.sample:hover, .sample:focus {{ outline:2px solid {theme.INK} }}
.blank {{ background:{theme.GRID}; border-radius:2px }}
.card {{ display:none; position:absolute; left:0; top:calc(100% + 6px); z-index:9; background:{theme.PAPER}; padding:9px 12px;
  border:1px solid {theme.GREY}; border-radius:5px; box-shadow:0 3px 12px #0002; gap:12px; {SMALL} pointer-events:none }}
.sample:hover .card, .sample:focus .card {{ display:flex }}
.own img {{ outline:3px solid {theme.INK}; outline-offset:1px }}
.strip {{ display:grid; grid-template-columns:repeat({FRAMES}, minmax(0, 56px)); gap:5px; position:relative }}
.strip img {{ width:100% }}
.frame {{ cursor:pointer; text-align:center; {SMALL} }}
.frame.chosen {{ font-weight:bold; border-bottom:3px solid {theme.INK} }}
.ends {{ display:flex; align-items:center; gap:10px; margin-bottom:14px; {SMALL} {QUIET} }}
.change {{ display:flex; align-items:center; gap:10px; margin-bottom:6px }}
.change > .words {{ flex:none; width:128px; font-size:{theme.SIZE["tick"]} }}
.below {{ display:flex; flex-wrap:wrap; gap:10px 26px; margin-top:14px; {SMALL} }}
table {{ border-collapse:collapse; {SMALL} }}
td, th {{ padding:1px 9px 1px 0; text-align:left; font-weight:normal }}
td.number, th.number {{ text-align:right; font-variant-numeric:tabular-nums }}
.bar {{ position:relative; width:110px; height:11px; background:{theme.GRID} }}
.bar > div {{ position:absolute; top:0; bottom:0; left:0 }}
.bar > i {{ position:absolute; top:-2px; bottom:-2px; width:2px; background:{theme.INK} }}
</style>"""


class KnowSide(pn.viewable.Viewer):
    """A side of the page.

    Arguments:
        state: The state of both.
        side: ``"left"`` or ``"right"``.
    """

    def __init__(self, state: KnowState, side: str, *, chosen: Callable[[int], Any], **params: Any) -> None:
        super().__init__(**params)
        self.state, self.side, self.colour = state, side, theme.PAIR[side == "right"]
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        word = {"left": "Layer on the left", "right": "Layer on the right"}[side]
        self.layer = pmui.Select.from_param(state.param[side], label=word, size="small", description="", width=240)
        self.sheet = Clickable(chosen, margin=(0, 0, 0, 10), **wide)
        self._layout = pn.Column(self.layer, self.sheet, styles={"flex": "1 1 350px"}, min_width=340)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def draw(self) -> None:
        """Draws what there is by now."""
        state = self.state
        self._layout.visible = self.side in state.shown() and state.studio is not None
        if self._layout.visible:
            view = {"samples": self._samples, "between": self._between, "dimensions": self._dimensions}[state.view]
            self.sheet.object = f'{STYLE}<div class="know {self.side}">{self._of_tokens()}{view()}</div>'

    # the three views

    def _samples(self) -> str:
        state = self.state
        own = f'<div class="own" title="the image itself">{_image(png_of(state.studio.source(state.first)), 54)}</div>'
        cells = "".join(self._sample(one, 54) for one in state.of(state.rows(self.side)[0].condition))
        return (
            f'<div style="display:flex;gap:16px"><div>{own}<div style="{SMALL}{QUIET}margin-top:5px;width:54px">the image</div>'
            f'</div><div class="sheet" style="flex:1">{cells}</div></div><div class="below">{self._maps()}{self._numbers()}</div>'
        )

    def _between(self) -> str:
        state = self.state
        rows = [state.of(row.condition) for row in state.rows(self.side)]
        large = "".join(self._sample(one, 88) for one in rows[state.at])
        heads = "".join(
            f'<div class="frame{" chosen" * (at == state.at)}" data-row="{at}" tabindex="0" role="button">{word}</div>'
            for at, word in enumerate(["first", *(f"{at}/{FRAMES - 1}" for at in range(1, FRAMES - 1)), "second"])
        )
        cells = "".join(self._sample(rows[at][i], 0) for i in range(state.many()) for at in range(FRAMES))
        ends = [_image(png_of(state.studio.source(one)), 0) for one in (state.first, state.second)]
        sources = f'<div class="own">{ends[0]}</div>{"<div></div>" * (FRAMES - 2)}<div class="own">{ends[1]}</div>'
        share = f"{state.at} of {FRAMES - 1} parts of the way from the first image to the second"
        return (
            f'<div style="{SMALL}{QUIET}margin-bottom:6px">{share}</div><div class="sheet large">{large}</div>'
            f'<div class="strip" style="margin-top:18px">{heads}{sources}{cells}</div>'
        )

    def _dimensions(self) -> str:
        state = self.state
        common, many = state.common(self.side)
        rows = "".join(
            f'<div class="change"><div class="words">{html.escape(row.words)}</div><div class="sheet">'
            f"{''.join(self._sample(one, 42) for one in state.of(row.condition))}</div></div>"
            for row in state.rows(self.side)
        )
        said = f"Of {many:,} dimensions this image has {common:,} in common with its neighbours."
        ends = "".join(
            f'<div class="own">{_image(png_of(state.studio.source(one)), 42)}</div><span style="margin-right:14px">{word}</span>'
            for one, word in ((state.first, "the image"), (state.second, "the second"))
        )
        return f'<div class="ends">{ends}{said}</div>{rows}<div class="below">{self._changes()}</div>'

    # parts

    def _of_tokens(self) -> str:
        many = self.state.studio.tokens(getattr(self.state, self.side))
        said = f"Drawn of {many} tokens an image; ranks and distances are of their mean."
        return "" if many is None else f'<div class="tokens" style="{SMALL}{QUIET}margin-bottom:8px">{said}</div>'

    def _sample(self, one: Drawn | None, side: int) -> str:
        """A sample, and the card that is shown when it is pointed at."""
        if one is None:
            size = f"width:{side}px;height:{side}px" if side else "aspect-ratio:1"
            return f'<div class="blank" style="{size}"></div>'
        nearest = _image(png_of(self.state.studio.pixels[one.nearest]), 56)
        card = (
            f'<div class="card">{_image(one.png, 56)}<div>distance to the condition <b>{one.distance:.2f}</b>'
            f"<br>rank of the image <b>{one.rank:,.0f}</b> of {one.candidates:,}"
            f"<br>nearest real image: no. <b>{one.nearest}</b></div>{nearest}</div>"
        )
        return f'<div class="sample" tabindex="0">{_image(one.png, side)}{card}</div>'

    def _maps(self) -> str:
        maps = self.state.maps(self.side)
        if maps is None:
            return ""
        mean, deviation = maps
        ramp = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in theme.DEEP], np.uint8)
        place = (np.clip(deviation / MOST, 0, 1) * (len(ramp) - 1)).round().astype(int)
        scale = f"linear-gradient(to right,{','.join(theme.DEEP[::32])})"
        both = ((mean * 255).round().astype(np.uint8), "mean", ""), (ramp[place], "deviation", scale)
        return "".join(
            f'<div class="map" style="width:76px">{_image(png_of(pixels), 76)}<div style="margin-top:4px">{word}</div>'
            + (f'<div style="height:7px;background:{key}"></div><div style="{QUIET}">0 to {MOST:g}</div>' if key else "")
            + "</div>"
            for pixels, word, key in both
        )

    def _numbers(self) -> str:
        table = self.state.ranks(self.side)
        if table is None:
            return ""
        shown = (("mean rank", "mean rank"), ("median rank", "median rank"), ("MRR", "MRR"), ("relative distance", "distance"))
        lines = "".join(
            f'<tr><td>{word}</td><td class="number"><b style="color:{self.colour}">{_written(table.loc[name, "value"], name)}</b>'
            f'</td><td class="number" style="{QUIET}">{_written(table.loc[name, "chance"], name)}</td></tr>'
            for name, word in shown
        )
        heads = f'<tr style="{QUIET}"><th></th><th class="number">samples</th><th class="number">chance</th></tr>'
        return f'<table class="ranks">{heads}{lines}</table>{self._factors()}'

    def _factors(self) -> str:
        """How many samples keep each factor, as bars with a mark at chance."""
        table = self.state.kept(self.side)
        if table.empty:
            return f'<div style="{QUIET}">Learning to read factors off pixels…</div>' * self.state.learns()
        near = self.state.nearness()["within"]
        lines = "".join(
            f'<tr title="read off pixels; right about {row.right:.0%} of the gallery"><td>{html.escape(str(row.factor))}'
            f'<span style="{QUIET}">{f" ± {near[row.factor]:.0f}" if row.factor in near else ""}</span></td>'
            f'<td><div class="bar"><div style="width:{100 * row.value:.0f}%;background:{self.colour}"></div>'
            f'<i style="left:calc({100 * row.chance:.0f}% - 1px)"></i></div></td><td class="number">{row.value:.0%}</td></tr>'
            for row in table.itertuples()
        )
        key = f'<tr style="{QUIET}"><th>kept</th><th>of the samples, <b style="color:{theme.INK}">|</b> chance</th><th></th></tr>'
        return f'<table class="kept">{key}{lines}</table>'

    def _changes(self) -> str:
        """How often each factor changed, by common dimensions and by as many at random."""
        table = self.state.changes(self.side)
        if table.empty:
            return ""
        kinds = CHANGES[1:]
        heads = "".join(f'<th class="number">{word}</th>' for word in ("common", "random", "common", "random"))
        lines = "".join(
            f"<tr><td>{html.escape(str(factor))}</td>"
            + "".join(f'<td class="number">{table.loc[factor, kind]:.0%}</td>' for kind in kinds if kind in table)
            + "</tr>"
            for factor in table.index
        )
        above = '<tr><th></th><th colspan="2" class="number">zeroed</th><th colspan="2" class="number">as in the second</th></tr>'
        said = f'<div style="{QUIET}margin-bottom:3px">Samples whose factor changed</div>'
        return f'<div class="changes">{said}<table>{above}<tr style="{QUIET}"><th></th>{heads}</tr>{lines}</table></div>'


def _image(png: bytes, side: int) -> str:
    width = f'width="{side}" height="{side}"' if side else ""
    return f'<img {width} src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _written(value: float, name: str) -> str:
    if "rank" in name:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
