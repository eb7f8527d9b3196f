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
from workbench.panels.know_drawing import FRAMES, Drawn, Source, png_of
from workbench.panels.know_state import CHANGES, KnowState

__all__ = ["KnowSide"]

TEXT = f"font-family:{theme.FONT},sans-serif;color:{theme.INK};"
SMALL = f"font-size:{theme.SIZE['note']};line-height:1.45;"
QUIET = f"color:{theme.QUIET};"
ACROSS = 8  # samples in a line, where there is room
SOURCE, MAP = "clamp(54px, 11cqi, 110px)", "clamp(76px, 15cqi, 150px)"  # widths, which grow with the side's
STYLE = f"""<style>
.know {{ {TEXT} position:relative; container-type:inline-size }}
.know:hover, .know:focus-within {{ z-index:1 }}
.know img {{ image-rendering:pixelated; display:block; border-radius:2px }}
.sheet {{ display:grid; grid-template-columns:repeat({ACROSS}, minmax(0, 1fr)); gap:5px; flex:1; max-width:1000px }}
.large {{ grid-template-columns:repeat(4, minmax(0, 1fr)); max-width:520px; width:75% }}
.sheet > .sample > img, .strip > .sample > img, .strip > .own > img {{ width:100% }}
.samples {{ display:flex; gap:16px }}
.samples > .first {{ flex:none; width:{SOURCE} }}
.samples > .first img, .map img, .map .empty {{ width:100% }}
.map {{ width:{MAP} }}
.sample {{ outline-offset:1px; position:relative }}
.sample:hover, .sample:focus {{ outline:2px solid {theme.INK} }}
.blank, .empty {{ background:{theme.GRID}; border-radius:2px; aspect-ratio:1 }}
.card {{ display:none; position:absolute; left:0; top:calc(100% + 6px); z-index:9; width:max-content; background:{theme.PAPER};
  padding:9px 12px; border:1px solid {theme.GREY}; border-radius:5px; box-shadow:0 3px 12px #0002; gap:14px; {SMALL}
  pointer-events:none; text-align:left }}
.card figure {{ margin:0; width:78px; {QUIET} }}
.card img {{ width:64px; height:64px; margin-bottom:3px }}
.sample:hover .card, .sample:focus .card {{ display:flex }}
.own img {{ outline:3px solid {theme.INK}; outline-offset:1px }}
.strip {{ display:grid; grid-template-columns:repeat({FRAMES}, minmax(0, 1fr)); gap:5px; max-width:1000px }}
.frame {{ cursor:pointer; text-align:center; {SMALL} }}
.frame.chosen {{ font-weight:bold; border-bottom:3px solid {theme.INK} }}
.ends {{ display:flex; align-items:center; gap:10px; margin-bottom:14px; {SMALL} {QUIET} }}
.ends > .own {{ flex:none }}
.quiet {{ {SMALL} {QUIET} min-height:2.9em; margin-top:8px }}
.change {{ display:flex; align-items:center; gap:10px; margin-bottom:6px }}
.change > .words {{ flex:none; width:134px; font-size:{theme.SIZE["tick"]} }}
@container (max-width:470px) {{
  .samples .sheet {{ grid-template-columns:repeat(4, minmax(0, 1fr)) }}
  .large {{ width:100% }}
  .change {{ flex-direction:column; align-items:stretch; gap:2px }}
  .change > .words {{ width:auto }}
  .ends {{ flex-wrap:wrap }}
  .ends > .said {{ flex-basis:100% }}
}}
.below {{ display:flex; flex-wrap:wrap; align-items:flex-start; gap:10px 26px; margin-top:14px; {SMALL} }}
table {{ border-collapse:collapse; {SMALL} }}
.below, .below table {{ font-size:clamp({theme.SIZE["note"]}, 1.7cqi, 14px) }}
td, th {{ padding:1px 9px 1px 0; text-align:left; font-weight:normal }}
td.number, th.number {{ text-align:right; font-variant-numeric:tabular-nums }}
.bar {{ position:relative; width:clamp(110px, 20cqi, 220px); height:11px; background:{theme.GRID} }}
.bar > div {{ position:absolute; top:0; bottom:0; left:0 }}
.bar > i {{ position:absolute; top:-2px; bottom:-2px; width:2px; background:{theme.INK} }}
</style>"""


RANKS = {  # and what they mean
    "median rank": "place of the source by distance to a sample, 1 the nearest: half of the samples give a lower one",
    "MRR": "mean over the samples of 1 / rank",
    "relative distance": "distance of a sample to the source, by its mean distance to the other images: 0 is the source itself",
}


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
        self.sheet = Clickable(chosen, margin=(0, 14, 10, 10), **wide)
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
        own = f'<div class="own" title="the image itself">{self._source(state.first)}</div>'
        cells = "".join(self._sample(one) for one in state.of(state.rows(self.side)[0].condition))
        return (
            f'<div class="samples"><div class="first">{own}<div style="{SMALL}{QUIET}margin-top:5px">the image</div></div>'
            f'<div class="sheet">{cells}</div></div>{self._strangers()}<div class="below">{self._maps()}{self._numbers()}</div>'
        )

    def _between(self) -> str:
        state, last = self.state, FRAMES - 1
        rows = [state.of(row.condition) for row in state.rows(self.side)]
        whose = ["the first image"] * last + ["the second image"]
        large = "".join(self._sample(one, whose[state.at]) for one in rows[state.at])
        heads = "".join(
            f'<div class="frame{" chosen" * (at == state.at)}" data-row="{at}" tabindex="0" role="button">{word}</div>'
            for at, word in enumerate(["first", *(f"{at}/{last}" for at in range(1, last)), "second"])
        )
        cells = "".join(self._sample(rows[at][i], whose[at]) for i in range(state.many()) for at in range(FRAMES))
        ends = [f'<div class="own">{self._source(one)}</div>' for one in (state.first, state.second)]
        share = {0: "the first image", last: "the second image"}.get(state.at, f"{state.at}/{last} from the first to the second")
        return (
            f'<div style="{SMALL}{QUIET}margin-bottom:6px">Samples of {share}</div><div class="sheet large">{large}</div>'
            f'<div class="strip" style="margin-top:18px">{heads}{("<div></div>" * (FRAMES - 2)).join(ends)}{cells}</div>'
            f"{self._strangers()}"
        )

    def _dimensions(self) -> str:
        state = self.state
        common, many = state.common(self.side)
        rows = "".join(
            f'<div class="change"><div class="words">{html.escape(row.words)}</div><div class="sheet">'
            f"{''.join(self._sample(one) for one in state.of(row.condition))}</div></div>"
            for row in state.rows(self.side)
        )
        said = f"Of {many:,} dimensions this image has {common:,} in common with its neighbours. {state.meaning(self.side)}"
        ends = "".join(
            f'<div class="own">{self._source(one, 42)}</div><span style="margin-right:8px">{word}</span>'
            for one, word in ((state.first, "the image"), (state.second, "the second"))
        )
        told = f'<div class="said">{html.escape(said)}</div>'
        return f'<div class="ends">{ends}{told}</div>{rows}{self._strangers()}<div class="below">{self._changes()}</div>'

    # parts

    def _of_tokens(self) -> str:
        many = self.state.studio.tokens(getattr(self.state, self.side))
        said = f"Conditioned on {many} tokens an image; ranks and distances are of their mean."
        return "" if many is None else f'<div class="tokens" style="{SMALL}{QUIET}margin-bottom:8px">{said}</div>'

    def _strangers(self) -> str:
        """How unlike the gallery what was dropped in is; its place is kept from the start."""
        if not any(isinstance(source, bytes) for source in self.state.shows()):
            return ""
        return f'<div class="quiet strangers">{html.escape(" ".join(self.state.strangers(self.side)))}</div>'

    def _source(self, source: Source, side: int = 0) -> str:
        return _image(png_of(self.state.studio.source(source)), side)

    def _sample(self, one: Drawn | None, whose: str = "the image") -> str:
        """A sample, and the card that is shown when it is pointed at; ``whose`` rank it is."""
        if one is None:
            return '<div class="blank"></div>'
        card = (
            f'<div class="card"><figure>{_image(one.png)}sample</figure><figure>{self._source(one.nearest)}nearest real image, '
            f"no. {one.nearest}</figure><div>distance to the condition <b>{one.distance:.2f}</b> standard deviations"
            f"<br>relative distance to {whose} <b>{one.relative:.2f}</b>"
            f"<br>rank of {whose} <b>{_written(one.rank, 'rank')}</b> of {one.candidates:,}</div></div>"
        )
        return f'<div class="sample" tabindex="0">{_image(one.png)}{card}</div>'

    def _maps(self) -> str:
        maps, most = self.state.maps(self.side), self.state.darkest()
        mean = deviation = '<div class="empty"></div>'
        if maps is not None:
            ramp = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in theme.DEEP], np.uint8)
            place = (np.clip(maps[1] / most, 0, 1) * (len(ramp) - 1)).round().astype(int)
            mean, deviation = _image(png_of((maps[0] * 255).round().astype(np.uint8))), _image(png_of(ramp[place]))
        scale = f"linear-gradient(to right,{','.join(theme.DEEP[::32])})"
        both = ", both sides" * (len(self.state.shown()) > 1)
        key = f'<div style="height:7px;background:{scale}"></div><div style="{QUIET}">0 to {most:.2f}{both}</div>'
        return (
            f'<div class="map">{mean}<div style="margin-top:4px">mean</div></div>'
            f'<div class="map deviation">{deviation}<div style="margin-top:4px">deviation</div>{key}</div>'
        )

    def _numbers(self) -> str:
        """Ranks as a table; while there are no samples an empty one of the same size."""
        table = self.state.ranks(self.side)
        level = 0.95 if table is None else table["interval"].iloc[0]
        lines = ""
        for name, tip in RANKS.items():
            value, low, high, chance = (
                "–" if table is None or np.isnan(table.loc[name, column]) else _written(table.loc[name, column], name)
                for column in ("value", "low", "high", "chance")
            )
            lines += (
                f'<tr title="{tip}"><td>{name}</td><td class="number"><b style="color:{self.colour}">{value}</b></td>'
                f'<td class="number">{low} to {high}</td><td class="number" style="{QUIET}">{chance}</td></tr>'
            )
        heads = "".join(f'<th class="number">{word}</th>' for word in ("samples", f"{level:.0%} interval", "chance"))
        return f'<table class="ranks"><tr style="{QUIET}"><th></th>{heads}</tr>{lines}</table>{self._factors()}'

    def _factors(self) -> str:
        """How many samples keep each factor, as bars with a mark at chance; without samples bars of length 0."""
        state = self.state
        if not state.legible():
            return self._illegible()
        if not state.studio.reads:
            return f'<div style="{QUIET}">Training factor classifiers on pixels…</div>' * state.learns()
        table = state.kept(self.side).set_index("factor").reindex(list(state.studio.reads))
        made = [one for one in state.of(state.rows(self.side)[0].condition) if one is not None]
        n, near = len(made) or state.many(), state.nearness()["within"]
        lines = "".join(
            f'<tr title="factor classifier on pixels, right for {state.studio.reads[row.Index]:.0%} of the gallery"><td>'
            f"{html.escape(str(row.Index))}"
            f'<span style="{QUIET}">{f" ± {near[row.Index]:.0f}" if row.Index in near else ""}</span></td>'
            f'<td><div class="bar"><div style="width:{_percent(row.value, "0%")};background:{self.colour}"></div>'
            f'<i style="left:calc({_percent(row.chance, "0%")} - 1px)"></i></div></td>'
            f'<td class="number">{_percent(row.value)}</td></tr>'
            for row in table.itertuples()
        )
        key = f'<th>kept</th><th>by {n} samples, <b style="color:{theme.INK}">|</b> chance</th><th></th>'
        return f'<table class="kept"><tr style="{QUIET}">{key}</tr>{lines}</table>'

    def _illegible(self) -> str:
        """Why there are no factors of what was dropped in."""
        why = "No factors: their classifiers learned from images like the gallery's, and would only guess those of this one."
        return f'<div class="unread" style="{QUIET}max-width:300px">{why}</div>' * self.state.studio.teaches

    def _changes(self) -> str:
        """How often each factor changed, by common dimensions and by as many at random."""
        state, kinds = self.state, CHANGES[1:]
        if not state.legible():
            return self._illegible()
        if not state.studio.reads:
            return ""
        table = state.changes(self.side).reindex(index=list(state.studio.reads), columns=kinds)
        heads = "".join(f'<th class="number">{word}</th>' for word in ("common", "random", "common", "random"))
        lines = "".join(
            f"<tr><td>{html.escape(str(factor))}</td>"
            + "".join(f'<td class="number">{_percent(table.loc[factor, kind])}</td>' for kind in kinds)
            + "</tr>"
            for factor in table.index
        )
        above = "".join(f'<th colspan="2" class="number">{word}</th>' for word in (state.nothing(self.side), "as in the second"))
        said = f'<div style="{QUIET}margin-bottom:3px">Samples whose factor changed, of {state.many()}</div>'
        table = f'<table><tr><th></th>{above}</tr><tr style="{QUIET}"><th></th>{heads}</tr>{lines}</table>'
        return f'<div class="changes">{said}{table}</div>'


def _percent(share: float, none: str = "–") -> str:
    return none if np.isnan(share) else f"{share:.0%}"


def _image(png: bytes, side: int = 0) -> str:
    width = f'width="{side}" height="{side}"' if side else ""
    return f'<img {width} src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _written(value: float, name: str) -> str:
    if "rank" in name:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
