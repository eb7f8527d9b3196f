r"""Codes beside the factors of the same rows: checked, numbered, and with what is wrong with them said.

Most measures of disentanglement compare what a code says of one factor with what it says of the others. Where the factors
themselves are correlated, a perfect code says something of several, and its scores fall: the table of correlations and a
sample of rows in which factors are as good as independent are here.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.measures.moments import Matrix
from workbench.measures.similarity import whole

__all__ = ["factor_correlations", "uniform_rows"]

MANY = 64  # different values from which a factor of floats is a quantity, not a set of values
CORRELATED = 0.1

Factors = pd.DataFrame | Mapping | np.ndarray


@dataclass(frozen=True, eq=False)
class Paired:
    """Codes (N, D) in float64 beside the factors that vary: numbered from 0 (N, K), as quantities (N, K), and their names."""

    codes: np.ndarray
    labels: np.ndarray
    quantities: np.ndarray
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """Values of each factor (K)."""
        return self.labels.max(0) + 1 if self.labels.size else np.zeros(0, int)

    def facts(self, *more: str) -> dict:
        """Returns what every result says: n, d, and the warnings with ``more`` of them."""
        return {"n": len(self.codes), "d": self.codes.shape[1], "warnings": (*self.warnings, *(m for m in more if m))}

    def frame(self, matrix: np.ndarray) -> pd.DataFrame:
        """Returns a matrix (D, K) with the factors' names."""
        return pd.DataFrame(matrix, columns=list(self.names)).rename_axis("code")

    def halves(self, test: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows to learn from and rows to judge by, at random."""
        if not 0 < test < 1:
            raise ValueError(f"test is a share of the rows, between 0 and 1, but got {test}.")
        order = np.random.default_rng(seed).permutation(len(self.codes))
        held = max(round(test * len(order)), 1)
        return order[held:], order[:held]


def paired(codes: Matrix, factors: Factors, *, bins: int = 20) -> Paired:
    """Returns codes and factors, checked.

    Arguments:
        codes: Features (N, D).
        factors: A table, mapping or array of N rows; a column of floats of more than 64 different values is cut into
            ``bins`` of equal width, every other is taken by its values. Columns ``source`` and ``view`` are no factors, nor is
            text that names the values of a column of numbers, such as ``shape`` beside ``label``.

    Raises:
        TypeError: If the factors are no table.
        ValueError: If the rows are not as many, or a factor misses values.
    """
    z = whole(codes).cpu().numpy()
    table = table_of(factors)
    if len(table) != len(z):
        raise ValueError(f"there must be a row of factors for each of the {len(z)} rows of codes, but got {len(table)}.")
    warnings, labels, quantities, kept = [], [], [], []
    names = _names(table)
    for name in table:
        if name in names:
            warnings.append(f"the factor {name!r} names the values of {names[name]!r}, and is left out")
            continue
        number, quantity, cut = _numbered(table[name], bins)
        if number.max() == 0:
            warnings.append(f"the factor {name!r} has one value, and is left out")
            continue
        if cut:
            warnings.append(f"the factor {name!r} has many values, and is cut into {bins} bins of equal width")
        labels.append(number), quantities.append(quantity), kept.append(str(name))
    both = np.stack(labels, 1) if kept else np.zeros((len(z), 0), int)
    numbers = np.stack(quantities, 1) if kept else np.zeros((len(z), 0))
    still = int((np.ptp(z, 0) == 0).sum())
    if still:
        warnings.append(f"{still} of {z.shape[1]} codes are constant")
    if not kept:
        warnings.append("no factor varies: every number is 0")
    warnings += _said_of_correlations(factor_correlations(table[kept])) if len(kept) > 1 else []
    return Paired(z, both, numbers, tuple(kept), tuple(warnings))


def factor_correlations(factors: Factors) -> pd.DataFrame:
    """Returns how strongly each two factors go together in these rows, from -1 to 1.

    Pearson's correlation of two factors of numbers; of others Cramér's V without its bias (Bergsma, 2013), from 0 to 1.

    Arguments:
        factors: A table, mapping or array of N rows.
    """
    table = table_of(factors)
    names = list(table)
    number = {n: pd.api.types.is_numeric_dtype(table[n]) and not pd.api.types.is_bool_dtype(table[n]) for n in names}
    found = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for i, a in enumerate(names):
        for b in names[:i]:
            both = number[a] and number[b]
            found.loc[a, b] = found.loc[b, a] = (_pearson if both else _cramer)(table[a], table[b])
    return found


def uniform_rows(factors: Factors, *, n: int | None = None, seed: int = 0) -> np.ndarray:
    """Returns rows in which factors are as good as uniform and independent: a sample, with repeats, of these rows.

    Factors that go together (correlation above .1, directly or through others) are drawn so that each combination of theirs
    that exists is equally likely; the others so that each of their values is. A combination that no row has cannot be
    drawn: look at :func:`factor_correlations` of what comes out.

    Arguments:
        factors: A table, mapping or array of N rows.
        n: Rows drawn; by default N.
        seed: Of the draw.

    Example:
        >>> factors = pd.DataFrame({"size": [0, 0, 0, 1], "hue": [0, 0, 1, 1]})
        >>> rows = uniform_rows(factors, n=3000)
        >>> np.unique(rows, return_counts=True)[1].round(-2).tolist()
        [500, 500, 1000, 1000]
    """
    table = table_of(factors)
    tied = factor_correlations(table).abs().to_numpy() > CORRELATED
    for _ in range(len(tied)):
        tied = tied @ tied
    numbers = np.stack([_numbered(table[name], 20)[0] for name in table], 1)
    weight = np.ones(len(table))
    for group in {tuple(np.flatnonzero(row)) for row in tied}:
        _, cell, count = np.unique(numbers[:, group], axis=0, return_inverse=True, return_counts=True)
        weight /= count[cell.reshape(-1)]
    rng = np.random.default_rng(seed)
    return rng.choice(len(table), size=n or len(table), p=weight / weight.sum())


def table_of(factors: Factors) -> pd.DataFrame:
    """Returns factors as a table, without the columns that say which image a row shows; those of an array by number."""
    if isinstance(factors, pd.DataFrame | Mapping):
        table = pd.DataFrame(factors)
        return table.drop(columns=[c for c in ("source", "view") if c in table])
    if not isinstance(factors, np.ndarray) and not hasattr(factors, "numpy"):
        raise TypeError(f"factors are a table of a row an image, a column a factor, but got {type(factors).__name__}.")
    array = np.asarray(factors)
    if array.ndim != 2:
        raise ValueError(f"factors are a table (rows, factors), but got shape {array.shape}.")
    return pd.DataFrame(array, columns=[f"factor {i}" for i in range(array.shape[1])])


def _numbered(factor: pd.Series, bins: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the number of each row's value from 0, the value as a quantity, and whether it was cut into bins."""
    if factor.isna().any():
        raise ValueError(f"the factor {factor.name!r} misses {int(factor.isna().sum())} values: leave those rows out.")
    values, number = np.unique(factor.to_numpy(), return_inverse=True)
    number = number.reshape(-1)
    if pd.api.types.is_float_dtype(factor) and len(values) > MANY:
        edges = np.linspace(values[0], values[-1], bins + 1)[1:-1]
        cut = np.digitize(factor, edges)
        return np.unique(cut, return_inverse=True)[1].reshape(-1), factor.to_numpy(float), True
    numeric = pd.api.types.is_numeric_dtype(factor)
    return number, factor.to_numpy(float) if numeric else number.astype(float), False


def _names(table: pd.DataFrame) -> dict[str, str]:
    """Returns which columns of text say again what a column of numbers says, and which that is."""
    text = [n for n in table if not pd.api.types.is_numeric_dtype(table[n])]
    found = {}
    for name, number in itertools.product(text, (n for n in table if n not in text)):
        pairs, values = len(table[[name, number]].drop_duplicates()), table[number].nunique()
        if pairs == values == table[name].nunique() > 1:
            found.setdefault(name, number)
    return found


def _pearson(a: pd.Series, b: pd.Series) -> float:
    a, b = (x.to_numpy(float) - x.mean() for x in (a, b))
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0


def _cramer(a: pd.Series, b: pd.Series) -> float:
    counts = pd.crosstab(_numbered(a, 20)[0], _numbered(b, 20)[0]).to_numpy(float)
    n, (r, c) = counts.sum(), counts.shape
    if min(r, c) < 2 or n < 2:
        return 0.0
    expected = np.outer(counts.sum(1), counts.sum(0)) / n
    phi = max(((counts - expected) ** 2 / expected).sum() / n - (r - 1) * (c - 1) / (n - 1), 0)
    least = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(min(np.sqrt(phi / least), 1)) if least > 0 else 0.0


def _said_of_correlations(found: pd.DataFrame) -> list[str]:
    names = list(found)
    pairs = [(a, b, found.loc[a, b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    strong = sorted((p for p in pairs if abs(p[2]) > CORRELATED), key=lambda p: -abs(p[2]))
    if not strong:
        return []
    said = ", ".join(f"{a} and {b} {r:.2f}" for a, b, r in strong[:3]) + (" ..." if len(strong) > 3 else "")
    return [
        f"factors are correlated here ({said}), which lowers the scores of a perfect code: see factor_correlations, uniform_rows"
    ]
