r"""Multinomial logistic regression in tens of passes over the data.

.. math:: \min_{W, b} \frac1n \sum_i \Big[\log \sum_k e^{w_k^\top x_i + b_k} - w_{y_i}^\top x_i - b_{y_i}\Big]
          + \frac{\lambda}{2} \lVert W \rVert_F^2

L-BFGS, started from the exact inverse Hessian at zero, which is the same for every class: with standardised features,

.. math:: H_0 = \Big(\frac{1}{K} \frac{X^\top X}{n} + \lambda I\Big)^{-1}

on weights that sum to zero over the K classes. Its first step is the ridge regression on the labels; after it, the
conditioning of the features is gone, and 5 to 20 steps do what takes plain L-BFGS 100 to 200. Along a step the logits
are linear in its length, so the line search costs no pass over the features.

References:
    | Numerical Optimization (Nocedal, Wright, 2006), algorithms 7.4 and 7.5
    | Multinomial logistic regression algorithm (Böhning, 1992), for the Hessian
"""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.measures.moments import gram

__all__: list[str] = []

MEMORY = 10  # pairs kept

Weights = Float[Tensor, "k d+1"]  # the last column is the bias


def softmax_regression(
    x: Float[Tensor, "d n"],
    y: Int[Tensor, "n"],
    *,
    classes: int,
    penalties: list[float],
    tol: float = 1e-5,
    max_iter: int = 200,
) -> tuple[list[Weights], int]:
    """Returns the weights for each penalty, in the order given, and the number of passes over the data.

    Arguments:
        x: Features, a sample a column (both products with them are fastest so), of mean zero and like scale in every row.
        y: Classes, from 0.
        classes: How many there are, K.
        penalties: Values of lambda; each solution starts the search for the next.
        tol: Stops when the next step promises to lower the mean loss by less than this many nats.
        max_iter: Steps for each penalty; a warning says when they did not suffice.
    """
    d, second = len(x), _second(x)
    theta = x.new_zeros(classes, d + 1)
    target = x.new_zeros(classes, len(y)).scatter_(0, y[None], 1)  # (K, n): along rows the softmax is quick
    found, passes = [], 0
    for penalty in penalties:
        factor = _cholesky(second / classes, penalty)
        theta, steps = _minimise(x, target, theta, factor, penalty=penalty, tol=tol, max_iter=max_iter)
        found.append(theta)
        passes += steps
    return found, passes


def _second(x: Tensor) -> Tensor:
    """Returns the second moment; where there are many samples, of every so many runs of 64: for the start, that will do."""
    d, n = x.shape
    step = n // max(4096, 8 * d)
    if step > 1:
        x = x[:, : n // 64 * 64].unflatten(1, (-1, 64))[:, ::step].flatten(1)
    return gram(x.T) / x.shape[1]


def _cholesky(second: Tensor, penalty: float) -> Tensor:
    """Returns the factor of ``second`` with the penalty on its diagonal, and with what it takes to be positive after rounding.

    Where the features have collapsed, rounding leaves eigenvalues as low as -eps times the trace.
    """
    extra = 10 * torch.finfo(second.dtype).eps * float(second.diagonal().mean())
    while True:
        shifted = second.clone()
        shifted.diagonal().add_(penalty + extra)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed:
            return factor
        extra *= 10


def _minimise(
    x: Tensor, target: Tensor, theta: Weights, factor: Tensor, *, penalty: float, tol: float, max_iter: int
) -> tuple[Weights, int]:
    k, n = target.shape

    def forward(theta: Weights) -> Tensor:
        return torch.addmm(theta[:, -1:], theta[:, :-1], x)  # (K, n)

    def gradient(theta: Weights, chances: Tensor) -> Weights:
        off = chances - target
        return torch.cat([(off @ x.T).div_(n).add_(theta[:, :-1], alpha=penalty), off.sum(1, keepdim=True) / n], 1)

    def precondition(g: Weights) -> Weights:
        return torch.cat([torch.cholesky_solve(g[:, :-1].T, factor).T, k * g[:, -1:]], 1)

    logits = forward(theta) if theta.any() else torch.zeros_like(target)
    g, pairs = gradient(theta, logits.softmax(0)), []
    for step in range(1, max_iter + 1):
        direction = -_two_loop(g, pairs, precondition)
        gain = -_dot(g, direction) / 2
        if gain < tol:
            return theta + direction, step  # so short a step needs no looking
        along = forward(direction)
        t, logits, chances = _line_search(logits, along, target, theta[:, :-1], direction[:, :-1], penalty, slope=-2 * gain)
        s = t * direction
        theta = theta + s
        new = gradient(theta, chances)
        change, g = new - g, new
        curvature = _dot(s, change)
        if curvature > 0:
            pairs = [*pairs[-MEMORY + 1 :], (s, change, curvature)]
    warnings.warn(
        f"the logistic regression stopped after {max_iter} steps, when the last had promised {gain:.1e} nats (wanted {tol:.0e}): "
        "raise max_iter, or penalise more.",
        RuntimeWarning,
        stacklevel=4,
    )
    return theta, max_iter


def _two_loop(g: Weights, pairs: list[tuple[Weights, Weights, float]], precondition: Callable[[Weights], Weights]) -> Weights:
    """Returns the product of the inverse Hessian's estimate with ``g``."""
    taken = []
    for s, change, curvature in reversed(pairs):
        taken.append(_dot(s, g) / curvature)
        g = torch.add(g, change, alpha=-taken[-1])
    r = precondition(g)
    for (s, change, curvature), a in zip(pairs, reversed(taken), strict=True):
        r.add_(s, alpha=a - _dot(change, r) / curvature)
    return r


def _line_search(
    logits: Tensor, along: Tensor, target: Tensor, w: Tensor, dw: Tensor, penalty: float, *, slope: float
) -> tuple[float, Tensor, Tensor]:
    """Returns a length at which the slope is at most a fifth of ``slope``, that at 0, and the logits and chances there.

    Newton's method inside a bracket; the loss is convex along any line.
    """
    n, low, high, t = logits.shape[1], 0.0, float("inf"), 1.0
    linear, square = penalty * _dot(w, dw) - _dot(target, along) / n, penalty * _dot(dw, dw)
    for _ in range(20):
        there = torch.add(logits, along, alpha=t)
        chances = there.softmax(0)
        first = _dot(chances, along) / n + linear + t * square
        if abs(first) <= 0.2 * abs(slope):
            break
        spread = chances * along
        mean = spread.sum(0)
        second = (_dot(spread, along) - _dot(mean, mean)) / n + square
        low, high = (low, t) if first > 0 else (t, high)
        t = t - first / second if second > 0 else float("inf")
        if not low < t < high:
            t = 2 * low if high == float("inf") else (low + high) / 2
    return t, there, chances


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.reshape(-1) @ b.reshape(-1))
