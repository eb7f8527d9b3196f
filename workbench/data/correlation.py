r"""Data in which factors go together, as they do in the world: resampled from data in which they do not.

With all factors f scaled to [0, 1], an image is drawn, with repetition, with a probability proportional to

.. math:: w(f) = \prod_{(a, b)} \exp \frac{-(f_a - f_b)^2}{2 \sigma^2}

over the pairs (a, b) of factors that go together; 1 - f_b stands for f_b in the inverse correlation. A model is trained on that
and judged on the whole grid, where all combinations are as likely, or under another correlation.

References:
    Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth, Ibrahim, Akata, Vincent and Bouchacourt, ICLR
    2023), https://arxiv.org/abs/2210.07347, after On Disentangled Representations Learned from Correlated Data (Träuble et al.,
    ICML 2021), https://arxiv.org/abs/2006.07886.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.data.gridded import factor_numbers
from workbench.data.images import Images, satisfying

__all__ = ["correlate", "correlation_settings", "correlation_weights"]

Tied = str | Mapping[str, str | Sequence[str]]

STRENGTHS = (0.4, 0.1, 0.04)  # sigma of two pairs at once
ONE = 0.1  # of one pair and of three
CONFOUNDED = 0.2


def correlate(
    images: Images,
    a: Tied,
    b: str | Sequence[str] | None = None,
    *,
    sigma: float = 0.1,
    inverse: bool = False,
    holes: Sequence[str] = (),
    method: Literal["resample", "thin"] = "resample",
    n: int | None = None,
    seed: int = 0,
) -> Images:
    """Returns images among which factors go together, and from which some combinations of factors may be withheld.

    Arguments:
        images: Where the factors are independent, best a full grid.
        a: A factor; or several pairs as a table of factors and what each is tied to, such as ``{"x": "y", "label": "scale"}``,
            then without ``b``. An empty table ties nothing: a uniform draw.
        b: What ``a`` is tied to: another factor, or several (the paper's confounder is tied to all others).
        sigma: How strongly. Of two uniform factors of 20 values each, .4 makes a correlation of .43, .2 of .79, .1 of .94, .04
            of .99; the more values, the closer to .40, .77, .94 and .99; the fewer, the stronger.
        inverse: Whether high values of ``a`` go with low ones of ``b`` instead.
        holes: Queries of factors, such as ``"label == 2 and x > 0.1"``: no image that satisfies one is drawn.
            ``images.where(hole)`` has these to test on.
        method: ``"resample"`` draws ``n`` images with repetition, the paper's protocol; ``"thin"`` keeps each image once or not
            at all, with the probability itself, so that fewer are left.
        n: How many to draw, as many as there are by default; not with ``"thin"``.
        seed: Which random draw.

    Raises:
        KeyError: If there is no such factor.
        TypeError: If what is tied is given in no such way.
        ValueError: If a factor is constant or tied to itself, ``sigma`` is not positive, a hole is no query, or nothing is left.

    Example:
        >>> grid = wb.sprites(None, scales=6, orientations=2, positions=6, hues=1, background_hues=1)
        >>> tied = correlate(grid, {"x": "y", "label": "scale"}, sigma=0.1, holes=["label == 0 and orientation == 180"], n=500)
        >>> bool(tied.factors["x"].corr(tied.factors["y"]) > 0.9), len(tied.where("label == 0 and orientation == 180"))
        (True, 0)
    """
    weights = correlation_weights(images.factors, a, b, sigma=sigma, inverse=inverse, holes=holes)
    if method not in ("resample", "thin"):
        raise ValueError(f"method is 'resample' or 'thin', but got {method!r}")
    if method == "thin" and n is not None:
        raise ValueError(f"method='thin' keeps as many images as chance has it, but n is {n}; leave n out, or take 'resample'")
    rng = np.random.default_rng(seed)
    kept = rng.random(len(images)) < weights if method == "thin" else weights > 0
    if not kept.any():
        raise ValueError(f"no image of {images.name} is left at sigma {sigma} and holes {list(holes)}; take a larger sigma")
    wanted = len(images) if n is None else n
    if wanted < 1:
        raise ValueError(f"at least 1 image is drawn, but n is {n}")
    rows = np.flatnonzero(kept) if method == "thin" else rng.choice(len(images), wanted, p=weights / weights.sum())
    recipe = {"is": "workbench.data.correlation:correlate", "images": images.recipe}
    recipe |= {"a": a if isinstance(a, str) else {k: v if isinstance(v, str) else list(v) for k, v in a.items()}}
    recipe |= {"b": b if b is None or isinstance(b, str) else list(b), "sigma": sigma, "inverse": inverse, "holes": list(holes)}
    recipe |= {"method": method, "n": n, "seed": seed}
    return dataclasses.replace(images[rows], name=f"{images.name}_correlated", recipe=recipe if images.recipe else None)


def correlation_weights(
    factors: pd.DataFrame,
    a: Tied,
    b: str | Sequence[str] | None = None,
    *,
    sigma: float = 0.1,
    inverse: bool = False,
    holes: Sequence[str] = (),
) -> np.ndarray:
    """Returns how likely each row is to be drawn, from 0 to 1, not normalised (n,): w of the equation, and 0 in a hole.

    The arguments and errors are those of :func:`correlate`. Factors that are names are ordered alphabetically. For a sampler
    of your own: ``torch.utils.data.WeightedRandomSampler(correlation_weights(...), n)``.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, but got {sigma}; the smaller, the stronger the correlation")
    if isinstance(holes, str):
        raise TypeError(f"holes are a list of queries, but got the text {holes!r}; write [{holes!r}]")
    squares = np.zeros(len(factors))
    for one, other in _pairs(a, b):
        x, y = _unit(factors, one), _unit(factors, other)
        squares += (x - (1 - y if inverse else y)) ** 2
    weights = np.exp(-squares / (2 * sigma**2))
    for hole in holes:
        weights[satisfying(factors, hole, "holes")] = 0
    return weights


def correlation_settings(images: Images) -> dict[str, dict[str, Any]]:
    """Returns the correlations of the paper for images of these factors, by name: arguments of :func:`correlate`.

    ``"none"`` is the uniform draw; ``"x-y@0.1"`` ties one pair, ``"label-x+scale-y@0.4"`` two and so on, and ``"label-all@0.2"``
    is a confounder. Judge under each of them, or its inverse by ``inverse=True``, or, by default, on the images themselves.

    The factors say which: sprites and dSprites (``label``, ``scale``, ``x``, ``y``), scenes and Shapes3D (``label``, ``size``,
    ``hue``, ``floor_hue``, ``wall_hue``, ``orientation``), or MPI3D. A setting of a factor that does not vary is left out, and a
    confounder is tied to all that do.

    Raises:
        ValueError: If the images have other factors, of which the paper knows no setting.

    Example:
        >>> grid = wb.sprites(None, orientations=1, positions=4, hues=1, background_hues=1)
        >>> settings = correlation_settings(grid)
        >>> list(settings)[:4], settings["label-x+scale-y@0.4"]
        (['none', 'label-scale@0.1', 'x-y@0.1', 'label-y@0.1'], {'a': {'label': 'x', 'scale': 'y'}, 'sigma': 0.4})
        >>> shifted = wb.correlate(grid, **settings["x-y@0.1"], inverse=True, n=100)
    """
    numbers = factor_numbers(images)
    singles, doubles, triples, confounders = _protocol(images)
    found = {"none": {"a": {}, "sigma": ONE}}
    named = [(pairs, ONE) for pairs in singles] + [(pairs, sigma) for pairs in doubles for sigma in STRENGTHS]
    for pairs, sigma in [*named, *((pairs, ONE) for pairs in triples)]:
        if set(pairs) | set(pairs.values()) <= set(numbers):
            found["+".join(f"{a}-{b}" for a, b in pairs.items()) + f"@{sigma}"] = {"a": dict(pairs), "sigma": sigma}
    for name in confounders:
        if name in numbers:
            found[f"{name}-all@{CONFOUNDED}"] = {"a": {name: [c for c in numbers if c != name]}, "sigma": CONFOUNDED}
    return found


SPRITES = (
    ({"label": "scale"}, {"x": "y"}, {"label": "y"}),
    ({"label": "x", "scale": "y"}, {"label": "scale", "x": "y"}),
    (),
    ("label", "x"),
)
SCENES = (
    ({"floor_hue": "wall_hue"}, {"label": "size"}, {"label": "wall_hue"}, {"label": "hue"}),
    ({"size": "floor_hue", "label": "wall_hue"}, {"size": "label", "floor_hue": "wall_hue"}),
    (
        {"size": "orientation", "label": "wall_hue", "hue": "floor_hue"},
        {"hue": "orientation", "label": "size", "floor_hue": "wall_hue"},
    ),
    ("label", "wall_hue"),
)
ARM = (
    (
        {"camera_height": "background_color"},
        {"object_color": "object_size"},
        {"horizontal_axis": "vertical_axis"},
    ),
    (
        {"object_color": "label", "horizontal_axis": "vertical_axis"},
        {"object_color": "horizontal_axis", "label": "vertical_axis"},
    ),
    (
        {"object_color": "background_color", "camera_height": "horizontal_axis", "label": "vertical_axis"},
        {"object_color": "label", "horizontal_axis": "vertical_axis", "background_color": "camera_height"},
    ),
    ("label", "horizontal_axis"),
)


def _protocol(images: Images) -> tuple[Sequence[Mapping[str, str]], ...]:
    for settings in (ARM, SCENES, SPRITES):
        if {name for pairs in settings[1] for pair in pairs.items() for name in pair} <= set(images.factors):
            return settings
    raise ValueError(
        f"the paper's correlations are of sprites, scenes, dSprites, Shapes3D and MPI3D, but {images.name} has the factors "
        f"{list(images.factors)}; say by correlate(images, {{factor: factor}}) which go together"
    )


def _pairs(a: Tied, b: str | Sequence[str] | None) -> list[tuple[str, str]]:
    if isinstance(a, str) == (b is None) or not isinstance(a, str | Mapping):
        raise TypeError(f"give two factors, or a table such as {{'x': 'y', 'label': ['scale']}} alone; got a={a!r}, b={b!r}")
    table = {a: b} if isinstance(a, str) else a
    pairs = [(one, other) for one, others in table.items() for other in ([others] if isinstance(others, str) else others)]
    for one, other in pairs:
        if one == other:
            raise ValueError(f"the factor {one!r} cannot be tied to itself; name another")
    return pairs


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
