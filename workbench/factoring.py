"""How the codes of a run hold the factors of its images: what is kept, so that a page of it needs neither the network nor torch.

The tables stay with the run, in ``tables/factored/``, in a folder that is named by the model, its weights and the images, one
a layer. The images are by default those of the *uniform* grid that a correlation was made of, since the scores of a perfect
code fall where factors go together; or, on request, those of the training. ``codes`` has a row an image, ``dims`` a row a code
(its spread, its range, whether it is dead), ``matrices`` what each code says of each factor, ``suite`` every measure,
``supports`` the emptiest corner of each pair of codes, ``traversals`` what a decoder draws when one code alone is turned.
``images``, ``correlations`` and ``together`` are of the images judged on, and of the factors' pairs in those of the training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from workbench.run import Run

if TYPE_CHECKING:
    from torch import nn

    from workbench.cutting import Probed
    from workbench.data.images import Images

__all__ = ["FACTOR_TABLES", "code_layer", "factor_run", "factor_steps", "judged_layers", "kept_factors"]

Where = Literal["uniform", "training"]

FACTOR_TABLES = (
    "images",
    "correlations",
    "together",
    "codes",
    "dims",
    "matrices",
    "supports",
    "traversals",
    "suite",
    "about",
)
"""The tables that :func:`factor_run` keeps of a layer."""

SHOWN = 16  # codes of a wide layer that are kept and paired
NARROW = 64  # codes up to which all are kept, and trees are as many as in the literature
TREES, FEW = 100, 10
VALUES = 20  # of a factor; of more, bins
DEAD = 0.05  # of the largest spread of a code
EXAMPLES, TURNS = 8, 7  # images whose codes are turned, and pictures a code
CHUNK = 256


def code_layer(spec: dict[str, Any]) -> str:
    """Returns the layer of a run's record that is judged first: the code of an autoencoder, else ``backbone``."""
    model = spec.get("model")
    if not isinstance(model, dict) or "decoder" not in model:
        return "backbone"
    return "latent" if model.get("code") == "quantised" else "projector"


def factor_run(
    run: Run,
    images: Images | None = None,
    *,
    layer: str | None = None,
    step: int | None = None,
    where: Where = "uniform",
    n: int = 2048,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Judges how the codes of a layer hold the factors; returns (and keeps) :data:`FACTOR_TABLES`.

    What was judged before, of the same weights and on the same images, is not judged again.

    Arguments:
        images: To judge on; by default as ``where`` says.
        layer: A module path; by default the code of an autoencoder, else ``backbone``.
        step: One of ``run.steps``; by default the last.
        where: ``"uniform"``, the images before factors were made to go together, or ``"training"``, those it was trained on.
        n: At most so many images, drawn at random, always the same.
        progress: Whether to show a bar.

    Returns:
        The tables by name. Of a layer of more than 64 dimensions, those 16 that say most of each factor in turn are kept and
        paired, and trees are 10 instead of 100; the suite is of all.

    Raises:
        KeyError: If the run keeps no such step, or its model has no such layer.
        ValueError: If the images have no factor that varies, or cannot be made again and none are given.

    Example:
        ``factor_run(Run("runs/vae"))["suite"]``
    """
    from tqdm.auto import tqdm

    with tqdm(total=1.0, desc="factors", disable=not progress, bar_format="{l_bar}{bar}| {postfix}") as bar:
        for at in factor_steps(run, images, layer=layer, step=step, where=where, n=n):
            bar.set_postfix_str(at.next, refresh=False)
            bar.update(at.share - bar.n)
    return kept_factors(run, layer=layer, step=step, where=where)


def factor_steps(
    run: Run,
    images: Images | None = None,
    *,
    layer: str | None = None,
    step: int | None = None,
    where: Where = "uniform",
    n: int = 2048,
) -> Iterator[Probed]:
    """Does what :func:`factor_run` does, bit by bit: stop iterating to stop."""
    from workbench.cutting import Probed, pictured
    from workbench.features import digest
    from workbench.measures.factor_tables import factor_correlations

    if where not in ("uniform", "training"):
        raise ValueError(f"it is judged on 'uniform' or on 'training' images, but got where={where!r}.")
    layer = layer or code_layer(run.spec)
    shown = _shown(run, images, where, n)
    factors = _numbered(shown)
    place = f"{_place(run, step, where)}/{digest(shown)}/{layer}"
    if (about := run.table(f"{place}/about")) is not None:
        run.write_table(f"{place}/about", about)  # what was written last is what is read
        yield Probed(1.0, "done")
        return
    model, known = _network(run, step, layer)
    for share, z in _seen(model, shown, layer):  # noqa: B007  the last is that of all
        yield Probed(0.2 * share, f"codes of {round(share * len(shown)):,} images")
    decodes = layer in ("projector", "latent") and hasattr(model, "decode") and z.shape[1] <= NARROW
    trees = TREES if z.shape[1] <= NARROW else FEW
    found: dict[str, Any] = {}
    for share, name in _measured(found, {layer: z}, factors, trees):
        yield Probed(0.2 + 0.6 * share, name)
    information, importance = found["information"], found["importance"]
    chosen = list(range(z.shape[1])) if z.shape[1] <= max(SHOWN, NARROW * decodes) else _telling(information)
    dims = _dims(z, information)
    tables = {
        "images": pictured(shown).join(factors.add_prefix("number.")),
        "correlations": _pairs_of(factor_correlations(factors)),
        "together": _together(run, list(factors)),
        "codes": pd.DataFrame(z[:, chosen].astype(np.float32), columns=[f"code.{i}" for i in chosen]),
        "dims": dims.assign(
            shown=dims["code"].isin(chosen), place=[chosen.index(c) if c in chosen else -1 for c in dims["code"]]
        ),
        "matrices": pd.concat(
            [_cells(matrix.iloc[chosen], name) for name, matrix in (("information", information), ("importance", importance))],
            ignore_index=True,
        ),
        "suite": found["suite"],
    }
    yield Probed(0.8, "supports of pairs of codes")
    tables["supports"] = _supports(z, chosen)
    yield Probed(0.9, "traversals")
    tables["traversals"] = _traversals(model, z, tables["dims"]) if decodes else pd.DataFrame(columns=[*TURNED, "thumbnail"])
    last = run.steps[-1] if step is None else step
    facts = {"layer": layer, "step": last, "n": len(shown), "d": z.shape[1], "shown": len(chosen), "decodes": decodes}
    facts |= {
        "repeats": float(shown.factors.duplicated().mean()),
        "trees": trees,
        "where": where,
        "images": shown.name,
        "layers": ",".join(known),
    }
    tables["about"] = pd.DataFrame([facts])
    for name in FACTOR_TABLES:  # about last: where it stands, all stand
        run.write_table(f"{place}/{name}", tables[name])
    yield Probed(1.0, "done")


def kept_factors(
    run: Run, *, layer: str | None = None, step: int | None = None, where: Where = "uniform"
) -> dict[str, pd.DataFrame]:
    """Returns the tables that were kept last of a layer (by default the code of an autoencoder, else ``backbone``); or none.

    Neither torch nor the network is needed.

    Raises:
        KeyError: If the run keeps no such step.
        ValueError: If a table is damaged.
    """
    layer = layer or code_layer(run.spec)
    found = [folder for folder in _newest_first(run, step, where) if folder.name == layer]
    if not found:
        return {}
    folder = found[0]
    inside = folder.relative_to(run.path / "tables")
    tables = {name: run.table(f"{inside}/{name}") for name in FACTOR_TABLES}
    missing = [name for name, table in tables.items() if table is None]
    if missing:
        raise ValueError(f"{folder} holds no {missing[0]}.parquet; delete the folder and judge again")
    return tables


def judged_layers(run: Run, *, step: int | None = None, where: Where = "uniform") -> tuple[list[str], list[str]]:
    """Returns the layers that are worth a look, and those that were judged, the last one first; both empty before any was.

    Neither torch nor the network is needed.

    Raises:
        KeyError: If the run keeps no such step.
        ValueError: If a table is damaged.
    """
    folders = _newest_first(run, step, where)
    every = [*folders, *_newest_first(run, step, "*")]
    if not every:
        return [], []
    about = run.table(f"{every[0].relative_to(run.path / 'tables')}/about")
    known = str(about["layers"].iloc[0]).split(",")
    judged = list(dict.fromkeys(folder.name for folder in folders))
    return list(dict.fromkeys([*known, *judged])), judged


def _newest_first(run: Run, step: int | None, where: str) -> list[Path]:
    """The folders of what was judged, the last one first."""
    place = _place(run, step, where)
    found = [path for path in (run.path / "tables").glob(f"{place}/*/*/about.parquet") if path.is_file()]
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


TURNED = ["row", "code", "turn", "value"]


def _place(run: Run, step: int | None, where: str) -> str:
    return f"factored/{run.identity(step)}-{where}"


def _shown(run: Run, images: Images | None, where: str, n: int) -> Images:
    """The images to judge on, in a random order."""
    if images is None:
        images = run.images() if where == "training" else run.images_before()
    if len(images) < 4 or n < 4:
        raise ValueError(f"codes are judged on at least four images, but got {min(n, len(images))}.")
    shape = (run.spec.get("images") or {}).get("shape")
    if shape and shape[0] != images.pixels.shape[1]:
        said = f"{run.name} takes images of {shape[0]} channels, but {images.name} has {images.pixels.shape[1]}"
        raise ValueError(f"{said}; give images that it can take.")
    return images[np.random.default_rng(0).permutation(len(images))[: min(n, len(images))]]


def _numbered(images: Images) -> pd.DataFrame:
    """The factors that vary as whole numbers; those of many values cut into bins of equal width, words of many left out."""
    from workbench.data.gridded import factor_numbers

    try:
        numbers = factor_numbers(images)
    except ValueError as error:
        raise ValueError(f"{error}; give images with factors (in a shell: --data scenes, or --data sprites)") from None
    for name in list(numbers):
        if numbers[name].nunique() <= VALUES:
            continue
        values = images.factors[name]
        if pd.api.types.is_numeric_dtype(values):
            numbers[name] = pd.cut(values, VALUES, labels=False)
        elif numbers[name].nunique() > len(numbers) / 4:  # a name of its own for almost each image
            numbers = numbers.drop(columns=name)
    if not len(numbers.columns):
        raise ValueError(f"no factor of {images.name} takes few values; give images with factors (in a shell: --data scenes)")
    return numbers


def _network(run: Run, step: int | None, layer: str) -> tuple[nn.Module, list[str]]:
    """A run's model where it computes fastest, and the names of its layers worth a look."""
    import torch

    from workbench.models.encoder import main_layers

    model = run.model(step)
    known = main_layers(model)
    known = [*known, *(["latent"] if code_layer(run.spec) == "latent" else [])]
    if layer not in dict(model.named_modules()):
        raise KeyError(f"{run.name} has no layer {layer!r}; its main layers are {', '.join(known)}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), known


def _seen(model: nn.Module, images: Images, layer: str) -> Iterator[tuple[float, np.ndarray]]:
    """Yields the share that is done and the codes so far, float64."""
    from workbench.features import extract

    parts = []
    for start in range(0, len(images), CHUNK):
        part = extract(model, images[start : start + CHUNK], layer, progress=False)[layer]
        parts.append(part.double().cpu().numpy())
        yield min((start + CHUNK) / len(images), 1), np.concatenate(parts)


def _measured(found: dict[str, Any], codes: dict[str, np.ndarray], factors: pd.DataFrame, trees: int) -> Iterator:
    """Puts ``information``, ``importance`` and ``suite`` into ``found``; yields the share that is done, and what comes next."""
    from workbench.measures.gaps import mig
    from workbench.measures.importances import dci
    from workbench.measures.information import entropy
    from workbench.measures.suite import SUITE, disentanglement

    (z,) = codes.values()
    yield 0.0, "mutual information"
    bits = entropy(factors.to_numpy())
    found["information"] = mig(z, factors).matrix / bits
    yield 0.05, f"DCI by {trees} trees a class"
    scores = dci(z, factors, trees=trees)
    found["importance"], rows = scores.matrix, []
    for i, measure in enumerate(SUITE):
        kept = (lambda *_: scores) if measure is dci else measure
        yield 0.4 + 0.6 * i / len(SUITE), measure.__name__.replace("_", " ")
        rows.append(disentanglement(codes, factors, measures=(kept,)))
    found["suite"] = pd.concat(rows, ignore_index=True)


def _telling(information: pd.DataFrame) -> list[int]:
    """The codes that say most: of each factor the first in turn, then the second, and so on."""
    order = np.argsort(-information.to_numpy(), axis=0, kind="stable")  # (codes, factors)
    return list(dict.fromkeys(order.ravel().tolist()))[:SHOWN]


def _dims(z: np.ndarray, information: pd.DataFrame) -> pd.DataFrame:
    """A row a code: its spread, its range from the 1st to the 99th percentile, whether it is dead, how much it says."""
    low, high = np.percentile(z, [1, 99], axis=0)
    facts = {"code": np.arange(z.shape[1]), "mean": z.mean(0), "spread": z.std(0), "low": low, "high": high}
    facts |= {"says": information.to_numpy().max(1, initial=0)}
    return pd.DataFrame(facts).assign(dead=lambda rows: rows["spread"] <= DEAD * rows["spread"].max())


def _cells(matrix: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = matrix.rename_axis("code").reset_index().melt("code", var_name="factor", value_name="value")
    return rows.assign(matrix=name)


def _pairs_of(square: pd.DataFrame) -> pd.DataFrame:
    return square.rename_axis("a").reset_index().melt("a", var_name="b", value_name="value")


def _together(run: Run, names: Sequence[str]) -> pd.DataFrame:
    """How often each two values of two factors occur together in training, with the correlation; empty where nobody knows."""
    from workbench.measures.factor_tables import factor_correlations

    columns = ["a", "b", "x", "y", "share", "r"]
    try:
        factors = _numbered(run.images())
    except ValueError:
        return pd.DataFrame(columns=columns)
    factors = factors[[name for name in factors if name in names]]
    r, parts = factor_correlations(factors), []
    for a, b in itertools.permutations(factors, 2):
        count = factors.groupby([a, b]).size().rename("share").reset_index().rename(columns={a: "x", b: "y"})
        parts.append(count.assign(share=count["share"] / len(factors), a=a, b=b, r=r.loc[a, b]))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _supports(z: np.ndarray, chosen: Sequence[int]) -> pd.DataFrame:
    """A row a pair of codes: the emptiest corner of the product of their supports, and the row nearest to it, in their units."""
    from workbench.measures.support import missing_corner

    spread, mean, rows = np.where(z.std(0) > 0, z.std(0), 1), z.mean(0), []
    for p, q in itertools.combinations(chosen, 2):
        corner = missing_corner(z, p, q)
        x, y = (corner.point[i] * spread[c] + mean[c] for i, c in enumerate((p, q)))
        rows.append({"p": p, "q": q, "distance": corner.distance, "row": corner.row, "x": x, "y": y})
    return pd.DataFrame(rows, columns=["p", "q", "distance", "row", "x", "y"])


def _traversals(model: nn.Module, z: np.ndarray, dims: pd.DataFrame) -> pd.DataFrame:
    """What is drawn when one code of an image goes from its low to its high value, the others staying; as code -1, its own."""
    rows, codes = [], []
    for row in range(min(EXAMPLES, len(z))):
        rows.append((row, -1, 0, 0.0))
        codes.append(z[row])
        for (code, *ends), turn in itertools.product(turning(dims), range(TURNS)):
            value = np.linspace(*ends, TURNS)[turn]
            codes.append(np.where(np.arange(z.shape[1]) == code, value, z[row]))
            rows.append((row, code, turn, value))
    return pd.DataFrame(rows, columns=TURNED).assign(thumbnail=decoded(model, np.stack(codes)))


def turning(dims: pd.DataFrame) -> list[tuple[int, float, float]]:
    """Returns each code with the ends between which it is turned; a dead one goes as far as the widest: one sees that it is."""
    wide = dims.loc[(dims["high"] - dims["low"]).idxmax()]
    half = (wide["high"] - wide["low"]) / 2
    return [
        (int(one.code), one.mean - half, one.mean + half) if one.dead else (int(one.code), one.low, one.high)
        for one in dims[dims["shown"]].itertuples()
    ]


def decoded(model: nn.Module, codes: np.ndarray) -> list[bytes]:
    """Returns what an autoencoder draws of codes (N, latents), a PNG each."""
    from workbench.cutting import thumbnail

    found = []
    for start in range(0, len(codes), CHUNK):
        pixels = model.decode(codes[start : start + CHUNK]).mul(255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
        found += [thumbnail(one) for one in pixels]
    return found
