"""A button that begins long work, the bar that follows it, and the button that stops it."""

import contextlib
import html
from collections.abc import Callable, Iterator
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.panels.jobs import Job

__all__ = ["Working"]


class Working(pn.viewable.Viewer):
    """Works through an iterator in a thread; the session looks at how far it has come several times a second.

    Arguments:
        begin: Gives the iterator; what it yields has ``share``, from 0 to 1, and ``next``, in words.
        seen: Called in the session with every look at which it has come further, and once when it ended.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]], seen: Callable[[], Any], *, label: str, **params: Any) -> None:
        super().__init__(**params)
        self._begin, self._seen = begin, seen
        self.job: Job | None = None
        self._at: list[Any] = []
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self.button = pmui.Button(label=label, color="primary", variant="contained", **wide)
        self.stop = pmui.Button(label="Stop", variant="outlined", visible=False, **wide)
        self.progress = pmui.LinearProgress(value=0, visible=False, **wide)
        self.doing = pn.pane.Markdown("", visible=False, **wide)
        self.trouble = pmui.Alert(object="", severity="error", visible=False, **wide)
        self.button.on_click(lambda event: self.start())
        self.stop.on_click(lambda event: self.job.stop())
        self._layout = pn.Column(self.button, self.stop, self.progress, self.doing, self.trouble, **wide)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    @property
    def running(self) -> bool:
        """Whether it works."""
        return self.job is not None and not self.job.done.is_set()

    def start(self) -> None:
        """Begins, unless it works already."""
        if self.running:
            return
        at: list[Any] = []
        begun, self._at, self._told = self._begin(), at, 0

        def work(job: Job) -> None:
            with contextlib.closing(begun) as going:
                for moment in going:
                    at.append(moment)
                    if job.stopping.is_set():
                        return

        self.trouble.visible = False
        self.progress.value, self.doing.object = 0, "Loading torch and the images…"
        self.job = Job(work).start()
        self._show(running=True)
        self.job.follow(self.look, every=0.4)

    def _show(self, *, running: bool) -> None:
        self.button.visible = not running
        self.stop.visible = self.progress.visible = self.doing.visible = running

    def look(self) -> None:
        """Shows how far it has come."""
        ended, come = self.job.done.is_set(), len(self._at)
        with pn.io.hold():
            if come:
                self.progress.value = round(100 * self._at[-1].share)
                self.doing.object = html.escape(self._at[-1].next)
            if ended:
                self._show(running=False)
            if ended or come != self._told:
                self._told = come
                self._seen()
            if self.job.error is not None and ended:
                words = str(self.job.error.args[0] if self.job.error.args else self.job.error)
                self.trouble.param.update(object=html.escape(f"It failed: {words}"), visible=True)
