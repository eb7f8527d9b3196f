r"""What codes do while one factor is held still: the scores of beta-VAE and FactorVAE, and the interventional robustness.

The papers draw images with one factor held from a generator. Here rows that have the same value of it are drawn, with
repeats, from those at hand.
"""

from collections.abc import Callable

import numpy as np

from workbench.measures.factor_tables import Factors, Paired, paired
from workbench.measures.measured import invariant_to
from workbench.measures.moments import Matrix
from workbench.measures.scores import Scores

__all__ = ["betavae_score", "factorvae_score", "irs"]


@invariant_to("scale", "signs", "shift", "relabelling", "order")
def irs(codes: Matrix, factors: Factors, *, quantile: float = 0.99) -> Scores:
    r"""IRS, the interventional robustness, from 0 to 1: how still a code is while all but its factor change.

    .. math:: \sum_i w_i \max_j \Big(1 - \frac{\operatorname{mean}_v Q\{|z_i - \bar z_i(v)| : v_j = v\}}{w_i}\Big)
              \Big/ \sum_i w_i, \quad w_i = \max |z_i - \bar z_i|

    with the 99th percentile Q of the distances from the mean of the rows of value v; the paper takes the maximum
    (``quantile=1``). Constant codes are left out.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        quantile: See above.

    References:
        | Robustly Disentangled Causal Mechanisms (Suter et al., 2019), https://arxiv.org/abs/1811.00007
        | Locatello et al., 2019, https://arxiv.org/abs/1811.12359: the percentile
    """
    sample = paired(codes, factors)
    z = sample.codes[:, np.ptp(sample.codes, 0) > 0]
    widest = np.abs(z - z.mean(0)).max(0, initial=0)
    within = np.zeros((z.shape[1], len(sample.names)))
    for j, label in enumerate(sample.labels.T):
        for value in range(label.max() + 1):
            rows = z[label == value]
            within[:, j] += np.quantile(np.abs(rows - rows.mean(0)), quantile, axis=0) / (label.max() + 1)
    still = 1 - within / widest[:, None]
    value = float(np.average(still.max(1), weights=widest)) if still.size else 0.0
    return Scores({"irs": value}, convention=f"quantile {quantile:g}", **sample.facts(_rare(sample)))


@invariant_to("scale", "signs", "shift", "relabelling")
def factorvae_score(
    codes: Matrix,
    factors: Factors,
    *,
    batch: int = 64,
    votes: int = 10_000,
    judged: int = 5_000,
    prune: float = 0.05,
    seed: int = 0,
) -> Scores:
    """The FactorVAE score: how often the code that moves least, while one factor is held, names that factor.

    Each vote draws ``batch`` rows that share a value of a factor drawn at random, and goes to the code whose variance is the
    smallest share of its variance over all rows. Each code stands for the factor it got most votes of; the score is the
    share of ``judged`` further votes that are right, from chance, 1 / K, to 1. A random rotation can score near 1.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        batch, votes, judged: The literature's numbers.
        prune: Codes whose standard deviation is below this share of the largest are left out. The literature's .05 is of
            the prior's standard deviation, which features in general do not have.
        seed: Of the draws.

    References:
        | Disentangling by Factorising (Kim, Mnih, 2018), https://arxiv.org/abs/1802.05983, section 4
        | Locatello et al., 2019, https://arxiv.org/abs/1811.12359: the numbers
    """
    sample = paired(codes, factors)
    spread = sample.codes.std(0)
    z = sample.codes[:, spread >= prune * spread.max()] if spread.max() > 0 else sample.codes[:, :0]
    how = f"batches of {batch}, {votes} votes, chance {_chance(sample)}"
    facts = sample.facts(_rare(sample))
    if not z.size or not sample.names:
        return Scores({"factorvae": 0.0}, convention=how, **facts)
    z, rng = (z - z.mean(0)) / z.std(0), np.random.default_rng(seed)
    same = _sharing(sample, rng)
    counted = np.zeros((2, z.shape[1], len(sample.names)))
    for part, size in enumerate((votes, judged)):
        for factor in np.array_split(rng.integers(len(sample.names), size=size), max(size // 500, 1)):
            row = rng.integers(len(z), size=len(factor))
            least = z[same(np.repeat(row[:, None], batch, 1), factor[:, None])].var(1).argmin(1)
            np.add.at(counted[part], (least, factor), 1)
    stands = counted[0].argmax(1)
    value = counted[1][np.arange(len(stands)), stands].sum() / judged
    return Scores({"factorvae": float(value)}, convention=how, **facts)


@invariant_to("scale", "columns", "signs", "shift", "relabelling")
def betavae_score(
    codes: Matrix, factors: Factors, *, batch: int = 64, points: int = 10_000, judged: int = 5_000, seed: int = 0
) -> Scores:
    r"""The beta-VAE score: how well a linear classifier tells which factor pairs of images share, from 1 / K to 1.

    A point is the mean of :math:`|z_1 - z_2|` over ``batch`` pairs of rows that share the value of one factor. Codes are
    divided by their standard deviations first. A random rotation can score near 1.

    Arguments:
        codes: Features (N, D).
        factors: Of the same rows.
        batch, points, judged: The literature's numbers.
        seed: Of the draws.

    References:
        | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl, section 3
        | Locatello et al., 2019, https://arxiv.org/abs/1811.12359: the numbers
    """
    sample = paired(codes, factors)
    how = f"{batch} pairs a point, {points} points, chance {_chance(sample)}"
    facts = sample.facts(_rare(sample))
    if not sample.names:
        return Scores({"betavae": 0.0}, convention=how, **facts)
    if len(sample.names) == 1:
        return Scores({"betavae": 1.0}, convention=how, **facts)
    from sklearn.linear_model import LogisticRegression

    spread, rng = sample.codes.std(0), np.random.default_rng(seed)
    z, same = sample.codes / np.where(spread > 0, spread, 1), _sharing(sample, rng)
    x, y = [], []
    for factor in np.array_split(rng.integers(len(sample.names), size=points + judged), max((points + judged) // 500, 1)):
        row = rng.integers(len(z), size=(len(factor), batch))
        x.append(np.abs(z[row] - z[same(row, factor[:, None])]).mean(1))
        y.append(factor)
    x, y = np.concatenate(x), np.concatenate(y)
    model = LogisticRegression(max_iter=300).fit(x[:points], y[:points])
    return Scores({"betavae": float(model.score(x[points:], y[points:]))}, convention=how, **facts)


def _sharing(sample: Paired, rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns a draw, for each of some rows, of a row that has the same value of the factor given."""
    order = np.argsort(sample.labels, axis=0, kind="stable")  # (N, K), the rows of a value side by side
    count = [np.bincount(label) for label in sample.labels.T]
    first = [np.cumsum(c) - c for c in count]
    start = np.stack([f[label] for f, label in zip(first, sample.labels.T, strict=True)], 1)
    size = np.stack([c[label] for c, label in zip(count, sample.labels.T, strict=True)], 1)

    def draw(row: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return order[start[row, factor] + rng.integers(size[row, factor]), factor]

    return draw


def _chance(sample: Paired) -> str:
    return f"{1 / len(sample.names):.3g}" if sample.names else "none"


def _rare(sample: Paired) -> str:
    """Returns what to say where a value has so few rows that holding it still holds everything."""
    least = min((int(np.bincount(label).min()) for label in sample.labels.T), default=10)
    return f"a value of a factor has {least} rows: nothing varies while it is held" if least < 5 else ""
