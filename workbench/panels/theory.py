"""Why spectra fall, in networks small enough to see everything: sixteen inputs, one to four linear layers."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param

from workbench.figures.lines import spectra, training_curves
from workbench.figures.tables import alignment_map
from workbench.panels.jobs import Job
from workbench.panels.picture import Picture, beside

__all__ = ["CollapseTheory", "LinearToy"]

DEAD = float(np.exp(-8))
WIDTH = 16
CAUSES = {"strong augmentation": "augmentation", "many linear layers": "depth"}
WORDS = {
    "augmentation": "One linear layer. Augmentation adds noise to 8 of 16 input dimensions; where it is stronger than the data, "
    "the contrastive loss pushes the weights to zero.",
    "depth": "Several linear layers, next to no augmentation. A singular value grows in proportion to the others in line with "
    "it, so the small ones are left behind: the deeper, the more.",
}


class LinearToy(param.Parameterized):
    """State and derivations: which toy, at which step, and what is known of it so far.

    Arguments:
        strength: Standard deviation of the augmentation (toy of one layer).
        depth, decay, relu: Layers, decay of their initial singular values, and whether ReLUs stand between (toy of depth).
        steps: Gradient steps.
        live: By cause, what trains it: a function of the settings that yields moments (step, table, weights).
    """

    cause = param.Selector(default="depth", objects=CAUSES)
    strength = param.Number(1.5, bounds=(0, 4), step=0.1, label="Augmentation strength")
    depth = param.Integer(2, bounds=(1, 4), label="Linear layers")
    decay = param.Number(0.35, bounds=(0, 1), step=0.05, label="Decay of the initial singular values")
    relu = param.Boolean(default=False, label="ReLU between the layers")
    step = param.Integer(0, doc="Gradient step that is shown; the last at or before it counts")
    steps = param.Integer(5000, bounds=(1, None))

    def __init__(self, live: dict[str, Callable[..., Iterator[Any]]] | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.live = live
        self.moments: list[Any] = []
        self._known: tuple[int, pd.DataFrame] = (0, pd.DataFrame(columns=["step", "matrix", "rank", "value"]))

    def settings(self) -> dict[str, Any]:
        """The settings of the chosen cause."""
        if self.cause == "augmentation":
            return {"strength": self.strength, "steps": self.steps}
        return {"depth": self.depth, "decay": self.decay, "nonlinear": self.relu, "steps": self.steps}

    def begin(self) -> Job:
        """Starts training from scratch, in a thread; moments arrive in ``self.moments``."""
        settings, self.moments, self._known = self.settings(), [], (-1, self._known[1])
        cause, moments = self.cause, self.moments

        def work(job: Job) -> None:
            for moment in self._live(cause)(**settings):
                if job.stopping.is_set():
                    return
                moments.append(moment)

        return Job(work).start()

    def _live(self, cause: str) -> Callable[..., Iterator[Any]]:
        if self.live is None:
            from workbench.papers.dimensional_collapse import augmentation_live, depth_live  # torch comes only now

            self.live = {"augmentation": augmentation_live, "depth": depth_live}
        return self.live[cause]

    def moment(self) -> Any | None:
        """The last moment at or before ``step``."""
        seen = [m for m in self.moments if m.step <= self.step] or self.moments[:1]
        return seen[-1] if seen else None

    def spectrum(self) -> pd.DataFrame:
        """Columns matrix, rank, value at the step; before training, what is known without it: how deep networks start."""
        moment = self.moment()
        if moment is not None:
            return moment.table
        ranks = np.arange(1, WIDTH + 1)
        start = np.exp(-self.decay * (ranks - 1)) if self.cause == "depth" else np.full(WIDTH, np.nan)
        layers = [f"W{k}" for k in range(1, self.depth + 1)] if self.cause == "depth" and self.depth > 1 else ["W"]
        values = dict.fromkeys(layers, start) | {"embedding": np.full(WIDTH, np.nan)}
        return pd.concat([pd.DataFrame({"matrix": k, "rank": ranks, "value": v}) for k, v in values.items()])

    def history(self) -> pd.DataFrame:
        """Columns step, rank, value of the embedding's covariance, over all moments."""
        moments = list(self.moments)
        if len(moments) != self._known[0]:
            self._known = len(moments), _of(pd.concat([m.table for m in moments]), "embedding")
        return self._known[1]

    def dead(self) -> int | None:
        """How many eigenvalues of the embedding's covariance lie below e^-8 at the step."""
        moment = self.moment()
        return None if moment is None else int((_of(moment.table, "embedding")["value"] < DEAD).sum())

    def finding(self) -> str:
        """What there is to see at the step, in a sentence."""
        moment = self.moment()
        if moment is None:
            return "Before training. Press **Train** and watch which dimensions die; then move a slider."
        start = f"Step {moment.step:,}: **{self.dead()} of {WIDTH} dimensions of the embedding are dead** (ln λ < −8)"
        if self.cause == "depth":
            return f"{start}."
        log = np.log(_of(moment.table, "W").sort_values("rank")["value"].to_numpy())
        times = np.exp(log[: WIDTH // 2].mean() - log[WIDTH // 2 :].mean())
        return f"{start}; the weaker half of the singular values of W is **{times:.1f} times smaller** than the stronger."

    def alignment(self) -> np.ndarray | None:
        """|V2^T U1| of the first two layers at the step; None where there is one layer."""
        moment = self.moment()
        if moment is None or len(moment.weights) < 2:
            return None
        return np.abs(np.linalg.svd(moment.weights[1])[2] @ np.linalg.svd(moment.weights[0])[0])


class CollapseTheory(pn.viewable.Viewer):
    """Sliders for the cause of collapse, and the spectra of weights and embedding moving as the toy trains."""

    def __init__(self, toy: LinearToy | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.toy = toy or LinearToy()
        self.job: Job | None = None
        self.weights, self.embedding, self.course, self.blocks = Picture(), Picture(), Picture(least=380), Picture()
        self.said = pn.pane.Markdown(sizing_mode="stretch_width", styles={"font-size": "18px"}, min_height=48)
        self.words = pn.pane.Markdown(sizing_mode="stretch_width")
        toy = self.toy.param
        self.train = pmui.Button(label="Train", color="primary", variant="contained", sizing_mode="stretch_width")
        self.player = pmui.Player(
            start=0,
            end=self.toy.steps,
            step=50,
            value=0,
            interval=80,
            show_value=False,
            visible_buttons=["first", "play", "pause", "last"],
            show_loop_controls=False,
            sizing_mode="stretch_width",
        )
        self._sliders = {
            "augmentation": [pmui.FloatSlider.from_param(toy.strength)],
            "depth": [
                pmui.IntSlider.from_param(toy.depth),
                pmui.FloatSlider.from_param(toy.decay),
                pmui.Switch.from_param(toy.relu),
            ],
        }
        self._controls = pn.Column(
            pmui.RadioBoxGroup.from_param(toy.cause, label="What makes dimensions die"),
            self.words,
            *itertools.chain.from_iterable(self._sliders.values()),
            self.train,
            width=300,
            margin=(12, 10, 0, 5),
        )
        self._page = pn.Row(
            self._controls,
            pn.Column(
                self.said,
                beside(self.weights, self.embedding, height=300),
                self.player,
                beside(self.course, self.blocks, height=280),
                sizing_mode="stretch_width",
            ),
            sizing_mode="stretch_width",
        )
        self.train.on_click(lambda event: self.start())
        self.player.param.watch(lambda event: setattr(self.toy, "step", event.new), "value")
        self.toy.param.watch(lambda event: self.draw(), "step")
        self.toy.param.watch(self._changed, ["cause", "strength", "depth", "decay", "relu"])
        self._choose()
        self.draw()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def _choose(self) -> None:
        self.words.object = WORDS[self.toy.cause]
        for cause, sliders in self._sliders.items():
            for slider in sliders:
                slider.visible = cause == self.toy.cause

    def _changed(self, *events: param.parameterized.Event) -> None:
        self._choose()
        if self.job is None:
            self.draw()
        else:
            self.start()

    def start(self) -> None:
        """Trains the toy with the present settings; what trained before is stopped."""
        if self.job is not None:
            self.job.stop()
        self._seen = 0
        self.job = self.toy.begin()
        self.train.label = "Train again"
        self.said.object = "Training…"
        self.job.follow(self.look)

    def look(self) -> None:
        """Shows what has been learned since the last look, and goes along with the newest step."""
        if self.job.error is not None:
            self.said.object = f"It failed: {self.job.error}"
        moments = self.toy.moments
        if len(moments) > self._seen:
            self._seen = len(moments)
            newest = moments[-1].step
            with pn.io.hold():
                if self.player.value == newest:
                    self.draw()
                self.player.value = newest

    def draw(self) -> None:
        """Draws everything for the chosen step, as one message to the browser."""
        with pn.io.hold():
            self._draw()

    def _draw(self) -> None:
        toy = self.toy
        table, alignment = toy.spectrum(), toy.alignment()
        low = {"augmentation": (1e-3, 1e-5), "depth": (1e-6, 1e-17)}[toy.cause]
        self.said.object = toy.finding()
        looks = {"by": "matrix", "floor": None, "responsive": True, "height": 300}
        weights = table[table["matrix"] != "embedding"]
        self.weights.show(spectra(weights, title="Weights", quantity="singular value", ylim=(low[0], 5), **looks))
        marks = {"dead below e⁻⁸": DEAD}
        looks |= {"quantity": "eigenvalue of the covariance", "marks": marks, "ylim": (low[1], 10)}
        self.embedding.show(spectra(_of(table, "embedding"), title="Embedding", **looks))
        start = _of(table, "embedding").assign(
            step=0, value=0.0
        )  # zeros, which a log axis does not draw, keep the curves' places
        looks = {"by": "rank", "responsive": True, "height": 280, "logy": True, "xlim": (0, toy.steps), "ylim": (low[1], 10)}
        looks |= {"marker": toy.step, "title": "Eigenvalues of the embedding", "ylabel": "eigenvalue"}
        self.course.show(training_curves(toy.history() if toy.moments else start, values=["value"], **looks))
        words = {"xlabel": "left singular vector of W₁", "ylabel": "right singular vector of W₂"}
        title = "Alignment |V₂ᵀU₁|" if alignment is not None else "Alignment: none yet"
        matrix = np.zeros((WIDTH, WIDTH)) if alignment is None else alignment
        self.blocks.hide(hidden=toy.cause != "depth" or toy.depth < 2)
        self.blocks.show(alignment_map(matrix, title=title, width=190, **words))


def _of(table: pd.DataFrame, matrix: str) -> pd.DataFrame:
    return table[table["matrix"] == matrix]
