"""What a measure chooses along one hyper-parameter, as two pictures of a table: chosen without labels, judged by labels."""

import holoviews as hv
import pandas as pd

from workbench.figures.choices import along_setting
from workbench.measures.selection import choose_runs, plateau_band, seed_floor
from workbench.panels.outcomes import best_of

__all__ = ["choice_along"]


def choice_along(
    table: pd.DataFrame, measure: str, probe: str, *, plateau: float = 0.05, title: str = "", width: int = 330
) -> hv.Layout:
    """Draws a measure with its plateau along the settings of one sweep, and beside it what labels say.

    Rings stand on what is chosen in every seed. The grey band of the second picture reaches two deviations over seeds to
    either side of the best mean: settings in it are not told from the best.

    Arguments:
        table: A row a run of one method and one sweep: columns method, sweep, setting, seed, and those asked.
        measure: What needs no labels; whether it is to be high, low or near a number follows from its name.
        probe: What labels say; the higher the better.
        plateau: As in :func:`workbench.choose_run`.
        title: What the figure shows, as a statement.
        width: Of each picture, in screen pixels.

    Raises:
        KeyError: If a column is missing.
        ValueError: If there is more than one sweep, or a measure is not a number.

    Example:
        ``choice_along(table.query("sweep == 'lr'"), "rankme", "label")``
    """
    sweeps = table[["method", "sweep"]].drop_duplicates()
    if len(sweeps) != 1:
        raise ValueError(f"choice_along draws one sweep of one method, but the table has {len(sweeps)}; choose one")
    method, sweep = sweeps.iloc[0]
    rule = {"best": best_of(measure), "plateau": plateau}
    means = table.groupby("setting")[[measure, probe]].mean()
    look = {"chosen": "taken", "xlabel": f"{sweep} ({method})".replace("_", " "), "width": width, "height": 240}
    table = table.assign(taken=choose_runs(table, measure, **rule))
    band = {method: plateau_band(means[measure], **rule)} if plateau else None
    left = along_setting(table, measure, band=band, banded=f"{plateau:.0%} of the range", title=f"Chosen by {measure}", **look)
    if table["seed"].nunique() > 1:
        floor, top = seed_floor(table, probe, by="setting"), means[probe].max()
        look |= {"band": (top - 2 * floor, top + 2 * floor), "banded": "two deviations over seeds from the best"}
    right = along_setting(table, probe, title=f"Judged by {probe}", **look)
    return (left + right).opts(title=title, shared_axes=False, toolbar=None)
