"""The factors of the world as one sees them: one run or two, and what moves both."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.figures import theme
from workbench.figures.joint import joint_map
from workbench.panels.factor_column import SMALL, TEXT, FactorColumn
from workbench.panels.factor_state import MAKE, FactorState
from workbench.panels.layer_cuts import find_subjects
from workbench.panels.picture import Picture
from workbench.panels.working import Working
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["Factors"]


class Factors(pn.viewable.Viewer):
    """Which code holds which factor of the world, in one run or two: turn codes, click the matrix, slide the correlation.

    What was judged before shows at once, without torch; a decoder is loaded when somebody first turns a code. Judging runs in
    a thread, and can be stopped.

    Arguments:
        given: Runs, their paths, folders of runs, names of timm's models (``"timm:resnet50"``: random weights; a tag means
            published ones); without any, the runs in ``runs/``. The first two are shown first.
        out: Folder in which timm's models are kept.
        images: What all are judged on, or what gives them; by default the uniform grid of each run's images, and
            ``scenes()`` for timm's models.

    Example:
        >>> Factors("timm:test_vit").state.sides[0].layer
        'backbone'
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
        self.state = FactorState(found)
        self.columns = [FactorColumn(side, alone=len(self.state.sides) == 1) for side in self.state.sides]
        self._chosen: list[list[Any]] = []
        self._build(complaints)
        self.state.param.watch(lambda *events: self._turn(), BOTH)
        for side in self.state.sides:
            side.param.watch(lambda *events: self._turn(), ONE)
        self.renew()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def _build(self, complaints: Sequence[str]) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        small = {"size": "small", "description": ""} | wide
        state = self.state
        alerts = [pmui.Alert(object=html.escape(c), severity="warning", **wide) for c in complaints]
        self.said = pn.pane.HTML("", min_height=52, margin=(10, 10, 2, 10), **wide)
        self.work = Working(state.begin, self._come, label="Judge what is missing")
        self._factor = pmui.Select.from_param(state.sides[0].param.factor, label="Factor", **small)
        self._matrix = pmui.Select.from_param(state.param.matrix, label="Matrix", **small)
        self._where = pmui.Select.from_param(state.param.where, label="Judged on", **small)
        self._kind = pmui.Select.from_param(state.param.kind, label="Go together in training", **small)
        self.slider = pmui.DiscreteSlider.from_param(state.param.sigma, label="Training correlation, σ", description="", **wide)
        self.joint = Picture(least=200)
        self._trained = pn.Row(self.joint, **wide)
        self.learned = pn.pane.HTML("", margin=(0, 10), **wide)
        self.hint = pn.pane.Markdown(MAKE, styles={"font-size": theme.SIZE["note"], "color": theme.QUIET}, **wide)
        controls = pn.Column(
            self.slider,
            self._kind,
            self.learned,
            self._trained,
            self._factor,
            self._matrix,
            self._where,
            self.work,
            self.hint,
            width=230,
            margin=(8, 10, 0, 5),
            visible=bool(state.found),
        )
        columns = pn.FlexBox(*self.columns, flex_wrap="wrap", align_items="flex-start", gap="8px 22px", **wide)
        columns.visible = bool(state.found)
        right = pn.Column(self.said, columns, **wide)
        self._page = pn.Column(*alerts, pn.Row(controls, right, **wide), **wide)

    def renew(self) -> None:
        """Takes up the tables of both sides as they are now, and draws."""
        with pn.io.hold():
            self._kept = self.state.kept()
            self.state.refresh()
            self._chosen = []
            self.draw()

    def _come(self) -> None:
        """Takes up what the judging has kept since."""
        if self.state.kept() != self._kept or not self.work.running:
            self.renew()

    def _turn(self) -> None:
        """Draws what was chosen, once, though one choice may bring about others."""
        if not self.state.moving and self._choice() != self._chosen:
            self.draw()

    def _choice(self) -> list[list[Any]]:
        states = [self.state, *self.state.sides]
        return [[getattr(one, name) for name in (ONE if i else BOTH)] for i, one in enumerate(states)]

    def draw(self) -> None:
        """Draws everything, as one message to the browser."""
        state = self.state
        before, self._chosen = self._chosen, self._choice()
        with pn.io.hold():
            self.said.object = (
                f'<div style="{TEXT}"><div class="headline" style="font-size:22px;font-weight:bold">{html.escape(state.title())}'
                f'</div><div style="font-size:14px;margin-top:4px;color:{theme.QUIET}">{html.escape(state.finding())}</div></div>'
            )
            for i, column in enumerate(self.columns):
                if not before or (before[0], before[i + 1]) != (self._chosen[0], self._chosen[i + 1]):
                    column.kind = state.matrix
                    column.draw()
            slides, judged = state.slides(), any(side.judged() for side in state.sides)
            self._factor.visible, self._matrix.visible = state.sides[0].judged(), judged
            self._where.visible = state.correlated()
            self._kind.visible = len(state.param.kind.objects) > 1
            self.slider.visible = slides
            self.hint.visible = not slides and judged
            self._draw_joint()
            missing = state.unjudged()
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                name = missing[0] if len(missing[0]) < LONG else "what is missing"
                self.work.button.label = f"Judge {name}{more if name == missing[0] else f' ({len(missing)})'}"
            if not self.work.running:
                self.work.button.visible = bool(missing)

    def _draw_joint(self) -> None:
        """The training distribution of the two factors that go together."""
        state = self.state
        pair, shown = state.pair(), None
        table = state.sides[0].together(*pair) if pair and state.sides[0].judged() else None
        if table is not None and len(table):
            looks = {"xlabel": pair[0], "ylabel": pair[1], "title": f"correlation {table['r'].iloc[0]:.2f}"}
            shown = joint_map(table, responsive=True, height=190, toolbar=None, **looks)
        words = [*state.missing()]
        words += (
            [f"What {state.sides[0].subject} was trained on: how often {pair[0]} and {pair[1]} met"] if shown is not None else []
        )
        self.learned.param.update(
            object=f'<div style="{TEXT}{SMALL}">{"<br>".join(map(html.escape, words))}</div>', visible=bool(words)
        )
        self._trained.visible = shown is not None
        if shown is not None:
            self.joint.show(shown)


LONG = 28  # letters of a name that do not fit a button
BOTH = ["matrix", "where", "sigma", "kind"]
ONE = ["subject", "layer", "factor", "code", "other", "row"]
