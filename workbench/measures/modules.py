r"""Whether each code is of one factor, each factor in one code, and all of them linearly at hand: two families of numbers.

Both take the mutual information of codes and factors. Modularity compares squares of it, and is high even of noise; InfoM
and InfoC compare the largest with the sum, over the codes that move at all.
"""

import numpy as np

from workbench.measures.factor_tables import Factors, Paired, paired
from workbench.measures.information import binned, entropy, neighbour_information, shared_information
from workbench.measures.measured import invariant_to
from workbench.measures.moments import Matrix
from workbench.measures.scores import Scores

__all__ = ["infomec", "modularity_explicitness"]

FACTORLESS = "with one factor, every code is of it: modularity says nothing"


@invariant_to("scale", "columns", "shift", "relabelling")
def modularity_explicitness(codes: Matrix, factors: Factors, *, bins: int = 20, test: float = 1 / 3, seed: int = 0) -> Scores:
    r"""``modularity`` from 0 to 1, and ``explicitness``, the area under the ROC curve of linear classifiers, from .5 to 1.

    .. math:: \frac{1}{D} \sum_i \Big(1 - \frac{\sum_{j \ne j^*} I(z_i; v_j)^2}{(K - 1) I(z_i; v_{j^*})^2}\Big)

    with the factor :math:`j^*` that code i says most of. A code that says nothing counts 0. **Modularity is high of pure noise
    (.65) and of a random rotation (.92)**: never give it alone. Explicitness is the mean, over factors and their values, of one
    against the others, on rows held out.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        bins: That each code is cut into.
        test, seed: The split.

    References:
        Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway, Mozer, 2018), https://arxiv.org/abs/1802.05312
    """
    sample = paired(codes, factors, bins=bins)
    shared = shared_information(binned(sample.codes, bins), sample.labels)
    squares = shared**2
    most = squares.max(1, initial=0)
    others = (squares.sum(1) - most) / (np.where(most > 0, most, 1) * max(len(sample.names) - 1, 1))
    values = {"modularity": float(np.where(most > 0, 1 - others, 0).mean()), "explicitness": _explicitness(sample, test, seed)}
    how = f"{bins} bins of equal width; ROC area of logistic regression, {test:.2g} held out"
    facts = sample.facts(FACTORLESS if len(sample.names) == 1 else "")
    return Scores(values, convention=how, matrix=sample.frame(shared), **facts)


@invariant_to("scale", "shift", "relabelling")
def infomec(codes: Matrix, factors: Factors, *, neighbours: int = 10, active: float = 0.05, seed: int = 0) -> Scores:
    r"""InfoMEC: ``infom`` (modularity), ``infoe`` (explicitness) and ``infoc`` (compactness), each from 0 to 1.

    .. math:: \mathrm{InfoM} = \frac{\operatorname{mean}_i \frac{\max_j N_{ij}}{\sum_j N_{ij}} - \frac1K}{1 - \frac1K}, \quad
              N_{ij} = \frac{I(z_i; v_j)}{H(v_j)}

    over the D' active codes; InfoC the same of the transposed N, with D' for K; InfoE is
    :math:`1 - \mathrm{CE} / \mathrm{CE}_0`, the cross-entropy of a linear classifier without penalty against that of none, on
    the rows that it learned from, as published. Mutual information by nearest neighbours.

    A code counts as active when its range exceeds a share of the largest, so a narrow code of noise lowers InfoM: change
    ``active`` and look.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        neighbours: Of the estimate.
        active: Share of the largest range from which a code counts.
        seed: Of the noise, 1e-10 of a standard deviation, that tells equal values apart.

    References:
        | Disentanglement via Latent Quantization (Hsu et al., 2023), https://arxiv.org/abs/2305.18378; authors' code at 4ba4c9d
    """
    sample = paired(codes, factors)
    extent = np.ptp(sample.codes, 0)
    moves = extent > active * extent.max(initial=0)
    shared = neighbour_information(sample.codes, sample.labels, k=neighbours, seed=seed)
    normal = shared / entropy(sample.labels) if sample.names else shared
    kept, k, d = normal[moves], len(sample.names), int(moves.sum())
    mute = int((kept.sum(1) <= 0).sum()) if k else 0
    values = {"infom": _largest_share(kept, k), "infoe": _explained(sample), "infoc": _largest_share(kept.T, d)}
    facts = sample.facts(
        FACTORLESS if k == 1 else "",
        f"{mute} active codes say nothing of any factor, and count 0 in infom" if mute else "",
        "with one active code, every factor is in it: infoc says nothing" if d == 1 else "",
    )
    how = f"{neighbours} neighbours, {d} active codes (range above {active:g} of the largest)"
    return Scores(values, convention=how, matrix=sample.frame(normal), **facts)


def _largest_share(matrix: np.ndarray, base: int) -> float:
    """Returns the mean, over rows, of the largest entry's share in the row's sum, from 0 at an even share to 1."""
    if base < 2 or not len(matrix):
        return 0.0
    total = matrix.sum(1)
    share = np.where(total > 0, matrix.max(1) / np.where(total > 0, total, 1), 1 / base)
    return float((share.mean() - 1 / base) / (1 - 1 / base))


def _standard(z: np.ndarray, rows: np.ndarray) -> np.ndarray:
    spread = z[rows].std(0)
    return (z - z[rows].mean(0)) / np.where(spread > 0, spread, 1)


def _explicitness(sample: Paired, test: float, seed: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    if not sample.names:
        return 0.0
    train, held = sample.halves(test, seed)
    found = []
    for label in sample.labels.T:
        if len(np.unique(label[train])) < 2:
            found.append(0.5)
            continue
        z = _standard(sample.codes, train)
        with threadpool_limits(1):  # its products are so small that threads would wait for each other
            model = LogisticRegression(max_iter=300).fit(z[train], label[train])
        p = model.predict_proba(z[held])
        areas = [
            roc_auc_score(label[held] == value, p[:, i])
            for i, value in enumerate(model.classes_)
            if 0 < (label[held] == value).sum() < len(held)
        ]
        found.append(float(np.mean(areas)) if areas else 0.5)
    return float(np.mean(found))


def _explained(sample: Paired) -> float:
    """Returns the mean share of each factor's cross-entropy that a linear classifier explains, classes weighted alike."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if not sample.names:
        return 0.0
    z, found = _standard(sample.codes, np.arange(len(sample.codes))), []
    for label in sample.labels.T:
        loss = []
        for x in (z, np.zeros_like(z)):
            model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100)
            with threadpool_limits(1), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a perfect code is separable: it never converges
                p = model.fit(x, label).predict_proba(x)
            loss.append(-np.log(np.clip(p[np.arange(len(label)), label], 1e-15, 1)).mean())
        found.append(max(1 - loss[0] / loss[1], 0) if loss[1] > 0 else 0.0)
    return float(np.mean(found))
