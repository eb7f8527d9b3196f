"""A figure on a page that is drawn again in place, fast enough to follow a slider."""

import weakref
from collections.abc import Callable
from typing import Any

import holoviews as hv
import panel as pn

from workbench.figures.theme import Note

__all__ = ["Picture"]


class Picture(pn.viewable.Viewer):
    """Shows a figure, then the next. Where both hold the same curves, only their numbers travel and the reader's zoom stays.

    HoloViews draws the first figure; the numbers of the next go straight into the sources that Bokeh drew it from, which costs
    a twentieth of drawing it again.
    """

    def __init__(
        self, *, least: int = 300, grow: int = 1, tapped: Callable[[float, float], Any] | None = None, **params: Any
    ) -> None:
        """``least`` is the width in screen pixels below which pictures side by side become pictures one below the other; of
        the room beyond, each takes a share of ``grow``.

        ``tapped`` is told where the reader clicked, in the units of the axes.
        """
        super().__init__(**params)
        self._tapped = tapped
        self.figure: Any = None
        self._shape: list[tuple[str, str]] | None = None
        self._beat = hv.streams.Stream.define("Beat", n=0)()
        self._plots: weakref.WeakSet = weakref.WeakSet()
        looks = {"sizing_mode": "stretch_width", "min_width": least, "styles": {"flex": f"{grow} 1 {least}px"}}
        self._pane = pn.pane.HoloViews(None, linked_axes=False, backend="bokeh", **looks)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._pane

    def hide(self, *, hidden: bool) -> None:
        """Takes the picture off the page, or puts it back."""
        try:
            self._pane.visible = not hidden
        except AttributeError:  # Panel now and then hands the page's design on to Bokeh's figure, which has none: drawn anew
            self._pane.param.trigger("object")

    def show(self, figure: Any) -> None:
        """Draws ``figure`` from now on; None clears."""
        shape, before = _shape(figure), self.figure
        same, self.figure, self._shape = figure is not None and shape == self._shape, figure, shape
        if figure is None:
            self._pane.object = None
        elif not same:
            self._plots.clear()
            self._pane.object = hv.DynamicMap(self._newest, streams=[self._beat])
        elif isinstance(figure, hv.Overlay):
            for plot in list(self._plots):
                _refill(plot, figure, before)
        else:
            self._beat.event(n=self._beat.n + 1)

    def _newest(self, n: int) -> Any:
        """What a browser that connects now is to see."""
        if not isinstance(self.figure, hv.Overlay):
            return self.figure
        return self.figure.opts(hooks=[*_option(self.figure, "hooks"), self._take_up])

    def _take_up(self, plot: Any, element: Any) -> None:
        if self._tapped is not None and plot not in self._plots:  # streams of HoloViews do not see overlays
            plot.handles["plot"].on_event("tap", lambda event: self._tapped(event.x, event.y))
        self._plots.add(plot)


def _shape(figure: Any) -> list[tuple[str, str]] | None:
    if figure is None:
        return None
    return [(type(e).__name__, e.label) for e in (figure if isinstance(figure, hv.Overlay) else [figure])]


def beside(*pictures: Picture, height: int) -> pn.FlexBox:
    """Returns pictures side by side where there is room; ``height`` is kept for them before they are drawn."""
    return pn.FlexBox(*pictures, sizing_mode="stretch_width", min_height=height, flex_wrap="wrap", align_items="flex-start")


def _option(figure: Any, name: str) -> Any:
    return figure.opts.get("plot").kwargs.get(name)


def _refill(plot: Any, figure: hv.Overlay, before: hv.Overlay) -> None:
    """Puts the numbers of ``figure`` into the Bokeh figure that ``plot`` made of ``before``, which had the same curves."""
    for element, part in zip(figure, plot.subplots.values(), strict=True):
        if isinstance(element, hv.HLine | hv.VLine):
            part.handles["glyph"].location = element.data
        elif isinstance(element, hv.HSpan):
            part.handles["glyph"].update(bottom=element.data[0], top=element.data[1])
        else:
            source = part.handles["source"]
            source.data = dict(source.data) | _numbers(element, part)
            if limits := _option(element, "clim"):
                part.handles["color_mapper"].update(low=limits[0], high=limits[1])
    drawn = plot.handles["plot"]
    drawn.title.text = _option(figure, "title") or ""
    for axis, name in ((drawn.xaxis[0], "xlabel"), (drawn.yaxis[0], "ylabel")):
        axis.axis_label = _option(figure, name) or ""
    for hook in _option(figure, "hooks"):
        if isinstance(hook, Note):
            hook(plot, figure)
    for name, axis in (("xlim", drawn.x_range), ("ylim", drawn.y_range)):
        if _option(figure, name) and _option(figure, name) != _option(before, name):  # else the reader's zoom stays
            axis.update(start=_option(figure, name)[0], end=_option(figure, name)[1])
    plot.push()


def _numbers(element: hv.Element, part: Any) -> dict[str, Any]:
    """The columns of Bokeh's source, without HoloViews' slow way there where the table is as Bokeh wants it."""
    if isinstance(element, hv.Path):
        x, y = (d.name for d in element.kdims)
        return {"xs": [line[x] for line in element.data], "ys": [line[y] for line in element.data]}
    if isinstance(element, hv.Curve | hv.Scatter):
        return {name: element.data[name].to_numpy() for name in element.data}
    return part.get_data(element, {}, part.lookup_options(element, "style")[0])[0]  # without its style a map turns viridis
