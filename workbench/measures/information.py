r"""Mutual information of each code with each factor, in nats: by counting in bins, or by nearest neighbours.

.. math:: I(z; v) = \sum_{b, v} p(b, v) \log \frac{p(b, v)}{p(b) p(v)}, \qquad
          I(z; v) = \psi(N) + \langle \psi(k) \rangle - \langle \psi(N_v) \rangle - \langle \psi(m) \rangle

On the left z is cut into bins b. On the right, of each of N rows, m rows (itself included) are as near in z as the k-th
nearest of the N_v rows that have its value v.

References:
    Mutual Information between Discrete and Continuous Data Sets (Ross, 2014), https://doi.org/10.1371/journal.pone.0087357
"""

import numpy as np
from scipy.special import digamma

__all__: list[str] = []

AGAIN = 1e-10  # the shift, in standard deviations, that tells equal values of a code apart


def binned(codes: np.ndarray, bins: int) -> np.ndarray:
    """Returns the number of the bin, of equal width between the least and the largest value, of each code of each row."""
    low, width = codes.min(0), np.ptp(codes, 0)
    share = (codes - low) / np.where(width > 0, width, 1)
    return np.clip((share * bins + 1e-9).astype(int), 0, bins - 1)


def entropy(numbers: np.ndarray) -> np.ndarray:
    """Returns the entropy of each column of whole numbers from 0, in nats."""
    return np.array([_entropy(np.bincount(column)) for column in numbers.T])


def shared_information(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the mutual information of each column of one (N, D) with each of the other (N, K): (D, K), in nats."""
    mine, theirs = entropy(one), entropy(other)
    found = np.zeros((one.shape[1], other.shape[1]))
    for i, a in enumerate(one.T):
        for j, b in enumerate(other.T):
            joint = np.bincount(a * (b.max() + 1) + b)
            found[i, j] = max(mine[i] + theirs[j] - _entropy(joint), 0)
    return found


def neighbour_information(codes: np.ndarray, labels: np.ndarray, *, k: int, seed: int) -> np.ndarray:
    """Returns the mutual information of each code (N, D) with each factor (N, K) by ``k`` neighbours: (D, K), in nats."""
    spread = codes.std(0)
    noise = np.random.default_rng(seed).standard_normal(codes.shape)
    z = (codes - codes.mean(0)) / np.where(spread > 0, spread, 1) + AGAIN * noise
    found = np.zeros((z.shape[1], labels.shape[1]))
    for i in np.flatnonzero(spread > 0):
        for j, label in enumerate(labels.T):
            found[i, j] = _by_neighbours(z[:, i], label, k)
    return found


def _by_neighbours(z: np.ndarray, label: np.ndarray, k: int) -> float:
    order = np.lexsort((z, label))
    x, counts = z[order], np.bincount(label)
    radius, near, same = np.empty(len(x)), np.empty(len(x)), np.empty(len(x))
    start = 0
    for count in counts:
        part = slice(start, start + count)
        near[part], same[part] = min(k, count - 1), count
        radius[part] = _kth_apart(x[part], min(k, count - 1)) if count > 1 else 0
        start += count
    known = same > 1  # a value of one row has no neighbours: it is left out, as scikit-learn does
    x, radius, near, same = x[known], radius[known], near[known], same[known]
    if not len(x):
        return 0.0
    radius = np.maximum(radius - 4 * np.finfo(float).eps * np.abs(x).max(), 0)  # the k-th itself is not within
    line = np.sort(x)
    within = np.searchsorted(line, x + radius, "right") - np.searchsorted(line, x - radius, "left")
    return max(float(digamma(len(x)) + (digamma(near) - digamma(same) - digamma(within)).mean()), 0.0)


def _kth_apart(line: np.ndarray, k: int) -> np.ndarray:
    """Returns the distance of each point of a sorted line to its k-th nearest other."""
    padded = np.concatenate([np.full(k, -np.inf), line, np.full(k, np.inf)])
    best = np.full(len(line), np.inf)
    for left in range(k + 1):  # the k nearest are ``left`` of those below and the rest of those above
        below, above = padded[k - left : k - left + len(line)], padded[2 * k - left : 2 * k - left + len(line)]
        best = np.minimum(best, np.maximum(line - below, above - line))
    return best


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
