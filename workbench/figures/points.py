"""Embeddings as points in the plane, with their images on hover."""

import base64
import io
from collections.abc import Callable
from typing import Any, Literal

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import CategoricalColorMapper, CDSView, GroupFilter, HoverTool, LegendItem

from workbench.figures import theme
from workbench.figures.grids import _channels_last

__all__ = ["embedding_map", "flatten"]

MANY = 10_000  # points beyond which a browser grows slow


def flatten(x: np.ndarray, *, method: Literal["pca", "umap"] = "pca", seed: int = 0) -> np.ndarray:
    """Returns (N, 2): the two leading principal components (signs fixed), or UMAP's map, which takes its time.

    Arguments:
        x: (N, D).
        method: ``"pca"`` or ``"umap"`` (of cosine distances; needs umap-learn).
        seed: Of UMAP.

    Raises:
        ValueError: If there are fewer than 3 rows, or the numbers are not finite.
    """
    x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    if len(x) < 3 or not np.isfinite(x).all():
        raise ValueError(
            f"a map needs at least 3 rows of finite numbers, but got {x.shape} with {int((~np.isfinite(x)).sum())} not finite"
        )
    if method == "umap":
        import umap

        return umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(x)
    x = x - x.mean(0)
    if x.shape[1] == 1:
        return np.concatenate([x, np.zeros_like(x)], axis=1)
    _, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return x @ axes


def embedding_map(
    xy: np.ndarray,
    factors: pd.DataFrame | None = None,
    *,
    colour: str | None = None,
    images: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
    thumbnails: int = 2_000,
    selected: np.ndarray | list[int] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Element:
    """A point a row, coloured by a factor; the image of the point under the mouse is shown beside it.

    Up to 10,000 rows are plain points, which can be lassoed; more are shaded by Datashader into one picture.

    Arguments:
        xy: (N, 2), or (N, D), of which the two leading principal components are taken; see :func:`flatten`.
        factors: N rows; shown on hover.
        colour: A column of ``factors``: up to 12 different values are categories, more numbers are a scale.
        images: uint8 (N, C, H, W) or (N, H, W, C); only where there are at most ``thumbnails`` rows do they travel.
        thumbnails: Most rows that get their image on hover.
        selected: Rows drawn in colour; all others turn grey.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If the rows do not agree.
        KeyError: If there is no factor ``colour``.
    """
    theme.ready()
    xy = np.asarray(xy)
    xy = flatten(xy) if xy.ndim != 2 or xy.shape[1] != 2 else xy
    factors = pd.DataFrame(index=range(len(xy))) if factors is None else factors.reset_index(drop=True)
    if len(factors) != len(xy):
        raise ValueError(f"{len(xy)} points but {len(factors)} rows of factors; give one row a point")
    if colour is not None and colour not in factors:
        raise KeyError(f"there is no factor {colour!r} to colour by; the table has {list(factors)}")
    table = factors.assign(x=xy[:, 0], y=xy[:, 1], row=np.arange(len(xy)))
    scale, table = _scale(table, colour)
    if len(xy) > MANY:
        return _shaded(table, colour, scale, title, options)
    tips = [(c, f"@{{{c}}}") for c in ["row", *factors]]
    if images is not None and len(xy) <= thumbnails:
        table["image"] = [_data_url(i) for i in _channels_last(np.asarray(images))]
    points = hv.Points(table, ["x", "y"], [c for c in table if c not in ("x", "y")])
    looks = {"size": 5, "alpha": 0.75, "line_color": None, "selection_alpha": 1.0}
    looks |= {
        "tools": ["hover", "lasso_select", "box_select", "tap"],
        "active_tools": ["lasso_select"],
        "hover_tooltips": _card(tips) if "image" in table else tips,
    }
    if selected is not None:
        looks["selected"] = [int(i) for i in selected]
    looks = {"width": 520, "height": 480, "hooks": [theme.bare, _grey]} | looks | scale | options
    return theme.frame(points, title=title, xaxis=None, yaxis=None, **looks)


def _grey(plot: Any, element: Any) -> None:
    """A hook: what is not selected turns grey and stays; a click on a class in the legend mutes it."""
    drawn = plot.handles["glyph_renderer"]
    drawn.nonselection_glyph.update(fill_color=theme.GREY, fill_alpha=0.35, line_color=None)
    figure, mapper = plot.state, getattr(drawn.glyph.fill_color, "transform", None)
    if not isinstance(mapper, CategoricalColorMapper) or not figure.legend or not drawn.visible:
        return
    column = drawn.glyph.fill_color.field
    parts = {}
    for value, colour in zip(mapper.factors, mapper.palette, strict=False):  # views of one source: rows keep their numbers
        looks = {"fill_color": colour, "line_color": None}
        glyphs = {name: getattr(drawn, name).clone() for name in ("glyph", "selection_glyph", "nonselection_glyph")}
        glyphs["glyph"].update(**looks)
        glyphs["selection_glyph"].update(**looks)
        view = CDSView(filter=GroupFilter(column_name=column, group=value))
        parts[value] = figure.add_glyph(drawn.data_source, view=view, **glyphs)
        parts[value].muted_glyph = glyphs["glyph"].clone(fill_alpha=0.05)
    drawn.visible = False
    figure.legend[0].items = [LegendItem(label={"value": value}, renderers=[part]) for value, part in parts.items()]
    for hover in figure.select(HoverTool):
        hover.renderers = list(parts.values())


def _scale(table: pd.DataFrame, colour: str | None) -> tuple[dict[str, object], pd.DataFrame]:
    """How the points are coloured: options, and the table with the categories as words."""
    if colour is None:
        return {"color": theme.CATEGORIES[0]}, table
    values = sorted(table[colour].unique(), key=str) if table[colour].dtype == object else np.sort(table[colour].unique())
    if len(values) <= 12:
        table = table.assign(**{colour: table[colour].astype(str).astype(object)})
        cmap = {str(k): v for k, v in theme.palette(list(values), "category").items()}
        return {"color": colour, "cmap": cmap, "legend_position": "right", "legend_opts": {"title": colour}}, table
    return {"color": colour, "cmap": list(theme.RAMPS["layer"]), "colorbar": True, "clabel": colour}, table


def _shaded(table: pd.DataFrame, colour: str | None, scale: dict, title: str, options: dict) -> hv.Element:
    """One picture of all the points, drawn on the server."""
    import datashader as ds
    from holoviews.operation.datashader import datashade, dynspread

    points = hv.Points(table, ["x", "y"], [colour] if colour else [])
    cmap = scale.get("cmap")
    if isinstance(cmap, dict):
        table[colour] = table[colour].astype("category")
        shaded = datashade(points.clone(table), aggregator=ds.count_cat(colour), color_key=cmap)
    elif colour:
        shaded = datashade(points, aggregator=ds.mean(colour), cmap=cmap)
    else:
        shaded = datashade(points, cmap=list(theme.PALE[60:]))
    looks = {"width": 520, "height": 480, "tools": ["lasso_select", "box_select"], "active_tools": ["lasso_select"]} | options
    return theme.frame(dynspread(shaded), title=title, xaxis=None, yaxis=None, hooks=[theme.bare], **looks)


def _data_url(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _card(tips: list[tuple[str, str]]) -> str:
    """The hover card: the image, then a line a factor."""
    lines = "".join(f"<div><b>{name}</b> {value}</div>" for name, value in tips)
    image = (
        '<img src="@image" width="80" style="image-rendering: pixelated; border-radius: 4px; display: block; margin-bottom: 4px">'
    )
    return f'<div style="font: 13px {theme.FONT}, sans-serif">{image}{lines}</div>'
