"""What can be read from features: a linear map to classes, a linear map to numbers, the nearest neighbours.

The probes are scikit-learn estimators (``fit``, ``predict``, ``score``, ``get_params``: they clone, cross-validate and stand in
pipelines) that compute in torch, where the features are, in their own precision. What they learn of the features' scale
they learn from the training rows alone. :func:`probe_layers` reads every factor from every layer in one call.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.estimators import (
    Classifier,
    Estimator,
    Labels,
    Matrix,
    accuracy,
    as_classes,
    as_matrix,
    as_numbers,
    finite,
    legible,
    narrow,
    standardise,
)
from workbench.logistic import softmax_regression
from workbench.measures.moments import gram

__all__ = ["KNNProbe", "LinearProbe", "RidgeProbe", "probe_layers", "readings"]


class LinearProbe(Classifier):
    r"""Multinomial logistic regression on standardised features, fitted by preconditioned L-BFGS.

    The loss is scikit-learn's, :math:`C \sum_i \text{loss}_i + \frac12 \lVert W \rVert^2` with a free bias, so ``C`` means the
    same (two classes included, where scikit-learn penalises the one difference).

    Arguments:
        C: Inverse strength of the penalty; or several, of which the best on a fifth of the training rows is taken, and
            fitted to all of them.
        tol: Stops when the next step promises to lower the loss by less than this many nats a row.
        max_iter: Steps of L-BFGS.
        seed: Of the rows held out to choose ``C``.

    Attributes:
        classes_: The classes, sorted.
        C_: The penalty taken.
        coef_, intercept_: For the standardised features (K, D) and (K); ``mean_`` and ``scale_`` are those of the training rows.
        n_iter_: Passes over the data.

    Example:
        >>> probe = LinearProbe().fit(torch.eye(4).repeat(8, 1), [0, 1, 2, 3] * 8)
        >>> probe.score(torch.eye(4), [0, 1, 2, 3])
        1.0
    """

    def __init__(self, C: float | Sequence[float] = 1.0, *, tol: float = 1e-5, max_iter: int = 200, seed: int = 0) -> None:
        self.C, self.tol, self.max_iter, self.seed = C, tol, max_iter, seed

    def fit(self, X: Matrix, y: Labels) -> Self:
        """Fits rows (N, D) to classes (N), whatever their type.

        Raises:
            ValueError: If the rows are not finite, do not match ``y``, or are of one class.
        """
        x, (self.classes_, y) = as_matrix(X), as_classes(y, len(X))
        y = y.to(x.device)
        grid = [float(self.C)] if np.isscalar(self.C) else sorted(float(c) for c in self.C)
        if not grid or grid[0] <= 0:
            raise ValueError(f"C must be positive, or several positive numbers, but is {self.C!r}.")
        self.C_ = grid[0] if len(grid) == 1 else self._choose(x, y, grid)
        columns, self.mean_, self.scale_ = standardise(x)
        (theta,), self.n_iter_ = self._solve(columns, y, [self.C_])
        self.coef_, self.intercept_, self.n_features_in_ = theta[:, :-1], theta[:, -1], x.shape[1]
        return self

    def _choose(self, x: Tensor, y: Tensor, grid: list[float]) -> float:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed)).to(x.device)
        held, kept = order[: len(x) // 5], order[len(x) // 5 :]
        inner, mean, scale = standardise(x[kept])
        outer = (x[held] - mean) / scale
        found, _ = self._solve(inner, y[kept], grid)
        scores = [float(((outer @ t[:, :-1].T + t[:, -1]).argmax(1) == y[held]).float().mean()) for t in found]
        return grid[int(np.argmax(scores))]

    def _solve(self, x: Tensor, y: Tensor, grid: list[float]) -> tuple[list[Tensor], int]:
        k = len(self.classes_)
        x, back = narrow(x)
        penalties = [(2 if k == 2 else 1) / (c * len(y)) for c in grid]
        found, passes = softmax_regression(x, y, classes=k, penalties=penalties, tol=self.tol, max_iter=self.max_iter)
        return [torch.cat([back(t[:, :-1]), t[:, -1:]], 1) for t in found], passes

    def _logits(self, X: Matrix) -> Tensor:
        return self.differentiable(as_matrix(X, like=self).to(self.coef_))

    def differentiable(self, x: Tensor) -> Tensor:
        """Returns the logits (N, K) of rows (N, D), in their precision, with gradients to the rows."""
        coef, intercept, mean, scale = (t.to(x) for t in (self.coef_, self.intercept_, self.mean_, self.scale_))
        return ((x - mean) / scale) @ coef.T + intercept


class RidgeProbe(Estimator):
    r"""Ridge regression on standardised features, its penalty chosen by leave-one-out, in closed form.

    .. math:: \min_w \frac1n \lVert y - X w - b \rVert^2 + \alpha \lVert w \rVert^2

    One eigendecomposition serves every penalty and every target; the error of leaving row i out is
    :math:`(y_i - \hat y_i) / (1 - h_{ii})`. scikit-learn's penalty is n times this one.

    Arguments:
        alphas: Penalties to choose from, for each target by itself.

    Attributes:
        alpha_: Those chosen, one a target.
        coef_, intercept_: For the standardised features (T, D) and (T).

    References:
        | Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter (Golub, Heath, Wahba, 1979)
    """

    kind = "regressor"

    def __init__(self, alphas: Sequence[float] = tuple(10.0**e for e in range(-6, 3))) -> None:
        self.alphas = alphas

    def fit(self, X: Matrix, y: Labels) -> Self:
        """Fits rows (N, D) to numbers (N) or (N, T).

        Raises:
            ValueError: If the rows or the numbers are not finite, or do not match.
        """
        x, y = as_matrix(X).double(), as_numbers(y, len(X))
        self._flat, y = y.ndim == 1, y.reshape(len(x), -1).to(x.device)
        alphas = [float(a) for a in np.atleast_1d(self.alphas)]
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be positive, but are {self.alphas!r}.")
        columns, self.mean_, self.scale_ = standardise(x)
        self.intercept_ = y.mean(0)
        turned, back = narrow(columns)
        value, vector = torch.linalg.eigh(gram(turned.T) / len(x))
        z = turned.T @ vector  # uncorrelated columns (N, R) of mean square `value`
        inner = z.T @ (y - self.intercept_) / len(x)  # (R, T)
        errors = torch.stack([self._left_out(z, y - self.intercept_, inner, value, a) for a in alphas])  # (A, T)
        best = errors.argmin(0)
        self.alpha_ = np.array(alphas)[best.cpu().numpy()]
        chosen = torch.tensor(alphas, dtype=z.dtype, device=z.device)[best]
        self.coef_ = back((vector @ (inner / (value[:, None].clamp_min(0) + chosen))).T)
        self.n_features_in_ = x.shape[1]
        return self

    @staticmethod
    def _left_out(z: Tensor, y: Tensor, inner: Tensor, value: Tensor, alpha: float) -> Tensor:
        shrunk = 1 / (value.clamp_min(0) + alpha)
        hat = (1 + z.square() @ shrunk) / len(z)  # (N), the bias is the 1
        off = (y - z @ (shrunk[:, None] * inner)) / (1 - hat).clamp_min(1e-10)[:, None]
        return off.square().mean(0)

    def predict(self, X: Matrix) -> np.ndarray:
        """Returns the numbers (N) or (N, T)."""
        x = as_matrix(X, like=self).to(self.coef_)
        out = ((x - self.mean_) / self.scale_) @ self.coef_.T + self.intercept_
        return (out[:, 0] if self._flat else out).cpu().numpy()

    def score(self, X: Matrix, y: Labels) -> float:
        """Returns R², averaged over targets: 1 is perfect, 0 no better than the mean of ``y``, below that worse."""
        return float(np.mean(self.scores(X, y)))

    def scores(self, X: Matrix, y: Labels) -> np.ndarray:
        """Returns R² of each target (T). Of a constant target it is 1 where it was met, else 0."""
        y = as_numbers(y, len(X)).reshape(len(X), -1).numpy()
        off = np.square(y - self.predict(X).reshape(y.shape)).sum(0)
        spread = np.square(y - y.mean(0)).sum(0)
        return np.where(spread > 0, 1 - off / np.where(spread > 0, spread, 1), (off == 0).astype(float))


class KNNProbe(Estimator):
    r"""The vote of the k nearest training rows by cosine similarity, each with weight :math:`e^{\cos / T}`.

    This is DINO's and InstDisc's convention; others count heads (``temperature=None``) or take Euclidean distances.

    Arguments:
        k: Neighbours that vote; fewer where there are fewer rows.
        temperature: T of the weights; None for one vote each.
        exclude_self: Whether a row is kept from voting for itself where the rows asked about are the rows fitted on.
        chunk: Rows asked about at a time; memory is chunk x N.

    References:
        | Unsupervised Feature Learning via Non-Parametric Instance Discrimination (Wu et al., 2018), section 3.4
        | Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021), appendix F.1
    """

    def __init__(self, k: int = 20, *, temperature: float | None = 0.07, exclude_self: bool = True, chunk: int = 1024) -> None:
        self.k, self.temperature, self.exclude_self, self.chunk = k, temperature, exclude_self, chunk

    def fit(self, X: Matrix, y: Labels) -> Self:
        """Keeps the directions of the rows (N, D) and their classes (N)."""
        if not isinstance(self.k, Integral) or self.k < 1 or (self.temperature is not None and self.temperature <= 0):
            raise ValueError(
                "k must be a whole number of at least 1 and temperature positive, "
                f"but got k={self.k}, temperature={self.temperature}."
            )
        x, (self.classes_, y) = as_matrix(X), as_classes(y, len(X), least=1)
        self._bank, self._votes, self.n_features_in_ = torch.nn.functional.normalize(x, dim=1), y.to(x.device), x.shape[1]
        return self

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Returns each class's share of the votes (N, K)."""
        rows = torch.nn.functional.normalize(as_matrix(X, like=self), dim=1).to(self._bank)
        same = self.exclude_self and rows.shape == self._bank.shape and torch.equal(rows, self._bank)
        if same and len(rows) == 1:
            raise ValueError("a single row has no neighbour but itself.")
        parts = [self._vote(part, i * self.chunk if same else None) for i, part in enumerate(rows.split(self.chunk))]
        return torch.cat(parts).cpu().numpy()

    def _vote(self, rows: Tensor, first: int | None) -> Tensor:
        near = rows @ self._bank.T  # (chunk, N)
        if first is not None:
            near[:, first : first + len(rows)].fill_diagonal_(-math.inf)
        near, index = near.topk(min(self.k, len(self._bank) - (first is not None)), dim=1)
        weight = torch.ones_like(near) if self.temperature is None else ((near - near[:, :1]) / self.temperature).exp()
        share = near.new_zeros(len(rows), len(self.classes_)).scatter_add_(1, self._votes[index], weight)
        return share / share.sum(1, keepdim=True)

    def predict(self, X: Matrix) -> np.ndarray:
        """Returns the class with the most votes; of equals, the first."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def score(self, X: Matrix, y: Labels) -> float:
        """Returns the accuracy, from 0 to 1."""
        return accuracy(self.predict(X), y)


def probe_layers(
    train: Mapping[str, Matrix],
    test: Mapping[str, Matrix],
    *,
    factor: str | Sequence[str] | None = None,
    probe: LinearProbe | KNNProbe | None = None,
) -> pd.DataFrame:
    """Returns how well each factor is read from each layer.

    Factors of floating-point numbers are read by :class:`RidgeProbe` (all at once) and scored by R²; all others (whole
    numbers, words, truth values) are classes.

    Arguments:
        train, test: ``Features`` of the same layers, with the factors of their rows.
        factor: One name or several; by default every factor that both have, ``source``, ``view`` and actions in whole numbers
            apart, of which something can be learned: one that is constant, nearly a number for each row, not of the test rows,
            not finite, or that says the same as another is left out, and a warning names it.
        probe: For the classes; by default ``LinearProbe()``.

    Returns:
        Columns ``layer, factor, probe, measure`` (``"accuracy"`` or ``"r2"``), ``value, chance, n_train, n_test``. ``chance``
        is what guessing the commonest class, or the mean, of the training rows would score on the test rows.

    Raises:
        KeyError: If a factor or a layer is missing.
        TypeError: If there are no factors beside the layers, or ``probe`` does not read classes.
        ValueError: If a factor cannot be read from a layer, which the message names, or none is left.

    Example:
        Which layer holds the label::

            probe_layers(extract(model, images, layers), extract(model, held_out, layers), factor="label")
    """
    _ask(train, test, probe)
    names = legible(train.factors, test.factors) if factor is None else [factor] if isinstance(factor, str) else list(factor)
    return pd.DataFrame([row for row, _ in readings(train, test, factor=names, probe=probe)])


def readings(
    train: Mapping[str, Matrix],
    test: Mapping[str, Matrix],
    *,
    factor: Sequence[str],
    probe: LinearProbe | KNNProbe | None = None,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yields the rows of :func:`probe_layers` one after the other, each with what was answered about every test row (n_test)."""
    _ask(train, test, probe)
    for where, features in (("train", train), ("test", test)):
        for missing in [n for n in factor if n not in features.factors]:
            raise KeyError(f"the {where} features have no factor {missing!r}; they have {', '.join(map(str, features.factors))}")
        for missing in [n for n in train if n not in features]:
            raise KeyError(f"the {where} features have no layer {missing!r}; they have {', '.join(features)}")
        for name, bad in ((n, int((~finite(features.factors[n])).sum())) for n in factor):
            if bad:
                raise ValueError(f"factor {name!r} is missing or infinite in {bad} of the {where} rows: leave those rows out.")
    numbers = [n for n in factor if pd.api.types.is_float_dtype(train.factors[n])]
    classes = [n for n in factor if n not in numbers]
    for layer, z in train.items():
        if numbers:
            asked = test.factors[numbers].to_numpy(float)
            with _said_of(layer, *numbers):
                fitted = RidgeProbe().fit(z, train.factors[numbers].to_numpy(float))
                values, answers = fitted.scores(test[layer], asked), fitted.predict(test[layer])
            for n, value, answer in zip(numbers, values, answers.T, strict=True):
                yield _row(layer, n, fitted, "r2", value, train, test), answer
        for name in classes:
            reader = LinearProbe() if probe is None else type(probe)(**probe.get_params())
            with _said_of(layer, name):
                answer = reader.fit(z, train.factors[name]).predict(test[layer])
                value = accuracy(answer, test.factors[name])
            yield _row(layer, name, reader, "accuracy", value, train, test), answer


def _ask(train: Mapping[str, Matrix], test: Mapping[str, Matrix], probe: LinearProbe | KNNProbe | None) -> None:
    """Raises for what cannot be probed."""
    for where, features in (("train", train), ("test", test)):
        if not isinstance(getattr(features, "factors", None), pd.DataFrame):
            raise TypeError(f"probe_layers takes Features(layers, factors), but {where} is {type(features).__name__}.")
    if probe is not None and not (isinstance(probe, Estimator) and probe.kind == "classifier"):
        raise TypeError(f"probe reads the classes, as LinearProbe() and KNNProbe() do, but got {probe!r}.")


@contextmanager
def _said_of(layer: str, *factors: str) -> Iterator[None]:
    """Puts the layer and the factors before what a probe says is wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {layer!r}, factor {', '.join(map(repr, factors))}: {error}") from error


def _row(layer: str, factor: str, probe: Estimator, measure: str, value: float, train: Mapping, test: Mapping) -> dict:
    known, asked = train.factors[factor], test.factors[factor]
    if measure == "accuracy":
        chance = float((asked == known.mode()[0]).mean())
    else:
        spread = float(np.square(asked - asked.mean()).mean())
        chance = -float((known.mean() - asked.mean()) ** 2) / spread if spread > 0 else 0.0
    named = {"layer": layer, "factor": factor, "probe": type(probe).__name__, "measure": measure, "value": float(value)}
    return named | {"chance": chance, "n_train": len(known), "n_test": len(asked)}
