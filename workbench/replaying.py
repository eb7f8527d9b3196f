"""Replaying a run: every kept snapshot through every measure, as two tables that stay with the run.

``spectrum`` has the columns step, layer, rank, value, floor: the eigenvalues of the covariance of the L2-normalised
features of held-out images (DirectCLR's definition), and below which value they are rounding. ``measures`` has step, layer,
measure, value: RankMe, the standard deviation of the normalised features, and the accuracy of k nearest neighbours where
the images have labels. Both have n, d and convention, what every number was taken of and how.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.data.images import Images
from workbench.features import Features, digest, extract
from workbench.measures.geometry import normalised_std
from workbench.measures.spectral import rankme, spectrum
from workbench.measures.table import over_layers
from workbench.models.encoder import main_layers
from workbench.probes import KNNProbe
from workbench.run import Run

__all__ = ["replay"]


def replay(
    run: Run,
    images: Images | None = None,
    *,
    layers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    n: int = 2048,
    factor: str | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Measures every kept step of ``run`` and returns (and keeps) its tables ``spectrum`` and ``measures``.

    What was measured before, on the same images, is not measured again, and stays beside what is new. A table is of one set of
    images and one factor: with other images, another ``n`` or another factor, what does not agree with them is replaced, of
    every step, and a warning says so. What is measured is kept at once: it can be stopped and called again. The last step
    comes first, then the first, then those between.

    Arguments:
        images: Where to measure. Without them, images like those of the training are drawn: the neighbours are looked for
            among training images, for held-out ones (:meth:`Run.held_out`). With them, and where nothing is held out, a random
            half (always the same) is searched for the other.
        layers: Module paths; by default the stages of the backbone and every layer of the projector.
        steps: Which of ``run.steps``; by default all.
        n: At most so many images for each part.
        factor: The factor whose classes the neighbours vote for; by default ``label``, where the images have one.

    Raises:
        KeyError: If the images have no such factor.
        ValueError: If the factor is no classes, or the run's images cannot be drawn again and none are given.
    """
    bank, held_out = halves(run, images, n)
    factor = _voted(bank, held_out, factor)
    layers = list(layers or main_layers(run.model()))
    wanted = list(steps if steps is not None else run.steps)
    wanted = [*wanted[-1:], *wanted[:-1]]
    seen_by = {"images": digest(held_out)}
    about = {"spectrum": seen_by, "measures": seen_by | {"bank": digest(bank), "factor": factor}}
    tables, other = {}, {}
    for name, facts in about.items():
        tables[name], other[name] = _kept(run, name, facts)
    if any(other.values()):
        said = ", ".join(f"{name} at {steps} steps" for name, steps in other.items() if steps)
        warnings.warn(
            f"what was measured on other images, of another factor or without its convention is replaced: {said}.",
            UserWarning,
            stacklevel=2,
        )
    done = {(s, name) for s, name in zip(tables["measures"]["step"], tables["measures"]["layer"], strict=True)}
    for step in tqdm(
        [s for s in wanted if any((s, name) not in done for name in layers)], desc="replay", unit="step", disable=not progress
    ):
        model = run.model(step).to("cuda" if torch.cuda.is_available() else "cpu")
        seen = extract(model, held_out, layers, progress=False)
        known = extract(model, bank, layers, progress=False) if factor else None
        new = {
            "spectrum": over_layers(seen, spectrum=spectrum).drop(columns="measure"),
            "measures": _measures(seen, known, factor),
        }
        for name, table in tables.items():
            stale = (table["step"] == step) & table["layer"].isin(layers)
            new[name] = new[name].assign(step=step, **about[name])
            joined = pd.concat([table[~stale], new[name]], ignore_index=True) if len(table) else new[name]
            tables[name] = joined.sort_values("step", kind="stable", ignore_index=True)
            run.write_table(name, tables[name])
    return tables


def _measures(seen: Features, known: Features | None, factor: str) -> pd.DataFrame:
    table = over_layers(seen, rankme=rankme, normalised_std=normalised_std)
    if known is None:
        return table
    rows = []
    for layer, z in seen.items():
        probe = KNNProbe().fit(known[layer], known.factors[factor].to_numpy())
        value = probe.score(z, seen.factors[factor].to_numpy())
        how = f"{factor}, by {probe.k} nearest of {len(known[layer])} rows, cosine, weights exp(cos / {probe.temperature})"
        rows.append({"layer": layer, "measure": "knn", "value": value, "n": len(z), "d": z.shape[1], "convention": how})
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def _voted(bank: Images, held_out: Images, factor: str | None) -> str:
    """Returns the factor that neighbours vote for; without a name, ``label`` if it is classes, or nothing."""
    name = factor or "label"
    trouble = _unfit(bank.factors, name) or _unfit(held_out.factors, name)
    if trouble and factor:
        raise trouble
    return "" if trouble else name


def _unfit(factors: pd.DataFrame, name: str) -> KeyError | ValueError | None:
    """Returns why neighbours cannot vote for a factor, if they cannot."""
    if name not in factors:
        return KeyError(f"the images have no factor {name!r}; they have {', '.join(map(str, factors)) or 'none'}")
    values = factors[name]
    if pd.api.types.is_float_dtype(values):
        return ValueError(f"neighbours vote for classes, but the factor {name!r} is of numbers ({values.dtype})")
    if values.isna().any():
        return ValueError(f"the factor {name!r} is missing in {values.isna().sum()} of {len(values)} images")
    return None


def halves(run: Run, images: Images | None, n: int) -> tuple[Images, Images]:
    """Returns at most ``n`` images to learn from and ``n`` others to be asked about, as :func:`replay` says."""
    if images is None:
        bank, held_out = run.images(), run.held_out()
        if held_out is not None:
            return bank[:n], held_out[:n]
        images = bank
    if len(images) < 2:
        raise ValueError(f"{images.name} has {len(images)} images: one to learn from and another to be asked about are the least")
    order = np.random.default_rng(0).permutation(len(images))  # a folder's images come class by class
    half = len(images) // 2
    return images[np.sort(order[: min(n, half)])], images[np.sort(order[half : half + n])]


def _kept(run: Run, name: str, about: dict[str, str]) -> tuple[pd.DataFrame, int]:
    """Returns the rows of a table that are of the same images and factor, and how many steps have others."""
    table = run.table(name)
    if table is None or not {"step", "layer", "convention", *about} <= set(table):
        return pd.DataFrame(columns=["step", "layer", *about]), 0 if table is None else table.get("step", pd.Series()).nunique()
    same = (table[list(about)] == pd.Series(about)).all(axis=1)
    return table[same], table.loc[~same, "step"].nunique()
