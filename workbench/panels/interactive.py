"""Small knobs in a notebook: ipywidgets that draw a figure again."""

from collections.abc import Callable, Sequence
from typing import Any

import panel as pn

__all__ = ["knobs"]


def knobs(draw: Callable[..., Any], **choices: Any) -> pn.pane.HoloViews:
    """Shows a knob for every argument of ``draw``, and the figure that it returns, drawn again whenever a knob is let go.

    The figure for the first choices is drawn at once, so that the executed notebook shows it without a kernel.

    Arguments:
        draw: Returns a figure.
        choices: For each argument the values to choose from: a sequence of numbers gives a slider, of words a menu; any
            ipywidget is taken as it is.

    Returns:
        The pane that shows the figure, to stand last in its cell; the knobs are displayed above it.

    Raises:
        ValueError: If there is nothing to choose from.

    Example:
        ``knobs(lambda layer: spectra(table[table.layer == layer]), layer=["backbone", "projector"])``
    """
    import ipywidgets
    from IPython.display import display

    widgets = {name: _widget(name, values) for name, values in choices.items()}

    def figure() -> Any:
        return draw(**{name: widget.value for name, widget in widgets.items()})

    pane = pn.pane.HoloViews(figure(), linked_axes=False, backend="bokeh")

    def again(_change: Any) -> None:
        pane.object = figure()

    for widget in widgets.values():
        widget.observe(again, "value")
    display(ipywidgets.HBox(list(widgets.values())))
    return pane


def _widget(name: str, values: Sequence[Any] | Any) -> Any:
    import ipywidgets

    if isinstance(values, ipywidgets.Widget):
        return values
    values = list(values)
    if not values:
        raise ValueError(f"the knob {name!r} has nothing to choose from")
    kind = ipywidgets.Dropdown if any(isinstance(v, str) for v in values) else ipywidgets.SelectionSlider
    looks = {"description": name, "style": {"description_width": "initial"}}
    return kind(options=values, **looks, **({} if kind is ipywidgets.Dropdown else {"continuous_update": False}))
