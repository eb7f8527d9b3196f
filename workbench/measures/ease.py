r"""DCI-ES: how little capacity it takes to read the factors from the codes, and how small the codes are."""

import numpy as np

from workbench.measures.factor_tables import Factors, Paired, paired
from workbench.measures.measured import invariant_to
from workbench.measures.moments import Matrix
from workbench.measures.scores import Scores

__all__ = ["dci_es", "ease_of_curve"]


@invariant_to("scale", "columns", "shift", "relabelling")
def dci_es(
    codes: Matrix,
    factors: Factors,
    *,
    features: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
    gain: float = 2.0,
    test: float = 1 / 3,
    seed: int = 0,
) -> Scores:
    r"""``ease`` (explicitness E of DCI-ES), at most 1, and ``size``, the factors there are for each code.

    Probes of growing capacity tell each factor, and the least loss up to each capacity is a curve: falling at once where the
    codes are easy to use. With the area A between the curve and its lowest point over the logarithm of capacity,

    .. math:: E = 1 - \frac{2 A}{\ell_0 (\log c_{\max} - \log c_{\min})}

    with the loss :math:`\ell_0` of telling nothing; 1 where the smallest probe does best already. So it is near 1 of pure
    noise too, of which no probe tells anything: give it beside informativeness.

    The curve and E are as in the authors' code (6026df5). The probes are one of its three kinds, a linear readout of random
    Fourier features, but fitted in closed form (ridge, penalty 1e-3 a row) and on a smaller grid, and the smallest probe is
    linear in the codes themselves: numbers are not those of the paper's table. That size is K / D was not checked against
    the paper.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows; told as classes, with the loss 1 - accuracy on rows held out.
        features: Random Fourier features of each probe.
        gain: Standard deviation of the frequencies, for standardised codes, times the root of D.
        test, seed: Of the split and of the frequencies.

    References:
        | DCI-ES: An Extended Disentanglement Framework (Eastwood et al., 2023), https://openreview.net/forum?id=462z-gLgSht
    """
    sample = paired(codes, factors)
    d, k = sample.codes.shape[1], len(sample.names)
    curves, baselines = _curves(sample, features, gain, test, seed)
    capacity = np.log([d + 1, *(m + 1 for m in features)])
    order = np.argsort(capacity, kind="stable")
    found = [ease_of_curve(capacity[order], c[order], b) for c, b in zip(curves, baselines, strict=True)]
    blind = sum(c.min() > 0.9 * b for c, b in zip(curves, baselines, strict=True))
    said = f"no probe tells {blind} of {k} factors from chance: their ease says nothing" if blind else ""
    values = {"ease": float(np.mean(found)) if found else 0.0, "size": k / d}
    how = f"ridge on the codes and on {', '.join(map(str, features))} random Fourier features, 1 - accuracy"
    return Scores(values, convention=how, **sample.facts(said))


def ease_of_curve(capacity: np.ndarray, loss: np.ndarray, baseline: float) -> float:
    """Returns E of a curve of losses over capacities, in rising order of capacity and as they shall be measured.

    Example:
        >>> ease_of_curve(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 1.0)
        0.0
        >>> ease_of_curve(np.array([0.0, 1.0]), np.array([0.0, 0.0]), 1.0)
        1.0
    """
    if len(capacity) < 2 or baseline <= 0 or capacity[-1] <= capacity[0]:
        return 0.0
    least = np.minimum.accumulate(loss)
    above = least - least[-1]
    area = ((above[1:] + above[:-1]) / 2 * np.diff(capacity)).sum()
    return float(1 - 2 * area / (baseline * (capacity[-1] - capacity[0])))


def _curves(
    sample: Paired, features: tuple[int, ...], gain: float, test: float, seed: int
) -> tuple[list[np.ndarray], list[float]]:
    """Returns the losses of each factor, first by the codes themselves, and those of telling the commonest value."""
    train, held = sample.halves(test, seed)
    if not len(train) or not sample.names:
        return [], []
    spread = sample.codes[train].std(0)
    z = (sample.codes - sample.codes[train].mean(0)) / np.where(spread > 0, spread, 1)
    rng, d = np.random.default_rng(seed), z.shape[1]
    inputs = [z]
    for m in features:
        way, phase = rng.standard_normal((d, m)) * gain / d**0.5, rng.uniform(0, 2 * np.pi, m)
        inputs.append(np.cos(z @ way + phase))
    targets = [np.eye(c)[label] for c, label in zip(sample.counts, sample.labels.T, strict=True)]
    every, losses = np.concatenate(targets, 1), []
    for x in inputs:
        x = np.column_stack([x, np.ones(len(x))])
        weight = np.linalg.solve(x[train].T @ x[train] + 1e-3 * len(train) * np.eye(x.shape[1]), x[train].T @ every[train])
        told = np.split(x[held] @ weight, np.cumsum(sample.counts)[:-1], axis=1)
        losses.append([(t.argmax(1) != label[held]).mean() for t, label in zip(told, sample.labels.T, strict=True)])
    common = [float((label[held] != np.bincount(label[train]).argmax()).mean()) for label in sample.labels.T]
    return list(np.array(losses).T), common
