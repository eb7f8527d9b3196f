"""What the probes share: scikit-learn's contract, and looking at what they are given."""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.measures.moments import unlike

__all__: list[str] = []

Matrix = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]
FEW = 5  # rows a value, below which a factor names rows rather than classes

Labels = Sequence | np.ndarray | Tensor | pd.Series


class Estimator:
    """The part of scikit-learn's contract that every probe keeps."""

    kind = "classifier"

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 (scikit-learn's signature)
        """Returns the settings by name; ``deep`` is scikit-learn's and changes nothing."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **settings: Any) -> Self:
        """Changes settings by name and returns itself."""
        for name, value in settings.items():
            if name not in self.get_params():
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(self.get_params())}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def __sklearn_tags__(self) -> object:
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

        classifies = self.kind == "classifier"
        target = TargetTags(required=True, multi_output=not classifies)
        tags = {"classifier_tags": ClassifierTags()} if classifies else {"regressor_tags": RegressorTags()}
        return Tags(estimator_type=self.kind, target_tags=target, **tags)

    def require_fit(self) -> None:
        """Raises scikit-learn's error where ``fit`` was not called."""
        if not hasattr(self, "n_features_in_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} has seen no data: call fit(features, targets) first.")


class Classifier(Estimator):
    """A probe for classes that comes by them through logits: ``_logits(X)`` gives them, ``classes_`` are their names."""

    def decision_function(self, X: Matrix) -> np.ndarray:
        """Returns the logits (N, K)."""
        return self._logits(X).cpu().numpy()

    def predict_proba(self, X: Matrix) -> np.ndarray:
        """Returns the probability of each class (N, K)."""
        return self._logits(X).softmax(1).cpu().numpy()

    def predict(self, X: Matrix) -> np.ndarray:
        """Returns the likeliest class of each row."""
        best = self._logits(X).argmax(1).cpu().numpy()
        return self.classes_[best]

    def score(self, X: Matrix, y: Labels) -> float:
        """Returns the accuracy, from 0 to 1."""
        return accuracy(self.predict(X), y)


def as_matrix(X: Matrix, *, like: Estimator | None = None) -> Tensor:
    """Returns the rows as a float tensor, without their graph, after looking at them."""
    if isinstance(X, Mapping) or isinstance(getattr(X, "values", None), Tensor):
        raise TypeError(f"a probe takes features (rows, dimensions), but got {unlike(X)}.")
    x = X.detach() if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(X)))
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"a probe takes features (rows, dimensions), but got shape {tuple(x.shape)}.")
    if like is not None:
        like.require_fit()
        if x.shape[1] != like.n_features_in_:
            raise ValueError(f"this probe was fitted on {like.n_features_in_} dimensions, but got rows of {x.shape[1]}.")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    bad = int((~torch.isfinite(x.sum(1))).sum())
    if bad:
        raise ValueError(f"{bad} of {len(x)} rows hold NaN or infinity (or overflow): a probe cannot read them.")
    return x


def as_classes(y: Labels, n: int, *, least: int = 2) -> tuple[np.ndarray, Tensor]:
    """Returns the sorted classes and the number of each row's among them."""
    y = y.cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"there must be one class for each of the {n} rows, but y has shape {y.shape}.")
    if pd.isna(y).any():
        raise ValueError(f"{int(pd.isna(y).sum())} of {n} classes are missing: leave those rows out.")
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < least:
        raise ValueError(f"a probe tells classes apart, but all {n} rows are of class {classes.tolist()[0]!r}.")
    if classes.dtype.kind == "f" and len(classes) > max(100, n // 2):
        raise ValueError(f"y holds {len(classes)} different numbers in {n} rows; for numbers use RidgeProbe.")
    return classes, torch.from_numpy(index.reshape(-1))


def as_numbers(y: Labels, n: int) -> Tensor:
    """Returns the numbers to read (N) or (N, T) in float64."""
    try:
        y = torch.from_numpy(np.array(y.detach().cpu() if isinstance(y, Tensor) else y, dtype=float))
    except (TypeError, ValueError) as error:
        raise ValueError("RidgeProbe reads numbers, but y holds something else; for classes use LinearProbe.") from error
    if y.ndim not in (1, 2) or len(y) != n:
        raise ValueError(
            f"there must be one number, or one row of numbers, for each of the {n} rows, but y has shape {tuple(y.shape)}."
        )
    if not torch.isfinite(y).all():
        raise ValueError(f"{int((~torch.isfinite(y)).sum())} of the numbers to read are NaN or infinite: leave those rows out.")
    return y


def standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the features as columns (D, N) with mean 0 and standard deviation 1, and the means and deviations (D)."""
    columns = x.T.clone(memory_format=torch.contiguous_format)
    mean = columns.mean(1)
    columns -= mean[:, None]
    rest = columns.mean(1)  # what rounding left of the mean
    columns -= rest[:, None]
    scale = torch.linalg.vector_norm(columns, dim=1) / len(x) ** 0.5
    still = scale <= 10 * torch.finfo(x.dtype).eps * mean.abs()
    scale = torch.where(still, torch.ones_like(scale), scale)
    return columns.div_(scale[:, None]), mean + rest, scale


def narrow(columns: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Returns columns (D, N) rotated into as many dimensions as there are, if fewer, and the way back for weights."""
    if columns.shape[0] <= columns.shape[1]:
        return columns, lambda w: w
    q, r = torch.linalg.qr(columns)  # (D, N), (N, N)
    return r, lambda w: w @ q.T


def accuracy(predicted: np.ndarray, y: Labels) -> float:
    """Returns the share of rows whose class was told, from 0 to 1."""
    y = y.cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.shape != predicted.shape:
        raise ValueError(f"there must be one class for each of the {len(predicted)} rows, but y has shape {y.shape}.")
    return float((predicted == y).mean())


def legible(train: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    """Returns the factors of which something can be learned, and warns of the others."""
    kept, left = [], {}
    for name in [c for c in train if c in test and c not in ("source", "view") and not _counts(c, train[c])]:
        why = _illegible(train[name], test[name]) or _said_already(name, kept, pd.concat([train, test], ignore_index=True))
        if why:
            left[name] = why
        else:
            kept.append(name)
    said = ", ".join(f"{name!r} ({why})" for name, why in left.items())
    if not kept:
        raise ValueError(f"none of the factors can be read: {said or 'there are none'}.")
    if left:
        warnings.warn(f"factors that are not read: {said}. To have one read, name it in factor=.", UserWarning, stacklevel=3)
    return kept


def _counts(name: Any, factor: pd.Series) -> bool:
    """Whether it is an action in whole numbers (pixels of a crop, a row), which nobody means as classes."""
    return str(name).startswith("action.") and pd.api.types.is_integer_dtype(factor)


def finite(factor: pd.Series) -> pd.Series:
    """Returns which rows have a value that is not infinite."""
    return ~factor.isin([math.inf, -math.inf]) & factor.notna()


def _illegible(known: pd.Series, asked: pd.Series) -> str:
    """Returns why nothing can be learned of a factor, or nothing."""
    if not (finite(known).all() and finite(asked).all()):
        return "missing or infinite in some rows"
    values, n = known.nunique(), len(known)
    if values < 2:
        return "constant"
    if pd.api.types.is_float_dtype(known):
        return "constant" if asked.nunique() < 2 else ""
    if values > max(n / FEW, min(20, n - 1)):
        return f"{values:,} values in {n:,} rows"
    return "" if asked.isin(known.unique()).any() else "no test row has a value of the training rows"


def _said_already(name: str, kept: list[str], factors: pd.DataFrame) -> str:
    """Returns which of the kept factors says the same: equal numbers, or classes that are the same under other names."""

    def content(factor: str) -> np.ndarray:
        number = pd.api.types.is_float_dtype(factors[factor])
        return factors[factor].to_numpy(float) if number else pd.factorize(factors[factor])[0]

    same = [other for other in kept if np.array_equal(content(name), content(other))]
    return f"says the same as {same[0]!r}" if same else ""
