"""What a representation still knows, as one sees it: an image, and images drawn of what two layers say of it."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.figures import theme
from workbench.panels.clickable import Clickable
from workbench.panels.jobs import Job
from workbench.panels.know_drawing import DemoSubject, Drawn, Source, Studio, denoised_layers, open_studio, png_of
from workbench.panels.know_sheet import sheet_of
from workbench.panels.know_side import SMALL, TEXT, KnowSide
from workbench.panels.know_state import SIDES, KnowState, in_chunks
from workbench.panels.layer_cuts import find_subjects
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.data.images import Images

__all__ = ["WhatItKnows"]

SHOWN = 20  # images to choose from at a time
SOON, LATE = 0.5, 2.0  # seconds: a part that took less is followed by one twice as large, one that took more by half
MOST = 64  # images of a part
BYTES = 20_000_000  # of a file that is dropped in
CHOICE = ("left", "right", "first", "second", "view", "at", "samples", "seed", "steps", "guidance", "annealing")
HIDDEN = {"visibility": "hidden"}  # in its place
WORDS = f"""<style>
.words {{ {TEXT} container-type:inline-size }}
.told {{ min-height:70px }}
.headline {{ font-size:18px; line-height:24px; font-weight:bold }}
.finding {{ font-size:14px; line-height:20px; margin-top:4px; color:{theme.QUIET} }}
@container (max-width:1400px) {{ .told {{ min-height:92px }} }}
@container (max-width:900px) {{ .told {{ min-height:112px }} }}
</style>"""
FRAME = "outline:3px solid {};outline-offset:1px;"


class WhatItKnows(pn.viewable.Viewer):
    """Images drawn of what two layers say of one image: what stays is encoded, what varies is not.

    Pick an image or drop one in. Samples appear a few at a time, while the page stays at hand; point at one for its distance
    from what it was drawn of and the nearest real image. In further views: interpolation between two images, and what the
    dimensions hold that an image has in common with its neighbours.

    Arguments:
        given: Runs with denoisers (:func:`train_denoiser`), their paths, or folders of runs; without any, the run that comes
            with the workbench, and those in ``runs/`` that have denoisers.
        images: Those to choose from, or what gives them; by default held-out images of each run's kind.

    Example:
        >>> WhatItKnows("no/where").state.layers()
        []
    """

    def __init__(
        self,
        given: Run | str | Path | Sequence[Run | str | Path] = (),
        *,
        images: "Images | Callable[[], Images] | None" = None,
        **params: Any,
    ) -> None:
        super().__init__(**params)
        found, complaints = find_subjects(given, images=images)
        if not isinstance(given, Run) and not given:
            able = {name: subject for name, subject in found.items() if denoised_layers(subject)}
            found, complaints = {"demo": DemoSubject()} | able, []
        self.state = KnowState(found)
        self.job: Job | None = None  # draws, or opens the studio
        self.learning: Job | None = None  # learns to read factors
        self._words, self._start, self._opened = "", 0, False
        self._made: list[Any] = []
        self._build(complaints)
        self.state.param.watch(lambda *events: self._turn(events), list(CHOICE))
        self.state.param.watch(lambda event: self.open(), "subject")
        self.draw()

    def __panel__(self) -> pn.viewable.Viewable:
        if not self._opened:
            self._opened = True
            pn.state.onload(self.open)  # the page comes first, then torch
        return self._page

    def _build(self, complaints: Sequence[str]) -> None:
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        small = {"size": "small", "description": ""} | wide
        state = self.state.param
        alerts = [pmui.Alert(object=html.escape(c), severity="warning", **wide) for c in complaints]
        self.trouble = pmui.Alert(object="", severity="error", visible=False, **wide)
        self.remark = pmui.Alert(object="", severity="info", visible=False, **wide)
        self.said = pn.pane.HTML("", margin=(8, 10, 6, 10), **wide)
        self.gallery = Clickable(self.choose, margin=0, **wide)
        self.which = pmui.RadioButtonGroup(options={"First image": 0, "Second": 1}, value=0, size="small", **wide)
        drop = {"label": "Drop an image in", "icon": "cloud_upload"}  # whatever was dropped in, a file that is no image too
        self.drop = pmui.FileInput(uploaded_label=drop["label"], max_file_size=BYTES, **drop, **wide)
        self.drop.param.watch(lambda event: self.take_file(event.new), "value")
        self.back = pmui.Button(label="Previous", variant="outlined", size="small", **wide)
        self.on = pmui.Button(label="Next", variant="outlined", size="small", **wide)
        self.back.on_click(lambda event: self._page_by(-SHOWN))
        self.on.on_click(lambda event: self._page_by(SHOWN))
        self.progress = pmui.LinearProgress(value=0, styles=HIDDEN, **wide)
        self.doing = pn.pane.HTML("", margin=(0, 10), **wide)
        self.save = pmui.FileDownload(callback=self.export, filename="know.png", label="Save as PNG", **wide)
        for button in (self.drop, self.save):
            button.param.update(variant="outlined", size="small")  # at once they would warn of a default of their own
        slide = {"description": "", "throttled": True} | wide
        self.samples = pmui.DiscreteSlider.from_param(state.samples, label="Samples", description="", **wide)
        knobs = [
            self.samples,
            pmui.IntSlider.from_param(state.seed, label="Seed", **slide),
            pmui.DiscreteSlider.from_param(state.steps, label="Steps of the sampler", description="", **wide),
            pmui.FloatSlider.from_param(state.guidance, label="Guidance", step=0.25, **slide),
            pmui.FloatSlider.from_param(state.annealing, label="Condition annealing (CADS)", step=0.05, **slide),
        ]
        subject = pmui.Select.from_param(state.subject, label="Run", **small)
        self._chooser = pn.Column(
            self.which, self.gallery, pn.Row(self.back, self.on, **wide), self.drop, *knobs, self.save, visible=False, **wide
        )
        controls = pn.Column(
            subject, self.progress, self.doing, self._chooser, width=240, margin=(6, 10, 0, 5), visible=bool(self.state.found)
        )
        self.at = pmui.IntSlider.from_param(state.at, label="From the first image (0) to the second", width=460, description="")
        self.view = pmui.RadioButtonGroup.from_param(state.view, label="", size="small", width=560, margin=(4, 10))
        self.sides = {side: KnowSide(self.state, side, chosen=self._go) for side in SIDES}
        both = pn.FlexBox(*self.sides.values(), flex_wrap="wrap", align_items="flex-start", gap="10px 34px", **wide)
        self._right = pn.Column(self.said, self.view, self.at, both, visible=False, **wide)
        self._page = pn.Column(*alerts, self.trouble, self.remark, pn.Row(controls, self._right, align="start", **wide), **wide)

    # what is clicked

    def choose(self, row: int) -> None:
        """Takes an image of the gallery, by its row, or, below 0, one that was dropped in."""
        source: Source = self.state.dropped[-1 - row] if row < 0 else row
        self._take(source)

    def _take(self, source: Source) -> None:
        self.state.param.update(**{self._place(): source})

    def _place(self) -> str:
        return "second" if self.which.value == 1 and self.state.view != "samples" else "first"

    def take_file(self, content: bytes | None) -> None:
        """Takes an image that was dropped in, or says why not."""
        if not content or self.state.studio is None:
            return
        self.trouble.visible = False
        try:
            self.state.drop(content, self._place())
        except ValueError as error:
            self.trouble.param.update(object=html.escape(str(error)), visible=True)
        else:
            self._start = 0  # where it is shown
            self._show_gallery()
        self.drop.clear()  # so that the same file can be dropped in again

    def _go(self, at: int) -> None:
        self.state.at = at

    def _page_by(self, step: int) -> None:
        if self.state.studio is not None and 0 <= self._start + step < len(self._rows()):
            self._start += step
            self._show_gallery()

    def _rows(self) -> list[int]:
        """All images to choose from: those that were dropped in, the last first, then the gallery's."""
        return [*range(-1, -1 - len(self.state.dropped), -1), *range(len(self.state.studio.pixels))]

    def export(self) -> io.BytesIO:
        """Returns what is shown as a PNG."""
        return io.BytesIO(sheet_of(self.state))

    # long work, in threads

    def open(self) -> None:
        """Opens the run that is looked at, in a thread: torch, the denoisers and the gallery come then."""
        self._stop()
        self._start, self.learning = 0, None
        subject, opened = self.state.found.get(self.state.subject), []
        if subject is None or not self.state.layers():
            self.draw()
            return

        def work(job: Job) -> None:
            opened.append(open_studio(subject, self._tell))

        self._tell("Opening…")
        self.job = job = Job(work).start()

        def look() -> None:
            if job is not self.job:
                return  # another run was chosen
            if job.done.is_set() and opened:
                self._words = ""
                self.state.take(opened[0])
                self.renew()
            self.draw()

        job.follow(look, every=0.1)
        self.draw()

    def _tell(self, words: str) -> None:
        self._words = words

    def _stop(self) -> None:
        if self.job is not None:
            self.job.stop()

    def _turn(self, events: Sequence[Any]) -> None:
        if self.state.studio is None:
            return
        if {event.name for event in events} == {"at"} and self.job is not None and self.job.running:
            self.draw()  # all frames are being drawn already
        else:
            self.renew()

    def renew(self) -> None:
        """Draws what the choice wants and is not there yet, in a thread, a part at a time; what was being drawn stops."""
        self._stop()
        state, studio = self.state, self.state.studio
        settings, wanted, made = state.settings(), state.wanted(), []
        if wanted:

            def work(job: Job) -> None:
                paint(studio, wanted, settings, made.append, job.stopping.is_set)

            self.job = job = Job(work).start()

            def look() -> None:
                if not made and not (job.done.is_set() and job is self.job):
                    return
                while made:
                    state.keep(settings, made.pop(0))
                if job is self.job:
                    self.draw()
                    self._learn()

            job.follow(look, every=0.08)
        self.draw()

    def _learn(self) -> None:
        """Learns to read factors, once the first samples are there."""
        studio = self.state.studio
        if self.learning is not None or not self.state.complete() or not studio.teaches:
            return
        self.learning = job = Job(lambda _job: studio.learn()).start()
        job.follow(lambda: self.draw() if job.done.is_set() and studio is self.state.studio else None)

    # what is shown

    def draw(self) -> None:
        """Draws everything as it is by now, as one message to the browser."""
        with pn.io.hold():
            state, there = self.state, self.state.studio is not None
            ended = [job for job in (self.learning, self.job) if job is not None and job.done.is_set()]
            error = next((job.error for job in reversed(ended) if job.error is not None), None)
            if error is not None:
                words = str(error.args[0] if error.args else error)
                self.trouble.param.update(object=html.escape(f"It failed: {words}"), visible=True)
            remarks = " ".join(state.remarks())
            self.remark.param.update(object=html.escape(remarks), visible=bool(remarks))
            self._right.visible = self._chooser.visible = there
            self._show_progress(there=there, failed=error is not None)
            if not there:
                return
            self.samples.visible = state.view == "samples"
            self.which.visible = state.view != "samples"
            self.at.visible = state.view == "between"
            self.said.object = (
                f'{WORDS}<div class="words"><div class="told"><div class="headline">{html.escape(state.title())}</div>'
                f'<div class="finding">{html.escape(state.finding())}</div></div></div>'
            )
            self.save.filename = state.file_name()
            self._show_gallery()
            for side in self.sides.values():
                side.draw()

    def _show_progress(self, *, there: bool, failed: bool) -> None:
        state = self.state
        if not there:
            opening = bool(self._words) and not failed
            self.progress.param.update(variant="indeterminate", styles={} if opening else HIDDEN)
            self.doing.object = f'<div style="{TEXT}{SMALL}">{html.escape(self._words)}</div>' if opening else ""
            return
        total = sum(len(state.rows(side)) for side in state.shown()) * state.many()
        left = 0 if failed else len(state.wanted())
        share = round(100 * (1 - left / total)) if total else 100
        self.progress.param.update(variant="determinate", value=max(share, 0), styles={} if left else HIDDEN)
        self.doing.object = ""

    def _show_gallery(self) -> None:
        """Some of the images to choose from."""
        studio = self.state.studio
        rows = self._rows()[self._start : self._start + SHOWN]
        cells = "".join(self._thumb(row, studio) for row in rows)
        there = [row for row in rows if row >= 0]
        numbers = f"no. {there[0]} to {there[-1]} of {len(studio.pixels):,}" if there else f"{len(rows)} dropped in"
        kind = "held-out images" if studio.unseen else "images"
        said = f'<div style="{SMALL}color:{theme.QUIET};margin-bottom:6px">{kind}, {numbers}</div>'
        grid = f'<div class="gallery" style="display:grid;grid-template-columns:repeat(5,1fr);gap:6px">{cells}</div>'
        self.gallery.object = f'<div style="{TEXT}padding:0 10px">{said}{grid}</div>'

    def _thumb(self, row: int, studio: Studio) -> str:
        state = self.state
        source: Source = state.dropped[-1 - row] if row < 0 else row
        frame = FRAME.format(theme.INK) if source == state.first else ""
        if state.view != "samples" and source == state.second:
            frame = FRAME.format(theme.CATEGORIES[4])
        png = base64.b64encode(png_of(studio.source(source))).decode()
        tip = "dropped in" if row < 0 else f"no. {row}"
        return (
            f'<img class="thumb" data-row="{row}" tabindex="0" role="button" title="{tip}" style="width:100%;cursor:pointer;'
            f'image-rendering:pixelated;border-radius:2px;{frame}" src="data:image/png;base64,{png}">'
        )


def paint(
    studio: Studio,
    wanted: Sequence[Any],
    settings: Any,
    made: Callable[[list[tuple[Any, Drawn]]], Any],
    stopping: Callable[[], bool],
) -> None:
    """Draws what is wanted a part at a time, each so large that the next is there soon; hands every part over.

    Arguments:
        studio: Draws.
        wanted: Conditions and the numbers of their noise, in order.
        settings: How.
        made: Is given each part: what was wanted, and what was drawn.
        stopping: Whether to stop, asked before every part.
    """
    size, left = 4, list(wanted)
    while left and not stopping():
        part = next(in_chunks(left, size))
        began = monotonic()
        drawn = studio.draw([condition for condition, _ in part], [number for _, number in part], settings)
        took = monotonic() - began
        made(list(zip(part, drawn, strict=True)))
        left = left[len(part) :]
        size = min(2 * size, MOST) if took < SOON else max(size // 2, 1) if took > LATE else size
