r"""Hausdorff factorised support: whether every combination of the values that codes take occurs.

The support of codes lies within the product of the supports of each. How far the farthest point of the product is from
any code, for two codes p and q of a batch of B rows (squared),

.. math:: H_{pq} = \max_{i, j} \min_k \big[(z_{ip} - z_{kp})^2 + (z_{jq} - z_{kq})^2\big]

is 0 where all combinations occur, however often: factors may be correlated, so long as none of their combinations is
impossible. The value and its gradient hang on one (i, j, k) a pair, so these are looked for without a gradient.

References:
    Disentanglement of Correlated Factors via Hausdorff Factorized Support (Roth et al., 2023), https://arxiv.org/abs/2210.07347
"""

import itertools
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, shape
from workbench.measures.similarity import whole

__all__ = ["MissingCorner", "hausdorff_loss", "hausdorff_support", "missing_corner"]

Convention = Literal["standardised", "raw", "paper"]

MEMORY = 1 << 20  # distances held at a time on a processor: what a cache holds
HELD = 1 << 26  # the same on other devices, where few and large calls are faster
PAPERS_BATCH = 128


def hausdorff_loss(
    z: Float[Tensor, "b d"], *, pairs: list[tuple[int, int]] | Int[Tensor, "p two"] | None = None, standardise: bool = True
) -> Tensor:
    """Returns the sum over pairs of codes of the squared Hausdorff distance to the product of their supports.

    Exactly that of all B² points of each product, and so is its gradient, where the farthest point is unique.

    Arguments:
        z: Codes of a batch (B, D), such as an encoder's means, with gradient.
        pairs: Which codes are paired; by default all. The paper draws 25 a step (of 45, D = 10).
        standardise: Whether codes are divided by their standard deviations over the batch first, so that shrinking them is no
            way out; the paper's code does not.

    Raises:
        ValueError: If ``z`` is no matrix.

    Example:
        >>> hausdorff_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), standardise=False)
        tensor(2.)
    """
    if z.ndim != 2:
        raise ValueError(f"codes are a matrix (batch, dimensions), but got shape {tuple(z.shape)}.")
    if standardise:
        spread = z.std(0, correction=0)
        z = z / torch.where(spread > 0, spread, 1)
    pairs = list(itertools.combinations(range(z.shape[1]), 2)) if pairs is None else pairs
    if not len(pairs):
        return z.sum() * 0
    p, q = torch.as_tensor(pairs, device=z.device).T
    i, j, k = _farthest(z.detach(), p, q)
    return ((z[i, p] - z[k, p]).square() + (z[j, q] - z[k, q]).square()).sum()


@invariant_to("scale", "shift", "columns", "order", "duplication")
def hausdorff_support(
    z: Matrix,
    *,
    convention: Convention = "standardised",
    batch: int | None = None,
    grid: int = 64,
    pairs: int = 45,
    seed: int = 0,
) -> Measured:
    """The mean, over pairs of codes, of the squared Hausdorff distance to the product of their supports: 0 where it is full.

    It falls as rows are added, and is 0 of a collapsed code, so compare at equal N and never without informativeness.

    Arguments:
        z: Codes (N, D).
        convention: ``"standardised"``: of codes divided by their standard deviations. ``"raw"``: as they are, so that numbers of
            two models do not compare. ``"paper"``: raw, the sum over all pairs, the mean over batches of 128 rows in their
            order, as the authors' code reports it.
        batch: Rows of a batch, over which the mean is taken, in their order; by default all rows at once.
        grid: Of all rows at once, the values of each code that combinations are made of: evenly many rows apart, the least and
            the largest among them. A lower bound of the exact number, which it is where N is no larger.
        pairs: Of codes, at most; more are drawn. 45 are all of ten codes.
        seed: Of that draw.

    Raises:
        ValueError: If there is no such convention.

    References:
        Roth et al., 2023, section 3, and the authors' code (3b0d233)
    """
    if convention not in ("standardised", "raw", "paper"):
        raise ValueError(f'HFS is "standardised", "raw" or the "paper"\'s, but got convention={convention!r}.')
    n, d = shape(z)
    x = whole(z).cpu()
    if convention == "standardised":
        x = _standardised(x)
    if convention == "paper":
        batch, pairs = batch or PAPERS_BATCH, d * d
    chosen, every = _pairs(d, pairs, seed), d * (d - 1) // 2
    how = f"{convention}, " + (f"batches of {min(batch, n)}" if batch else f"{min(grid, n)} values a code")
    how += "" if len(chosen) == every else f", {len(chosen)} of {every} pairs"
    still = int((np.ptp(x.numpy(), 0) == 0).sum())
    if still:
        warnings.warn(f"{still} of {d} codes are constant, and full with any other.", RuntimeWarning, stacklevel=2)
    if not chosen:
        warnings.warn("HFS is of pairs of codes, and there is one code: 0.", RuntimeWarning, stacklevel=2)
        return Measured(0.0, name="Hausdorff factorised support", n=n, d=d, convention=how)
    if batch:
        parts = [x[a : a + batch] for a in range(0, n, batch)]
        value = np.mean([float(hausdorff_loss(part, pairs=chosen, standardise=False)) for part in parts])
    else:
        value = sum(_corner(x.numpy(), p, q, grid).distance ** 2 for p, q in chosen)
    value = value if convention == "paper" else value / len(chosen)
    return Measured(value, name="Hausdorff factorised support", n=n, d=d, convention=how)


@dataclass(frozen=True)
class MissingCorner:
    """The combination of two codes' values that is farthest from any that occurs.

    Attributes:
        distance: From it to the nearest row.
        point: The two values.
        row: The nearest row.
        nearest: The values of that row.
    """

    distance: float
    point: tuple[float, float]
    row: int
    nearest: tuple[float, float]


def missing_corner(z: Matrix, p: int, q: int, *, standardise: bool = True, grid: int = 64) -> MissingCorner:
    """Returns where the support of codes ``p`` and ``q`` is emptiest: the witness of the Hausdorff distance.

    Arguments:
        z: Codes (N, D).
        p, q: Two of them.
        standardise: Whether the distance is in standard deviations of each code; ``point`` and ``nearest`` then are, too.
        grid: As of :func:`hausdorff_support`.

    Example:
        >>> missing_corner(np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), 0, 1, standardise=False).point
        (0.0, 1.0)
    """
    _, d = shape(z)
    if not (0 <= p < d and 0 <= q < d):
        raise ValueError(f"there are codes 0 to {d - 1}, but got {p} and {q}.")
    x = whole(z).cpu()
    return _corner((_standardised(x) if standardise else x).numpy(), p, q, grid)


def _farthest(z: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns, for each pair, the rows i, j of the farthest product point and the row k nearest to it."""
    b, memory = len(z), MEMORY if z.device.type == "cpu" else HELD
    apart = (z.T[:, :, None] - z.T[:, None]).square()  # (D, B, B)
    rows, together = max(min(memory // b**2, b), 1), max(memory // b**3, 1)
    held, found = apart.new_empty(min(together, len(p)), rows, b, b), []
    for mine, others in zip(p.split(together), q.split(together), strict=True):
        one, other = apart[mine], apart[others]  # (P, B, B)
        parts = [torch.add(x[:, :, None], other[:, None], out=held[: len(x), : x.shape[1]]).amin(-1) for x in one.split(rows, 1)]
        far = torch.cat(parts, 1).flatten(1).argmax(1)  # the least without its place first: that takes a fraction of the time
        i, j, pair = far // b, far % b, torch.arange(len(far), device=z.device)
        found.append(torch.stack([i, j, (one[pair, i] + other[pair, j]).argmin(1)]))
    return torch.cat(found, 1).unbind()


def _corner(x: np.ndarray, p: int, q: int, grid: int) -> MissingCorner:
    from scipy.spatial import cKDTree

    both = x[:, [p, q]]
    values = [_spaced(np.sort(column), grid) for column in both.T]
    points = np.stack(np.meshgrid(*values, indexing="ij"), -1).reshape(-1, 2)
    apart, row = cKDTree(both).query(points)
    far = int(apart.argmax())
    return MissingCorner(float(apart[far]), tuple(map(float, points[far])), int(row[far]), tuple(map(float, both[row[far]])))


def _spaced(line: np.ndarray, grid: int) -> np.ndarray:
    """Returns ``grid`` values of a sorted line evenly many rows apart, from the first to the last; twice the rows, the same."""
    rows = np.linspace(0, 1, min(grid, len(line)))
    return np.unique(line[np.minimum((rows * len(line)).astype(int), len(line) - 1)])


def _standardised(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    spread = x.std(0, correction=0)
    return x / torch.where(spread > 1e-12 * x.abs().amax(0).clamp_min(1e-300), spread, 1)


def _pairs(d: int, most: int, seed: int) -> list[tuple[int, int]]:
    every = d * (d - 1) // 2
    if every <= most:
        return list(itertools.combinations(range(d), 2))
    rng, found = np.random.default_rng(seed), set()
    while len(found) < most:
        p, q = sorted(rng.choice(d, 2, replace=False).tolist())
        found.add((p, q))
    return sorted(found)
