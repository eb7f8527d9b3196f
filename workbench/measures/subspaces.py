"""Similarity of two sets of features of the same images by their directions: Procrustes and SVCCA."""

import warnings
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.measured import Measured, invariant_to
from workbench.measures.moments import Matrix, gram, shape
from workbench.measures.similarity import centred, together

__all__ = ["procrustes", "svcca"]


@invariant_to("scale", "rotation", "order", "shift", "duplication")
def procrustes(x: Matrix, y: Matrix, *, of: Literal["similarity", "distance"] = "similarity") -> Measured:
    r"""Procrustes: how near two sets of features come to each other by a rotation, both centred and of unit norm.

    .. math:: s = \lVert X^\top Y \rVert_* = \max_{R^\top R = 1} \langle X R, Y \rangle \in [0, 1], \qquad
              d = \sqrt{2 (1 - s)} = \min_{R^\top R = 1} \lVert X R - Y \rVert_F \in [0, \sqrt 2]

    with the nuclear norm, the sum of the singular values. The similarity of unrelated features is not 0: it grows with their
    widths over N. Some call the square of d the distance.

    Arguments:
        x, y: Features (N, p) and (N, q) of the same images in the same order.
        of: ``"similarity"`` s or ``"distance"`` d, which keeps the triangle inequality.

    Raises:
        ValueError: If the numbers of rows differ.

    References:
        | Grounding Representation Similarity with Statistical Testing (Ding et al., 2021), https://arxiv.org/abs/2108.01661
        | Generalized Shape Metrics on Neural Representations (Williams et al., 2021), https://arxiv.org/abs/2110.14739
    """
    n, d = shape(x)
    together(x, y)
    if of not in ("similarity", "distance"):
        raise ValueError(f'procrustes is a "similarity" or a "distance", but got of={of!r}.')
    one, other = _narrow(centred(x)), _narrow(centred(y))
    value = float(torch.linalg.svdvals(one.T @ other).sum() / (one.norm() * other.norm()))
    if value != value:
        _warn("Procrustes")
    value = value if of == "similarity" else max(2 * (1 - value), 0.0) ** 0.5
    how = f"{of}, centred, unit norm, against width {y.shape[1]}"
    return Measured(value, name="Procrustes", n=n, d=d, convention=how)


@invariant_to("scale", "rotation", "order", "shift", "duplication")
def svcca(x: Matrix, y: Matrix, *, keep: float = 0.99) -> Measured:
    r"""SVCCA: the mean canonical correlation of the leading directions of two sets of features.

    Of each set the fewest principal directions that hold ``keep`` of the variance are kept. The canonical correlations of
    the two are the singular values of :math:`U_x^\top U_y`, with orthonormal bases :math:`U` of the kept scores; their mean is
    over the smaller number of directions. From 0 to 1. With few images for many directions it is near 1 whatever the
    features: take N well above ten times the directions kept.

    Arguments:
        x, y: Features (N, p) and (N, q) of the same images in the same order.
        keep: Share of the variance (of the squared singular values), above 0 and at most 1.

    Returns:
        The value; its convention names the directions kept.

    Raises:
        ValueError: If the numbers of rows differ, or ``keep`` is no such share.

    References:
        | SVCCA: Singular Vector Canonical Correlation Analysis (Raghu et al., 2017), https://arxiv.org/abs/1706.05806
    """
    n, d = shape(x)
    together(x, y)
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share of the variance, above 0 and at most 1, but got {keep}.")
    one, other = _leading(centred(x), keep), _leading(centred(y), keep)
    how = f"{one.shape[1]} and {other.shape[1]} directions of {keep:g} of the variance, against width {y.shape[1]}"
    if not one.shape[1] or not other.shape[1]:
        _warn("SVCCA")
        return Measured(float("nan"), name="SVCCA", n=n, d=d, convention=how)
    value = torch.linalg.svdvals(one.T @ other).clamp_max(1).mean()
    return Measured(float(value), name="SVCCA", n=n, d=d, convention=how)


def _narrow(x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """Returns a matrix of at most n columns with the same Gram matrix."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T


def _leading(x: Float[Tensor, "n d"], keep: float) -> Float[Tensor, "n k"]:
    """Returns an orthonormal basis of the scores of the leading principal directions."""
    x = _narrow(x)
    value, direction = torch.linalg.eigh(gram(x))
    value, direction = value.flip(0).clamp_min(0), direction.flip(1)
    value = torch.where(value > 16 * len(x) * torch.finfo(x.dtype).eps * value[0], value, 0)
    held = value.cumsum(0) / value.sum()
    kept = min(int((held < keep * (1 - 1e-12)).sum()) + 1, int((value > 0).sum()))
    return torch.linalg.qr(x @ direction[:, :kept]).Q


def _warn(name: str) -> None:
    warnings.warn(f"{name} of features in which nothing varies: 0 / 0, so NaN.", RuntimeWarning, stacklevel=3)
