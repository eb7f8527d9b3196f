"""Nearest neighbours: which they are, and how many of them two sets of features of the same images share."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, normalised, shape
from workbench.measures.similarity import together, whole

__all__ = ["mutual_knn"]

Metric = Literal["cosine", "euclidean"]

BLOCK = 1 << 23  # similarities held at a time: 64 MB


@invariant_to("scale", "rotation", "order", "lengths")
def mutual_knn(x: Matrix, y: Matrix, *, k: int = 10, metric: Metric = "cosine") -> Measured:
    r"""Mutual nearest neighbours: the mean share of an image's k nearest images that two sets of features agree upon.

    .. math:: \frac{1}{n} \sum_i \frac{\lvert S_k(x_i) \cap S_k(y_i) \rvert}{k}

    From 0 to 1; k / (n - 1) for unrelated features, so compare at equal n. The image itself is none of its neighbours. The
    authors' script also clamps the features at the .95 quantile of their absolute values, which is left to the caller.

    Arguments:
        x, y: Features (N, p) and (N, q) of the same images in the same order.
        k: Neighbours; the paper's setting is 10, of 1,024 images.
        metric: ``"cosine"``, as in the paper, or ``"euclidean"``. Which of equally near images count is not defined.

    Raises:
        ValueError: If the numbers of rows differ, or k is not between 1 and N - 1.

    References:
        | The Platonic Representation Hypothesis (Huh et al., 2024), https://arxiv.org/abs/2405.07987, and the authors' code
    """
    n, d = shape(x)
    together(x, y)
    if not 1 <= k < n:
        raise ValueError(f"each of {n} images has {n - 1} others, so k lies between 1 and {n - 1}, but got k={k}.")
    one, other = nearest(x, k, metric=metric), nearest(y, k, metric=metric)
    shared = sum(int((one[:, i, None] == other.to(one.device)).sum()) for i in range(k))
    how = f"k={k}, {metric}, against width {y.shape[1]}"
    return Measured(shared / (n * k), name="mutual k-nearest neighbours", n=n, d=d, convention=how)


def nearest(z: Matrix, k: int, *, metric: Metric) -> Int[Tensor, "n k"]:
    """Returns the rows of the k others nearest to each row, nearest first, a block of rows at a time."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'neighbours are near by "cosine" or "euclidean", but got metric={metric!r}.')
    x = whole(z)
    x = normalised(x) if metric == "cosine" else x - x.mean(0)
    half = 0 if metric == "cosine" else x.square().sum(1) / 2
    size = max(BLOCK // len(x), 1)
    found = []
    for start in range(0, len(x), size):
        near = x[start : start + size] @ x.T - half  # larger is nearer
        itself = torch.arange(start, start + len(near), device=near.device)
        near[itself - start, itself] = -torch.inf
        found.append(near.topk(k, dim=1).indices)
    return torch.cat(found)


def apart(z: Float[Tensor, "n d"], neighbours: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Returns the distances of each row to the rows ``neighbours``, by differences, which keep the digits of small ones."""
    return torch.stack([(z - z[column]).norm(dim=1) for column in neighbours.T], 1)
