r"""Gradient-boosted trees of depth three for a classification, with what each column lowered the squared error by.

Friedman's algorithm, as the literature runs it (scikit-learn's ``GradientBoostingClassifier``): each round fits, for each class
c, a regression tree to the residuals :math:`y_c - p_c` of the softmax, splits where

.. math:: \frac{n_l n_r}{n_l + n_r} (\bar r_l - \bar r_r)^2

is largest, and adds :math:`\eta` times a Newton step in each leaf. Here the columns are first cut into at most 256 values, and
the splits of all classes and nodes are found from one product of the (sparse) table of those values with the residuals. With no
more than 256 different values in a column these are the same trees; otherwise they find their
splits a little less exactly.

References:
    Greedy Function Approximation: A Gradient Boosting Machine (Friedman, 2001), algorithm 6
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit, softmax

__all__: list[str] = []

DEPTH, RATE, VALUES = 3, 0.1, 256


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns cut into values: ``cut`` (N, D) their numbers, ``table`` (D * values, n) who of the n learned from has which."""

    cut: np.ndarray
    table: sparse.csr_array
    values: int


def cut(z: np.ndarray, train: np.ndarray) -> Columns:
    """Returns every column cut at the middle between two of at most 256 values that the rows ``train`` have."""
    numbers = np.empty(z.shape, dtype=np.int64)
    for j, column in enumerate(z.T):
        known = np.unique(column[train])
        if len(known) > VALUES:
            known = np.unique(np.quantile(column[train], np.linspace(0, 1, VALUES), method="nearest"))
        numbers[:, j] = np.searchsorted((known[1:] + known[:-1]) / 2, column, side="left")
    values, (n, d) = int(numbers[train].max()) + 1, numbers[train].shape
    place = (numbers[train] + np.arange(d) * values).reshape(-1)
    table = sparse.csr_array((np.ones(n * d), (place, np.repeat(np.arange(n), d))), shape=(d * values, n))
    return Columns(numbers, table, values)


def boosted(columns: Columns, label: np.ndarray, train: np.ndarray, *, trees: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the importance of each column (D), of sum 1 or 0, and the class told of each of all rows (N).

    Arguments:
        columns: Of all rows; see :func:`cut`.
        label: Classes, from 0, of all rows.
        train: The rows learned from; classes that none of them has are never told.
        trees: Rounds: a tree for each class a round, or one where there are two classes.
    """
    classes, y = np.unique(label[train], return_inverse=True)
    gain, d = np.zeros(columns.cut.shape[1]), columns.cut.shape[1]
    if len(classes) < 2:
        return gain, np.full(len(label), classes[0])
    two = len(classes) == 2
    target = np.eye(len(classes))[y][:, 1:] if two else np.eye(len(classes))[y]
    prior = target.mean(0)
    raw = np.tile(np.log(prior / (1 - prior)) if two else np.log(prior), (len(label), 1))
    step = RATE * (1 if two else (len(classes) - 1) / len(classes))
    for _ in range(trees):
        p = expit(raw[train]) if two else softmax(raw[train], axis=1)
        leaf, gained = _trees(columns, target - p, train)
        gain += np.bincount(gained[0], weights=gained[1], minlength=d)
        raw += step * _newton(leaf, target - p, p * (1 - p), train)
    told = classes[(raw[:, 0] > 0).astype(int)] if two else classes[raw.argmax(1)]
    return gain / gain.sum() if gain.sum() > 0 else gain, told


def _trees(columns: Columns, residual: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Returns the leaf of every row in every class's tree (N, C), and the columns split on with what each split gained."""
    n, classes = residual.shape
    node = np.zeros((len(columns.cut), classes), dtype=np.int64)
    on, by = [], []
    sums = (columns.table @ residual)[:, None, :]  # (D * values, nodes, C)
    counts = np.broadcast_to((columns.table @ np.ones(n))[:, None, None], sums.shape)
    for depth in range(DEPTH):
        if depth:
            mine = node[train]
            left = np.stack([mine == 2 * i for i in range(2 ** (depth - 1))], 1).astype(float)  # (n, parents, C)
            some = left.shape[1] * classes
            both = columns.table @ np.concatenate([(left * residual[:, None]).reshape(n, some), left.reshape(n, some)], 1)
            sums, counts = (
                _children(whole, part.reshape(-1, left.shape[1], classes))
                for whole, part in ((sums, both[:, :some]), (counts, both[:, some:]))
            )
        column, value, gain = _splits(sums, counts, columns.values)
        on.append(column[gain > 0]), by.append(gain[gain > 0])
        held = (node, np.arange(classes)[None])
        goes = np.take_along_axis(columns.cut, column[held], axis=1) > value[held]
        node = 2 * node + goes
    return node, (np.concatenate(on), np.concatenate(by))


def _children(whole: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Returns the sums of left and right children, side by side, of nodes (rows, nodes, C)."""
    return np.stack([left, whole - left], 2).reshape(len(whole), -1, whole.shape[2])


def _splits(sums: np.ndarray, counts: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns column, last value that goes left, and gain of the best split of each node of each class (nodes, C)."""
    shape = (-1, values, *sums.shape[1:])
    s, c = sums.reshape(shape).cumsum(1), counts.reshape(shape).cumsum(1)  # (D, values, nodes, C)
    total, rows = s[:, -1:], c[:, -1:]
    right = rows - c
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (s * rows - total * c) ** 2 / (c * right * rows)
    gain = np.where((c > 0.5) & (right > 0.5), gain, 0).reshape(-1, *sums.shape[1:])
    best = gain.argmax(0)
    most = np.take_along_axis(gain, best[None], 0)[0]
    return best // values, np.where(most > 0, best % values, values), most


def _newton(leaf: np.ndarray, residual: np.ndarray, hessian: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns the sum of the residuals over that of the hessians in each row's leaf (N, C)."""
    classes = residual.shape[1]
    place = leaf + 2**DEPTH * np.arange(classes)
    up, down = (np.bincount(place[train].reshape(-1), x.reshape(-1), 2**DEPTH * classes) for x in (residual, hessian))
    return np.where(down > 1e-150, up / np.where(down > 1e-150, down, 1), 0)[place]
