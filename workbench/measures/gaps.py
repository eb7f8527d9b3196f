"""How far ahead of the next the best code of each factor is, by information and by prediction; minimality and sufficiency."""

from typing import Literal

import numpy as np

from workbench.measures.factor_tables import Factors, Paired, paired
from workbench.measures.information import binned, entropy, shared_information
from workbench.measures.measured import invariant_to
from workbench.measures.moments import Matrix
from workbench.measures.scores import Scores

__all__ = ["mig", "minimality_sufficiency", "sap"]


@invariant_to("scale", "columns", "shift", "order", "duplication", "relabelling")
def mig(codes: Matrix, factors: Factors, *, bins: int = 20) -> Scores:
    r"""The mutual information gap, from 0 to 1.

    .. math:: \frac{1}{K} \sum_j \frac{I(z_{(1)}; v_j) - I(z_{(2)}; v_j)}{H(v_j)}

    with the codes of most and of second most information. It asks for one code a factor: of a perfect code with every
    code twice it is 0.

    Arguments:
        codes: Features (N, D), each code cut into ``bins`` of equal width.
        factors: Of the same rows.

    References:
        Isolating Sources of Disentanglement in VAEs (Chen et al., 2018), https://arxiv.org/abs/1802.04942, eq. 6
    """
    sample = paired(codes, factors, bins=bins)
    shared = shared_information(binned(sample.codes, bins), sample.labels)
    value = _gap(shared) / entropy(sample.labels) if sample.names else np.zeros(1)
    return _scores(
        sample, {"mig": float(value.mean())}, f"{bins} bins of equal width", shared, _few(sample, bins), _alone(sample)
    )


@invariant_to("scale", "columns", "signs", "shift", "order", "duplication")
def sap(codes: Matrix, factors: Factors, *, kind: Literal["R2", "svm"] = "R2", test: float = 1 / 3, seed: int = 0) -> Scores:
    r"""SAP, the separated attribute predictability: how much better the best code tells a factor than the second does.

    The mean over factors of the difference of the two largest :math:`S_{ij}`: with ``"R2"`` the squared correlation of code i
    and factor j, which takes a factor's values for quantities; with ``"svm"`` the accuracy, on rows held
    out, of a linear support vector machine (C = .01, classes weighted alike) on the one code, which takes them for classes.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        kind: See above. ``"svm"`` takes seconds.
        test, seed: The split for ``"svm"``.

    References:
        Variational Inference of Disentangled Latent Concepts (Kumar et al., 2018), https://arxiv.org/abs/1711.00848, section 3
    """
    if kind not in ("R2", "svm"):
        raise ValueError(f'SAP is by "R2" or by "svm", but got kind={kind!r}.')
    sample = paired(codes, factors)
    predicted = _squared_correlation(sample.codes, sample.quantities) if kind == "R2" else _accuracy(sample, test, seed)
    value = float(_gap(predicted).mean()) if sample.names else 0.0
    how = "squared correlation" if kind == "R2" else f"linear SVM, C=0.01, accuracy, {test:.2g} held out"
    return _scores(sample, {"sap": value}, how, predicted, _alone(sample))


@invariant_to("scale", "columns", "shift", "order", "duplication", "relabelling")
def minimality_sufficiency(codes: Matrix, factors: Factors, *, bins: int = 15) -> Scores:
    r"""Disentanglement where factors depend on each other: ``minimality`` and ``sufficiency``, each from 0 to 1.

    .. math:: \frac{1}{D} \sum_i \max_j \frac{I(z_i; v_j)}{H(z_i)}, \qquad
              \frac{1}{K} \sum_j \max_i \frac{I(z_i; v_j)}{H(v_j)}

    A minimal code says nothing but of its factor, a sufficient one all of it; neither asks that factors be independent,
    so a perfect code keeps both at 1 under any correlation. This is what the authors' code computes, with 15 bins of equal width
    (``min_suf.py`` at 6b2c025); that the text's definition is estimated so could not be checked against the paper. A constant
    code says nothing and counts 0, and noise has a minimality above 0 where rows are few.

    Arguments:
        codes: Features (N, D), each code cut into ``bins``.
        factors: Of the same rows.

    References:
        Rethinking Disentanglement under Dependent Factors of Variation (Almudévar, Ortega), https://arxiv.org/abs/2408.07016
    """
    sample = paired(codes, factors, bins=bins)
    cut = binned(sample.codes, bins)
    shared, own = shared_information(cut, sample.labels), entropy(cut)
    values = {"minimality": 0.0, "sufficiency": 0.0}
    if sample.names:
        values["minimality"] = float((shared.max(1) / np.where(own > 0, own, 1)).mean())
        values["sufficiency"] = float((shared.max(0) / entropy(sample.labels)).mean())
    return _scores(sample, values, f"{bins} bins of equal width, as the authors' code", shared, _few(sample, bins))


def _scores(sample: Paired, values: dict[str, float], how: str, matrix: np.ndarray, *said: str) -> Scores:
    return Scores(values, convention=how, matrix=sample.frame(matrix), **sample.facts(*said))


def _gap(matrix: np.ndarray) -> np.ndarray:
    """Returns, of each column, the largest less the second largest, which is 0 where there is none."""
    ordered = np.sort(np.vstack([matrix, np.zeros((1, matrix.shape[1]))]), axis=0)
    return ordered[-1] - ordered[-2]


def _alone(sample: Paired) -> str:
    return "with one code there is no second: its own value is the gap" if sample.codes.shape[1] == 1 else ""


def _few(sample: Paired, bins: int) -> str:
    """Returns what to say where the cells are so many that mutual information comes out too large."""
    cells = bins * int(sample.counts.max(initial=1))
    n = len(sample.codes)
    return f"{n} rows for up to {cells} cells of bin and value: mutual information comes out too large" if n < 2 * cells else ""


def _squared_correlation(codes: np.ndarray, quantities: np.ndarray) -> np.ndarray:
    x, y = (a - a.mean(0) for a in (codes, quantities))
    lengths = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0))
    return (x.T @ y / np.where(lengths > 0, lengths, 1)) ** 2


def _accuracy(sample: Paired, test: float, seed: int) -> np.ndarray:
    from sklearn.svm import LinearSVC

    train, held = sample.halves(test, seed)
    spread = sample.codes[train].std(0) if len(train) else np.zeros(sample.codes.shape[1])
    z = (sample.codes - sample.codes[train].mean(0)) / np.where(spread > 0, spread, 1) if len(train) else sample.codes
    found = np.zeros((z.shape[1], len(sample.names)))
    for j, label in enumerate(sample.labels.T):
        for i in np.flatnonzero(spread > 0) if len(np.unique(label[train])) > 1 else []:
            model = LinearSVC(C=0.01, class_weight="balanced", random_state=seed, dual=False)
            found[i, j] = (model.fit(z[train, i : i + 1], label[train]).predict(z[held, i : i + 1]) == label[held]).mean()
    return found
