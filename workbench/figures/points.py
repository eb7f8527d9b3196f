"""Embeddings as points in the plane, with their images on hover."""

import base64
import io
import warnings
from typing import Any, Literal

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import CategoricalColorMapper, CDSView, GroupFilter, HoverTool, LegendItem

from workbench.figures import theme
from workbench.figures.grids import _channels_last

__all__ = ["embedding_map", "flatten"]

MANY = 10_000  # points beyond which a browser grows slow
METHODS = ("pca", "umap")
X, Y, ROW, IMAGE = "map_x", "map_y", "map_row", "map_image"
TAKEN = (X, Y, ROW, IMAGE, "color")  # columns of the figure itself, the last by HoloViews; factors of these names get others


def flatten(x: np.ndarray, *, method: Literal["pca", "umap"] = "pca", seed: int = 0) -> np.ndarray:
    """Returns (N, 2): the two leading principal components (signs fixed), or UMAP's map, which takes its time.

    Arguments:
        x: (N, D).
        method: ``"pca"`` or ``"umap"`` (of cosine distances; needs umap-learn).
        seed: Of UMAP.

    Raises:
        ValueError: If there is no such method, there are fewer than 3 rows, or the numbers are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"a map is made by {' or '.join(map(repr, METHODS))}, but got method={method!r}")
    x = np.array(x, dtype=np.float64).reshape(len(x), -1)
    _finite(x)
    if len(x) < 3:
        raise ValueError(f"a map needs at least 3 rows, but got {x.shape}")
    if method == "umap":
        import umap

        return umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(x)
    x -= x.mean(0)
    if x.shape[1] == 1:
        return np.concatenate([x, np.zeros_like(x)], axis=1)
    axes = _axes(x)
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return x @ axes


def _axes(x: np.ndarray) -> np.ndarray:
    """The two leading principal directions (D, 2) of centred rows, from the smaller of the two Gram matrices."""
    n, d = x.shape
    if d <= n:
        return np.linalg.eigh(x.T @ x)[1][:, :-3:-1]
    axes = x.T @ np.linalg.eigh(x @ x.T)[1][:, :-3:-1]
    length = np.linalg.norm(axes, axis=0)
    return axes / np.where(length > 0, length, 1)


def _finite(x: np.ndarray) -> None:
    if bad := int((~np.isfinite(x)).sum()):
        raise ValueError(f"a map needs finite numbers, but got {x.shape} with {bad} not finite")


def embedding_map(
    xy: np.ndarray,
    factors: pd.DataFrame | None = None,
    *,
    method: Literal["pca", "umap"] | None = None,
    seed: int = 0,
    colour: str | None = None,
    images: np.ndarray | None = None,
    thumbnails: int = 2_000,
    selected: np.ndarray | list[int] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Element:
    """A point a row, coloured by a factor; the image of the point under the mouse is shown beside it.

    Up to 10,000 rows are plain points, which can be lassoed; more are shaded by Datashader into one picture.

    Arguments:
        xy: (N, 2), which are drawn as they are, or (N, D).
        factors: N rows; shown on hover.
        method: How D columns become two, see :func:`flatten`; by default their two leading principal components.
        seed: Of UMAP.
        colour: A column of ``factors``: up to 12 different values are categories, more numbers are a scale.
        images: uint8 (N, C, H, W) or (N, H, W, C), shown on hover where there are at most ``thumbnails`` rows; beyond, a warning
            says that they are not.
        thumbnails: Most rows that get their image on hover, at most 10,000.
        selected: Rows drawn in colour, as a mask (N) or as their numbers; all others turn grey.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If the rows do not agree, the numbers are not finite, or there is no such method.
        KeyError: If there is no factor ``colour``.
        IndexError: If a selected row is not there.
    """
    theme.ready()
    xy = np.asarray(xy)
    xy = xy if xy.ndim == 2 and xy.shape[1] == 2 and method is None else flatten(xy, method=method or "pca", seed=seed)
    _finite(xy)
    factors = pd.DataFrame(index=range(len(xy))) if factors is None else factors.reset_index(drop=True)
    for what, rows in (("rows of factors", factors), ("images", images)):
        if rows is not None and len(rows) != len(xy):
            raise ValueError(f"{len(xy)} points but {len(rows)} {what}; give one a point")
    if colour is not None and colour not in factors:
        raise KeyError(f"there is no factor {colour!r} to colour by; the table has {list(factors)}")
    selected = None if selected is None else _rows(selected, len(xy))
    fields = {c: f"factor_{c}" if str(c).replace(" ", "_") in TAKEN else str(c) for c in factors}
    table = factors.rename(columns=fields).assign(**{X: xy[:, 0], Y: xy[:, 1], ROW: np.arange(len(xy))})
    scale, table = _scale(table, fields.get(colour), str(colour))
    if images is not None and len(xy) > min(thumbnails, MANY):
        warnings.warn(
            f"the images of {len(xy):,} points are not shown on hover, only those of up to {min(thumbnails, MANY):,}: "
            f"choose rows, or give thumbnails= (at most {MANY:,})",
            stacklevel=2,
        )
        images = None
    if len(xy) > MANY:
        return _shaded(table, fields.get(colour), scale, selected, title, options)
    tips = [("row", f"@{{{ROW}}}"), *((str(c), f"@{{{field}}}") for c, field in fields.items())]
    if images is not None:
        table[IMAGE] = [_data_url(i) for i in _channels_last(np.asarray(images))]
    points = hv.Points(table, [X, Y], [c for c in table if c not in (X, Y)])
    looks = {"size": 5, "alpha": 0.75, "line_color": None, "selection_alpha": 1.0}
    looks |= {
        "tools": ["hover", "lasso_select", "box_select", "tap"],
        "active_tools": ["lasso_select"],
        "hover_tooltips": _card(tips) if IMAGE in table else tips,
    }
    if selected is not None:
        looks["selected"] = selected.tolist()
    looks = {"width": 520, "height": 480, "hooks": [theme.bare, _grey]} | looks | scale | options
    return theme.frame(points, title=title, xaxis=None, yaxis=None, **looks)


def _rows(selected: np.ndarray | list[int], n: int) -> np.ndarray:
    """The numbers of the selected rows of ``n``."""
    rows = np.asarray(selected)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise ValueError(f"selected is a mask of shape {rows.shape} for {n} points; give one entry a point")
        return np.flatnonzero(rows)
    rows = rows.astype(int).reshape(-1)
    if len(rows) and not 0 <= rows.min() <= rows.max() < n:
        raise IndexError(f"selected names rows from {rows.min()} to {rows.max()}, but there are rows 0 to {n - 1}")
    return rows


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


def _scale(table: pd.DataFrame, field: str | None, name: str) -> tuple[dict[str, object], pd.DataFrame]:
    """How the points are coloured: options, and the table with the categories as words."""
    if field is None:
        return {"color": theme.CATEGORIES[0]}, table
    values = sorted(table[field].unique(), key=str) if table[field].dtype == object else np.sort(table[field].unique())
    if len(values) <= 12:
        table = table.assign(**{field: table[field].astype(str).astype(object)})
        cmap = {str(k): v for k, v in theme.palette(list(values), "category").items()}
        return {"color": field, "cmap": cmap, "legend_position": "right", "legend_opts": {"title": name}}, table
    return {"color": field, "cmap": list(theme.RAMPS["layer"]), "colorbar": True, "clabel": name}, table


def _shaded(
    table: pd.DataFrame, colour: str | None, scale: dict, selected: np.ndarray | None, title: str, options: dict
) -> hv.Element:
    """One picture of all the points, drawn on the server; below the selected ones, should there be any, all in grey."""
    import datashader as ds
    from holoviews.operation.datashader import datashade, dynspread

    cmap = scale.get("cmap")
    if isinstance(cmap, dict):
        table[colour] = table[colour].astype("category")
        how = {"aggregator": ds.count_cat(colour), "color_key": cmap}
    elif colour:
        how = {"aggregator": ds.mean(colour), "cmap": cmap}
    else:
        how = {"cmap": list(theme.PALE[60:])}
    span = {"x_range": _span(table[X]), "y_range": _span(table[Y])}
    shown = table if selected is None else table.iloc[selected]
    tools = hv.opts.RGB(tools=["lasso_select", "box_select"])
    figure = dynspread(datashade(hv.Points(shown, [X, Y], [colour] if colour else []), **how, **span)).opts(tools)
    if selected is not None:
        figure = dynspread(datashade(hv.Points(table, [X, Y], []), cmap=[theme.GREY], **span)).opts(tools) * figure
    looks = {"width": 520, "height": 480, "active_tools": ["lasso_select"]} | options
    return theme.frame(figure, title=title, xaxis=None, yaxis=None, hooks=[theme.bare], **looks)


def _span(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _data_url(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _card(tips: list[tuple[str, str]]) -> str:
    """The hover card: the image, then a line a factor."""
    lines = "".join(f"<div><b>{name}</b> {value}</div>" for name, value in tips)
    looks = "image-rendering: pixelated; border-radius: 4px; display: block; margin-bottom: 4px"
    image = f'<img src="@{{{IMAGE}}}" width="80" style="{looks}">'
    return f'<div style="font: 13px {theme.FONT}, sans-serif">{image}{lines}</div>'
