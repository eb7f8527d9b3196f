"""Sums over rows: what every spectral measure needs of a matrix, taken at once or a chunk at a time, in float64.

.. math:: n, \\quad \\mu = \\tfrac1n \\textstyle\\sum_i x_i, \\quad S = \\sum_i (x_i - \\mu)(x_i - \\mu)^\\top

Chunks are merged by the pairwise update, which keeps its digits under a large mean offset.

References:
    | Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979), eq. 2.1
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Moments"]

Matrix = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]

CHUNK = 1 << 23  # entries held in float64 at a time: 64 MB
LARGE = 1 << 22  # entries from which float32 products pay
ENOUGH = 3e-5  # of the trace, above which float32 products tell every eigenvalue


class Moments:
    """Count, mean and scatter of rows that need never be in memory together; every spectral measure takes it for the matrix.

    Memory is 8 D² bytes, whatever N. It knows nothing below about 1e-8 of the largest singular value, which is enough
    for every scalar measure, and not for the far end of a logarithmic spectrum.

    Arguments:
        d: Columns.
        normalise: Whether each row is divided by its length first (rows of zeros stay zeros), as ``spectrum``,
            ``selfcluster`` and ``normalised_std`` want.

    Attributes:
        n: Rows seen.
        mean: Of the rows (D).
        scatter: Sum of the outer products of the centred rows (D, D).
        dtype: Of the rows as they came; of several types, the coarsest, since its rounding is in the sums.

    Example:
        >>> seen = Moments(8)
        >>> for chunk in torch.eye(8).split(3):
        ...     seen = seen.update(chunk)
        >>> round(wb.rankme(seen), 2)
        8.0
    """

    def __init__(self, d: int, *, normalise: bool = False) -> None:
        self.d, self.normalise, self.n, self.dtype = d, normalise, 0, torch.float64
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)

    @classmethod
    def of(cls, z: Matrix, *, normalise: bool = False) -> "Moments":
        """Returns the moments of a matrix (N, D), read a chunk at a time; a memory map will do."""
        return cls(shape(z)[1], normalise=normalise).update(z)

    def update(self, z: Matrix) -> "Moments":
        """Adds rows (N, D) and returns itself.

        Raises:
            ValueError: If the rows are not as wide as those before, or not finite; then nothing of the chunk in which
                they stand is added.
        """
        if shape(z)[1] != self.d:
            raise ValueError(f"these moments are of rows {self.d} wide, but got rows of {shape(z)[1]}.")
        self.dtype = _coarser(self.dtype, dtype(z))
        return self._take(chunks(z, normalise=self.normalise))

    def merge(self, other: "Moments") -> "Moments":
        """Adds the rows that another has seen (on another process, say) and returns itself."""
        if (other.d, other.normalise) != (self.d, self.normalise):
            raise ValueError(
                f"moments of {self.d} columns, normalise={self.normalise}, do not add to moments of {other.d}, "
                f"normalise={other.normalise}."
            )
        self.dtype = _coarser(self.dtype, other.dtype)
        self._add(other.n, other.mean, other.scatter)
        return self

    def second(self, *, centre: bool) -> Float[Tensor, "d d"]:
        """Returns the sum of the outer products of the rows, with or without their mean taken off first."""
        return self.scatter if centre else torch.addr(self.scatter, self.mean, self.mean, alpha=self.n)

    def _take(self, parts: Iterator[Tensor]) -> "Moments":
        centred, product = None, None  # kept between chunks: fresh memory costs as much as the arithmetic
        for x in parts:
            mean = x.mean(0)
            same = centred is not None and centred.shape == x.shape
            centred = torch.sub(x, mean, out=centred) if same else x - mean
            product = gram(centred, out=product)
            self._add(len(x), mean.double() + centred.mean(0).double(), product)
        return self

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean.clone(), scatter.to(torch.float64, copy=True)
        elif n:
            apart, both = mean.to(self.mean) - self.mean, self.n + n
            _plus(self.scatter, scatter)
            self.scatter.addr_(apart, apart, alpha=self.n * n / both)
            self.mean += apart * (n / both)
            self.n = both


def shape(z: Matrix | Moments) -> tuple[int, int]:
    """Returns rows and columns, or says what is wrong with ``z``."""
    if isinstance(z, Moments):
        if z.n == 0:
            raise ValueError("these moments have seen no rows; update them first.")
        return z.n, z.d
    if not isinstance(z, Tensor | np.ndarray):
        raise TypeError(f"a measure takes a matrix (samples, dimensions) as a tensor or array, but got {type(z).__name__}.")
    if z.ndim != 2 or 0 in z.shape:
        hint = " Average feature maps over space, or flatten them, first." if z.ndim > 2 else ""
        raise ValueError(f"a measure takes a matrix (samples, dimensions), but got shape {tuple(z.shape)}.{hint}")
    return z.shape[0], z.shape[1]


def dtype(z: Matrix | Moments) -> torch.dtype:
    """Returns the type whose rounding is in the numbers; whole numbers count as exact."""
    kind = z.dtype if isinstance(z, Tensor | Moments) else torch.from_numpy(np.empty(0, z.dtype)).dtype
    if kind.is_complex:
        raise TypeError("a measure takes real numbers, but got complex ones.")
    return kind if kind.is_floating_point else torch.float64


def _coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    return max(one, other, key=lambda kind: torch.finfo(kind).eps)


def chunks(z: Matrix, *, normalise: bool = False, size: int | None = None, kind: torch.dtype = torch.float64) -> Iterator[Tensor]:
    """Yields the rows as ``kind``, some at a time.

    Raises:
        ValueError: If a row holds NaN or infinity; the message counts them.
    """
    n, d = shape(z)
    dtype(z)
    size = size or max(CHUNK // d, 256)
    for start in range(0, n, size):
        x = z[start : start + size]
        x = torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x.detach()
        x = x.cpu().to(kind) if x.device.type == "mps" else x.to(kind)
        if not torch.isfinite(x.sum()):
            _refuse(x, start)
        yield normalised(x) if normalise else x


def _refuse(x: Tensor, start: int) -> None:
    bad = (~torch.isfinite(x).all(1)).nonzero()[:, 0]
    if len(bad):  # else the sum alone overflowed
        raise ValueError(
            f"{len(bad)} of rows {start} to {start + len(x) - 1} hold NaN or infinity, first row {start + int(bad[0])}: "
            "no measure is defined of them. Find out what made them, or leave the rows out."
        )


def normalised(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Returns the rows divided by their lengths; rows of zeros stay zeros."""
    largest = x.abs().amax(1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)  # so that squares neither vanish nor overflow
    length = x.norm(dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1)


def gram(x: Float[Tensor, "n d"], *, out: Tensor | None = None) -> Float[Tensor, "d d"]:
    """Returns ``x.T @ x``; on the CPU by numpy, which knows that the result is symmetric and does half the work."""
    if x.device.type != "cpu":
        return torch.matmul(x.T, x, out=out)
    x = x.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # said by eigenvalues
        return torch.from_numpy(np.matmul(x.T, x, out=None if out is None else out.numpy()))


def _plus(total: Tensor, more: Tensor) -> None:
    """Adds in place; on the CPU by numpy, which widens float32 as it goes."""
    if total.device.type == more.device.type == "cpu":
        np.add(total.numpy(), more.numpy(), out=total.numpy())
    else:
        total += more.to(total)


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
    if quick and n * d > LARGE and _on_cpu(z) and dtype(z) != torch.float64 and not _falls(z, normalise=normalise, known=known):
        rough = _moments(z, normalise=normalise, single=True, known=known)
        trace = float(rough.scatter.trace())
        if 1e-25 < trace / (n * d) < 1e25:  # else squares leave the range of float32
            value = _of_moments(rough, centre=centre, known=known)
            if value[-1] > ENOUGH * trace:
                return value
    moments = _moments(z, normalise=normalise, single=False, known=known)
    return _of_moments(moments, centre=centre, known=known)[: min(n, d)]


def _of_moments(moments: Moments, *, centre: bool, known: dict) -> Tensor:
    """Returns the eigenvalues of the second moment, with the mean or without: on the CPU by one reduction for both."""
    second = moments.second(centre=centre)
    if second.device.type != "cpu":
        return _descending(second, moments.mean, moments.n)
    _require_finite(second)
    if ("tridiagonal", id(moments)) not in known:
        known["tridiagonal", id(moments)] = _tridiagonal(moments.scatter, moments.mean)
    from scipy.linalg import eigvalsh_tridiagonal

    diagonal, beside = known["tridiagonal", id(moments)]
    if not centre:
        diagonal = diagonal.copy()
        diagonal[0] += moments.n * float(moments.mean @ moments.mean)
    value = eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf") if len(beside) else diagonal
    return _told(torch.from_numpy(value).flip(0), moments.mean, moments.n)


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
