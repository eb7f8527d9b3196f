r"""How alike two sets of features of the same images are: centred kernel alignment, of one pair or of all layers at once.

With the Gram matrices :math:`K = X X^\top` and :math:`L = Y Y^\top` of n images, and :math:`\tilde K, \tilde L` those with
zeros on the diagonal, the unbiased estimator of the Hilbert-Schmidt independence criterion is

.. math:: \mathrm{HSIC}_1(K, L) = \frac{1}{n (n - 3)} \Big[ \operatorname{tr} \tilde K \tilde L
          + \frac{\mathbf 1^\top \tilde K \mathbf 1\, \mathbf 1^\top \tilde L \mathbf 1}{(n - 1)(n - 2)}
          - \frac{2}{n - 2} \mathbf 1^\top \tilde K \tilde L \mathbf 1 \Big], \qquad
          \mathrm{CKA} = \frac{\mathrm{HSIC}_1(K, L)}{\sqrt{\mathrm{HSIC}_1(K, K)\, \mathrm{HSIC}_1(L, L)}}

With :math:`d_i = \lVert x_i \rVert^2` the row sums are :math:`\tilde K \mathbf 1 = X X^\top \mathbf 1 - d`, and the trace is
:math:`\sum_{i \ne j} K_{ij} L_{ij}`, n² (p + q) operations, or :math:`\lVert X^\top Y \rVert_F^2 - d^\top e`, n p q: the cheaper
is taken. A shift of the features changes nothing but the rounding, so they are centred. Arithmetic is in float64; of many
float32 features the products are in float32 and summed in float64, which is right to about 1e-6.

References:
    | Similarity of Neural Network Representations Revisited (Kornblith et al., 2019), https://arxiv.org/abs/1905.00414
    | Feature Selection via Dependence Maximization (Song et al., 2012), equation 5
    | Do Wide and Deep Networks Learn the Same Things? (Nguyen et al., 2021), equation 3, https://arxiv.org/abs/2010.15327
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, chunks, dtype, gram, shape

__all__ = ["Null", "cka", "cka_map", "permutation_null"]

Estimator = Literal["unbiased", "biased"]

BLOCK = 1 << 24  # entries of Gram matrices held at a time: 128 MB
ROWS = 2048  # summed in the precision of the products before float64
LARGE = 1 << 22  # entries from which float32 products pay
NULL_ROWS = 128  # of which the null of a map is taken


@invariant_to("scale", "rotation", "order", "shift")
def cka(x: Matrix, y: Matrix, *, estimator: Estimator = "unbiased", batch_size: int | None = None) -> Measured:
    r"""Linear centred kernel alignment of two sets of features of the same images.

    1 for features that differ by a rotation, a shift and a factor; about 0 for independent ones, and then as often a little
    below as above. An invertible map that is no rotation changes it: the directions of largest variance count most.

    The biased estimator, which most published numbers are, does not have 0 for independent features but about
    :math:`\sqrt{p q / ((n + p)(n + q))}`: .83 for 500 dimensions and 100 images.

    Arguments:
        x, y: Features (N, p) and (N, q) of the same images in the same order.
        estimator: ``"unbiased"``, of HSIC_1, or ``"biased"``.
        batch_size: Where given, each of the three HSIC is averaged over successive batches of so many rows before the ratio
            is formed, as Nguyen et al. and the public codes do: memory and time no longer grow with N², and the value
            depends a little on the order of the rows. A last, smaller batch counts as much as the others, and is left out
            where it has fewer than four rows.

    Returns:
        The value, with ``d`` the width p; NaN, and a warning, where nothing varies.

    Raises:
        ValueError: If the numbers of rows differ, or there are fewer than four (two, for the biased).

    Example:
        >>> z = torch.randn(100, 8)
        >>> round(cka(z, 3 * z.flip(1) + 1), 6)
        1.0
    """
    _, p = shape(x)
    value, n = _ratios([x], [y], estimator, batch_size)
    how = f"{_how(estimator, batch_size)}, against width {y.shape[1]}"
    return Measured(float(value), name="CKA", n=n, d=p, convention=how)


def cka_map(
    features: Mapping[str, Matrix],
    others: Mapping[str, Matrix] | None = None,
    *,
    estimator: Estimator = "unbiased",
    batch_size: int | Literal["auto"] | None = "auto",
    permutations: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""CKA of every layer of one model with every layer of another, or of its own, in one go.

    Gram matrices and self-similarities are made once for each layer, not once for each pair.

    Beside each value stands what it would be if the images of the two did not belong together. Over all permutations of one
    set of n rows the unbiased CKA has mean 0 and variance 2 / (n (n - 3)) exactly, whatever the features; the shape of its
    law depends on their spectra. So ``permutations`` are drawn of at most 128 rows, the same for all layers, and their
    values scaled to n. The largest value of a whole map is larger than that of one pair: ``null_map`` is for it.

    Arguments:
        features: Layer names to matrices (N, p), such as ``Features``.
        others: Of another model, for the same images in the same order; by default the same features again.
        estimator: As in :func:`cka`.
        batch_size: As in :func:`cka`; by default all rows at once up to 2,000 images, and even batches of about 250 beyond:
            then a batch is in memory, not the layers, and the time grows with N alone.
        permutations: Drawn for the null; 0 leaves it out.
        level: Quantile of the null that is given.
        seed: Of the permutations and of the rows they are drawn of.

    Returns:
        A row a pair: ``layer``, ``other``, ``measure`` ("cka"), ``value``, ``n``, ``convention``, then, for the unbiased
        estimator, ``null``, the ``level`` quantile of the permuted value, ``p``, the share of permutations that reach the
        value (one-sided; the value itself counts as one of them), and ``null_map``, the quantile of the largest permuted
        value of the map (off the diagonal, where a model is compared with itself), and ``level``.

    Raises:
        ValueError: As :func:`cka`; or if there are no layers.

    Example:
        >>> z = torch.randn(64, 8)
        >>> cka_map({"stage": z.relu(), "head": -z})[["layer", "other", "measure", "n"]]
           layer  other measure   n
        0  stage  stage     cka  64
        1  stage   head     cka  64
        2   head  stage     cka  64
        3   head   head     cka  64
    """
    for given in (features, others):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"a map takes layer names and their matrices, such as Features, but got {type(given).__name__}.")
    if not features or (others is not None and not others):
        raise ValueError("there are no layers to compare: give layer names and their matrices.")
    xs, ys = list(features.values()), None if others is None else list(others.values())
    batch_size = _even(shape(xs[0])[0]) if batch_size == "auto" else batch_size
    value, n = _ratios(xs, ys, estimator, batch_size)
    names = list(features), list(features if others is None else others)
    table = pd.DataFrame([(a, b) for a in names[0] for b in names[1]], columns=["layer", "other"])
    table = table.assign(measure="cka", value=value.flatten().cpu().numpy(), n=n, convention=_how(estimator, batch_size))
    if permutations and estimator == "unbiased":
        drawn = _null(xs, ys, n, batch_size, permutations=permutations, seed=seed)  # (permutations, layers, others)
        reached = (drawn >= value.cpu().numpy()).sum(0) + np.where(value.isnan().cpu(), np.nan, 0)
        table["null"] = np.quantile(drawn, level, axis=0).ravel()
        table["p"] = ((1 + reached) / (1 + permutations)).ravel()
        alone = np.eye(len(xs), dtype=bool) if others is None and len(xs) > 1 else np.zeros_like(reached, dtype=bool)
        table["null_map"] = np.quantile(np.where(alone | np.isnan(drawn), -np.inf, drawn).max((1, 2)), level)
        table["level"] = level
    return table


@dataclass(frozen=True, eq=False)
class Null:
    """A measure of two matrices beside what it is when the rows of one are shuffled.

    Attributes:
        value: Of the rows as they belong together.
        drawn: Of the shuffled rows, one a permutation.
    """

    value: float
    drawn: np.ndarray

    @property
    def p(self) -> float:
        """The share of permutations that reach the value, itself counted among them; at least 1 / (permutations + 1)."""
        return (1 + int((self.drawn >= self.value).sum())) / (1 + len(self.drawn))

    def quantile(self, level: float = 0.95) -> float:
        """Returns what the measure of unrelated rows stays below with probability ``level``."""
        return float(np.quantile(self.drawn, level))


def permutation_null(
    measure: Callable[[Matrix, Matrix], float], x: Matrix, y: Matrix, *, permutations: int = 200, seed: int = 0
) -> Null:
    """Returns the measure, and its values when the rows of ``y`` are shuffled against those of ``x``.

    Example:
        >>> x = torch.randn(60, 4)
        >>> permutation_null(wb.cka, x, x + torch.randn(60, 4)).p < 0.05
        True
    """
    together(x, y)
    if permutations < 1:
        raise ValueError(f"a null is of at least one permutation, but got {permutations}.")
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(y)) for _ in range(permutations))
    return Null(float(measure(x, y)), np.array([float(measure(x, y[order])) for order in orders]))


# --- the criterion -----------------------------------------------------------------------------------------------------------


def _ratios(xs: Sequence[Matrix], ys: Sequence[Matrix] | None, estimator: Estimator, batch: int | None) -> tuple[Tensor, int]:
    """Returns the CKA of every x with every y (of every other x, if there are none), and the number of rows used."""
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f'CKA has the estimators "unbiased" and "biased", but got {estimator!r}.')
    together(*xs, *(ys or []))
    n, fewest = len(xs[0]), 4 if estimator == "unbiased" else 2
    size = n if batch is None else batch
    if min(n, size) < fewest:
        raise ValueError(f"the {estimator} estimator takes at least {fewest} rows at a time, but got {min(n, size)}.")
    kind, sums, used = _precision([*xs, *(ys or [])]), None, 0
    for start in range(0, n, size):
        stop = min(start + size, n)
        if stop - start < fewest:
            break
        first = [centred(x[start:stop], kind) for x in xs]
        terms = _hsic(first, None if ys is None else [centred(y[start:stop], kind) for y in ys], estimator)
        sums = terms if sums is None else [a + b for a, b in zip(sums, terms, strict=True)]
        used = stop
    cross, own_x, own_y = sums
    value = cross / (own_x[:, None] * own_y).sqrt()
    if torch.isnan(value).any():
        warnings.warn("CKA of features in which nothing varies: 0 / 0, so NaN.", RuntimeWarning, stacklevel=3)
    return value, used


def _even(n: int) -> int | None:
    """Returns the rows of a batch so that batches are about 250 and as good as equal; None for few rows."""
    return None if n <= 2000 else math.ceil(n / round(n / 250))


def _precision(zs: list[Matrix]) -> torch.dtype:
    """Returns what products are made in: float32 where nothing finer is stored and there is much to do."""
    single = all(dtype(z) != torch.float64 for z in zs) and sum(len(z) * z.shape[1] for z in zs) > LARGE
    return torch.float32 if single else torch.float64


def _hsic(xs: list[Tensor], ys: list[Tensor] | None, estimator: Estimator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the criterion of every x with every y, of every x with itself and of every y with itself; all are centred."""
    n = len(xs[0])
    inner, own_x, own_y = _inner_products(xs, ys, diagonal=estimator == "biased")
    if estimator == "biased":
        return inner / (n - 1) ** 2, own_x / (n - 1) ** 2, own_y / (n - 1) ** 2
    one = torch.stack([_row_sums(x) for x in xs])  # (layers, n)
    other = one if ys is None else torch.stack([_row_sums(y) for y in ys])

    def unbiased(trace: Tensor, total: Tensor, rows: Tensor) -> Tensor:
        return (trace + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows) / (n * (n - 3))

    own = [unbiased(t, r.sum(1).square(), r.square().sum(1)) for t, r in ((own_x, one), (own_y, other))]
    return unbiased(inner, one.sum(1)[:, None] * other.sum(1), one @ other.T), *own


def _row_sums(x: Tensor) -> Float[Tensor, "n"]:
    """Of the Gram matrix without its diagonal."""
    return (x @ x.sum(0)).double() - _squares(x)


def _squares(x: Tensor) -> Float[Tensor, "n"]:
    return x.square().sum(1).double()


def _inner_products(xs: list[Tensor], ys: list[Tensor] | None, *, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns <K, L> of every pair, and <K, K>, <L, L>, with or without the diagonals, the way that takes fewer operations."""
    n, p = len(xs[0]), [x.shape[1] for x in xs]
    q = [] if ys is None else [y.shape[1] for y in ys]
    by_features = sum(p) * sum(q or p) + sum(w * w for w in p + q)
    by_grams = n * sum(p + q) + n * len(p) * len(q or p)
    return (_by_features if by_features < by_grams else _by_grams)(xs, ys, diagonal=diagonal)


def _by_features(xs: list[Tensor], ys: list[Tensor] | None, *, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
    def inner(x: Tensor, y: Tensor) -> Tensor:
        blocks = zip(x.split(ROWS), y.split(ROWS), strict=True)
        whole = sum((gram(a) if x is y else a.T @ b).double() for a, b in blocks).square().sum()
        return whole if diagonal else whole - _squares(x) @ _squares(y)

    if ys is None:
        both = torch.zeros(len(xs), len(xs), dtype=torch.float64, device=xs[0].device)
        for i, x in enumerate(xs):
            for j in range(i + 1):
                both[i, j] = both[j, i] = inner(x, xs[j])
        return both, both.diagonal(), both.diagonal()
    own = [torch.stack([inner(z, z) for z in zs]) for zs in (xs, ys)]
    return torch.stack([torch.stack([inner(x, y) for y in ys]) for x in xs]), *own


def _by_grams(xs: list[Tensor], ys: list[Tensor] | None, *, diagonal: bool) -> list[Tensor]:
    """Block by block, those above the diagonal counted twice."""
    n, sums = len(xs[0]), None
    size = max(int((BLOCK / (len(xs) + len(ys or []))) ** 0.5), 64)
    for a in range(0, n, size):
        for b in range(a, n, size):
            twice = 1 if a == b else 2
            k = _blocks(xs, a, b, size, diagonal=diagonal)
            m = k if ys is None else _blocks(ys, a, b, size, diagonal=diagonal)
            terms = [twice * (k @ m.T), twice * k.square().sum(1), twice * m.square().sum(1)]
            sums = terms if sums is None else [s + t for s, t in zip(sums, terms, strict=True)]
    return sums


def _blocks(zs: list[Tensor], a: int, b: int, size: int, *, diagonal: bool) -> Float[Tensor, "layers entries"]:
    if a != b:
        return torch.stack([(z[a : a + size] @ z[b : b + size].T).flatten() for z in zs]).double()
    blocks = torch.stack([gram(z[a : a + size].T) for z in zs]).double()
    if not diagonal:
        blocks.diagonal(dim1=1, dim2=2).zero_()
    return blocks.flatten(1)


def centred(z: Matrix, kind: torch.dtype = torch.float64) -> Float[Tensor, "n d"]:
    """Returns the rows less their mean; zeros, where they vary by rounding alone."""
    x = whole(z, kind)
    mean = x.mean(0)
    rounding = 16 * torch.finfo(kind).eps * mean.norm()
    still = (x[0] - x[-1]).norm() <= rounding  # seen at once, in most cases
    x = x - mean
    return torch.zeros_like(x) if still and x.norm(dim=1).max() <= rounding else x


def whole(z: Matrix, kind: torch.dtype = torch.float64) -> Float[Tensor, "n d"]:
    """Returns all rows as ``kind``, or says which are not finite."""
    return next(chunks(z, size=shape(z)[0], kind=kind))


def together(*zs: Matrix) -> None:
    """Raises where they are not matrices of the same number of rows."""
    rows = []
    for z in zs:
        rows.append(shape(z)[0])
        dtype(z)
    if len(set(rows)) > 1:
        counts = " and ".join(map(str, dict.fromkeys(rows)))
        raise ValueError(f"similarity is of features of the same images, row by row, but got matrices of {counts} rows.")


def _how(estimator: Estimator, batch: int | None) -> str:
    return f"linear, {estimator} HSIC" + (f" averaged over batches of {batch}" if batch else "")


# --- its null ----------------------------------------------------------------------------------------------------------------


def _null(
    xs: Sequence[Matrix], ys: Sequence[Matrix] | None, n: int, batch: int | None, *, permutations: int, seed: int
) -> Float[np.ndarray, "permutations layers others"]:
    """Returns draws of the unbiased CKA of shuffled rows, of some rows, scaled to n (or to the mean over batches)."""
    rng = np.random.default_rng(seed)
    size = n if batch is None else min(batch, n)
    m = min(size, NULL_ROWS)
    rows = np.sort(rng.choice(len(xs[0]), m, replace=False))
    one = torch.stack([_doubly_centred(x[rows]) for x in xs])  # (layers, m, m)
    other = one if ys is None else torch.stack([_doubly_centred(y[rows]) for y in ys])
    i, j = np.triu_indices(m, 1)
    one, other = 2 * one[:, i, j], other.flatten(1).T.contiguous()  # (layers, pairs), (m m, layers)
    drawn = np.empty((permutations, len(one), other.shape[1]))
    for draw in drawn:
        order = rng.permutation(m)
        pairs = torch.from_numpy(order[i] * m + order[j]).to(other.device)
        draw[:] = (one @ other.index_select(0, pairs)).cpu().numpy()
    drawn *= math.sqrt(m * (m - 3) / (size * (size - 3)))
    batches = n // size
    return drawn if batches == 1 else drawn[rng.integers(permutations, size=(permutations, batches))].mean(1)


def _doubly_centred(z: Matrix) -> Float[Tensor, "m m"]:
    """Returns the Gram matrix less its means, so that HSIC_1 is a plain inner product of such, of unit norm; float32 will do."""
    k = gram(centred(z).T)
    k.fill_diagonal_(0)
    m, rows = len(k), k.sum(1)
    k = k - (rows[:, None] + rows) / (m - 2) + rows.sum() / ((m - 1) * (m - 2))
    k.fill_diagonal_(0)
    return (k / k.norm()).float()
