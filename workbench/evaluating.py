"""The evaluation protocols of the cookbook side by side: neighbours, linear map, network, fine-tuning; many labels and few.

What a representation is worth depends on who asks: a protocol that learns more of its own hides more of what the pretraining left
undone. So they stand in one table, on the same images and the same drawn labels.

References:
    A Cookbook of Self-Supervised Learning (Balestriero et al., 2023), section 3, https://arxiv.org/abs/2304.12210
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from workbench.core import mixed_seed
from workbench.data.images import Images
from workbench.estimators import Estimator
from workbench.features import extract
from workbench.fine_tuning import fine_tune, head_accuracy
from workbench.models.encoder import Encoder
from workbench.perceptron import MLPProbe
from workbench.probes import KNNProbe, LinearProbe
from workbench.run import Run
from workbench.splits import draw_shots, few_shot

__all__ = ["protocols"]


def protocols(
    model: Encoder | Run,
    train: Images,
    test: Images,
    *,
    layer: str = "backbone",
    factor: str = "label",
    shots: Sequence[float] = (1, 5, 10, 0.01, 0.1, math.inf),
    draws: int = 5,
    probes: Mapping[str, Estimator] | None = None,
    out: str | Path | None = None,
    epochs: int = 100,
    tune: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Returns the accuracy on ``test`` of every protocol, for many labels of ``train`` and few.

    Features are taken once; every probe is fitted on the same draws of rows. Fine-tuning takes the first draw of each share, and
    passes ``epochs / sqrt(share)`` times over it, so that few images still make some steps.

    Arguments:
        model: An encoder, or a run, whose last kept weights are taken.
        layer: What the probes read; fine-tuning goes on from the whole backbone.
        factor: Whose classes are named.
        shots: How many labels: rows of each class; below 1 a share of each class (low-shot: .01 and .1); ``math.inf`` all.
        draws: How often few labels are drawn, for the probes.
        probes: By name; by default ``{"kNN": KNNProbe(), "linear": LinearProbe(), "MLP": MLPProbe()}``.
        out: Folder of the fine-tuned runs, which are gone on with where they stand; without one nothing is fine-tuned.
        epochs: Of fine-tuning on all images.
        tune: Further settings of :func:`fine_tune`, such as ``{"lr": 3e-4, "layer_decay": 0.75}``.
        seed: Of the draws and of fine-tuning.
        progress: Whether to show bars.

    Returns:
        Columns ``protocol, layer, factor, shots, draw, value, chance, n_train, n_test``; ``value`` is an accuracy from 0 to 1,
        ``chance`` what guessing the commonest class of the training rows would score. The layer of fine-tuning is ``backbone``.

    Raises:
        TypeError: If ``model`` is neither an encoder nor a run.
        ValueError: If the factor is one of numbers, a class has too few rows, or a probe or fine-tuning cannot be done.
        KeyError: If there is no such layer or factor.

    Example:
        How a run and an untrained network compare::

            wb.protocols(run, run.images(), run.held_out(), out="runs/tuned", epochs=20)
            wb.protocols(wb.build_encoder("convnet"), run.images(), run.held_out())
    """
    encoder = model.model() if isinstance(model, Run) else model
    if not isinstance(encoder, Encoder):
        raise TypeError(f"protocols are of an Encoder or a Run, but got {type(model).__name__}")
    for images in (train, test):
        if factor in images.factors and pd.api.types.is_float_dtype(images.factors[factor]):
            raise ValueError(f"the protocols name classes, but {factor!r} is a factor of numbers; for those use few_shot")
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    known, seen = (extract(encoder, images, layer, progress=progress) for images in (train, test))
    usual = {"kNN": KNNProbe(), "linear": LinearProbe(), "MLP": MLPProbe()}
    asked = {"factor": factor, "shots": shots, "draws": draws, "seed": seed}
    parts = [few_shot(known, seen, probe=p, **asked).assign(protocol=name) for name, p in (probes or usual).items()]
    if out is not None:
        shares = [k for k in shots if k < 1 or k == math.inf]
        how = {"factor": factor, "seed": seed, "resume": True, "progress": progress, **(tune or {})}
        parts += [_tuned(encoder, train, test, share=k, out=Path(out), epochs=epochs, **how) for k in shares]
    columns = ["protocol", "layer", "factor", "shots", "draw", "value", "chance", "n_train", "n_test"]
    return pd.concat(parts, ignore_index=True)[columns]


def _tuned(
    model: Encoder, train: Images, test: Images, *, share: float, out: Path, factor: str, epochs: int, seed: int, **tune: Any
) -> pd.DataFrame:
    few = train if share == math.inf else train[draw_shots(train.factors[factor], share, seed=mixed_seed(seed, 0))]
    folder = out / ("all" if share == math.inf else f"{share:g}")
    epochs = round(epochs / math.sqrt(min(share, 1)))
    run = fine_tune(model, few, out=folder, factor=factor, epochs=epochs, seed=seed, **tune)
    common = few.factors[factor].mode()[0]
    row = {"protocol": "fine-tuning", "layer": "backbone", "factor": factor, "shots": float(share), "draw": 0}
    row |= {"value": head_accuracy(run, test), "chance": float((test.factors[factor] == common).mean())}
    return pd.DataFrame([row | {"n_train": len(few), "n_test": len(test)}])
