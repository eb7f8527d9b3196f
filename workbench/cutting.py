"""Where to cut a network: what a linear map reads from every layer, and what it answers about every held-out image.

Four tables stay with the run. ``probes`` is :func:`workbench.probe_layers` of every layer and factor. ``answers`` has step,
layer, factor, row, truth and answer (in words), and ``off``: 1 where a class was not told, 0 where it was, the distance in the
factor's own unit for numbers. ``cuts`` has the spectrum of every layer (L2-normalised, centred: DirectCLR's), ``held_out`` the
images that were asked about, each a PNG of at most 64 pixels, and their factors. So whoever opens them needs neither the
network nor torch. The question is that of Guillotine Regularization (Bordes et al., TMLR 2023), https://arxiv.org/abs/2206.13378.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from tqdm.auto import tqdm

from workbench.data.images import Images
from workbench.estimators import legible
from workbench.features import Features, digest, extract
from workbench.measures.spectral import spectrum
from workbench.measures.table import over_layers
from workbench.models.building import build_encoder
from workbench.models.encoder import main_layers
from workbench.probes import readings
from workbench.replaying import halves
from workbench.run import Run, read_tensors, weights, write, write_tensors
from workbench.spec import describe, without_weights

__all__ = ["CUT_TABLES", "keep_model", "probe_run", "probing"]

CUT_TABLES = ("probes", "answers", "cuts", "held_out")
"""The tables that :func:`probe_run` keeps with a run."""

SIDE = 64  # of a kept image, in pixels
CHUNK = 256  # images between two looks at whether to go on


class Probed(NamedTuple):
    """How far it has come: the share that is done, from 0 to 1, and what is done next."""

    share: float
    next: str


def probe_run(
    run: Run,
    images: Images | None = None,
    *,
    layers: Sequence[str] | None = None,
    step: int | None = None,
    n: int = 2048,
    factor: str | Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Probes every layer of ``run`` and returns (and keeps) its tables ``probes``, ``answers``, ``cuts`` and ``held_out``.

    What was probed before, on the same images, is not probed again. Each layer is kept when it is done: it can be stopped and
    called again. The tables are of one step and one set of images: what is there of others is replaced.

    Arguments:
        images: A random half of which the probes learn from; about the other they are asked; by default training images
            and held-out ones, as :func:`workbench.replay` takes them.
        layers: Module paths; by default the stages of the backbone and every layer of the projector.
        step: One of ``run.steps``; by default the last.
        n: At most so many images to learn from, and so many to be asked about.
        factor: What is asked; by default every factor that :func:`workbench.probe_layers` reads.

    Raises:
        KeyError: If the run keeps no such step, the model has no such layer, or the images no such factor.
        ValueError: If the images cannot be drawn again and none are given, or a factor cannot be read.
    """
    with tqdm(total=1.0, desc="probes", disable=not progress, bar_format="{l_bar}{bar}| {postfix}") as bar:
        for at in probing(run, images, layers=layers, step=step, n=n, factor=factor):
            bar.set_postfix_str(at.next, refresh=False)
            bar.update(at.share - bar.n)
    return {name: run.table(name) for name in CUT_TABLES}


def probing(
    run: Run,
    images: Images | None = None,
    *,
    layers: Sequence[str] | None = None,
    step: int | None = None,
    n: int = 2048,
    factor: str | Sequence[str] | None = None,
) -> Iterator[Probed]:
    """Does what :func:`probe_run` does, bit by bit: stop iterating to stop; layers that were done are kept."""
    bank, seen = halves(run, images, n)
    names = [factor] if isinstance(factor, str) else list(factor or legible(bank.factors, seen.factors))
    model = run.model(step)
    step = run.steps[-1] if step is None else step
    layers = list(layers or main_layers(model))
    about = {"step": step, "images": digest(seen), "bank": digest(bank)}
    tables = _kept(run, about)
    done = tables["probes"].groupby("layer")["factor"].agg(set).to_dict() if len(tables["probes"]) else {}
    missing = [layer for layer in layers if not set(names) <= done.get(layer, set())]
    if not missing:
        yield Probed(1.0, "done")
        return
    run.write_table("held_out", pictured(seen).assign(images=about["images"]))
    parts = []
    for share, part, chunk in _looked_at(model, bank, seen, missing):
        parts.append((part, chunk))
        yield Probed(0.5 * share, "features")
    known, asked = (joined([chunk for which, chunk in parts if which == part]) for part in (0, 1))
    for i, layer in enumerate(missing):
        one = [Features({layer: features[layer]}, features.factors) for features in (known, asked)]
        rows, answers = [], []
        for row, answer in readings(*one, factor=names):
            rows.append(row)
            answers.append(_answers(layer, row, asked.factors, answer))
            yield Probed(0.5 + 0.5 * (i + len(rows) / len(names)) / len(missing), f"{layer}: {row['factor']}")
        width = one[1][layer].shape[1]
        new = {"answers": pd.concat(answers, ignore_index=True), "cuts": over_layers(one[1], spectrum=spectrum)}
        new["cuts"] = new["cuts"].drop(columns="measure")
        new["probes"] = pd.DataFrame(rows).assign(d=width)  # last: a layer that stands here counts as done
        for name, table in new.items():
            others = tables[name][tables[name]["layer"] != layer] if len(tables[name]) else tables[name]
            tables[name] = pd.concat([*([others] if len(others) else []), table.assign(**about)], ignore_index=True)
            tables[name] = _in_order(tables[name], layers)
            run.write_table(name, tables[name])


def keep_model(
    model: nn.Module | str,
    out: str | Path,
    *,
    images: Images,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """Returns a model that was not trained here as a run of no steps, so that whatever reads runs reads it.

    What stands in ``out`` already is returned as it is, where it is of the same model and images.

    Arguments:
        model: An encoder, or the name of a backbone (``"timm:resnet50"``: random weights; with the tag of published ones,
            ``"timm:resnet50.a1_in1k"``, those are downloaded; or ``checkpoint=``).
        out: The run's folder.
        images: What it is to be looked at with; must come from a recipe to be drawn again.
        seed: Of random weights.
        settings: Of :func:`workbench.build_encoder`; an ``image_size`` wins over that of the images.

    Raises:
        TypeError: If the model cannot be described, as one of timm's own.
        ValueError: If there is no such backbone, its settings do not fit, or something else stands in ``out``; the message
            lists what differs.
        RuntimeError: If published weights could not be downloaded.

    Example:
        ``probe_run(keep_model("timm:resnet50", "runs/resnet50", images=garments(4096)))``
    """
    out = Path(out)
    there, fixed = (out / "run.json").exists(), False
    channels, height, width = images.pixels.shape[1:]
    if isinstance(model, str):
        learned = model.startswith("timm:") and ("." in model or settings.get("checkpoint"))
        fixed = model.startswith("timm:") and settings.get("pretrained", "." in model and not settings.get("checkpoint"))
        given = ({"resize": True} if learned else {}) | settings
        if given.get("resize") and "image_size" in given:
            raise ValueError(
                f"{model} keeps the size that it was published with, to which images are resized: leave out "
                f"image_size={given['image_size']}, or say resize=False"
            )
        given = {"projector": None, "channels": channels, "image_size": height} | given
        with torch.random.fork_rng(devices=[]), without_weights() if there and fixed else nullcontext():
            torch.manual_seed(seed)
            model = build_encoder(model, **given)
    elif type(model).__module__.startswith("timm."):
        name = getattr(model, "default_cfg", {}).get("architecture", "NAME")
        raise TypeError(
            f"a {type(model).__name__} of timm cannot be described: give its name, 'timm:{name}', and weights of your own as "
            f"checkpoint='weights.safetensors'"
        )
    shown = {"name": images.name, "n": len(images), "shape": [channels, height, width]}
    shown |= {"digest": digest(images), "recipe": images.recipe}
    spec = {"model": describe(model), "images": shown, "total": 0, "made": {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}}
    if there:
        _same(Run(out), spec, None if fixed else weights(model))
        return Run(out)
    write_tensors(out / "weights" / f"{0:08d}.safetensors", weights(model))
    write(out / "run.json", json.dumps(spec, indent=1).encode())  # last, so that a folder with a record has its weights
    return Run(out)


def _same(run: Run, spec: dict[str, Any], tensors: dict[str, torch.Tensor] | None) -> None:
    """Raises ValueError where a run was made from something else; weights that are published are those of their name."""
    parts = ("model", "images", "total")
    differ = [said for part in parts for said in _differences(run.spec.get(part), json.loads(json.dumps(spec[part])), part)]
    if not differ and tensors is not None:
        kept = read_tensors(run.path / "weights" / f"{0:08d}.safetensors")
        alike = (kept[k].shape == v.shape and torch.allclose(kept[k].double(), v.double()) for k, v in tensors.items())
        if kept.keys() != tensors.keys() or not all(alike):
            differ = ["its weights are others (of another seed, file or training)"]
    if differ:
        raise ValueError(f"{run.path} was made from something else: {'; '.join(differ)[:800]}. Give the same, or another folder.")


def _differences(then: Any, now: Any, at: str) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [key for key in now if key in then]:  # arguments that have come since are not in the record
            yield from _differences(then[key], now[key], f"{at}.{key}")
    elif then != now:
        yield f"{at} was {then!r}, is {now!r}"


def _looked_at(model: nn.Module, bank: Images, seen: Images, layers: list[str]) -> Iterator[tuple[float, int, Features]]:
    """Yields the share that is done, which part it is of, and the features of some images more."""
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    total, done = len(bank) + len(seen), 0
    for part, images in enumerate((bank, seen)):
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            done += len(chunk)
            yield done / total, part, extract(model, chunk, layers, progress=False)


def joined(parts: list[Features]) -> Features:
    """Returns the rows of several features of the same layers, one after the other."""
    layers = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Features(layers, pd.concat([part.factors for part in parts], ignore_index=True))


def _kept(run: Run, about: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Returns of each table what was taken of the same step and images."""
    tables = {}
    for name in ("probes", "answers", "cuts"):
        table = run.table(name)
        if table is None or not {"layer", *about} <= set(table):
            table = pd.DataFrame()
        tables[name] = table[(table[list(about)] == pd.Series(about)).all(axis=1)] if len(table) else table
    return tables


def _answers(layer: str, row: dict[str, Any], factors: pd.DataFrame, answer: np.ndarray) -> pd.DataFrame:
    """What one probe said about every image; classes by the words of a factor that says the same, where there is one."""
    name, truth = row["factor"], factors[row["factor"]].to_numpy()
    if row["measure"] == "r2":
        off = np.abs(answer - truth)
        words = [[f"{v:#.3g}" for v in values] for values in (truth, answer)]
    else:
        off = (answer != truth).astype(float)
        said = _words(factors, name)
        words = [[said.get(v, str(v)) for v in values.tolist()] for values in (truth, answer)]
    table = pd.DataFrame({"row": np.arange(len(truth)), "truth": words[0], "answer": words[1], "off": off})
    return table.assign(layer=layer, factor=name)


def _words(factors: pd.DataFrame, name: str) -> dict[Any, str]:
    """Returns the words for the values of a factor, from a factor of words that stands in one-to-one relation with it."""
    for other in factors:
        pairs = factors[[name, other]].drop_duplicates()
        worded = pairs[other].map(lambda value: isinstance(value, str)).all()
        if other != name and worded and pairs[name].is_unique and pairs[other].is_unique:
            return dict(zip(pairs[name].tolist(), pairs[other].tolist(), strict=True))
    return {}


def pictured(images: Images) -> pd.DataFrame:
    """Returns the columns ``row`` and ``thumbnail`` (PNG, at most 64 pixels a side), and every factor as ``factor.NAME``."""
    pictures = []
    for start in range(0, len(images), CHUNK):
        for pixels in images.at(range(start, min(start + CHUNK, len(images)))).cpu().permute(0, 2, 3, 1).numpy():
            pictures.append(thumbnail(pixels))
    table = pd.DataFrame({"row": np.arange(len(images)), "thumbnail": pictures})
    return table.join(images.factors.reset_index(drop=True).add_prefix("factor."))


def thumbnail(pixels: np.ndarray) -> bytes:
    """Returns an image (H, W, C), uint8, as a PNG of at most 64 pixels a side."""
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _in_order(table: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """Puts the layers of a table into the network's order; others come last."""
    order = {layer: i for i, layer in enumerate(layers)}
    return table.sort_values("layer", key=lambda names: names.map(order).fillna(len(order)), kind="stable", ignore_index=True)
