r"""How much varies: a representation when its image is changed, and images that share one representation.

Both are held against the same of two images that have nothing to do with each other, so that 0 is none at all and 1 as much
as there is. For rows h of covariance :math:`\Sigma` the mean over pairs is known without any pair,

.. math:: \mathbb E\, \lVert h(x') - h(x) \rVert^2 = 2 \operatorname{tr} \Sigma,

exactly, where the covariance is divided by n - 1 and all pairs of different rows are counted.
"""

import math
import warnings

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, shape
from workbench.measures.resampling import by_source
from workbench.measures.scores import Scores
from workbench.measures.similarity import together, whole

__all__ = ["invariance_ratio", "sample_maps", "sample_variation"]


@invariant_to("order")
def invariance_ratio(h: Matrix, moved: Matrix) -> Measured:
    r"""How far a change of the images moves their representations, as a share of how far apart two images are (squared).

    .. math:: \frac{\mathbb E \lVert h(Tx) - h(x) \rVert^2}{\mathbb E \lVert h(x') - h(x) \rVert^2}

    0 for a representation that T does not change, about 1 where an image becomes as good as another one. A scale or a rotation
    of both alike changes nothing.

    Arguments:
        h: Representations of images (N, D).
        moved: Those of the same images under T, row by row.

    Returns:
        The ratio; NaN, and a warning, where all images have one representation. For an interval over images,
        ``bootstrap(invariance_ratio, h, moved)``.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two rows.

    Example:
        >>> h = torch.randn(200, 8)
        >>> round(invariance_ratio(h, h), 3), 0.8 < invariance_ratio(h, h.roll(1, 0)) < 1.2
        (0.0, True)
    """
    n, d = shape(h)
    together(h, moved)
    if shape(moved) != (n, d) or n < 2:
        raise ValueError(f"h and moved are of the same images, two or more, but got shapes {(n, d)} and {shape(moved)}.")
    x, y = whole(h), whole(moved)
    between = 2 * float((x - x.mean(0)).square().sum()) / (n - 1)
    within = float((y.to(x.device) - x).square().sum()) / n
    still = between <= 1e-24 * float(x.square().sum())
    if still:
        warnings.warn("all images have one representation, so there is no other to compare with", RuntimeWarning, stacklevel=2)
    return Measured(
        math.nan if still else within / between, name="invariance ratio", n=n, d=d, convention="squared, by that of two images"
    )


def sample_maps(samples: Float[Tensor, "n c h w"] | np.ndarray, *, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of each source's samples (S, C, H, W) and, a number a pixel (S, H, W), how far they deviate from it.

    Arguments:
        samples: Images (n, C, H, W), uint8 or in [0, 1], those of a source together.
        copies: Samples of each source.

    Returns:
        Means, and deviations (divided by copies - 1, root of the mean over channels), both in [0, 1].

    Raises:
        ValueError: If the samples are no images or beyond [0, 1], or not ``copies`` of each source; at least two.

    Example:
        >>> mean, deviation = sample_maps(np.array([0, 1.0]).reshape(2, 1, 1, 1), copies=2)
        >>> mean.item(), round(deviation.item(), 4)
        (0.5, 0.7071)
    """
    x = _by_source(samples, copies)
    return x.mean(1), np.sqrt(x.var(1, ddof=1).mean(1))


def sample_variation(
    samples: Float[Tensor, "n c h w"] | np.ndarray,
    *,
    copies: int,
    interval: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Returns how different the samples that share a representation are, pixel by pixel, and beside samples of others.

    Arguments:
        samples: Images (n, C, H, W), uint8 or in [0, 1], those of a source together.
        copies: Samples of each source.
        interval, resamples, seed: Of the intervals, from random halves of the sources; with fewer than four there are none (NaN).

    Returns:
        Columns ``measure``, ``value``, ``low``, ``high``, ``n`` samples, ``sources``, ``interval``; rows ``"of one source"``
        (the root of the mean squared difference of two samples, in pixel values from 0 to 1), ``"of two sources"`` (the same)
        and ``"share"``, the one squared by the other squared: 0 where a representation leaves no choice, 1 where it says nothing.

    Raises:
        ValueError: As of :func:`sample_maps`, or if there are fewer than two sources.

    Example:
        >>> noise = np.random.default_rng(0).random((40, 1, 4, 4))
        >>> table = sample_variation(noise, copies=4).set_index("measure")
        >>> bool(0.9 < table["value"]["share"] < 1.1)
        True
    """
    x = _by_source(samples, copies)
    if len(x) < 2:
        raise ValueError(f"samples of two sources or more are wanted, to hold one against another, but got {len(x)}.")
    x = x.reshape(*x.shape[:2], -1)
    own = 2 * x.var(1, ddof=1).mean(1)  # of a pair: twice the variance
    around = x.var(1).mean(1)  # E |x - mean|^2 of a source, which its mean no longer has
    z = np.concatenate([own[:, None], around[:, None], x.mean(1) / x.shape[2] ** 0.5], 1)
    got = by_source(_variation, z, np.arange(len(z)), interval, resamples, seed)
    table = got.table()[["measure", "value", "low", "high"]].assign(n=len(x) * copies, sources=len(x), interval=interval)
    return table.assign(low=table["low"].clip(lower=0))


def _variation(z: np.ndarray) -> Scores:
    own, around, means = float(z[:, 0].mean()), float(z[:, 1].mean()), z[:, 2:]
    between = 2 * around + 2 * float(means.var(0, ddof=1).sum())
    share = own / between if between > 0 else 0.0
    numbers = {"of one source": own**0.5, "of two sources": between**0.5, "share": share}
    return Scores(numbers, n=len(z), d=means.shape[1], convention="root of the mean squared difference, pixels from 0 to 1")


def _by_source(samples: Tensor | np.ndarray, copies: int) -> Float[np.ndarray, "s k c h w"]:
    x = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if x.ndim != 4 or copies < 2 or not len(x) or len(x) % copies:
        raise ValueError(
            f"samples are images (n, channels, height, width), copies of each source together and at least two, but got shape "
            f"{x.shape} and copies={copies}."
        )
    x = x / 255 if x.dtype == np.uint8 else x
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"samples are uint8 or lie in [0, 1], but these lie in [{x.min():.3g}, {x.max():.3g}].")
    return x.astype(np.float64).reshape(-1, copies, *x.shape[1:])
