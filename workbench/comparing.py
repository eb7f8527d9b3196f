"""Two networks that look at the same images: how alike their layers are, and whom an image has for neighbours in each.

Four tables stay with the first run, in ``tables/compared/``, in a folder that is named by both models, their weights and the
images, so that no number is ever taken for that of other weights. ``similarity`` has a row a measure and pair of layers:
``"cka"``, the unbiased centred kernel alignment with its permutation null, as :func:`workbench.cka_map` gives it, and
``"mutual_knn"``, the share of nearest neighbours that two layers agree upon (Huh et al.), with ``chance`` k / (n - 1).
``neighbours`` has side (``"one"``, ``"other"``), layer, row, rank, neighbour and their cosine; ``spectra`` the eigenvalues of
every layer; ``images`` a PNG and the factors of each row. So whoever opens them needs neither a network nor torch.

References:
    | Similarity of Neural Network Representations Revisited (Kornblith et al., 2019), https://arxiv.org/abs/1905.00414
    | The Platonic Representation Hypothesis (Huh et al., 2024), https://arxiv.org/abs/2405.07987
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.run import Run

if TYPE_CHECKING:
    from torch import nn

    from workbench.cutting import Probed
    from workbench.data.images import Images
    from workbench.features import Features

__all__ = ["COMPARE_TABLES", "compare_runs", "comparison_steps", "kept_comparison"]

COMPARE_TABLES = ("similarity", "neighbours", "spectra", "images")
"""The tables that :func:`compare_runs` keeps."""

FIRST = 256  # images after which there is something to see
TURNED = {"layer": "other", "other": "layer", "step": "other_step", "other_step": "step"}


def compare_runs(
    one: Run,
    other: Run,
    images: Images | None = None,
    *,
    step: int | None = None,
    other_step: int | None = None,
    layers: Sequence[str] | None = None,
    other_layers: Sequence[str] | None = None,
    n: int = 1024,
    k: int = 10,
    permutations: int = 200,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Compares every layer of ``one`` with every layer of ``other``; returns (and keeps) :data:`COMPARE_TABLES`.

    What was compared before, on the same images, is not compared again. It begins with a few images and doubles them: what is
    there when it is stopped is a comparison on fewer images, which says so.

    Arguments:
        one, other: The two; a run held against itself at another step shows what training changed. Models that were not
            trained here become runs by :func:`workbench.keep_model`.
        images: What both look at; by default held-out images of the first run's kind, where there are none its own.
        step, other_step: Of ``one.steps`` and ``other.steps``; by default the last.
        layers, other_layers: Module paths; by default the stages of the backbone and every layer of the projector.
        n: At most so many images, drawn at random, always the same. The paper of the mutual neighbours has 1,024.
        k: Neighbours of each image, by the cosine; the paper's 10.
        permutations: For the null of the CKA, at least 1.
        progress: Whether to show a bar.

    Raises:
        KeyError: If a run keeps no such step, or its model has no such layer.
        ValueError: If the two take images of different shapes, there are fewer than four images, no k neighbours, or images
            that cannot be drawn again and none are given.

    Example:
        ``compare_runs(Run("runs/a"), keep_model("timm:resnet18", "runs/b", images=garments()))["similarity"]``
    """
    from tqdm.auto import tqdm

    settings = {"layers": layers, "other_layers": other_layers, "n": n, "k": k, "permutations": permutations}
    with tqdm(total=1.0, desc="compare", disable=not progress, bar_format="{l_bar}{bar}| {postfix}") as bar:
        for at in comparison_steps(one, other, images, step=step, other_step=other_step, **settings):
            bar.set_postfix_str(at.next, refresh=False)
            bar.update(at.share - bar.n)
    return kept_comparison(one, other, step=step, other_step=other_step)


def comparison_steps(
    one: Run,
    other: Run,
    images: Images | None = None,
    *,
    step: int | None = None,
    other_step: int | None = None,
    layers: Sequence[str] | None = None,
    other_layers: Sequence[str] | None = None,
    n: int = 1024,
    k: int = 10,
    permutations: int = 200,
) -> Iterator[Probed]:
    """Does what :func:`compare_runs` does, bit by bit: stop iterating to stop; what was compared so far is kept."""
    from workbench.cutting import Probed, joined, pictured
    from workbench.features import digest, extract

    if permutations < 1:
        raise ValueError(f"a null is of at least one permutation, but got {permutations}.")
    shown = _shown(one, other, images, n=n, k=k)
    nets = [_network(*each) for each in ((one, step, layers), (other, other_step, other_layers))]
    settings = {"k": k, "permutations": permutations}
    about = settings | {"step": _last(one, step), "other_step": _last(other, other_step), "images": shown.name}
    place, names = _place(one, other, step, other_step), [names for _, names in nets]
    stages = {size: f"{place}/{digest(shown[:size])}" for size in _doubled(len(shown))}
    done = max((size for size, folder in stages.items() if _fits(one.table(f"{folder}/similarity"), settings, *names)), default=0)
    if one.identity(step) == other.identity(other_step) and names[0] == names[1]:
        nets = nets[:1]
    parts, start = [[] for _ in nets], 0
    for size in [size for size in stages if size > done]:
        for stop in [*range(start + FIRST, size, FIRST), size]:
            for side, (model, layers) in enumerate(nets):
                parts[side].append(extract(model, shown[start:stop], layers, progress=False))
                share = (start + (stop - start) * (side + 1) / len(nets)) / len(shown)
                yield Probed(0.95 * share, f"features of {stop:,} images")
            start = stop
        tables = _tables(*map(joined, parts), k=k, permutations=permutations) | {"images": pictured(shown[:size])}
        tables["similarity"] = tables["similarity"].assign(**about)
        for name in reversed(COMPARE_TABLES):  # the similarity last: where it stands, all stand
            one.write_table(f"{stages[size]}/{name}", tables[name])
        for smaller in [folder for less, folder in stages.items() if less < size]:
            shutil.rmtree(one.path / "tables" / smaller, ignore_errors=True)
        yield Probed(0.95 * size / len(shown), f"compared on {size:,} images")
    if done == len(shown):  # it was there: what was written last is what is read
        one.write_table(f"{stages[done]}/similarity", one.table(f"{stages[done]}/similarity"))
    yield Probed(1.0, "done")


def kept_comparison(one: Run, other: Run, *, step: int | None = None, other_step: int | None = None) -> dict[str, pd.DataFrame]:
    """Returns the tables that were kept last of the two, whichever of them was the first; empty where there are none.

    Neither torch nor the networks are needed.

    Raises:
        KeyError: If a run keeps no such step.
        ValueError: If a table is damaged.
    """
    while found := _found(one, other, step, other_step):
        _, run, folder, turned = max(found, key=lambda each: each[0])
        tables = {name: run.table(f"{folder}/{name}") for name in COMPARE_TABLES}
        if all(table is not None for table in tables.values()):
            return _turned(tables) if turned else tables
        if (run.path / "tables" / folder / "similarity.parquet").exists():
            missing = next(name for name, table in tables.items() if table is None)
            raise ValueError(f"{run.path / 'tables' / folder} holds no {missing}.parquet; delete the folder and compare again")
    return {}  # what was found and is gone made way for a comparison on more images, which is found in its place


def _found(one: Run, other: Run, step: int | None, other_step: int | None) -> list[tuple[int, Run, str, bool]]:
    """Of each comparison of the two when it was written, its run, its folder, and whether the two changed places."""
    found = []
    ways = [(one, _place(one, other, step, other_step), False), (other, _place(other, one, other_step, step), True)]
    for run, place, turned in ways:
        for path in (run.path / "tables" / place).glob("*/similarity.parquet"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, run, f"{place}/{path.parent.name}", turned))
    return found


def _place(one: Run, other: Run, step: int | None, other_step: int | None) -> str:
    return f"compared/{one.identity(step)}-{other.identity(other_step)}"


def _turned(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of (one, other) as those of (other, one)."""
    table = tables["similarity"].rename(columns=TURNED)[list(tables["similarity"])]
    order = [pd.Categorical(table[name], list(dict.fromkeys(table[name]))) for name in ("layer", "other")]
    table = table.assign(a=order[0], b=order[1]).sort_values(["measure", "a", "b"], ignore_index=True).drop(columns=["a", "b"])
    sides = {name: tables[name].replace({"side": {"one": "other", "other": "one"}}) for name in ("neighbours", "spectra")}
    return {"similarity": table, **sides, "images": tables["images"]}


def _shown(one: Run, other: Run, images: Images | None, *, n: int, k: int) -> Images:
    """The images that both look at, in a random order, so that the first of them are like all."""
    shapes = [tuple((run.spec.get("images") or {}).get("shape") or ()) for run in (one, other)]
    if images is None and all(shapes) and shapes[0] != shapes[1]:
        said = " and ".join(f"{run.name} images of {_size(shape)}" for run, shape in zip((one, other), shapes, strict=True))
        raise ValueError(f"two networks are compared on the same images, but {said} were taken; give images that both can take.")
    if images is None:
        held_out = one.held_out()
        images = one.images() if held_out is None else held_out
    for run, shape in zip((one, other), shapes, strict=True):
        if shape and shape[0] != images.pixels.shape[1]:
            raise ValueError(
                f"{run.name} takes images of {_size(shape)}, but {images.name} has {_size(images.pixels.shape[1:])}; "
                "give images that both can take."
            )
    size = min(n, len(images))
    if size < 4:
        raise ValueError(f"networks are compared on at least four images, but got {size}.")
    if not 1 <= k < size:
        raise ValueError(f"each of {size} images has {size - 1} others, so k lies between 1 and {size - 1}, but got k={k}.")
    return images[np.random.default_rng(0).permutation(len(images))[:size]]


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _network(run: Run, step: int | None, layers: Sequence[str] | None) -> tuple[nn.Module, list[str]]:
    """A run's model, where it computes fastest, and the names of the layers that are asked for."""
    import torch

    from workbench.models.encoder import main_layers

    model = run.model(step)
    known = main_layers(model)
    names = list(dict.fromkeys(known if layers is None else layers))
    missing = [name for name in names if name not in dict(model.named_modules())]
    if missing or not names:
        said = f"no layer {missing[0]!r}" if missing else "no layers to compare that were named"
        raise KeyError(f"{run.name} has {said}; its main layers are {', '.join(known)}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), names


def _doubled(n: int) -> list[int]:
    """The first few images, twice as many, and so on to n."""
    sizes = [min(FIRST, n)]
    while sizes[-1] < n:
        sizes.append(min(2 * sizes[-1], n))
    return sizes


def _last(run: Run, step: int | None) -> int:
    return run.steps[-1] if step is None else step


def _fits(kept: pd.DataFrame | None, settings: dict[str, int], layers: list[str], others: list[str]) -> bool:
    """Whether a table that was kept is of these settings, and has these layers."""
    if kept is None or not {"layer", "other", *settings} <= set(kept):
        return False
    same = (kept[list(settings)] == pd.Series(settings)).all(axis=None)
    return bool(same) and set(layers) <= set(kept["layer"]) and set(others) <= set(kept["other"])


def _tables(one: Features, other: Features | None = None, *, k: int, permutations: int) -> dict[str, pd.DataFrame]:
    """The tables of two networks' features of the same images; of one held against itself, where there is no other."""
    from workbench.measures.similarity import cka_map
    from workbench.measures.spectral import spectrum
    from workbench.measures.table import over_layers

    sides = {"one": one, "other": one if other is None else other}
    near = {side: {layer: _nearest(z, k) for layer, z in features.items()} for side, features in sides.items()}
    n = len(one.factors)
    how = f"share of the {k} nearest images (cosine) that both have"
    shared = [
        {"layer": a, "other": b, "measure": "mutual_knn", "value": _shared(x, y).mean() / k, "n": n, "convention": how}
        for a, (x, _) in near["one"].items()
        for b, (y, _) in near["other"].items()
    ]
    alike = cka_map(one, other, permutations=permutations).assign(chance=0.0)
    neighbours = [_listed(*found).assign(side=side, layer=layer) for side in near for layer, found in near[side].items()]
    spectra = [over_layers(features, spectrum=spectrum).assign(side=side) for side, features in sides.items()]
    return {
        "similarity": pd.concat([alike, pd.DataFrame(shared).assign(chance=k / (n - 1))], ignore_index=True),
        "neighbours": pd.concat(neighbours, ignore_index=True),
        "spectra": pd.concat(spectra, ignore_index=True).drop(columns="measure"),
    }


def _nearest(z: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of each row, and the cosines: (n, k) both."""
    import torch

    from workbench.measures.moments import normalised
    from workbench.measures.neighbours import nearest
    from workbench.measures.similarity import whole

    rows, unit = nearest(z, k, metric="cosine"), normalised(whole(z))
    cosine = torch.stack([(unit * unit[column]).sum(1) for column in rows.T], 1)
    return rows.cpu().numpy(), cosine.cpu().numpy()


def _shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many neighbours each row has in both."""
    return (one[:, :, None] == other[:, None, :]).sum((1, 2))


def _listed(rows: np.ndarray, cosine: np.ndarray) -> pd.DataFrame:
    n, k = rows.shape
    table = {"row": np.repeat(np.arange(n), k), "rank": np.tile(np.arange(1, k + 1), n), "neighbour": rows.ravel()}
    return pd.DataFrame(table | {"cosine": cosine.ravel().astype(np.float32)})
