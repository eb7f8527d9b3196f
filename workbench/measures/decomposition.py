"""Eigenvalues of a matrix's moments: as exact as they must be, taken once where several measures want them.

The scatter S of n rows and their mean have two spectra, that of S and that of :math:`S + n \\mu \\mu^\\top`. On the CPU one
reduction to tridiagonal form serves both.

References:
    | Matrix Computations (Golub, Van Loan, 2013), section 8.3.1: Householder's reduction
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures import moments
from workbench.measures.moments import Matrix, Moments, chunks, dtype, gram, shape

__all__: list[str] = []

ENOUGH = 3e-5  # of the trace, above which float32 products tell every eigenvalue


def eigenvalues(z: Matrix | Moments, *, centre: bool, normalise: bool = False, quick: bool = False) -> Float[Tensor, "k"]:
    """Returns the squared singular values of the matrix, largest first; what round-off alone could make is zero.

    There are min(N, D) of them (D for moments). The smaller of the two Gram matrices is diagonalised in float64, so that
    singular values are right to about 1e-16 of the largest, squared: those below 1e-7 or so of it are not told from zero.

    On the CPU the spectra with and without the mean come of one reduction to tridiagonal form, of which each is a fraction.

    With ``quick``, the Gram matrix of many float32 features on the CPU is multiplied in float32, centred, and
    summed in float64 over blocks of rows. That is off by up to 2e-8 of the trace, and only taken where the smallest eigenvalue
    stands far above: then entropies and ratios of the spectrum are right to 1e-6.
    """
    shared = _shared.get()
    known = shared[1] if shared is not None and shared[0] is z else {}
    exact, asked = (("eigenvalues", centre, normalise, q) for q in (False, quick))
    if exact in known:
        return known[exact]
    if asked not in known:
        known[asked] = _eigenvalues(z, centre=centre, normalise=normalise, quick=quick, known=known)
    return known[asked]


def _eigenvalues(z: Matrix | Moments, *, centre: bool, normalise: bool, quick: bool, known: dict) -> Tensor:
    n, d = shape(z)
    if n < d and not isinstance(z, Moments):
        x = torch.cat(list(chunks(z, normalise=normalise)))
        mean = x.mean(0)
        return _descending(gram((x - mean if centre else x).T), mean, n)  # (N, N)
    large = n * d > moments.LARGE and _on_cpu(z) and dtype(z) != torch.float64
    if quick and large and not _falls(z, normalise=normalise, known=known):
        rough = _moments(z, normalise=normalise, single=True, known=known)
        trace = float(rough.scatter.trace())
        if 1e-25 < trace / (n * d) < 1e25:  # else squares leave the range of float32
            value = _of_moments(rough, centre=centre, known=known)
            if value[-1] > ENOUGH * trace:
                return value
    exact = _moments(z, normalise=normalise, single=False, known=known)
    return _of_moments(exact, centre=centre, known=known)[: min(n, d)]


def _of_moments(seen: Moments, *, centre: bool, known: dict) -> Tensor:
    """Returns the eigenvalues of the second moment, with the mean or without: on the CPU by one reduction for both."""
    second = seen.second(centre=centre)
    if second.device.type != "cpu":
        return _descending(second, seen.mean, seen.n)
    _require_finite(second)
    if ("tridiagonal", id(seen)) not in known:
        known["tridiagonal", id(seen)] = _tridiagonal(seen.scatter, seen.mean)
    from scipy.linalg import eigvalsh_tridiagonal

    diagonal, beside = known["tridiagonal", id(seen)]
    if not centre:
        diagonal = diagonal.copy()
        diagonal[0] += seen.n * float(seen.mean @ seen.mean)
    value = eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf") if len(beside) else diagonal
    return _told(torch.from_numpy(value).flip(0), seen.mean, seen.n)


def _tridiagonal(scatter: Tensor, mean: Tensor) -> tuple[np.ndarray, np.ndarray]:
    r"""Returns the diagonal of T and what stands beside it: :math:`T = Q^\top S Q`, Q orthogonal, with the mean along its
    first column: so :math:`S + n \mu \mu^\top`, rotated, is T and :math:`n \lVert \mu \rVert^2` in the corner.

    A reflection takes the mean to the first axis; the reduction that follows leaves that axis where it is.
    """
    from scipy.linalg.blas import dsyr2
    from scipy.linalg.lapack import dsytrd, dsytrd_lwork

    s, v = scatter.numpy().copy(), mean.numpy().copy()
    if len(v) == 1:
        return s[0], s[0, :0]
    if v.any():
        v /= np.abs(v).max()
        v[0] += np.copysign(np.linalg.norm(v), v[0])
        v *= 2**0.5 / np.linalg.norm(v)  # the reflection is I - v v'
        w = s @ v
        w -= (v @ w / 2) * v
        dsyr2(-1, v, w, a=s.T, lower=1, overwrite_a=1)
    _, diagonal, beside, _, _ = dsytrd(s.T, lower=1, lwork=int(dsytrd_lwork(len(s), lower=1)[0]), overwrite_a=1)
    return diagonal, beside


def _falls(z: Matrix, *, normalise: bool, known: dict) -> bool:
    """Whether a few rows already show that the smallest eigenvalue is too small for float32 products.

    The products of M rows with each other have no eigenvalue much above the variance in all but M directions, of which the
    smallest eigenvalue is at most an even share.
    """
    if ("falls", normalise) not in known:
        n, d = shape(z)
        m = max(d // 8, 2)
        x = next(chunks(z[:: n // m][:m], normalise=normalise, size=m))
        value = torch.linalg.eigvalsh(gram((x - x.mean(0)).T))  # the first is that of the mean, zero
        known["falls", normalise] = bool(value[1] < (d - m) * ENOUGH * value.sum() / m)
    return known["falls", normalise]


def _descending(second: Tensor, mean: Tensor, n: int) -> Tensor:
    _require_finite(second)
    return _told(torch.linalg.eigvalsh(second).flip(0), mean, n)


def _told(value: Tensor, mean: Tensor, n: int) -> Tensor:
    return torch.where(value > _round_off(value, mean, n), value, 0)


def _require_finite(second: Tensor) -> None:
    if not torch.isfinite(second.sum()):
        raise ValueError("the features are finite, but their squares are not: divide them by their largest value first.")


def _moments(z: Matrix | Moments, *, normalise: bool, single: bool, known: dict) -> Moments:
    if isinstance(z, Moments):
        if normalise and not z.normalise:
            raise ValueError(f"this measure is of L2-normalised rows: accumulate them with Moments({z.d}, normalise=True).")
        return z
    key = ("moments", normalise, single)
    if key not in known:
        known[key] = Moments(z.shape[1], normalise=normalise)
        size, kind = (2048, torch.float32) if single else (None, torch.float64)
        known[key]._take(chunks(z, normalise=normalise, size=size, kind=kind))
    return known[key]


def _on_cpu(z: Matrix | Moments) -> bool:
    return isinstance(z, np.ndarray) or (isinstance(z, Tensor) and z.device.type == "cpu")


def _round_off(value: Tensor, mean: Tensor, n: int) -> Tensor:
    """What float64 arithmetic may leave where an eigenvalue is zero: of the sums, and of the mean taken off."""
    eps = torch.finfo(torch.float64).eps
    return torch.maximum(16 * eps * value[0], 16 * n * (eps * mean.norm()) ** 2)


_shared: ContextVar[tuple[object, dict] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(z: Matrix | Moments) -> Iterator[None]:
    """While it lasts, measures of this very matrix share its moments and eigenvalues."""
    token = _shared.set((z, {}))
    try:
        yield
    finally:
        _shared.reset(token)
