"""Panels inside a notebook, with or without internet."""

import importlib.util
import os
import sys
from typing import Any

__all__ = ["notebook"]


def notebook(**settings: Any) -> None:
    """Makes figures and panels show in this notebook; call it once, in the first cell.

    What draws them (Bokeh, Panel) is put into the notebook's page, so that no internet is needed: in JupyterLab and Jupyter
    Notebook as it is, in VS Code and Colab through the package ``jupyter_bokeh``.

    Arguments:
        settings: Further arguments of ``panel.extension``.

    Raises:
        ModuleNotFoundError: In VS Code or Colab, if ``jupyter_bokeh`` is not installed.
    """
    place = _place()
    if place != "default" and importlib.util.find_spec("jupyter_bokeh") is None:
        raise ModuleNotFoundError(
            f"panels reach {place} notebooks through jupyter_bokeh, which is missing: pip install jupyter_bokeh"
        )
    import holoviews as hv
    import panel as pn
    import panel_material_ui  # noqa: F401  its scripts join the page with Panel's
    from panel.io.notebook import load_notebook
    from panel.theme import Native

    from workbench.figures import theme

    again = getattr(hv.extension, "_loaded", False)
    pn.extension(inline=True, comms=place, **{"design": Native} | settings)  # Material would dress the figures anew
    hv.extension("bokeh", inline=True, logo=False)
    if again:  # the kernel has them, but this may be a new page: a notebook that was closed and opened
        load_notebook(inline=True)
    theme.ready()


def _place() -> str:
    if "google.colab" in sys.modules:
        return "colab"
    return "vscode" if {"VSCODE_CWD", "VSCODE_PID"} & set(os.environ) else "default"
