"""Sums over rows: what every spectral measure needs of a matrix, taken at once or a chunk at a time, in float64.

.. math:: n, \\quad \\mu = \\tfrac1n \\textstyle\\sum_i x_i, \\quad S = \\sum_i (x_i - \\mu)(x_i - \\mu)^\\top

Chunks are merged by the pairwise update, which keeps its digits under a large mean offset.

References:
    | Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979), eq. 2.1
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Moments"]

Matrix = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]

CHUNK = 1 << 23  # entries held in float64 at a time: 64 MB
LARGE = 1 << 22  # entries from which float32 products pay


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
        raise TypeError(f"a measure takes a matrix (samples, dimensions) as a tensor or array, but got {unlike(z)}.")
    if z.ndim != 2 or 0 in z.shape:
        hint = " Average feature maps over space, or flatten them, first." if z.ndim > 2 else ""
        raise ValueError(f"a measure takes a matrix (samples, dimensions), but got shape {tuple(z.shape)}.{hint}")
    return z.shape[0], z.shape[1]


def unlike(z: object) -> str:
    """Says what was got in place of a matrix, and what to take of it where it holds one."""
    if isinstance(z, Mapping):
        return type(z).__name__ + (f"; take a layer of it, such as [{next(iter(z))!r}]" if len(z) else "")
    return type(z).__name__ + ("; take its .values" if hasattr(z, "values") else "")


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
