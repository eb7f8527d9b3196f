"""Figures as files: PNG by a headless Chromium, which draws exactly what a reader's browser draws; HTML that works offline."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
from PIL import Image

from workbench.figures import theme

__all__ = ["save"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")


def save(figure: Any, path: str | Path, *, scale: float = 2.0, window: tuple[int, int] = (2400, 2400)) -> Path:
    """Writes a figure to ``path``: ``.png``, cropped to the figure, or ``.html``, which needs no internet.

    Arguments:
        figure: A HoloViews figure, or a Panel object.
        path: Where to; its folder is made.
        scale: PNG pixels a screen pixel.
        window: Width and height of the window that it is drawn in, in screen pixels; larger figures are cut.

    Raises:
        ValueError: If the path ends in neither .png nor .html.
        FileNotFoundError: If there is no Chromium or Chrome for a PNG.
        RuntimeError: If the browser drew nothing.
    """
    theme.ready()
    path = Path(path)
    if path.suffix not in (".png", ".html"):
        raise ValueError(f"a figure is saved as .png or .html, but the path is {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        _html(figure, path)
        return path
    browser = _browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page, shot = Path(folder, "figure.html"), Path(folder, "figure.png")
        _html(figure, page)
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        command += [
            f"--force-device-scale-factor={scale}",
            f"--window-size={window[0]},{window[1]}",
            "--virtual-time-budget=10000",
        ]
        done = subprocess.run(
            [*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=120, check=False
        )
        if not shot.exists():
            raise RuntimeError(f"{browser} drew nothing; it said: {done.stderr[-500:]}")
        _crop(Image.open(shot).convert("RGB"), round(12 * scale)).save(path, optimize=True)
    return path


def _html(figure: Any, path: Path) -> None:
    import panel as pn
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    if isinstance(figure, pn.viewable.Viewable | pn.viewable.Viewer):
        pn.panel(figure).save(str(path), resources=INLINE, title="figure")
    else:
        path.write_text(
            file_html(hv.renderer("bokeh").get_plot(figure).state, INLINE, "figure", suppress_callback_warning=True),
            encoding="utf-8",
        )


def _browser() -> str:
    wanted = os.environ.get("CHROMIUM")
    found = wanted or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise FileNotFoundError(
            f"a PNG needs one of {', '.join(NAMES)}; install one, set $CHROMIUM to its path, or save as .html"
        )
    return found


def _crop(picture: Image.Image, border: int) -> Image.Image:
    """The part of the picture that is not white, with a border."""
    ink = (np.asarray(picture) < 250).any(axis=2)
    if not ink.any():
        raise RuntimeError("the browser drew a white page; the figure holds nothing to see")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = (columns[0] - border, rows[0] - border, columns[-1] + border, rows[-1] + border)
    page = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), "white")
    page.paste(picture.crop((max(box[0], 0), max(box[1], 0), box[2], box[3])), (max(-box[0], 0), max(-box[1], 0)))
    return page
