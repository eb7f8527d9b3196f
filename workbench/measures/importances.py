r"""DCI: how far each code serves one factor, each factor is served by one code, and all of them can be read.

With the importance :math:`R_{ij}` of code i for factor j, as weights :math:`P_{ij} = R_{ij} / \sum_j R_{ij}`,
:math:`\rho_i = \sum_j R_{ij} / \sum R`, and the entropy H_K to the base of the number of factors K,

.. math:: D = \sum_i \rho_i \big(1 - H_K(P_{i \cdot})\big)

Completeness is the same of the transposed R; informativeness the mean accuracy on rows that were held out.

References:
    A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood, Williams, 2018), eq. 2 and 3
"""

from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.measures.boosting import boosted, cut
from workbench.measures.factor_tables import Factors, Paired, paired
from workbench.measures.measured import invariant_to
from workbench.measures.moments import Matrix
from workbench.measures.scores import Scores

__all__ = ["code_disentanglement", "dci", "factor_completeness"]

Backend = Literal["boosting", "scikit-learn", "lasso"]


@invariant_to("scale", "columns", "shift", "relabelling")
def dci(
    codes: Matrix, factors: Factors, *, backend: Backend = "boosting", trees: int = 100, test: float = 1 / 3, seed: int = 0
) -> Scores:
    """DCI: ``disentanglement``, ``completeness`` and ``informativeness``, each from 0 to 1.

    The regressor decides more than the representation: a perfect code beside four codes of noise gets D of 1 from boosted
    trees, .51 from a random forest, .26 from counts of splits. So compare numbers of one backend only, and no D without its
    informativeness: lasso gives pure noise a D of about .27.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows; a quantity is cut into 20 bins for the trees.
        backend: ``"boosting"``, gradient-boosted trees of depth 3 that are those of scikit-learn while a code has at most 256
            values, a fraction of the time; codes of more are cut to 256, by which D of a noisy code comes out lower (.947
            against .964 of 1,500 rows, 30 trees): to quote a number beside those of the literature, take
            ``"scikit-learn"``, its ``GradientBoostingClassifier`` itself; ``"lasso"``,
            :math:`|w|` of a lasso (penalty .01) of standardised factors on standardised codes, for what is linear.
        trees: A class; 100 in the literature.
        test: Share of the rows that informativeness is taken on.
        seed: Of the split.

    Returns:
        The three numbers; informativeness is the accuracy, or with lasso :math:`R^2` (0 where negative). ``matrix`` holds
        the importances, each factor's of sum 1 (lasso: the weights).

    Raises:
        ValueError: If there is no such backend.

    References:
        | Eastwood, Williams, 2018
        | Challenging Common Assumptions (Locatello et al., 2019), https://arxiv.org/abs/1811.12359: 100 boosted trees, accuracy
    """
    if backend not in ("boosting", "scikit-learn", "lasso"):
        raise ValueError(f'the importances come of "boosting", "scikit-learn" or "lasso", but got backend={backend!r}.')
    sample = paired(codes, factors)
    importances, told = _importances(sample, backend, trees, test, seed)
    k, d = len(sample.names), sample.codes.shape[1]
    values = {
        "disentanglement": code_disentanglement(importances),
        "completeness": factor_completeness(importances),
        "informativeness": float(np.mean(told)) if k else 0.0,
    }
    how = "lasso, penalty 0.01, R2" if backend == "lasso" else f"{backend}, {trees} trees a class of depth 3, accuracy"
    said = "with one factor, disentanglement says nothing" if k == 1 else ""
    alone = "with one code, completeness says nothing" if d == 1 and k else ""
    facts = sample.facts(said, alone)
    return Scores(values, convention=f"{how}, {test:.2g} held out", matrix=sample.frame(importances), **facts)


def code_disentanglement(importances: Float[np.ndarray, "codes factors"] | pd.DataFrame) -> float:
    """Returns D of a matrix of importances (codes, factors), none negative: 1 where each code serves one factor; 0 of zeros.

    Example:
        >>> code_disentanglement(np.diag([1.0, 2.0, 3.0]))
        1.0
    """
    weights = np.asarray(importances, dtype=float)
    total = weights.sum()
    if total <= 0:
        return 0.0
    mine = weights.sum(1, keepdims=True)
    p = weights / np.where(mine > 0, mine, 1)
    spread = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(max(weights.shape[1], 2))
    return float((mine[:, 0] / total) @ (1 - spread))


def factor_completeness(importances: Float[np.ndarray, "codes factors"] | pd.DataFrame) -> float:
    """Returns C of a matrix of importances (codes, factors): 1 where each factor is served by one code; 0 of zeros."""
    return code_disentanglement(np.asarray(importances, dtype=float).T)


def _importances(sample: Paired, backend: Backend, trees: int, test: float, seed: int) -> tuple[np.ndarray, list[float]]:
    """Returns the importances (D, K), and how well each factor is told on the rows held out."""
    train, held = sample.halves(test, seed)
    z, found, told = sample.codes, np.zeros((sample.codes.shape[1], len(sample.names))), []
    columns = cut(z, train) if backend == "boosting" and len(train) else None
    for j, label in enumerate(sample.labels.T):
        if len(np.unique(label[train])) < 2 or not np.ptp(z[train], 0).any():
            told.append(
                float((label[held] == np.bincount(label[train]).argmax()).mean()) if backend != "lasso" and len(train) else 0.0
            )
        elif backend == "lasso":
            found[:, j], right = _lasso(z, sample.quantities[:, j], train, held)
            told.append(right)
        elif columns is not None:
            found[:, j], guess = boosted(columns, label, train, trees=trees)
            told.append(float((guess[held] == label[held]).mean()))
        else:
            from sklearn.ensemble import GradientBoostingClassifier

            model = GradientBoostingClassifier(n_estimators=trees, random_state=seed).fit(z[train], label[train])
            found[:, j] = model.feature_importances_
            told.append(float(model.score(z[held], label[held])))
    return found, told


def _lasso(z: np.ndarray, y: np.ndarray, train: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import Lasso

    def standard(x: np.ndarray) -> np.ndarray:
        spread = x[train].std(0)
        return (x - x[train].mean(0)) / np.where(spread > 0, spread, 1)

    z, y = standard(z), standard(y)
    model = Lasso(alpha=0.01).fit(z[train], y[train])
    off, around = ((y[held] - guess) ** 2 for guess in (model.predict(z[held]), y[held].mean()))
    return np.abs(model.coef_), float(max(1 - off.sum() / around.sum(), 0)) if around.sum() > 0 else 0.0
