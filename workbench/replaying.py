"""Replaying a run: every kept snapshot through every measure, as two tables that stay with the run.

``spectrum`` has the columns step, layer, rank, value (and n, d): the eigenvalues of the covariance of the L2-normalised
features of held-out images (DirectCLR's definition). ``measures`` has step, layer, measure, value (and n, d): RankMe, the
accuracy of k nearest neighbours where the images have labels, and the standard deviation of the normalised features.
"""

from collections.abc import Sequence

import pandas as pd
from tqdm.auto import tqdm

from workbench.data.images import Images
from workbench.features import Features, digest, extract
from workbench.measures.geometry import normalised_std
from workbench.measures.spectral import rankme, spectrum
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
    factor: str = "label",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Measures every kept step of ``run`` and returns (and keeps) its tables ``spectrum`` and ``measures``.

    What was measured before, on the same images with the same factor, is not measured again; other images or another factor
    replace it. What is measured is kept at once: it can be stopped and called again. The last step comes first, then the
    first, then those between.

    Arguments:
        images: Where to measure. Without them, images like those of the training are drawn: the neighbours are looked for
            among training images, for held-out ones (:meth:`Run.held_out`). With them, and where nothing is held out, the first
            half is searched for the second.
        layers: Module paths; by default the stages of the backbone and every layer of the projector.
        steps: Which of ``run.steps``; by default all.
        n: At most so many images for each part.
        factor: The discrete factor whose values the neighbours vote for.

    Raises:
        ValueError: If the run's images cannot be drawn again and none are given.
    """
    bank, held_out = _parts(run, images, n)
    layers = list(layers or main_layers(run.model()))
    wanted = list(steps if steps is not None else run.steps)
    wanted = [*wanted[-1:], *wanted[:-1]]
    about = {"images": digest(held_out), "factor": factor}
    tables = {name: _kept(run, name, about) for name in ("spectrum", "measures")}
    done = {(s, name) for s, name in zip(tables["measures"]["step"], tables["measures"]["layer"], strict=True)}
    for step in tqdm(
        [s for s in wanted if any((s, name) not in done for name in layers)], desc="replay", unit="step", disable=not progress
    ):
        model = run.model(step)
        seen = extract(model, held_out, layers, progress=False)
        known = extract(model, bank, layers, progress=False) if factor in bank.factors else None
        new = {"spectrum": _spectra(seen), "measures": _measures(seen, known, factor)}
        for name, table in tables.items():
            stale = (table["step"] == step) & table["layer"].isin(layers)
            new[name] = new[name].assign(step=step, **about)
            joined = pd.concat([table[~stale], new[name]], ignore_index=True) if len(table) else new[name]
            tables[name] = joined.sort_values("step", kind="stable", ignore_index=True)
            run.write_table(name, tables[name])
    return tables


def _spectra(seen: Features) -> pd.DataFrame:
    rows = [spectrum(z).assign(layer=layer, n=len(z), d=z.shape[1]) for layer, z in seen.items()]
    return pd.concat(rows, ignore_index=True)


def _measures(seen: Features, known: Features | None, factor: str) -> pd.DataFrame:
    rows = []
    for layer, z in seen.items():
        values = {"rankme": float(rankme(z)), "normalised_std": float(normalised_std(z))}
        if known is not None:
            probe = KNNProbe().fit(known[layer], known.factors[factor].to_numpy())
            values["knn"] = float(probe.score(z, seen.factors[factor].to_numpy()))
        rows += [{"layer": layer, "measure": k, "value": v, "n": len(z), "d": z.shape[1]} for k, v in values.items()]
    return pd.DataFrame(rows)


def _parts(run: Run, images: Images | None, n: int) -> tuple[Images, Images]:
    if images is not None:
        half = len(images) // 2
        return images[: min(n, half)], images[half : half + n]
    bank, held_out = run.images(), run.held_out()
    if held_out is not None:
        return bank[:n], held_out[:n]
    half = len(bank) // 2
    return bank[: min(n, half)], bank[half : half + n]


def _kept(run: Run, name: str, about: dict[str, str]) -> pd.DataFrame:
    table = run.table(name)
    if table is None or not {"step", "layer", *about} <= set(table):
        return pd.DataFrame(columns=["step", "layer", *about])
    return table[(table[list(about)] == pd.Series(about)).all(axis=1)]
