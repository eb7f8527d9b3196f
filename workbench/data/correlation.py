"""Data in which factors go together, as they do in the world: resampled from data in which they do not.

Roth, Ibrahim, Akata, Vincent and Bouchacourt, "Disentanglement of correlated factors via Hausdorff factorized support", ICLR
2023, after Träuble et al., "On disentangled representations learned from correlated data", ICML 2021: with both factors
scaled to [0, 1], an image is drawn with a probability proportional to ``exp(-(a - b)^2 / (2 sigma^2))``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from workbench.data.images import Images

__all__ = ["correlate", "correlation_weights"]


def correlate(
    images: Images,
    a: str,
    b: str | Sequence[str],
    *,
    sigma: float = 0.1,
    inverse: bool = False,
    method: Literal["resample", "thin"] = "resample",
    n: int | None = None,
    seed: int = 0,
) -> Images:
    """Returns images among which the factors ``a`` and ``b`` go together.

    Arguments:
        images: Where the factors are independent, best a full grid.
        a: A factor.
        b: Another, or several that are all tied to ``a`` (the paper's confounder). For two separate pairs call twice.
        sigma: .4 makes a weak correlation (.40 of uniform factors), .1 a strong one (.94), .04 a severe one (.99).
        inverse: Whether high values of ``a`` go with low ones of ``b`` instead.
        method: ``"resample"`` draws ``n`` images with repetition, the paper's protocol; ``"thin"`` keeps each image once or not
            at all, with the probability itself, so that fewer are left.
        n: How many to draw; as many as there are by default.
        seed: Which random draw.

    Raises:
        KeyError: If there is no such factor.
        ValueError: If a factor is constant, ``sigma`` is not positive, or nothing is left.
    """
    weights = correlation_weights(images.factors, a, b, sigma=sigma, inverse=inverse)
    rng = np.random.default_rng(seed)
    if method == "thin":
        rows = np.flatnonzero(rng.random(len(images)) < weights)
    elif method == "resample":
        rows = rng.choice(len(images), n or len(images), p=weights / weights.sum())
    else:
        raise ValueError(f"method is 'resample' or 'thin', but got {method!r}")
    if not len(rows):
        raise ValueError(f"no image of {images.name} is left at sigma {sigma}; take a larger sigma or more images")
    recipe = {"is": "workbench.data.correlation:correlate", "images": images.recipe, "a": a}
    recipe |= {
        "b": b if isinstance(b, str) else list(b),
        "sigma": sigma,
        "inverse": inverse,
        "method": method,
        "n": n,
        "seed": seed,
    }
    return dataclasses.replace(images[rows], name=f"{images.name}_correlated", recipe=recipe if images.recipe else None)


def correlation_weights(
    factors: pd.DataFrame, a: str, b: str | Sequence[str], *, sigma: float = 0.1, inverse: bool = False
) -> np.ndarray:
    """Returns ``exp(-(a - b)^2 / (2 sigma^2))`` of each row (n,), multiplied over several ``b``.

    The arguments are those of :func:`correlate`. Factors that are names are ordered alphabetically.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, but got {sigma}; the smaller, the stronger the correlation")
    weights = np.ones(len(factors))
    for other in [b] if isinstance(b, str) else b:
        x, y = _unit(factors, a), _unit(factors, other)
        weights *= np.exp(-((x - (1 - y if inverse else y)) ** 2) / (2 * sigma**2))
    return weights


def _unit(factors: pd.DataFrame, name: str) -> np.ndarray:
    """Returns a factor scaled to [0, 1]."""
    if name not in factors:
        raise KeyError(f"there is no factor {name!r}; there are {list(factors)}")
    column = factors[name]
    values = column.to_numpy(float) if pd.api.types.is_numeric_dtype(column) else pd.factorize(column, sort=True)[0].astype(float)
    low, high = values.min(), values.max()
    if not high > low:
        raise ValueError(f"the factor {name!r} is {low:g} for every image, so nothing can go together with it")
    return (values - low) / (high - low)
