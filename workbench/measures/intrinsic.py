"""How many dimensions features fill locally, and how well their clusters can be told: TwoNN, cluster learnability, CLID."""

import math
import warnings
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, normalised, shape
from workbench.measures.neighbours import apart, nearest
from workbench.measures.similarity import whole

__all__ = ["clid", "cluster_learnability", "twonn"]


@invariant_to("scale", "rotation", "order", "shift", "duplication")
def twonn(z: Matrix, *, fit: Literal["line", "likelihood"] = "line", discard: float = 0.1) -> Measured:
    r"""TwoNN: the intrinsic dimension, from the ratio of the distances to the second and to the first neighbour.

    Where the density is about constant over two neighbours, :math:`\mu = r_2 / r_1` has
    :math:`P(\mu > t) = t^{-d}`, whatever the density. So with the N ratios in the order of size,
    :math:`-\log(1 - i / N)` against :math:`\log \mu_{(i)}` is a line through the origin of slope d; the largest tenth of the
    ratios, where the assumption fails first, is left out of the fit. Or the likelihood, those left out counted as censored:

    .. math:: d = \frac{k - 1}{\sum_{i \le k} \log \mu_{(i)} + (N - k) \log \mu_{(k)}}, \quad k = (1 - \text{discard}) N

    It grows with N where the dimension is large (in D dimensions some :math:`e^D` points are needed), and says how many
    dimensions images near each other differ in, not how many a linear probe can use. Equal rows count once: a copy would
    be a first neighbour at distance 0.

    Arguments:
        z: Features (N, D).
        fit: ``"line"``, as published, or ``"likelihood"``.
        discard: Share of the largest ratios that is left out, from 0 to below 1; a line cannot take the last one in.

    Returns:
        The dimension, with N the different rows; NaN, and a warning, where they are too few to fit.

    Raises:
        ValueError: If ``fit`` or ``discard`` is none of these.

    References:
        | Estimating the intrinsic dimension of datasets by a minimal neighborhood information (Facco et al., 2017),
          https://doi.org/10.1038/s41598-017-11873-y
        | Denti et al., The generalized ratios intrinsic dimension estimator (2022): the unbiased likelihood
    """
    if fit not in ("line", "likelihood"):
        raise ValueError(f'TwoNN is fitted by a "line" or by "likelihood", but got fit={fit!r}.')
    if not 0 <= discard < 1:
        raise ValueError(f"discard is a share of the ratios, from 0 to below 1, but got {discard}.")
    n, d = shape(z)
    x = _different(whole(z))
    how = f"{fit}, {discard:g} of the ratios left out" + (f", {n - len(x)} copies left out" if len(x) < n else "")
    kept = int(len(x) * (1 - discard))
    kept = min(kept, len(x) - 1) if fit == "line" else kept
    if len(x) < 3 or kept < 2:
        warnings.warn(f"TwoNN of {len(x)} different rows: too few to fit, so NaN.", RuntimeWarning, stacklevel=2)
        return Measured(math.nan, name="TwoNN", n=n, d=d, convention=how)
    ratios = _log_ratios(x)
    low = ratios[:kept]
    if fit == "line":
        share = torch.arange(1, kept + 1, dtype=torch.float64, device=low.device) / len(x)
        value = float(low @ -torch.log1p(-share) / (low @ low))
    else:
        value = float((kept - 1) / (low.sum() + (len(x) - kept) * low[-1]))
    return Measured(value, name="TwoNN", n=n, d=d, convention=how)


@invariant_to("scale", "rotation", "lengths")
def cluster_learnability(z: Matrix, *, clusters: int | None = None, seed: int = 0) -> Measured:
    r"""Cluster learnability: how well a 1-nearest-neighbour classifier tells the k-means clusters of held-out images.

    The rows are L2-normalised and parted into about :math:`\sqrt N` clusters; half of the rows, drawn at random, vote by the
    cosine for the clusters of the other half. From 0 to 1, the share of right votes. A collapsed representation scores
    high: it is one half of CLID, with the dimension as the other.

    The paper's abstract says no more than k-means and kNN. The number of clusters, the halves, k = 1 and the cosine are as
    two public codes read it; the authors' code was not found.

    Arguments:
        z: Features (N, D).
        clusters: Of k-means; by default the whole number nearest to the root of N.
        seed: Of the centres that k-means starts from and of the halves.

    References:
        | Using Representation Expressiveness and Learnability to Evaluate Self-Supervised Learning Methods
          (Lu et al., 2022), https://arxiv.org/abs/2206.01251
    """
    from sklearn.cluster import KMeans

    n, d = shape(z)
    clusters = max(round(n**0.5), 1) if clusters is None else clusters
    if not 1 <= clusters <= n:
        raise ValueError(f"{n} rows can be parted into 1 to {n} clusters, but got clusters={clusters}.")
    how = f"{clusters} clusters, 1-NN by the cosine, half against half, seed {seed}"
    x = normalised(whole(z))
    if n < 2:
        warnings.warn("cluster learnability of one row: nothing to learn from, so NaN.", RuntimeWarning, stacklevel=2)
        return Measured(math.nan, name="cluster learnability", n=n, d=d, convention=how)
    label = torch.from_numpy(KMeans(clusters, n_init=1, random_state=seed).fit(x.cpu().numpy()).labels_).to(x.device)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n)).to(x.device)
    known, held_out = order[: n // 2], order[n // 2 :]
    votes = torch.cat([(x[rows] @ x[known].T).argmax(1) for rows in held_out.split(2048)])
    right = (label[known][votes] == label[held_out]).double().mean()
    return Measured(float(right), name="cluster learnability", n=n, d=d, convention=how)


def clid(table: pd.DataFrame, *, learnability: str = "cluster_learnability", dimension: str = "twonn") -> pd.Series:
    r"""CLID: cluster learnability and intrinsic dimension, each standardised over the models compared, added up.

    .. math:: \frac{\mathrm{CL} - \overline{\mathrm{CL}}}{\operatorname{sd} \mathrm{CL}}
              + \frac{\mathrm{ID} - \overline{\mathrm{ID}}}{\operatorname{sd} \mathrm{ID}}

    A number of a model among others: it changes with the models it is compared with, and is 0 on average. **That the two are
    standardised so before they are added could not be checked**: the paper's abstract says that they are combined, its body
    was not at hand, and public codes differ (one divides the dimension by the width). Give both columns beside it.

    Arguments:
        table: A row a model.
        learnability, dimension: Its columns.

    Returns:
        A value a row. A column that is the same in all rows counts 0.

    Raises:
        KeyError: If a column is missing.
        ValueError: If there are fewer than two rows.

    References:
        | Lu et al., 2022, https://arxiv.org/abs/2206.01251

    Example:
        >>> clid(pd.DataFrame({"cluster_learnability": [0.5, 0.7], "twonn": [10, 20]})).tolist()
        [-2.0, 2.0]
    """
    missing = [c for c in (learnability, dimension) if c not in table]
    if missing:
        raise KeyError(f"CLID needs the columns {learnability!r} and {dimension!r}; {missing} are not among {list(table)}")
    if len(table) < 2:
        raise ValueError(f"CLID compares models, so it takes at least two rows, but got {len(table)}.")
    parts = table[[learnability, dimension]].astype(float)
    spread = parts.std(ddof=0)
    scores = (parts - parts.mean()) / spread.where(spread > 1e-12 * parts.abs().max(), np.inf)
    return scores.sum(axis=1, skipna=False).rename("clid")


def _different(x: Tensor) -> Tensor:
    """Returns the rows, each of several equal ones once."""
    return torch.from_numpy(np.unique(x.cpu().numpy(), axis=0)).to(x.device)


def _log_ratios(x: Tensor) -> Tensor:
    """Returns log(r2 / r1) of every row, smallest first."""
    x = x - x.mean(0)
    near = apart(x, nearest(x, min(4, len(x) - 1), metric="euclidean")).sort(dim=1).values
    return (near[:, 1] / near[:, 0]).log().sort().values
