"""Training, watched: choose what is trained, start, pause, change the learning rate, and see the spectrum fall."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param

from workbench.figures.lines import spectra, spectra_range, training_curves
from workbench.panels.jobs import Job
from workbench.panels.picture import Picture, beside
from workbench.spec import names

__all__ = ["CollapseLive", "Lesson"]

BACKBONES = ["convnet", "convnet-residual", "resnet18", "vit-tiny"]
DATA = ["garments", "fashion_mnist", "digits", "sprites"]
PROJECTORS = {"none": [], "linear": [128], "MLP": [256, 128]}
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
TURN = (
    threading.Lock()
)  # one step at a time in a process: steps seed torch's global generator, and sessions must not disturb each other


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was measured after a step: the terms and rate of the step, RankMe and spectrum of the layers."""

    step: int
    terms: dict[str, float]
    lr: float
    rate: float
    rankme: dict[str, float] = dataclasses.field(default_factory=dict)
    spectrum: pd.DataFrame | None = None


class Lesson(param.Parameterized):
    """State and derivations: what is trained, and what was seen of it. Nothing of it is shared between sessions.

    Arguments:
        teach: What trains it, a function of the lesson that yields :class:`Seen`; by default :func:`train`.
    """

    data = param.Selector(default="garments", objects=DATA, label="Images")
    objective = param.Selector(default="SimCLR", objects=["SimCLR"], check_on_set=False, label="Objective")
    projector = param.Selector(default="none", objects=list(PROJECTORS), label="Projector")
    backbone = param.Selector(default="convnet", objects=BACKBONES, label="Backbone")
    lr = param.Selector(default=1e-3, objects=RATES, label="Learning rate")
    epochs = param.Integer(10, bounds=(1, 100), label="Epochs")
    lr_factor = param.Number(1.0, bounds=(0, 32), doc="Multiplies the learning rate from the next step on")
    images = param.Integer(10_000, bounds=(64, None), doc="How many images, where the data set is drawn or larger", precedence=-1)
    batch_size = param.Integer(256, bounds=(2, None), precedence=-1)

    def __init__(self, teach: Callable[["Lesson"], Iterator[Seen]] | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.param.objective.objects = sorted(n for n in names("workbench.objectives") if n[0].isupper() and n != "Objective")
        self.teach = teach or train
        self.seen: list[Seen] = []
        self.total = 0
        self.going = threading.Event()  # cleared while it pauses
        self.going.set()

    def begin(self) -> Job:
        """Starts from scratch in a thread."""
        self.seen, self.total = [], 0
        self.going.set()
        seen = self.seen

        def work(job: Job) -> None:
            for moment in self.teach(self):
                seen.append(moment)
                while not self.going.wait(0.2) and not job.stopping.is_set():
                    pass
                if job.stopping.is_set():
                    return

        return Job(work).start()

    def course(self) -> pd.DataFrame:
        """Columns step, loss (and other terms), lr, rate; a row a step that was seen."""
        return pd.DataFrame([{"step": s.step, **s.terms, "lr": s.lr, "rate": s.rate} for s in list(self.seen)])

    def ranks(self) -> pd.DataFrame:
        """Columns step, layer, RankMe."""
        rows = [{"step": s.step, "layer": layer, "RankMe": value} for s in list(self.seen) for layer, value in s.rankme.items()]
        return pd.DataFrame(rows, columns=["step", "layer", "RankMe"])

    def spectra(self) -> list[tuple[int, pd.DataFrame]]:
        """The spectra so far, by step."""
        return [(s.step, s.spectrum) for s in list(self.seen) if s.spectrum is not None]


def train(lesson: Lesson, *, measured: int = 1024, every: int = 10) -> Iterator[Seen]:
    """Trains what the lesson says, and yields after the first steps, and then after every few, what there is to see.

    Arguments:
        measured: Images that spectrum and RankMe are taken on; not the ones trained on, where there are others.
        every: Steps between two measurements.
    """
    import torch

    import workbench.objectives
    from workbench.features import extract
    from workbench.measures.spectral import rankme, spectrum
    from workbench.models.building import build_autoencoder, build_encoder
    from workbench.spec import find
    from workbench.train import Trainer
    from workbench.views.augment import Augment

    kept, shown = _images(lesson, measured)
    _, channels, size, _ = kept.pixels.shape
    with TURN:
        torch.manual_seed(0)
        objective = find(workbench.objectives.__name__, lesson.objective)()
        if objective.code is None:
            model = build_encoder(lesson.backbone, PROJECTORS[lesson.projector], channels=channels, image_size=size)
        else:
            model = build_autoencoder(lesson.backbone, code=objective.code, channels=channels, image_size=size)
        trainer = Trainer(epochs=lesson.epochs, batch_size=min(lesson.batch_size, len(kept)), lr=lesson.lr)
        training = trainer.steps(model, objective, kept, Augment(objective.takes))
    lesson.total = training.total
    layers = ["backbone", "projector"] if objective.code or PROJECTORS[lesson.projector] else ["backbone"]

    def look(step: int, terms: dict[str, float], lr: float, rate: float) -> Seen:
        with TURN:
            mode = model.training
            features = extract(model, shown, layers, progress=False)
            model.train(mode)
            tables = [spectrum(z).assign(layer=layer) for layer, z in features.items()]
            ranks = {layer: float(rankme(z)) for layer, z in features.items()}
        return Seen(step, terms, lr, rate, ranks, pd.concat(tables, ignore_index=True))

    yield look(0, {}, 0.0, 0.0)
    try:
        while training.number < training.total:
            training.lr_factor = lesson.lr_factor
            with TURN:
                step = next(training)
            terms = {k: float(v) for k, v in step.terms.items()}
            looks = step.number % every == 0 or step.number in (1, 3) or step.number == training.total
            yield look(step.number, terms, step.lr, step.rate) if looks else Seen(step.number, terms, step.lr, step.rate)
    finally:
        training.close()


def _images(lesson: Lesson, measured: int) -> tuple[Any, Any]:
    """The images to train on, and those to measure on."""
    import workbench.data
    from workbench.spec import find

    make = find(workbench.data.__name__, lesson.data)
    if lesson.data in ("garments", "fashion_mnist"):
        kept, shown = make(split="train"), make(split="test")
    else:
        kept, shown = make().split(0.8, seed=0)
    return kept[: lesson.images], shown[:measured]


class CollapseLive(pn.viewable.Viewer):
    """A training run under one's hands: start, pause, learning rate, and the spectrum as it falls."""

    def __init__(self, lesson: Lesson | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.lesson = lesson or Lesson()
        self.job: Job | None = None
        self._looked = 0
        self.spectrum, self.loss, self.rank = Picture(), Picture(), Picture()
        self.said = pn.pane.Markdown(
            "Choose, press **Start**, and watch.", sizing_mode="stretch_width", styles={"font-size": "18px"}, min_height=48
        )
        self.trouble = pmui.Alert(object="", severity="error", visible=False, sizing_mode="stretch_width")
        self.progress = pmui.LinearProgress(value=0, sizing_mode="stretch_width")
        self.start = pmui.Button(label="Start", color="primary", variant="contained", sizing_mode="stretch_width")
        self.pause = pmui.Button(label="Pause", disabled=True, variant="outlined", sizing_mode="stretch_width")
        self.stop = pmui.Button(label="Stop", disabled=True, variant="outlined", sizing_mode="stretch_width")
        state, stretch = self.lesson.param, {"sizing_mode": "stretch_width"}
        self._choices = [
            pmui.Select.from_param(state.data, **stretch),
            pmui.Select.from_param(state.objective, **stretch),
            pmui.RadioButtonGroup.from_param(state.projector, **stretch),
            pmui.Select.from_param(state.backbone, **stretch),
            pmui.DiscreteSlider.from_param(state.lr, options={f"{r:g}": r for r in RATES}, **stretch),
            pmui.IntSlider.from_param(state.epochs, **stretch),
        ]
        factors = {"0": 0.0, "1/32": 1 / 32, "1/8": 1 / 8, "1/2": 0.5, "1": 1.0, "2": 2.0, "8": 8.0, "32": 32.0}
        self.factor = pmui.DiscreteSlider(label="Learning rate, times", options=factors, value=1.0, **stretch)
        self.factor.link(self.lesson, value="lr_factor")
        buttons = pn.Row(self.start, self.pause, self.stop, **stretch)
        self._page = pn.Row(
            pn.Column(*self._choices, buttons, self.factor, width=320, margin=(12, 10, 0, 5)),
            pn.Column(self.trouble, self.said, self.progress, self.spectrum, beside(self.loss, self.rank, height=250), **stretch),
            **stretch,
        )
        self.start.on_click(lambda event: self.begin())
        self.pause.on_click(lambda event: self.hold())
        self.stop.on_click(lambda event: self.end())

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page

    def begin(self) -> None:
        """Starts from scratch; what trained before is stopped."""
        self.end()
        self.trouble.visible = False
        self.said.object = f"Loading torch and drawing {self.lesson.data}…"
        self.job = self.lesson.begin()
        self._buttons(running=True)
        self.job.follow(self.look, every=0.3)

    def hold(self) -> None:
        """Pauses, or goes on."""
        going = self.lesson.going
        going.clear() if going.is_set() else going.set()
        self.pause.label = "Pause" if going.is_set() else "Continue"

    def end(self) -> None:
        """Stops for good; what was seen stays on the page."""
        if self.job is not None:
            self.job.stop()
            self.lesson.going.set()
        self.pause.label = "Pause"

    def _buttons(self, *, running: bool) -> None:
        self.start.label = "Restart" if self.job else "Start"
        self.pause.disabled = self.stop.disabled = not running
        for choice in self._choices:
            choice.disabled = running

    def look(self) -> None:
        """Shows what has been seen since the last look, and whether it ended."""
        ended = self.job.done.is_set()
        with pn.io.hold():
            if len(self.lesson.seen) != self._looked or ended:
                self._looked = len(self.lesson.seen)
                self.draw()
            if ended:
                self._buttons(running=False)
                if self.job.error is not None:
                    self.trouble.param.update(object=f"Training ended: {self.job.error}", visible=True)

    def draw(self) -> None:
        """Draws everything that was seen so far."""
        lesson = self.lesson
        course, ranks, spectra_seen = lesson.course(), lesson.ranks(), lesson.spectra()
        if course.empty:
            return
        last = course.iloc[-1]
        self.progress.value = round(100 * last["step"] / max(lesson.total, 1))
        known = ", ".join(
            f"RankMe of the {r.layer} **{r.RankMe:.1f}**" for r in ranks.groupby("layer", sort=False).tail(1).itertuples()
        )
        paused = "" if lesson.going.is_set() else " — paused"
        speed = f" at {last['rate']:,.0f} images/s, learning rate {last['lr']:.2g}" if last["step"] else ""
        self.said.object = f"Step {last['step']:,.0f} of {lesson.total:,}{speed}: {known}{paused}"
        if spectra_seen:
            first, now = spectra_seen[0][1], spectra_seen[-1][1]
            both = pd.concat([now.assign(when=f"step {spectra_seen[-1][0]:,}"), first.assign(when="before training")])
            ylim = spectra_range(pd.concat([s for _, s in spectra_seen]))
            looks = {"by": "layer", "dash": "when", "ylim": ylim, "responsive": True, "height": 330}
            self.spectrum.show(spectra(both, title="Spectrum now; dashed: before training", **looks))
        below = {"responsive": True, "height": 250, "xlim": (0, max(lesson.total, 1)), "points": 0}
        if "loss" in course:
            losses = course.dropna(subset=["loss"])
            self.loss.show(training_curves(losses, title="Loss", ylim=_span(losses["loss"]), **below))
        if len(ranks):
            low, high = 0, float(ranks["RankMe"].max()) * 1.1
            self.rank.show(training_curves(ranks, values=["RankMe"], by="layer", title="RankMe", ylim=(low, high), **below))


def _span(values: pd.Series) -> tuple[float, float]:
    """A range that holds the values, with a little air."""
    low, high = float(values.min()), float(values.max())
    air = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air
