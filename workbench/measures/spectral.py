r"""Measures of a representation's spectrum, of a matrix :math:`Z` (N samples, D dimensions).

:math:`\sigma_k` are the singular values of :math:`Z` (uncentred unless said), :math:`\lambda_k = \sigma_k^2 / (N - 1)` those
of the centred matrix: the eigenvalues of its covariance, in the order of size. Every one of these numbers grows with N
until N is well above D: compare at equal N and D, and take :math:`N \ge 10 D`. On one spectrum (centred),

.. math:: \text{numerical rank} \ge \text{RankMe} \ge \text{effective rank of } \lambda
          \ge \text{participation ratio} \ge \text{NESum} \ge 1.

A matrix without any direction (every eigenvalue zero: constant features, or a single row, centred) has the value 0, and
a warning says so. All arithmetic is in float64. The features may be a tensor, an array or :class:`Moments`.
"""

import math
import warnings
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.decomposition import eigenvalues
from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, Moments, chunks, dtype, shape

__all__ = [
    "alpha_req",
    "effective_rank",
    "nesum",
    "numerical_floor",
    "numerical_rank",
    "participation_ratio",
    "rankme",
    "selfcluster",
    "singular_values",
    "spectrum",
    "stable_rank",
]


def spectrum(z: Matrix | Moments, *, normalise: bool = True, centre: bool = True) -> pd.DataFrame:
    r"""Eigenvalues of the covariance, largest first, after each row was divided by its length.

    This is what DirectCLR's code plots (on validation images, as :math:`\ln \lambda_k` over the rank). Its text leaves the
    rows as they are: ``normalise=False``.

    Arguments:
        z: Features (N, D).
        normalise: Whether each row is divided by its length first; rows of zeros stay zeros.
        centre: Whether the mean row is taken off; without, these are the eigenvalues of the second moment, over N - 1 too.

    Returns:
        Columns ``rank`` (1 to min(N, D)) and ``value``, then, the same in every row, ``floor``, under which an eigenvalue is the
        rounding of the features (:func:`numerical_floor`), ``n``, ``d`` and ``convention``.

    References:
        | Understanding Dimensional Collapse in Contrastive Self-supervised Learning (Jing et al., 2022), section 3
        | https://arxiv.org/abs/2110.09348, its ``spectrum.py``
    """
    if isinstance(z, Moments) and z.normalise != normalise:
        raise ValueError(f"spectrum(normalise={normalise}) was asked of Moments(normalise={z.normalise}); the two must agree.")
    n, d = shape(z)
    value = singular_values(z, centre=centre, normalise=normalise).square() / max(n - 1, 1)
    how = f"eigenvalues of the {'covariance' if centre else 'second moment'}, {_rows(z, normalise=normalise)}"
    table = pd.DataFrame({"rank": range(1, len(value) + 1), "value": value.cpu().numpy()})
    return table.assign(floor=_floor(z, normalise=normalise, top=float(value[0])), n=n, d=d, convention=how)


def singular_values(z: Matrix | Moments, *, centre: bool = False, normalise: bool = False) -> Float[Tensor, "k"]:
    """Returns the min(N, D) singular values in float64, largest first, right to about 1e-14 of the largest.

    The Gram matrix answers where it can (all above 1e-5 of the largest); where the spectrum falls further, a QR
    decomposition a chunk at a time does, of which the singular values are taken. Moments have the Gram matrix alone:
    then values below about 1e-7 of the largest are zero.
    """
    value = eigenvalues(z, centre=centre, normalise=normalise)
    if isinstance(z, Moments) or value[-1] > 1e-10 * value[0] or value[0] == 0:
        return value.sqrt()
    n, d = shape(z)
    mean = sum(x.sum(0) for x in chunks(z, normalise=normalise)) / n if centre else 0
    if n < d:
        return torch.linalg.svdvals(torch.cat([x - mean for x in chunks(z, normalise=normalise)]))
    triangle = torch.zeros(0, d, dtype=torch.float64, device=value.device)
    for x in chunks(z, normalise=normalise, size=4 * d):
        triangle = torch.linalg.qr(torch.cat([triangle, x - mean]), mode="r").R
    return torch.linalg.svdvals(triangle)


def numerical_floor(z: Matrix | Moments, *, normalise: bool = True) -> float:
    r"""Returns the eigenvalue of the covariance under which nothing is known, because the features were rounded.

    A number x stored with machine epsilon :math:`\epsilon` is rounded to steps of
    :math:`\epsilon\, 2^{\lfloor \log_2 |x| \rfloor}`,
    which adds a variance of a twelfth of the step's square, :math:`\epsilon^2 x^2 / 22` on average, to each dimension.
    The arithmetic that made the features rounds too, several times more: draw this as a line under a spectrum, and read
    nothing into what lies within a hundredfold of it.

    Example:
        >>> round(math.log(numerical_floor(torch.randn(1000, 64), normalise=False)))  # float32
        -35
    """
    top = float(eigenvalues(z, centre=True, normalise=normalise)[0]) / max(shape(z)[0] - 1, 1)
    return _floor(z, normalise=normalise, top=top)


@invariant_to("rotation", "order", "scale", "duplication")
def rankme(z: Matrix | Moments, *, eps: float = 1e-7, centre: bool = False) -> Measured:
    r"""RankMe: the exponential of the entropy of the singular values, neither centred nor normalised.

    .. math:: \exp\Big(-\sum_{k=1}^{\min(N, D)} p_k \log p_k\Big), \quad p_k = \frac{\sigma_k}{\lVert \sigma \rVert_1} + \epsilon

    From 1 to min(N, D), and a little above, because the paper adds :math:`\epsilon` outside the fraction and does not
    normalise again. Public codes called RankMe use squared values, centred features and :math:`\epsilon` from 0 to 1e-5 in
    every combination, and give 74 or 209 for one matrix: say which one a number is. The paper's is of the projector's
    output, on 25,600 clean training images, and ranks runs of one method alone. A mean offset dominates it: adding 10 to
    every entry turns 55 into 3.

    Arguments:
        z: Features (N, D).
        eps: The paper's epsilon, whose value it does not state; 1e-7 is the accepted reading.
        centre: Whether the mean row is taken off first; the paper does not.

    References:
        | RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank
          (Garrido et al., 2023), https://arxiv.org/abs/2210.02885

    Example:
        >>> rankme(torch.eye(8))
        RankMe 8 (N=8, D=8, entropy of the singular values, uncentred, eps=1e-07)
    """
    value = eigenvalues(z, centre=centre, quick=True).sqrt()
    how = f"entropy of the singular values, {_rows(z, centre=centre)}, eps={eps:g}"
    return _measured("RankMe", _exp_entropy(value, eps), z, how, value)


@invariant_to("rotation", "order", "scale", "duplication")
def effective_rank(
    z: Matrix | Moments, *, of: Literal["singular values", "eigenvalues"] = "singular values", centre: bool | None = None
) -> Measured:
    r"""Effective rank: the exponential of the entropy of the singular values, or of the eigenvalues of the covariance.

    Roy and Vetterli define it of a matrix, by its singular values: RankMe without its epsilon. Others take
    :math:`p_k = \lambda_k / \sum \lambda`, of the centred covariance: a smaller number, since squares are less even.

    Arguments:
        z: Features (N, D).
        of: ``"singular values"``, as published, or ``"eigenvalues"``.
        centre: Whether the mean row is taken off first; by default for eigenvalues alone.

    References:
        | The effective rank: a measure of effective dimensionality (Roy, Vetterli, 2007), definition 1
    """
    if of not in ("singular values", "eigenvalues"):
        raise ValueError(f'effective_rank is of "singular values" or of "eigenvalues", but got of={of!r}.')
    centre = of == "eigenvalues" if centre is None else centre
    value = eigenvalues(z, centre=centre, quick=True)
    value = value.sqrt() if of == "singular values" else value
    return _measured("effective rank", _exp_entropy(value, 0), z, f"entropy of the {of}, {_rows(z, centre=centre)}", value)


@invariant_to("rotation", "order", "scale", "duplication", "shift")
def participation_ratio(z: Matrix | Moments, *, centre: bool = True) -> Measured:
    r"""Participation ratio, :math:`(\sum \lambda)^2 / \sum \lambda^2`: how many equal variances would be as even.

    From 1 to min(N, D). Of N samples of D independent equal variables it is about N D / (N + D), not D.

    References:
        | On simplicity and complexity in the brave new world of large-scale neuroscience (Gao, Ganguli, 2015)
    """
    value = eigenvalues(z, centre=centre, quick=True)
    ratio = float(value.sum() ** 2 / value.square().sum()) if value[0] > 0 else 0.0
    return _measured("participation ratio", ratio, z, f"eigenvalues of the covariance, {_rows(z, centre=centre)}", value)


@invariant_to("rotation", "order", "scale", "duplication")
def stable_rank(z: Matrix | Moments, *, centre: bool = False) -> Measured:
    r"""Stable rank, :math:`\lVert Z \rVert_F^2 / \sigma_1^2`, of the features as they are.

    References:
        | Unsupervised Embedding Quality Evaluation (Tsitsulin et al., 2023), https://arxiv.org/abs/2305.16562
    """
    value = eigenvalues(z, centre=centre, quick=True)
    return _measured("stable rank", _over_top(value), z, f"squared singular values, {_rows(z, centre=centre)}", value)


@invariant_to("rotation", "order", "scale", "duplication", "shift")
def nesum(z: Matrix | Moments, *, centre: bool = True) -> Measured:
    r"""Normalised eigenvalue sum, :math:`\sum_k \lambda_k / \lambda_1` of the covariance: the stable rank, centred.

    References:
        | Exploring the Gap between Collapsed & Whitened Features in Self-Supervised Learning (He, Ozay, 2022), definition 4.1
    """
    value = eigenvalues(z, centre=centre, quick=True)
    return _measured("NESum", _over_top(value), z, f"eigenvalues of the covariance, {_rows(z, centre=centre)}", value)


@invariant_to("rotation", "order", "scale")
def numerical_rank(z: Matrix | Moments, *, eps: float | None = None, centre: bool = False) -> Measured:
    r"""Numerical rank, the count of :math:`\sigma_k > \sigma_1 \max(N, D)\, \epsilon`.

    Arguments:
        z: Features (N, D).
        eps: Machine epsilon, by default of the type that the features are stored in. Moments see nothing below 1e-7 of the
            largest singular value, so for them it is at least that of float32.
        centre: Whether the mean row is taken off first.

    References:
        | RankMe (Garrido et al., 2023); numpy.linalg.matrix_rank
    """
    value, (n, d) = singular_values(z, centre=centre), shape(z)
    least = torch.finfo(torch.float32).eps if isinstance(z, Moments) else 0.0
    eps = max(torch.finfo(dtype(z)).eps, least) if eps is None else eps
    count = float((value > value[0] * max(n, d) * eps).sum())
    return _measured("numerical rank", count, z, f"singular values, {_rows(z, centre=centre)}, eps={eps:.2g}", value)


@invariant_to("rotation", "order", "scale", "duplication", "shift")
def alpha_req(z: Matrix | Moments, *, first: int = 10, last: int = 100, centre: bool = True) -> Measured:
    r"""alpha-ReQ: the exponent of the power law :math:`\lambda_j \propto j^{-\alpha}` that fits the covariance's eigenvalues.

    Least squares of :math:`\log \lambda_j` on :math:`\log j` with weights 1/j, over ``lambda[first:last]`` counted from
    zero, so j = 11 ... 100. The paper holds the backbone's features to be best near 1. The fit range can turn the sign
    of its correlation with accuracy, and the authors' own scripts use several: it is part of the convention.

    Arguments:
        z: Features (N, D).
        first, last: The range. Where fewer eigenvalues stand above round-off it ends with them; where fewer than three of
            it are left, the value is NaN and a warning says so.
        centre: Whether the mean row is taken off first.

    Raises:
        ValueError: If the range does not hold at least three eigenvalues, counted from zero.

    References:
        | alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring eigenspectrum decay
          (Agrawal et al., 2022), and the authors' library
        | High-dimensional geometry of population responses in visual cortex (Stringer et al., 2019), methods
    """
    if first < 0 or last - first < 3:
        raise ValueError(f"alpha-ReQ fits three eigenvalues or more, counted from zero, but got first={first}, last={last}.")
    value = eigenvalues(z, centre=centre, quick=True)
    last = min(last, int((value > 0).sum()))
    how = f"eigenvalues {first + 1} to {last} of the covariance, weights 1/j, {_rows(z, centre=centre)}"
    if last - first < 3:
        _warn(f"alpha-ReQ fits eigenvalues {first + 1} and on, but {last} stand above round-off: NaN. Choose the range.")
        return Measured(math.nan, name="alpha-ReQ", n=shape(z)[0], d=shape(z)[1], convention=how)
    j = torch.arange(first + 1, last + 1, dtype=torch.float64, device=value.device)
    x, y, w = j.log(), value[first:last].log(), 1 / j / (1 / j).sum()
    x, y = x - w @ x, y - w @ y
    return _measured("alpha-ReQ", -float((w * x) @ y / ((w * x) @ x)), z, how, value)


@invariant_to("rotation", "order", "scale", "lengths")
def selfcluster(z: Matrix | Moments) -> Measured:
    r"""SelfCluster: how much closer the directions of the rows are than directions drawn evenly from the sphere.

    .. math:: \frac{Q - N - N(N-1)/D}{N^2 - N - N(N-1)/D}, \quad Q = \sum_{ij} \cos^2(z_i, z_j) = \lVert W^\top W \rVert_F^2

    with the L2-normalised rows W. 0 is the uniform sphere, 1 a single direction, 1/K about K tight clusters in random
    directions. Rows of zeros count as one more direction, orthogonal to every other. Moments must be ``normalise=True``.

    References:
        | Unsupervised Embedding Quality Evaluation (Tsitsulin et al., 2023), https://arxiv.org/abs/2305.16562
    """
    n, d = shape(z)
    if n == 1 or d == 1:
        return Measured(1.0, name="SelfCluster", n=n, d=d, convention="L2-normalised rows; one direction")
    square = eigenvalues(z, centre=False, normalise=True, quick=True)
    q = float(square.square().sum() + (n - square.sum()) ** 2)
    even = n + n * (n - 1) / d
    return Measured((q - even) / (n * n - even), name="SelfCluster", n=n, d=d, convention="L2-normalised rows")


def _floor(z: Matrix | Moments, *, normalise: bool, top: float) -> float:
    n, d = shape(z)
    if normalise:
        square = 1 / d
    elif isinstance(z, Moments):
        square = float(z.second(centre=False).diagonal().mean()) / n
    else:
        square = sum(float(x.square().sum()) for x in chunks(z, normalise=normalise)) / (n * d)
    arithmetic = torch.finfo(torch.float64).eps
    return max(torch.finfo(dtype(z)).eps ** 2 * square / 22, top * (16 * arithmetic if isinstance(z, Moments) else arithmetic**2))


def _exp_entropy(value: Tensor, eps: float) -> float:
    if value[0] == 0:
        return 0.0
    p = value / value.sum() + eps
    return float(torch.special.entr(p).sum().exp())


def _over_top(value: Tensor) -> float:
    return float(value.sum() / value[0]) if value[0] > 0 else 0.0


def _rows(z: Matrix | Moments, *, centre: bool | None = None, normalise: bool = False) -> str:
    normal = normalise or (isinstance(z, Moments) and z.normalise)
    words = [] if centre is None else ["centred" if centre else "uncentred"]
    return ", ".join(words + (["L2-normalised rows"] if normal else ["rows as they are"] if centre is None else []))


def _measured(name: str, number: float, z: Matrix | Moments, how: str, value: Tensor) -> Measured:
    if value[0] == 0:
        _warn(f"{name} of features in which nothing varies: every eigenvalue is zero, and so is the measure.")
    n, d = shape(z)
    return Measured(number, name=name, n=n, d=d, convention=how)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)
