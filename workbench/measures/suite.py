"""Every measure of how codes hold factors, of every layer, as one tidy table."""

import warnings
from collections.abc import Callable, Mapping

import pandas as pd

from workbench.measures.dependence import total_correlation
from workbench.measures.ease import dci_es
from workbench.measures.factor_tables import Factors, uniform_rows
from workbench.measures.gaps import mig, minimality_sufficiency, sap
from workbench.measures.importances import dci
from workbench.measures.interventions import betavae_score, factorvae_score, irs
from workbench.measures.measured import Measured
from workbench.measures.modules import infomec, modularity_explicitness
from workbench.measures.moments import Matrix
from workbench.measures.resampling import bootstrap, rows_of
from workbench.measures.scores import Scores
from workbench.measures.support import hausdorff_support

__all__ = ["disentanglement"]

SUITE = (
    dci,
    mig,
    sap,
    modularity_explicitness,
    infomec,
    irs,
    factorvae_score,
    betavae_score,
    dci_es,
    minimality_sufficiency,
    hausdorff_support,
    total_correlation,
)
OF_CODES_ALONE = (hausdorff_support, total_correlation)


def disentanglement(
    features: Mapping[str, Matrix] | Matrix,
    factors: Factors | None = None,
    *,
    measures: tuple[Callable, ...] = SUITE,
    uniform: bool = False,
    interval: float | None = None,
    resamples: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns every score of every layer: DCI, MIG, SAP, modularity, InfoMEC, IRS, the VAEs' scores, DCI-ES, factorised support.

    No score is to be trusted alone: modularity is high of noise, MIG and SAP are 0 of a code that says all twice, FactorVAE's
    and beta-VAE's are near 1 of some rotations, and factorised support is full of a collapsed code.

    Arguments:
        features: Layer names to codes (N, D), such as ``Features``, or one matrix.
        factors: Of the same rows; by default ``features.factors``. Those of one value are left out, and
            text that names the numbers of another (``shape`` beside ``label``); ``warnings`` says so.
        measures: Functions of codes and factors, or of codes alone; by default all twelve. With other settings by
            ``functools.partial``: of layers hundreds wide, boosted trees take minutes, and ``partial(wb.dci, trees=20)`` a fifth.
        uniform: Whether rows are drawn again so that factors are about independent; see ``uniform_rows``. Where factors are
            correlated, the scores of a perfect code are lower, and the column ``warnings`` says so.
        interval: Coverage of an interval for each number, from random halves of the rows; it takes ``resamples`` times as long.
        resamples, seed: Of the interval, and of the draw.

    Returns:
        Columns ``layer``, ``measure``, ``value``, ``n``, ``d``, ``convention``, ``warnings``, and ``low`` and ``high`` where an
        interval was asked for.

    Raises:
        ValueError: If there are no factors.

    Example:
        >>> factors = pd.DataFrame({"a": [0, 1] * 50, "b": [0, 0, 1, 1] * 25})
        >>> table = disentanglement(factors.to_numpy(float), factors, measures=(wb.mig, wb.irs))
        >>> table[["layer", "measure", "value"]]
           layer measure  value
        0  codes     mig    1.0
        1  codes     irs    1.0
    """
    factors = getattr(features, "factors", None) if factors is None else factors
    if factors is None:
        raise ValueError("there are no factors: give features that have them, or a table of a row an image as factors.")
    layers = features if isinstance(features, Mapping) else {"codes": features}
    rows = uniform_rows(factors, seed=seed) if uniform else None
    tables = []
    for layer, z in layers.items():
        codes, beside = (z, factors) if rows is None else (rows_of(z, rows), rows_of(factors, rows))
        for measure in measures:
            plain = getattr(measure, "func", measure)
            among = () if plain in OF_CODES_ALONE else (beside,)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                got = measure(codes, *among)
                if interval is not None:
                    got = bootstrap(measure, codes, *among, interval=interval, resamples=resamples, seed=seed)
            said = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)))
            tables.append(_table(plain.__name__, got, said).assign(layer=layer))
    table = pd.concat(tables, ignore_index=True)
    return table[["layer", *(c for c in table if c != "layer")]]


def _table(name: str, got: Scores | Measured, said: list[str]) -> pd.DataFrame:
    if isinstance(got, Scores):
        return got.table()
    ends = {} if got.low is None else {name: (got.low, got.high)}
    return Scores({name: float(got)}, n=got.n, d=got.d, convention=got.convention, warnings=tuple(said), ends=ends).table()
