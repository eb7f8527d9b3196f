"""Measures of where features lie: on the unit sphere, and around the image whose views they are."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, Moments, chunks, gram, shape

__all__ = ["Groups", "alignment", "lidar", "normalised_std", "uniformity", "uniformity_of_sphere"]

Sources = Sequence | np.ndarray | Tensor | pd.Series


class Groups:
    """Sums of the rows of each image's views, for ``lidar`` and ``alignment`` of features that do not fit in memory.

    Memory is 8 D (D + n) bytes for n images, whatever the number of views. Views may come in any order.

    Arguments:
        d: Columns.
        normalise: Whether each row is divided by its length first, as ``alignment`` wants (and ``lidar`` does not).

    Attributes:
        moments: Of all rows.
        sums, counts, squares: Sum of the rows (n, D), their number (n) and the sum of their squared lengths (n), an image each.

    Example:
        >>> seen = Groups(8)
        >>> for first_image in (0, 16):
        ...     seen = seen.update(torch.randn(32, 8), [first_image + row // 2 for row in range(32)])
        >>> 1 <= lidar(seen) <= 8
        True
    """

    def __init__(self, d: int, *, normalise: bool = False) -> None:
        self.moments = Moments(d, normalise=normalise)
        self.place: dict[object, int] = {}
        self.sums = torch.zeros(0, d, dtype=torch.float64)
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.squares = torch.zeros(0, dtype=torch.float64)

    def update(self, z: Matrix, source: Sources) -> "Groups":
        """Adds rows (N, D) that show the images ``source`` (N) and returns itself."""
        names, index = _grouped(z, source)
        sums = _sums(z, index, len(names), normalise=self.moments.normalise)
        self.moments.update(z)
        return self._add(names, *sums)

    def merge(self, other: "Groups") -> "Groups":
        """Adds what another has seen and returns itself."""
        self.moments.merge(other.moments)
        return self._add(list(other.place), other.sums, other.counts, other.squares)

    def _add(self, names: list, sums: Tensor, counts: Tensor, squares: Tensor) -> "Groups":
        where = torch.tensor([self.place.setdefault(name, len(self.place)) for name in names])
        for name, new in (("sums", sums), ("counts", counts), ("squares", squares)):
            old = getattr(self, name)
            grown = torch.cat([old, old.new_zeros(len(self.place) - len(old), *old.shape[1:])])
            setattr(self, name, grown.index_add_(0, where, new.to(old)))
        return self


@invariant_to("rotation", "order", "shift")
def lidar(z: Matrix | Groups, source: Sources | None = None, *, delta: float = 1e-4) -> Measured:
    r"""LiDAR: the effective rank of what linear discriminant analysis finds between images, against their views.

    .. math:: \exp H(\lambda / \textstyle\sum \lambda), \quad
              \lambda = \operatorname{eig}(\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}),

    .. math:: \Sigma_b = \tfrac{1}{n-1} \sum_i (\mu_i - \mu)(\mu_i - \mu)^\top, \quad
              \Sigma_w = \tfrac{1}{\sum_i (q_i - 1)} \sum_{ij} (x_{ij} - \mu_i)(x_{ij} - \mu_i)^\top + \delta I

    From 1 to min(D, n - 1) for n images. Few views bias it upwards: with 16 true dimensions q = 2, 5, 10 views gave 24.9,
    20.4, 18.4. The views are those of the method's own training. Without :math:`\delta` it would not change under
    any invertible linear map; with it, the scale of the features counts a little.

    Arguments:
        z: Features (N, D) of N views, in any order; or :class:`Groups`, and no ``source``.
        source: Which image each row shows (N), such as the column ``source`` of the factors that ``extract`` writes.
        delta: Added to the diagonal; the authors' setting is not printed, 1e-4 is the usual reading.

    Raises:
        ValueError: If the rows are not grouped, an image has one view, or there is one image.

    References:
        | LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures (Thilak et al., 2024), section 3
        | https://arxiv.org/abs/2312.04000
    """
    means, counts, scatter = _between_and_within(z, source)
    n, d = means.shape
    if n < 2:
        raise ValueError("LiDAR compares images, but every row shows the same one.")
    within = scatter / (counts.sum() - n)
    within.diagonal().add_(delta)
    triangle, failed = torch.linalg.cholesky_ex(within)
    if failed:
        raise ValueError(f"the views do not vary in all {d} dimensions, so they cannot be divided by: give a positive delta.")
    apart = torch.linalg.solve_triangular(triangle, (means - means.mean(0)).T, upper=False)  # (D, n)
    value = torch.linalg.eigvalsh(gram(apart if n < d else apart.T)).clamp_min(0)
    how = f"{n} images of {_range(counts)} views, delta={delta:g}"
    if value[-1] <= 1e-24 * n * float(means.square().max()) / delta if delta else value[-1] == 0:
        warnings.warn("LiDAR of images whose features are all the same: no direction, so 0.", RuntimeWarning, stacklevel=3)
        return Measured(0.0, name="LiDAR", n=int(counts.sum()), d=d, convention=how)
    rank = torch.special.entr(value / value.sum()).sum().exp()
    return Measured(float(rank), name="LiDAR", n=int(counts.sum()), d=d, convention=how)


@invariant_to("rotation", "order", "scale", "lengths")
def alignment(z: Matrix | Groups, source: Sources | None = None) -> Measured:
    r"""Alignment: the mean squared distance of two views of an image on the unit sphere.

    .. math:: \mathbb{E} \lVert u - v \rVert^2

    From 0 (every image at one point) to 4. The mean is over all pairs of views of one image; rows of zeros stay zeros.

    Arguments:
        z: Features (N, D) of N views, in any order; or :class:`Groups` with ``normalise=True``, and no ``source``.
        source: Which image each row shows (N). For two matrices of views, row by row:
            ``alignment(torch.cat([a, b]), [*range(len(a))] * 2)``.

    References:
        | Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere
          (Wang, Isola, 2020), equation 2 with alpha = 2, https://arxiv.org/abs/2005.10242
    """
    if isinstance(z, Groups):
        if not z.moments.normalise:
            raise ValueError(f"alignment is of L2-normalised rows: accumulate them with Groups({z.moments.d}, normalise=True).")
        sums, counts, squares = z.sums, z.counts, z.squares
        _paired(counts, list(z.place), "alignment")
    else:
        names, index = _grouped(z, source)
        sums, counts, squares = _sums(z, index, len(names), normalise=True)
        _paired(counts, names, "alignment")
    total = float((counts * squares - sums.square().sum(1)).sum().clamp_min(0))  # sum over pairs i < j of |u_i - u_j|^2
    pairs = float((counts * (counts - 1) / 2).sum())
    how = f"{len(counts)} images of {_range(counts)} views, L2-normalised rows, alpha=2"
    return Measured(total / pairs, name="alignment", n=int(counts.sum()), d=sums.shape[1], convention=how)


@invariant_to("rotation", "order", "scale", "lengths")
def uniformity(z: Matrix, *, t: float = 2.0) -> Measured:
    r"""Uniformity: the logarithm of the mean Gaussian potential of two rows on the unit sphere.

    .. math:: \log \frac{2}{N (N - 1)} \sum_{i < j} e^{-t \lVert u_i - u_j \rVert^2}

    From about -2 t (as far apart as can be: :func:`uniformity_of_sphere` is the value of the evenly filled sphere, which
    moves with D) to 0 (one point; also of a single row). Over all pairs, exactly, a block at a time; a memory map will
    do. The time is N² D.

    References:
        | Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere
          (Wang, Isola, 2020), equation 3, https://arxiv.org/abs/2005.10242
    """
    n, d = shape(z)
    size = max(min(2048, (1 << 23) // d), 64)
    total = torch.tensor(-math.inf, dtype=torch.float64)
    for a in range(0, n, size):
        u = _units(z, a, size)
        for b in range(a, n, size):
            v = u if a == b else _units(z, b, size)
            apart = u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T
            potential = -t * apart.clamp_min(0)
            if a == b:
                potential = potential[tuple(torch.triu_indices(len(u), len(u), 1))]
            total = torch.logaddexp(total, potential.flatten().logsumexp(0).cpu())
    value = float(total) - math.log(n * (n - 1) / 2) if n > 1 else 0.0
    return Measured(value, name="uniformity", n=n, d=d, convention=f"all pairs i < j, L2-normalised rows, t={t:g}")


def uniformity_of_sphere(d: int, *, t: float = 2.0) -> float:
    r"""Returns the uniformity of infinitely many points spread evenly over the unit sphere in D dimensions.

    .. math:: -2 t + \log {}_0F_1(; D/2; t^2), \quad \to -2t \text{ as } D \to \infty

    Example:
        >>> round(uniformity_of_sphere(128), 3)
        -3.938
    """
    from scipy.special import hyp0f1

    return -2 * t + math.log(hyp0f1(d / 2, t**2))


@invariant_to("order", "scale", "lengths")
def normalised_std(z: Matrix | Moments) -> Measured:
    r"""The standard deviation of each dimension of the L2-normalised rows, averaged over dimensions.

    About :math:`1 / \sqrt D` for features that fill the sphere, 0 when all are one point (or a single row). It does not see
    collapse onto a subspace. Moments must be ``normalise=True``.

    References:
        | Exploring Simple Siamese Representation Learning (Chen, He, 2021), section 4.1, https://arxiv.org/abs/2011.10566
    """
    n, d = shape(z)
    if isinstance(z, Moments):
        if not z.normalise:
            raise ValueError(f"normalised_std is of L2-normalised rows: accumulate them with Moments({d}, normalise=True).")
        square = z.scatter.diagonal()
    else:
        mean = sum(x.sum(0) for x in chunks(z, normalise=True)) / n
        square = sum((x - mean).square().sum(0) for x in chunks(z, normalise=True))
    value = float((square / max(n - 1, 1)).clamp_min(0).sqrt().mean())
    return Measured(value, name="normalised std", n=n, d=d, convention="L2-normalised rows, over N - 1")


def _between_and_within(z: Matrix | Groups, source: Sources | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean of each image's views (n, D), their number (n), and the scatter of views about them (D, D)."""
    if isinstance(z, Groups):
        if z.moments.normalise:
            raise ValueError(f"LiDAR is of the rows as they are: accumulate them with Groups({z.moments.d}).")
        _paired(z.counts, list(z.place), "LiDAR")
        means = z.sums / z.counts[:, None]
        apart = (means - z.moments.mean.to(means)) * z.counts.sqrt()[:, None]
        return means, z.counts, z.moments.scatter.to(means) - gram(apart)
    names, index = _grouped(z, source)
    sums, counts, _ = _sums(z, index, len(names), normalise=False)
    _paired(counts, names, "LiDAR")
    means, start = sums / counts[:, None], 0
    scatter = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64, device=means.device)
    for x in chunks(z):
        scatter += gram(x - means[index[start : start + len(x)]])
        start += len(x)
    return means, counts, scatter


def _grouped(z: Matrix, source: Sources | None) -> tuple[list, Tensor]:
    """Returns the images' names and, for each row, which of them it shows."""
    n, _ = shape(z)
    if source is None:
        raise ValueError("rows must be grouped: say which image each row shows with source=, such as factors['source'].")
    source = source.cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if source.shape != (n,):
        raise ValueError(f"source must name the image of each of the {n} rows, but has shape {source.shape}.")
    names, index = np.unique(source, return_inverse=True)
    return names.tolist(), torch.from_numpy(index.reshape(-1))


def _sums(z: Matrix, index: Tensor, n: int, *, normalise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns, for each image, the sum of its rows, their number and the sum of their squared lengths."""
    sums, squares, start = None, None, 0
    for x in chunks(z, normalise=normalise):
        if sums is None:
            sums, squares = x.new_zeros(n, x.shape[1]), x.new_zeros(n)
        where = index[start : start + len(x)].to(x.device)
        sums.index_add_(0, where, x)
        squares.index_add_(0, where, x.square().sum(1))
        start += len(x)
    return sums, torch.bincount(index, minlength=n).to(sums), squares


def _paired(counts: Tensor, names: list, measure: str) -> None:
    alone = (counts < 2).nonzero()[:, 0].tolist()
    if alone:
        raise ValueError(
            f"{measure} compares views of one image, but {len(alone)} of {len(counts)} images have a single row, such as image "
            f"{names[alone[0]]!r}: extract at least two views of each, and give the image of each row as source."
        )


def _units(z: Matrix, start: int, size: int) -> Float[Tensor, "n d"]:
    return next(chunks(z[start : start + size], normalise=True, size=size))


def _range(counts: Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"
