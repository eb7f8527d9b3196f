"""What can be read from every layer: a table of tasks and layers, and one task by depth. Two layers are held against each other.

The two layers have the same two colours in every figure (and in what is written about them).
"""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import BoxAnnotation

from workbench.figures import theme

__all__ = ["cut_curves", "cut_table", "short_layers"]

CHANCE = "chance"
LEAST = 0.1  # above chance, that a task's best layer must have to be drawn darkest
MEASURES = {"accuracy": "accuracy", "r2": "R²"}
COLUMNS = ["layer", "factor", "measure", "value", "chance"]


def short_layers(layers: Sequence[str]) -> dict[str, str]:
    """Returns a shorter name for each layer: without ``backbone.`` and ``model.`` where it stays unlike the others.

    Example:
        >>> short_layers(["backbone.stage1", "backbone", "projector.0"])
        {'backbone.stage1': 'stage1', 'backbone': 'backbone', 'projector.0': 'projector.0'}
    """
    short = {layer: layer.removeprefix("backbone.").removeprefix("model.") for layer in layers}
    return short if len(set(short.values())) == len(layers) else {layer: layer for layer in layers}


def task_words(factor: str, measure: str) -> str:
    """Returns how a task is named with what it is measured by: "label, accuracy"."""
    return f"{factor}, {MEASURES.get(measure, measure)}"


def cut_table(table: pd.DataFrame, *, title: str = "", **options: Any) -> hv.Overlay:
    """A row a task, a column a layer by depth, then chance; white is chance, the darkest blue the best layer of the task
    (or .1 above chance, where no layer comes so far).

    Arguments:
        table: That of ``probe_layers``, layers in the order of depth: columns layer, factor, measure (``"accuracy"`` of classes,
            ``"r2"`` of numbers), value, chance; of ``n_train`` and ``n_test`` the small print below tells. Classes stand on top.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If it is empty, or has several values for one cell.
    """
    theme.ready()
    theme.need(table, COLUMNS, "cut_table")
    theme.lone(table, ["layer", "factor"], ["value", "chance"])
    layers, tasks = cut_order(table)
    short = short_layers(layers)
    room = (table.groupby("factor")["value"].transform("max") - table["chance"]).clip(lower=LEAST)
    named = [task_words(*pair) for pair in table[["factor", "measure"]].to_numpy()]
    cells = table.assign(
        across=table["layer"].map(short), down=named, share=((table["value"] - table["chance"]) / room).clip(0, 1)
    )
    guess = cells.drop_duplicates("factor").assign(across=CHANCE, share=0.0, value=lambda rows: rows["chance"])
    cells = pd.concat([cells, guess], ignore_index=True)[["across", "down", "share", "value", "chance", "measure"]]
    cells = cells.assign(printed=[_number(v) for v in cells["value"]], measure=cells["measure"].map(MEASURES))
    cells = cells.astype(dict.fromkeys(("across", "down", "printed", "measure"), object))
    across = hv.Dimension("across", values=[*short.values(), CHANCE])
    words = table.drop_duplicates("factor").set_index("factor")["measure"]
    down = hv.Dimension("down", values=[task_words(task, words[task]) for task in tasks][::-1])
    heat = hv.HeatMap(cells, [across, down], ["share", "value", "chance", "measure"])
    tips = [("layer", "@across"), ("task", "@down"), ("value", "@value{0.0000}"), ("chance", "@chance{0.0000}")]
    heat = heat.opts(cmap=list(theme.PALE), clim=(0, 1), colorbar=False, line_color=theme.PAPER, line_width=2)
    heat = heat.opts(tools=["hover"], hover_tooltips=tips)
    numbers = hv.Labels(cells, [across, down], "printed")
    numbers = numbers.opts(text_color=theme.INK, text_font_size=theme.SIZE["note"])
    tilted = 35 if len(layers) > 9 or max(map(len, short.values())) > 7 else 0
    looks = {"width": 64 * (len(layers) + 1), "height": 27 * len(tasks), "note": _note(table), "xrotation": tilted}
    looks |= {"xaxis": "top", "xlabel": "", "ylabel": "", "show_legend": False, "hooks": [theme.bare]} | options
    return theme.frame(heat * numbers, title=title, **looks)


def cut_order(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Returns the layers by depth, and the tasks: classes first, then numbers by how well their best layer reads them."""
    best = table.groupby("factor", sort=False).agg(measure=("measure", "first"), value=("value", "max"))
    best = best.assign(last=best["measure"] != "accuracy").sort_values(["last", "value"], ascending=[True, False], kind="stable")
    return list(dict.fromkeys(table["layer"])), list(best.index)


def frame_cells(plot: Any, places: Sequence[tuple[int, int, str]]) -> None:
    """Draws a frame in a colour around cells (column from the left, row from below) of a drawn :func:`cut_table`, in order."""
    figure = plot.handles["plot"]
    frames = [part for part in figure.center if isinstance(part, BoxAnnotation) and part.name == "chosen"]
    for i, (column, row, colour) in enumerate(places):
        if i == len(frames):
            frames.append(BoxAnnotation(name="chosen", fill_alpha=0, line_width=3.5, line_alpha=1))
            figure.add_layout(frames[-1])
        frames[i].update(left=column, right=column + 1, bottom=row, top=row + 1, line_color=colour)


def cut_curves(
    table: pd.DataFrame, *, factor: str, layer: str, against: str | None = None, title: str = "", **options: Any
) -> hv.Overlay:
    """One task by depth over all others in grey, the two layers as points in their colours, and chance.

    Arguments:
        table: As of :func:`cut_table`.
        factor: The task that is drawn in ink.
        layer, against: The two layers.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If it is empty, or has no such task or layer.
    """
    theme.ready()
    theme.need(table, COLUMNS, "cut_curves")
    layers, tasks = cut_order(table)
    if factor not in tasks or not {layer, against or layer} <= set(layers):
        raise ValueError(f"there is no {factor!r} at {layer!r} and {against!r}; the tasks are {tasks}, the layers {layers}")
    place = {name: i for i, name in enumerate(layers)}
    rows = table.assign(depth=table["layer"].map(place)).sort_values("depth")
    paths = [
        {"depth": part["depth"].to_numpy(), "value": part["value"].to_numpy(float), "task": task_words(*name)}
        for name, part in rows.groupby(["factor", "measure"], sort=False)
    ]
    tips = [("task", "@task"), ("value", "$snap_y{0.000}")]
    grey = hv.Contours(paths, ["depth", "value"], "task", label="all tasks")
    grey = grey.opts(color=theme.GREY, line_width=1.6, tools=["hover"], hover_tooltips=tips, show_legend=False)
    one = rows[rows["factor"] == factor]
    line = hv.Curve(one, "depth", "value", label="task").opts(color=theme.INK, line_width=2.6, show_legend=False)
    guess = one["chance"].iloc[0]
    chance = hv.HLine(guess, label="chance").opts(color=theme.QUIET, line_dash="dashed", line_width=1.6)
    parts = [grey, chance, line]
    shown = [(layer, theme.PAIR[0])] + ([(against, theme.PAIR[1])] if against else [])
    for name, colour in shown:
        point = one[one["layer"] == name][["depth", "value"]]
        parts.append(hv.Scatter(point, "depth", "value", label=f"point {colour}").opts(color=colour, size=13, show_legend=False))
        said = point.assign(words=[_number(v) for v in point["value"]])
        looks = {"text_color": colour, "text_font_style": "bold", "text_font_size": theme.SIZE["label"], "yoffset": 0.045}
        parts.append(hv.Labels(said, ["depth", "value"], "words", label=f"number {colour}").opts(text_baseline="bottom", **looks))
    word = hv.Labels([(len(layers) - 1, guess, "chance")], ["depth", "value"], "words", label="chance word")
    looks = {"text_baseline": "top", "text_align": "right", "text_color": theme.QUIET, "text_font_size": theme.SIZE["note"]}
    parts.append(word.opts(**looks))
    low = min(0.0, max(float(table["value"].min()), -0.1))
    ticks = [(i, name) for i, name in enumerate(short_layers(layers).values())]
    looks = {"ylim": (low - 0.06, 1.1), "xlim": (-0.4, len(layers) - 0.5), "xticks": ticks, "xlabel": "", "show_legend": False}
    looks["note"] = "grey: the other tasks" if len(tasks) > 1 else ""
    looks |= {"xrotation": 35 if len(layers) > 5 else 0, "ylabel": MEASURES.get(one["measure"].iloc[0], "value")} | options
    return theme.frame(hv.Overlay(parts), title=title, **looks)


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if value > -10 else "< −10"


def _note(table: pd.DataFrame) -> str:
    """What was fitted, on how many images, and how far chance alone moves an accuracy."""
    lines = ["Colour: from chance (white) to the best layer of each task."]
    if {"n_train", "n_test"} <= set(table):
        known, asked = int(table["n_train"].max()), int(table["n_test"].max())
        lines[0] += f" Linear probes, fitted on {known:,} images, asked about {asked:,} others"
        sharp = f"; standard error of an accuracy at most {0.5 / asked**0.5:.2g}" if "accuracy" in set(table["measure"]) else ""
        lines[0] += f"{sharp}."
    return "\n".join(lines)
