r"""How far apart two sets of features lie as distributions: of generated images and of real ones, say.

The Fréchet distance is that of the Gaussians with their means and covariances,

.. math:: \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr} \Sigma_a + \operatorname{tr} \Sigma_b
          - 2 \operatorname{tr} (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2},

where the last trace is the sum of the singular values of :math:`A B^\top` for any A, B with :math:`A^\top A = \Sigma_a` and
:math:`B^\top B = \Sigma_b`: no root of a matrix is taken whose small eigenvalues are rounding, and the centred rows themselves
will do where they are fewer than the columns. The kernel distance is the squared maximum mean discrepancy

.. math:: \mathbb E\, k(a, a') + \mathbb E\, k(b, b') - 2\, \mathbb E\, k(a, b), \qquad k(x, y) = (x^\top y / D + 1)^3

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017),
      https://arxiv.org/abs/1706.08500
    | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, dtype, gram, shape
from workbench.measures.similarity import whole

__all__ = ["frechet_distance", "kernel_distance"]

BLOCK = 1 << 22  # values of the kernel held at a time: 32 MB
ENOUGH = 5  # rows a column, below which the bias is said


@invariant_to("order")
def frechet_distance(a: Matrix, b: Matrix) -> Measured:
    """The squared Fréchet distance of two sets of features, each taken for a Gaussian; FID, where an Inception network gave them.

    0 for the same mean and covariance, in the squared unit of the features. **It is biased upwards** where there are few rows to
    a column: two sets of one round distribution are apart by about a twentieth of both their variances at five rows a column, and
    a quarter at one. Compare at equal numbers of rows, beside the distance of two halves of the real set;
    :func:`kernel_distance` has no such bias.

    Arguments:
        a, b: Features (n, D) and (m, D), of generated and real images in any order. Covariances are divided by n - 1 and m - 1.

    Returns:
        The distance. For an interval with the real set as it is, ``bootstrap(partial(frechet_distance, real), generated)``.

    Raises:
        ValueError: If the widths differ, or there are fewer than two rows of one.

    Example:
        >>> z = torch.randn(500, 4)
        >>> round(frechet_distance(z, z + 1), 6)
        4.0
    """
    (n, d), (m, _) = _alike(a, b)
    x, y = whole(a), whole(b)
    y = y.to(x.device)
    if min(n, m) < ENOUGH * d:
        warnings.warn(
            f"{min(n, m)} rows of {d} columns: a Fréchet distance of so few is biased upwards. Hold it against that of as many "
            f"real images, or take wb.kernel_distance, which is not biased.",
            RuntimeWarning,
            stacklevel=2,
        )
    one, other = _factor(x), _factor(y)
    shared = torch.linalg.svdvals(one @ other.T).sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    value = float(apart + one.square().sum() + other.square().sum() - 2 * shared)
    return Measured(max(value, 0.0), name="Fréchet distance", n=n, d=d, convention=f"squared, Gaussians, against {m} rows")


@invariant_to("order")
def kernel_distance(a: Matrix, b: Matrix, *, degree: int = 3) -> Measured:
    """The squared maximum mean discrepancy of two sets of features, unbiased; KID, where an Inception network gave them.

    0 on average for sets of one distribution, at any number of rows, and then as often a little below as above. It depends on
    the scale of the features.

    Arguments:
        a, b: Features (n, D) and (m, D), in any order.
        degree: Of the polynomial kernel; the paper's is 3.

    Returns:
        The discrepancy over all pairs (the paper averages over blocks of 1,000, which has the same expectation).

    Raises:
        ValueError: If the widths differ, or there are fewer than two rows of one.

    Example:
        >>> z = torch.randn(500, 4)
        >>> kernel_distance(z[:250], z[250:]) < 0.5 < kernel_distance(z[:250], z[250:] + 1)
        True
    """
    (n, d), (m, _) = _alike(a, b)
    x, y = whole(a), whole(b)
    y = y.to(x.device)
    own = [
        (_kernels(z, z, degree) - float((z.square().sum(1) / d + 1).pow(degree).sum())) / (len(z) * (len(z) - 1)) for z in (x, y)
    ]
    value = sum(own) - 2 * _kernels(x, y, degree) / (n * m)
    how = f"polynomial kernel of degree {degree}, unbiased, against {m} rows"
    return Measured(value, name="kernel distance", n=n, d=d, convention=how)


def _alike(a: Matrix, b: Matrix) -> tuple[tuple[int, int], tuple[int, int]]:
    (one, _), (other, _) = ((shape(z), dtype(z)) for z in (a, b))
    if one[1] != other[1]:
        raise ValueError(f"distributions are apart in one space, but got features {one[1]} and {other[1]} wide.")
    if min(one[0], other[0]) < 2:
        raise ValueError(f"a distribution takes at least two rows, but got {one[0]} and {other[0]}.")
    return one, other


def _factor(x: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """Returns a matrix of at most D rows that times itself is the covariance."""
    x = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    if len(x) <= x.shape[1]:
        return x
    values, vectors = torch.linalg.eigh(gram(x))
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


def _kernels(x: Tensor, y: Tensor, degree: int) -> float:
    """Returns the sum of the kernel over all pairs."""
    parts = x.split(max(BLOCK // len(y), 1))
    return float(sum((part @ y.T / x.shape[1] + 1).pow(degree).sum() for part in parts))
