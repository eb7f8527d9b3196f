r"""How far codes are from being independent: the Kullback-Leibler divergence from the product of their marginals."""

import warnings

import numpy as np

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, Moments, shape

__all__ = ["total_correlation"]


@invariant_to("scale", "shift", "columns", "order", "duplication")
def total_correlation(z: Matrix | Moments) -> Measured:
    r"""The divergence of the codes from the product of their marginals, of the Gaussian with their correlations R, in nats.

    .. math:: \mathrm{KL}\Big(p(z) \,\Big\|\, \prod_i p(z_i)\Big) = -\tfrac12 \log \det R

    0 where no two codes correlate. Dependence that is not linear is not seen. What factorised support tolerates and this
    does not: codes that are correlated because the factors are.

    Arguments:
        z: Codes (N, D), or their moments. Constant codes are left out.

    Returns:
        The divergence; where codes are linear in each other it is infinite, and a large number with a warning is given.
    """
    n, d = shape(z)
    moments = z if isinstance(z, Moments) else Moments.of(z)
    mean, scatter = moments.mean.cpu().numpy(), moments.scatter.cpu().numpy()
    variance = scatter.diagonal()
    moving = variance > 1e-20 * max(float(variance.max()), float(np.square(mean).max()) * n, 1e-300)
    scale = np.sqrt(variance[moving])
    correlation = scatter[np.ix_(moving, moving)] / np.outer(scale, scale)
    eigenvalues = np.linalg.eigvalsh(correlation) if len(scale) else np.ones(1)
    floor = len(eigenvalues) * 1e-12
    if eigenvalues.min() < floor:
        said = f"{int((eigenvalues < floor).sum())} directions of the codes are linear in the others: the divergence is infinite"
        warnings.warn(f"{said}; what is given counts rounding.", RuntimeWarning, stacklevel=2)
    value = -0.5 * float(np.log(np.maximum(eigenvalues, floor)).sum())
    how = "Gaussian, nats" + ("" if len(scale) == d else f", {d - len(scale)} constant codes left out")
    return Measured(max(value, 0.0) + 0.0, name="total correlation", n=n, d=d, convention=how)
