"""Dimensional collapse from three sides: in theory, in a run, and live under one's hands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.figures import theme
from workbench.panels.live import CollapseLive
from workbench.panels.replayed import CollapseRun, RunPair, find_runs
from workbench.panels.theory import CollapseTheory
from workbench.run import Run

__all__ = ["Collapse", "page"]

HOME = Path("runs")


class Collapse(pn.viewable.Viewer):
    """Three tabs: the linear theory, a run (with another laid over it), live training. Torch comes only when something trains.

    Arguments:
        runs: Runs, paths of runs, or paths of folders of runs; without any, those in ``runs/``, and the theory is shown first.

    Example:
        >>> Collapse().tabs.active
        0
    """

    def __init__(self, runs: Run | str | Path | Sequence[Run | str | Path] = (), **params: Any) -> None:
        super().__init__(**params)
        given = [runs] if isinstance(runs, Run | str | Path) else list(runs)
        paths = [r.path if isinstance(r, Run) else r for r in given] or ([HOME] if HOME.is_dir() else [])
        found, complaints = find_runs(paths)
        self.theory = CollapseTheory()
        self.run = CollapseRun(RunPair(found), complaints)
        self.live = CollapseLive()
        tabs = [("Theory", self.theory), ("A run", self.run), ("Live training", self.live)]
        self.tabs = pmui.Tabs(*tabs, active=1 if given else 0, sizing_mode="stretch_width")
        self._page = pn.Column(
            self.tabs, sizing_mode="stretch_width"
        )  # were the tabs outermost, Material would dress the figures

    def __panel__(self) -> pn.viewable.Viewable:
        return self._page


def page(viewer: pn.viewable.Viewer, *, title: str) -> pmui.Page:
    """Returns a page around a viewer, for ``panel serve``; the figures keep their own looks on it."""
    if pn.state.curdoc is not None:
        pn.state.curdoc.theme = theme.document_theme()
    return pmui.Page(title=title, main=[viewer], theme_toggle=False)
