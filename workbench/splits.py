"""What probes say of other splits: of a few rows of each class, drawn again and again; of views of images they have not seen.

References:
    A Cookbook of Self-Supervised Learning (Balestriero et al., 2023), section 3, https://arxiv.org/abs/2304.12210
    Guillotine Regularization (Bordes et al., 2023), section 4, https://arxiv.org/abs/2206.13378
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.core import mixed_seed
from workbench.estimators import Estimator, legible
from workbench.features import Features
from workbench.probes import readings

__all__ = ["draw_shots", "few_shot", "probe_actions", "split_sources"]


def few_shot(
    train: Features,
    test: Features,
    *,
    factor: str | Sequence[str] | None = None,
    shots: Sequence[float] = (1, 5, 10, math.inf),
    draws: int = 10,
    probe: Estimator | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns how well each factor is read from each layer by probes fitted on few rows, for several draws of them.

    All layers see the same draws, and a larger number of shots contains the smaller ones of the same draw.

    Arguments:
        train, test: Features of the same layers; ``test`` is used whole.
        factor: As of :func:`probe_layers`.
        shots: Rows of each class, or, of a factor of numbers, rows in all. Below 1 it is a share (of each class, at least one
            row), ``math.inf`` is every row, which is fitted once.
        draws: How often the rows are drawn.
        probe: For the classes; by default ``LinearProbe()``.
        seed: Of the draws; draw d is ``draw_shots(..., seed=wb.mixed_seed(seed, d))``.

    Returns:
        The columns of :func:`probe_layers`, and ``shots`` and ``draw`` behind ``factor``.

    Raises:
        ValueError: If a class has fewer rows than are asked for, which the message names, or shots or draws make no sense.
        KeyError, TypeError: As of :func:`probe_layers`.

    Example:
        Mean and spread over draws::

            table = wb.few_shot(known, seen, factor="label", shots=[1, 10])
            table.groupby(["layer", "shots"], sort=False)["value"].agg(["mean", "std"])
    """
    if draws < 1:
        raise ValueError(f"rows are drawn at least once, but draws is {draws}")
    names = legible(train.factors, test.factors) if factor is None else [factor] if isinstance(factor, str) else list(factor)
    parts = []
    for name in names:
        for k in shots:
            for draw in range(1 if k == math.inf else draws):
                # a factor that is not there is named by the probes
                few = (
                    train.where(draw_shots(train.factors[name], k, seed=mixed_seed(seed, draw)))
                    if name in train.factors
                    else train
                )
                rows = pd.DataFrame([row for row, _ in readings(few, test, factor=[name], probe=probe)])
                rows.insert(2, "shots", float(k))
                parts.append(rows.assign(draw=draw))
    table = pd.concat(parts, ignore_index=True)
    table.insert(3, "draw", table.pop("draw"))
    return table


def draw_shots(factor: pd.Series, shots: float, *, seed: int = 0) -> np.ndarray:
    """Returns sorted row numbers: ``shots`` of each class of a factor, or, of a factor of numbers, in all.

    Arguments:
        shots: A whole number; below 1 a share, of which each class gives at least one row; ``math.inf`` for all rows.
        seed: Of the draw; more shots contain fewer of the same seed.

    Raises:
        ValueError: If a class has fewer rows, or shots is neither.

    Example:
        >>> draw_shots(pd.Series(["a", "b", "a", "b", "b"]), math.inf)
        array([0, 1, 2, 3, 4])
    """
    if shots == math.inf:
        return np.arange(len(factor))
    if not (0 < shots < 1 or (shots >= 1 and shots == int(shots))):
        raise ValueError(f"shots are a whole number, a share between 0 and 1 or math.inf, but got {shots!r}")
    order = np.random.default_rng(seed).permutation(len(factor))
    numbers = pd.api.types.is_float_dtype(factor)
    values, kept = factor.to_numpy(), []
    for value in [None] if numbers else pd.unique(factor).tolist():
        rows = order if numbers else order[values[order] == value]
        k = max(1, round(shots * len(rows))) if shots < 1 else int(shots)
        if k > len(rows):
            who = f"there are {len(rows)} training rows" if numbers else f"class {value!r} has {len(rows)} training rows"
            raise ValueError(f"factor {factor.name!r}: {who}, but {k} are asked for; ask for fewer, or leave that class out")
        kept.append(rows[:k])
    return np.sort(np.concatenate(kept))


def split_sources(features: Features, *, held_out: float = 0.3, seed: int = 0) -> tuple[Features, Features]:
    """Returns features of several views of each image in two parts, so that no image has views in both.

    Arguments:
        features: As ``extract(..., views=...)`` gives them, with the column ``source``.
        held_out: Share of the images whose views make the second part, between 0 and 1; at least one.
        seed: Of the images drawn.

    Raises:
        ValueError: If the features are not of views, or of fewer than two images, or ``held_out`` is no such share.
    """
    if "source" not in features.factors:
        raise ValueError(
            "features of several views of each image are needed: extract(model, images, layers, views=wb.Augment(4))"
        )
    sources = features.factors["source"].to_numpy()
    known = np.unique(sources)
    if not 0 < held_out < 1 or len(known) < 2:
        raise ValueError(f"held_out is a share of at least 2 images, but got held_out={held_out} of {len(known)}")
    n = min(max(1, round(held_out * len(known))), len(known) - 1)
    held = np.isin(sources, np.random.default_rng(seed).permutation(known)[:n])
    return features.where(~held), features.where(held)


def probe_actions(
    features: Features,
    *,
    factor: str | Sequence[str] | None = None,
    probe: Estimator | None = None,
    held_out: float = 0.3,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns how well each layer tells what was done to a view: R² of numbers, accuracy of what was done or not.

    The probes are fitted on views of some images and asked about views of others (:func:`split_sources`).

    Arguments:
        features: Of recorded views: ``extract(model, images, layers, views=wb.Augment(4, record=True))``.
        factor: Actions, with or without ``action.`` in front; by default all numbers and truths that vary.
        probe: For the classes; by default ``LinearProbe()``.
        held_out: Share of the images that the probes are asked about.
        seed: Of the images drawn.

    Returns:
        The columns of :func:`probe_layers`; the factors are ``action.x``, ``action.flip`` ...

    Raises:
        ValueError: If no actions were recorded, or none varies.
        KeyError: If there is no such action.

    Example:
        Where the network forgets the crop and the colour::

            views = wb.extract(model, images, wb.main_layers(model), views=wb.Augment(4, record=True))
            wb.probe_actions(views)
    """
    done = [c for c in features.factors if str(c).startswith("action.")]
    if not done:
        raise ValueError(
            "no actions were recorded; take the features of views that tell what was done to them: "
            "extract(model, images, layers, views=wb.Augment(4, record=True))"
        )
    train, test = split_sources(features, held_out=held_out, seed=seed)
    if factor is None:
        vary = [c for c in done if min(train.factors[c].nunique(), test.factors[c].nunique()) > 1]
        names = legible(train.factors[vary], test.factors[vary])
    else:
        asked = [factor] if isinstance(factor, str) else list(factor)
        names = [n if n.startswith("action.") else f"action.{n}" for n in asked]
    missing = [n for n in names if n not in done]
    if missing:
        raise KeyError(f"there is no action {missing[0]!r}; recorded were {', '.join(done)}")
    return pd.DataFrame([row for row, _ in readings(train, test, factor=names, probe=probe)])
