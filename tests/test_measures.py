"""Measures against their equations in naive float64, closed forms, invariances and other implementations."""

import itertools
import json
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench.measures
from workbench.measures import decomposition, moments
from workbench.measures.geometry import Groups, alignment, lidar, normalised_std, uniformity, uniformity_of_sphere
from workbench.measures.measured import Measured
from workbench.measures.moments import Moments
from workbench.measures.resampling import bootstrap
from workbench.measures.spectral import (
    alpha_req,
    effective_rank,
    nesum,
    numerical_floor,
    numerical_rank,
    participation_ratio,
    rankme,
    selfcluster,
    singular_values,
    spectrum,
    stable_rank,
)
from workbench.measures.table import over_layers
from workbench.spec import available

MEASURES = {k: f for k, f in available(workbench.measures, Measured).items() if f is not bootstrap}
GROUPED = {"lidar", "alignment"}
EQUALLY_WIDE = {"frechet_distance", "kernel_distance", "invariance_ratio"}
PAIRED = {"cka", "mutual_knn", "procrustes", "svcca"} | EQUALLY_WIDE
STREAMING = {"rankme", "effective_rank", "participation_ratio", "stable_rank", "nesum", "numerical_rank", "alpha_req"}
STREAMING_NORMALISED = {"selfcluster", "normalised_std"}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(d, seed=1):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def decaying(n=600, d=120, power=0.5, seed=0, offset=0.3):
    """Rows with a power-law spectrum, correlated columns and a mean: nothing about them is special."""
    return (normal(n, d, seed=seed) * torch.arange(1.0, d + 1) ** -power) @ rotation(d) + offset * normal(d, seed=7)


def views(images=60, q=4, d=10, noise=0.3, seed=0):
    source = torch.arange(images).repeat_interleave(q)
    return normal(images, d, seed=seed)[source] + noise * normal(images * q, d, seed=seed + 1), source


def take(name, z, source=None):
    """Calls a measure as a user would, with groups, or with the features of another model, where it needs them."""
    return MEASURES[name](z, source) if name in GROUPED | PAIRED else MEASURES[name](z)


def sample(name):
    if name in EQUALLY_WIDE:
        return decaying(), decaying().sin() + 0.2 * normal(600, 120, seed=8)
    if name in PAIRED:
        return decaying(), decaying()[:, :40].sin() + 0.2 * normal(600, 40, seed=8)
    return views() if name in GROUPED else (decaying(), None)


# --- what every measure keeps -------------------------------------------------------------------------------------


def test_every_measure_is_found_and_declares_its_invariances():
    assert {"rankme", "lidar", "uniformity", "alpha_req", "nesum", "normalised_std"} <= set(MEASURES)
    assert all(isinstance(f.invariances, frozenset) for f in MEASURES.values())


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_measures_are_invariant_to_what_they_declare_and_to_nothing_else(name):
    """S2, S5, L3: an undeclared invariance would mean silent preprocessing, so its absence is tested too."""
    z, source = sample(name)
    n, d = z.shape
    turn, order = rotation(d, seed=3), torch.randperm(n, generator=torch.Generator().manual_seed(4))
    twice = None if source is None else torch.cat([source, source])
    changed = {
        "scale": (173.0 * z, source),
        "rotation": (z @ turn, source),
        "order": (z[order], None if source is None else source[order]),
        "shift": (z + 0.2 * normal(d, seed=5), source),
        "duplication": (torch.cat([z, z]), twice),
        "lengths": (z * (0.5 + torch.rand(n, 1, generator=torch.Generator().manual_seed(6))), source),
        "columns": (z * torch.linspace(0.5, 2, d), source),  # that nothing declares
    }
    want = float(take(name, z, source))
    for change, (other, groups) in changed.items():
        off = abs(float(take(name, other, groups)) / want - 1)
        if change in MEASURES[name].invariances:
            assert off < 1e-9, f"{name} moved by {off:.1e} under {change}"
        elif (name, change) not in {
            ("numerical_rank", c) for c in ("shift", "duplication", "lengths", "columns")
        }:  # an integer may stay
            assert off > 1e-9, f"{name} does not declare {change}, but did not change under it"


@pytest.mark.parametrize("name", sorted(MEASURES))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_measures_refuse_what_is_not_finite(name, bad):
    z, source = sample(name)
    z[17, 3] = bad
    with pytest.raises(ValueError, match=r"1 of rows 0 to \d+ hold NaN or infinity, first row 17"):
        take(name, z, source)


@pytest.mark.parametrize("curve", [spectrum, singular_values, numerical_floor, Moments.of], ids=lambda f: f.__name__)
def test_curves_refuse_what_is_not_finite(curve):
    z = decaying()
    z[17, 3] = math.nan
    with pytest.raises(ValueError, match="first row 17"):
        curve(z)


@pytest.mark.parametrize("name", sorted(MEASURES))
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 4), (4, 0)])
def test_measures_refuse_what_is_no_matrix(name, shape):
    with pytest.raises(ValueError, match=r"takes a matrix \(samples, dimensions\), but got shape"):
        take(name, torch.zeros(*shape), torch.zeros(shape[0], dtype=torch.long))
    with pytest.raises(TypeError, match="but got list"):
        take(name, [[1.0, 2.0]], [0])
    with pytest.raises(TypeError, match="real numbers"):
        take(name, torch.zeros(4, 4, dtype=torch.complex64), torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_measures_say_how_they_were_taken(name):
    z, source = sample(name)
    got = take(name, z, source)
    assert (got.n, got.d) == tuple(z.shape)
    assert got.convention and got.name
    assert f"N={got.n}, D={got.d}, {got.convention}" in repr(got)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_arrays_and_other_precisions_give_the_same_number(name):
    """S12."""
    z, source = sample(name)
    z = z.float()
    want = float(take(name, z, source))
    assert float(take(name, z.numpy(), None if source is None else source.numpy())) == pytest.approx(want, rel=1e-12)
    assert float(take(name, z.clone().requires_grad_(), source)) == want
    if name != "numerical_rank":  # its threshold is the precision
        assert float(take(name, z.double(), source)) == pytest.approx(want, rel=1e-9)
        assert float(take(name, z.bfloat16(), source)) == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("name", sorted(MEASURES))
@pytest.mark.parametrize("z", [torch.full((8, 5), 0.1), torch.zeros(8, 5), torch.full((8, 1), 2.0), normal(8, 1)], ids=str)
def test_degenerate_features_give_a_number_or_a_warning(name, z):
    """S10."""
    z, source = (z.repeat(2, 1), normal(16, z.shape[1])) if name in PAIRED else (z, torch.arange(4).repeat_interleave(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = float(take(name, z, source))
    assert math.isfinite(got) or caught


@pytest.mark.parametrize("name", sorted(set(MEASURES) - GROUPED - PAIRED))
def test_a_single_row_gives_a_number_or_a_warning(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = float(take(name, normal(1, 6)))
    assert math.isfinite(got) or caught


# --- spectra --------------------------------------------------------------------------------------------------------


def naive_spectrum(z):
    """The covariance of the L2-normalised rows, written out: DirectCLR's definition."""
    rows = [[x / math.sqrt(sum(v * v for v in r)) for x in r] for r in z.tolist()]
    n, d = len(rows), len(rows[0])
    mean = [sum(r[j] for r in rows) / n for j in range(d)]
    c = [[sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in rows) / (n - 1) for j in range(d)] for i in range(d)]
    return np.linalg.eigvalsh(np.array(c))[::-1]


def test_spectrum_is_the_equation_written_out():
    z = decaying(40, 6)
    table = spectrum(z)
    assert list(table) == ["rank", "value", "floor", "n", "d", "convention"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(table["value"], naive_spectrum(z), rtol=1e-10)
    assert set(table["n"]) == {40}
    assert set(table["d"]) == {6}
    assert set(table["convention"]) == {"eigenvalues of the covariance, L2-normalised rows"}
    plain = spectrum(z, normalise=False, centre=False)
    assert set(plain["convention"]) == {"eigenvalues of the second moment, rows as they are"}


@pytest.mark.parametrize("normalise", [True, False])
def test_a_spectrum_carries_its_own_floor(normalise):
    z = 1e4 * decaying(400, 6)
    for seen in (z, z.float(), z.half(), Moments.of(z, normalise=normalise), Moments.of(z.float(), normalise=normalise)):
        floor = spectrum(seen, normalise=normalise)["floor"]
        assert floor.nunique() == 1
        assert floor[0] == pytest.approx(numerical_floor(seen, normalise=normalise), rel=1e-6)


def test_plain_spectrum_is_numpys_covariance():
    z = decaying(50, 8)
    np.testing.assert_allclose(spectrum(z, normalise=False)["value"], np.linalg.eigvalsh(np.cov(z.numpy().T))[::-1], rtol=1e-10)
    np.testing.assert_allclose(
        spectrum(z, normalise=False, centre=False)["value"], np.linalg.svd(z.numpy())[1] ** 2 / 49, rtol=1e-10
    )


@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (64, 64)])
def test_singular_values_reach_far_below_the_top(shape):
    """S11: twelve decades, tall and wide, against LAPACK's."""
    n, d = shape
    k = min(n, d)
    want = torch.logspace(0, -12, k, dtype=torch.float64)
    z = torch.linalg.qr(normal(n, k)).Q * want @ torch.linalg.qr(normal(d, k, seed=2)).Q.T
    got = singular_values(z)
    assert got.shape == (k,)
    assert float(((got - want).abs() / want)[want > 1e-10].max()) < 1e-5
    assert torch.allclose(got, torch.linalg.svdvals(z), rtol=0, atol=1e-14)


def test_gram_and_triangle_agree():
    """S11: above 1e-5 of the top the Gram matrix is as good as the decomposition."""
    z = decaying(500, 60, power=2)
    centred = z - z.mean(0)
    np.testing.assert_allclose(singular_values(z, centre=True), torch.linalg.svdvals(centred), rtol=1e-8)


def test_a_cliff_ends_at_the_floor_of_the_precision():
    """A rank-8 matrix stored in float32: below the cliff the spectrum is rounding, and the floor says where."""
    z = (normal(4000, 8) @ normal(8, 64, seed=2)).float()
    table = spectrum(z, normalise=False)
    floor = numerical_floor(z, normalise=False)
    tail = table["value"][8:]
    assert 0.7 * floor < tail.median() < 1.2 * floor
    assert tail.max() < 4 * floor
    assert table["value"][7] > 1e10 * floor
    assert numerical_floor(normal(1000, 64, dtype=torch.float32), normalise=False) == pytest.approx(math.exp(-35), rel=0.6)
    assert numerical_floor(z.double(), normalise=False) < 1e-10 * floor
    assert numerical_floor(Moments.of(z), normalise=False) > 10 * floor  # sums of squares see less far


# --- ranks ----------------------------------------------------------------------------------------------------------


def naive_rankme(z, eps):
    s = np.linalg.svd(z.numpy())[1]
    p = [v / sum(s) + eps for v in s]
    return math.exp(-sum(v * math.log(v) for v in p))


@pytest.mark.parametrize("eps", [0.0, 1e-7, 1e-5])
@pytest.mark.parametrize("shape", [(50, 12), (12, 50)])
def test_rankme_is_the_equation_written_out(eps, shape):
    z = decaying(*shape)
    want = naive_rankme(z, eps) if eps else naive_rankme(z, 1e-300)
    assert rankme(z, eps=eps) == pytest.approx(want, rel=1e-9)
    assert rankme(z, eps=eps, centre=True) == pytest.approx(naive_rankme(z - z.mean(0), eps or 1e-300), rel=1e-6)


def test_effective_rank_is_of_what_it_says():
    z = decaying(60, 9)
    s = np.linalg.svd(z.numpy())[1]
    assert effective_rank(z) == pytest.approx(math.exp(-sum(v * math.log(v) for v in s / s.sum())), rel=1e-10)
    lam = np.linalg.eigvalsh(np.cov(z.numpy().T))
    want = math.exp(-sum(v * math.log(v) for v in lam / lam.sum()))
    assert effective_rank(z, of="eigenvalues") == pytest.approx(want, rel=1e-10)
    with pytest.raises(ValueError, match="'squares'"):
        effective_rank(z, of="squares")


def test_ratios_are_the_equations_written_out():
    z = decaying(60, 9)
    lam, s = np.linalg.eigvalsh(np.cov(z.numpy().T)), np.linalg.svd(z.numpy())[1]
    assert participation_ratio(z) == pytest.approx(lam.sum() ** 2 / (lam**2).sum(), rel=1e-10)
    assert nesum(z) == pytest.approx(lam.sum() / lam.max(), rel=1e-10)
    assert stable_rank(z) == pytest.approx(float((z**2).sum()) / s[0] ** 2, rel=1e-10)


def test_one_spectrum_gives_the_numbers_of_the_reference_sheet():
    """Eigenvalues 1/j in 256 dimensions: 256, 208.7 to 209.03 (noise-free), 74.2, 22.7, 6.1, from the analytic sums."""
    d = 256
    z = torch.linalg.qr(normal(2000, d) - normal(2000, d).mean(0)).Q * torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    lam = 1 / np.arange(1, d + 1)
    got = {
        "numerical rank": numerical_rank(z),
        "RankMe": rankme(z, eps=0, centre=True),
        "variance": effective_rank(z, of="eigenvalues"),
        "participation": participation_ratio(z),
        "NESum": nesum(z),
    }
    p, q = lam**0.5 / (lam**0.5).sum(), lam / lam.sum()
    want = [256, np.exp(-(p * np.log(p)).sum()), np.exp(-(q * np.log(q)).sum()), lam.sum() ** 2 / (lam**2).sum(), lam.sum()]
    np.testing.assert_allclose(list(got.values()), want, rtol=2e-2)
    assert want[1] == pytest.approx(209.03, abs=0.01)  # S9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 60), d=st.integers(2, 40), power=st.floats(0, 3))
def test_the_chain_of_ranks_holds(seed, n, d, power):
    """S4, S6."""
    z = (normal(n, d, seed=seed) * torch.arange(1.0, d + 1) ** -power) @ rotation(d, seed=seed)
    chain = [
        numerical_rank(z, centre=True),
        rankme(z, eps=0, centre=True),
        effective_rank(z, of="eigenvalues"),
        participation_ratio(z),
        nesum(z),
        1.0,
    ]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(chain)), chain
    assert chain[0] <= min(n - 1, d)
    assert rankme(z, eps=0) <= min(n, d) + 1e-9


def test_equal_singular_values_give_exactly_their_number():
    """S4."""
    for r in (1, 3, 16):
        z = torch.linalg.qr(normal(100, r)).Q @ torch.linalg.qr(normal(32, r, seed=2)).Q.T
        assert rankme(z, eps=0) == pytest.approx(r, abs=1e-6)
        assert stable_rank(z) == pytest.approx(r, abs=1e-9)
        assert numerical_rank(z) == r


def test_zero_columns_add_nothing_but_epsilon():
    """S3: m more singular values of zero multiply RankMe by exp(m eps ln(1/eps))."""
    z = normal(500, 32)
    wide = torch.cat([z, torch.zeros(500, 32)], 1)
    assert rankme(wide, eps=0) == pytest.approx(rankme(z, eps=0), rel=1e-9)
    assert rankme(wide) / rankme(z) == pytest.approx(math.exp(32 * 1e-7 * math.log(1e7)), rel=1e-8)


def test_epsilon_stands_outside_the_fraction():
    """A flat spectrum with eps=1e-5 reads more than the dimension: p sums to 1 + K eps, as in the paper."""
    d = 2048
    p = 1 / d + 1e-5
    want = math.exp(-d * p * math.log(p))
    assert want > 2340
    assert rankme(torch.eye(d), eps=1e-5) == pytest.approx(want, rel=1e-9)


def test_rankme_of_isotropic_features_follows_the_ratio_of_samples_to_dimensions():
    """S1."""
    assert 0.98 <= rankme(normal(640, 64)) / 64 < 1
    assert rankme(normal(3200, 64)) / 64 >= 0.996


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_participation_ratio_of_isotropic_features(ratio):
    """S7: N D / (N + D)."""
    d = 200
    n = ratio * d
    assert participation_ratio(normal(n, d)) == pytest.approx(n * d / (n + d), rel=0.02)


def test_a_mean_offset_dominates_rankme_unless_centred():
    z = decaying(2000, 64, power=0.2, offset=0)
    assert rankme(z + 10) < 0.2 * rankme(z)
    assert rankme(z + 10, centre=True) == pytest.approx(rankme(z, centre=True), rel=1e-9)


def test_numerical_rank_depends_on_the_precision_it_is_told():
    exact = normal(300, 5) @ normal(5, 40, seed=2)
    assert numerical_rank(exact) == 5
    assert numerical_rank(exact.float()) == 5
    assert numerical_rank(exact.float().double()) == 40  # rounding counts as rank when float64 is believed
    assert numerical_rank(exact.float().double(), eps=torch.finfo(torch.float32).eps) == 5
    assert numerical_rank(exact) == np.linalg.matrix_rank(exact.numpy())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_recovers_the_planted_exponent(alpha):
    """S8."""
    z = normal(20000, 256) * torch.arange(1, 257) ** (-alpha / 2)
    assert alpha_req(z) == pytest.approx(alpha, abs=0.02)


def test_alpha_is_the_weighted_fit_written_out():
    z = decaying(900, 120, power=0.7)
    lam = np.linalg.eigvalsh(np.cov(z.numpy().T))[::-1]
    j = np.arange(11, 101)
    slope = np.polyfit(np.log(j), np.log(lam[10:100]), 1, w=j**-0.5)[0]  # numpy squares its weights
    assert alpha_req(z) == pytest.approx(-slope, rel=1e-9)
    assert "eigenvalues 11 to 100" in alpha_req(z).convention
    assert "eigenvalues 11 to 60" in alpha_req(z[:, :60]).convention
    with pytest.warns(RuntimeWarning, match="Choose the range"):
        assert math.isnan(alpha_req(z[:, :12]))
    for first, last in ((-3, 100), (20, 10), (10, 12)):
        with pytest.raises(ValueError, match=f"three eigenvalues or more, .* first={first}, last={last}"):
            alpha_req(z, first=first, last=last)


def test_features_in_which_nothing_varies_have_rank_zero_and_a_warning():
    with pytest.warns(RuntimeWarning, match="every eigenvalue is zero"):
        assert participation_ratio(torch.full((10, 4), 0.1)) == 0
    with pytest.warns(RuntimeWarning, match="every eigenvalue is zero"):
        assert rankme(torch.zeros(10, 4)) == 0
    assert rankme(torch.full((10, 4), 0.1)) == pytest.approx(1, abs=1e-5)  # uncentred, one direction


def test_squares_that_overflow_are_an_error():
    with pytest.raises(ValueError, match="their squares are not"):
        rankme(normal(10, 4) * 1e200)


SCALARS = [rankme, effective_rank, participation_ratio, stable_rank, nesum, alpha_req, selfcluster]


@pytest.mark.parametrize("measure", SCALARS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["even", "decaying", "rectified", "collapsed", "offset"])
def test_products_in_single_precision_are_taken_only_where_they_do(measure, kind, monkeypatch):
    """Large float32 features go through float32 products: to 1e-6, or, where the spectrum falls too far, not at all."""
    z = {
        "even": normal(2000, 100),
        "decaying": decaying(2000, 100, power=0.5),
        "rectified": (normal(2000, 30) @ normal(30, 100, seed=2) + 2 * normal(100, seed=3)).relu(),
        "collapsed": normal(2000, 30) @ normal(30, 100, seed=2),
        "offset": normal(2000, 100) + 1000,
    }[kind].float()
    want = measure(z)
    monkeypatch.setattr(moments, "LARGE", 0)
    got = measure(z)
    if measure is selfcluster:
        assert float(got) == pytest.approx(float(want), rel=1e-6, abs=1e-9)
    else:
        assert float(got) == pytest.approx(float(want), rel=1e-6)
    assert kind != "collapsed" or got == want


@pytest.mark.parametrize("offset", [0.0, 1e-6, 1.0, -1e4])
@pytest.mark.parametrize("d", [1, 2, 3, 40])
def test_one_reduction_gives_the_spectra_with_the_mean_and_without(offset, d):
    z = decaying(300, d, offset=offset)
    seen = Moments.of(z)
    for centre, x in ((True, z - z.mean(0)), (False, z)):
        want = torch.linalg.svdvals(x).square()
        got = decomposition.eigenvalues(seen, centre=centre)
        assert got.shape == (d,)
        assert torch.allclose(got, want, rtol=1e-11, atol=1e-13 * float(want[0]))
    diagonal, beside = decomposition._tridiagonal(seen.scatter, seen.mean)
    assert np.square(diagonal).sum() + 2 * np.square(beside).sum() == pytest.approx(float(seen.scatter.square().sum()))
    first = float(seen.mean @ seen.scatter @ seen.mean / (seen.mean @ seen.mean))
    assert diagonal[0] == pytest.approx(first, rel=1e-9)  # the mean's direction comes first


@pytest.mark.parametrize(("kind", "wanted"), [("even", True), ("slow", True), ("fast", False), ("collapsed", False)])
def test_a_few_rows_tell_whether_products_in_single_precision_would_do(kind, wanted, monkeypatch):
    """Only the time depends on it: what was tried in vain would be taken again in double precision."""
    seen = []
    real = decomposition.chunks
    monkeypatch.setattr(decomposition, "chunks", lambda z, **k: seen.append(k.get("kind")) or real(z, **k))
    monkeypatch.setattr(moments, "LARGE", 0)
    z = {
        "even": normal(2000, 256),
        "slow": decaying(2000, 256, power=0.4),
        "fast": decaying(2000, 256, power=1.2),
        "collapsed": normal(2000, 20) @ normal(20, 256, seed=2),
    }[kind].float()
    rankme(z)
    assert (torch.float32 in seen) == wanted
    assert (torch.float64 in seen) != wanted


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_products_in_single_precision_keep_to_its_range(scale, monkeypatch):
    monkeypatch.setattr(moments, "LARGE", 0)
    z = decaying(2000, 50).float()
    assert rankme(scale * z) == pytest.approx(rankme(z), rel=1e-6)


def test_products_in_single_precision_are_of_many_numbers_alone(monkeypatch):
    seen = []
    real = decomposition.chunks
    monkeypatch.setattr(decomposition, "chunks", lambda z, **k: seen.append(k.get("kind")) or real(z, **k))
    rankme(normal(2048, 512).float())
    assert torch.float32 not in seen
    monkeypatch.setattr(moments, "LARGE", 0)
    rankme(normal(500, 40))  # float64 stays float64
    assert torch.float32 not in seen
    rankme(normal(500, 40).float())
    assert torch.float32 in seen


# --- the sphere -----------------------------------------------------------------------------------------------------


def test_selfcluster_is_the_equation_written_out():
    z = decaying(30, 7)
    w = z / z.norm(dim=1, keepdim=True)
    q = sum(float(a @ b) ** 2 for a in w for b in w)
    n, d = z.shape
    even = n + n * (n - 1) / d
    assert selfcluster(z) == pytest.approx((q - even) / (n * n - even), rel=1e-9)


def test_selfcluster_of_known_arrangements():
    assert abs(selfcluster(normal(5000, 64))) < 1e-4
    assert selfcluster(torch.ones(50, 8)) == pytest.approx(1)
    assert selfcluster(torch.zeros(50, 8)) == pytest.approx(1)
    k, d, n = 4, 16, 400
    z = torch.eye(d)[torch.arange(n) % k]
    even = n + n * (n - 1) / d
    assert selfcluster(z) == pytest.approx((n * n / k - even) / (n * n - even), rel=1e-9)
    assert selfcluster(z) == pytest.approx((1 / k - 1 / d) / (1 - 1 / d), abs=0.01)


def test_selfcluster_is_a_participation_ratio_in_disguise():
    z = decaying(400, 20)
    n, d = z.shape
    q = n**2 / participation_ratio(torch.nn.functional.normalize(z), centre=False)
    even = n + n * (n - 1) / d
    assert selfcluster(z) == pytest.approx((q - even) / (n * n - even), rel=1e-9)


def test_uniformity_is_the_equation_written_out():
    z = decaying(25, 5)
    u = z / z.norm(dim=1, keepdim=True)
    terms = [math.exp(-2 * float((u[i] - u[j]).square().sum())) for i in range(25) for j in range(i)]
    assert uniformity(z) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-10)
    assert uniformity(z, t=5) < uniformity(z)
    assert uniformity(torch.ones(9, 4)) == 0


def test_uniformity_is_exact_over_many_blocks():
    z = normal(3000, 3)
    u = z / z.norm(dim=1, keepdim=True)
    want = torch.pdist(u).square().mul(-2).exp().mean().log()
    assert uniformity(z) == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("d", [2, 3, 16])
def test_uniformity_of_the_sphere_is_what_many_points_on_it_have(d):
    assert uniformity(normal(6000, d)) == pytest.approx(uniformity_of_sphere(d), abs=0.01)


def test_uniformity_of_the_sphere_in_three_dimensions_in_closed_form():
    """On S² the squared distance is even on [0, 4]: the mean of exp(-t s) is (1 - exp(-4t)) / 4t."""
    assert uniformity_of_sphere(3) == pytest.approx(math.log((1 - math.exp(-8)) / 8), rel=1e-12)
    assert uniformity_of_sphere(10**6) == pytest.approx(-4, abs=1e-5)


def test_alignment_is_the_equation_written_out():
    a, b = decaying(30, 6, seed=1), decaying(30, 6, seed=2)
    u, v = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    want = sum(float((p - q).square().sum()) for p, q in zip(u, v, strict=True)) / 30
    assert alignment(torch.cat([a, b]), [*range(30)] * 2) == pytest.approx(want, rel=1e-10)


def test_alignment_of_more_views_is_the_mean_over_pairs():
    z, source = views(20, 3)
    u = z / z.norm(dim=1, keepdim=True)
    pairs = [(i, j) for i in range(60) for j in range(i) if source[i] == source[j]]
    want = sum(float((u[i] - u[j]).square().sum()) for i, j in pairs) / len(pairs)
    assert alignment(z, source) == pytest.approx(want, rel=1e-10)
    same = normal(5, 4).repeat_interleave(2, 0)
    assert alignment(same, torch.arange(5).repeat_interleave(2)) == pytest.approx(0, abs=1e-12)


def test_normalised_std_agrees_with_lightly():
    from lightly.utils.debug import std_of_l2_normalized

    z = decaying(300, 24)
    assert normalised_std(z) == pytest.approx(float(std_of_l2_normalized(z)), rel=1e-10)
    assert normalised_std(normal(5000, 64)) == pytest.approx(1 / 8, rel=0.01)
    assert normalised_std(torch.ones(10, 4)) == pytest.approx(0, abs=1e-12)


# --- LiDAR ----------------------------------------------------------------------------------------------------------


def naive_lidar(z, source, delta):
    """The equations in float64, a matrix square root and all."""
    z, groups = z.numpy(), [np.flatnonzero(source.numpy() == s) for s in np.unique(source.numpy())]
    n, d, q = len(groups), z.shape[1], len(groups[0])
    means = np.stack([z[g].mean(0) for g in groups])
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / (n - 1)
    within = sum(np.outer(z[i] - m, z[i] - m) for g, m in zip(groups, means, strict=True) for i in g) / (n * (q - 1))
    value, vector = np.linalg.eigh(within + delta * np.eye(d))
    root = vector @ np.diag(value**-0.5) @ vector.T
    lam = np.clip(np.linalg.eigvalsh(root @ between @ root), 1e-300, None)
    p = lam / lam.sum()
    return math.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize(("images", "d"), [(60, 10), (8, 20)])
def test_lidar_is_the_equation_written_out(images, d):
    z, source = views(images, 4, d)
    assert lidar(z, source) == pytest.approx(naive_lidar(z, source, 1e-4), rel=1e-6)
    assert lidar(z, source, delta=1e-2) == pytest.approx(naive_lidar(z, source, 1e-2), rel=1e-6)


def test_lidar_keeps_its_bounds_and_invariances():
    """L1, L2, L3, L5."""
    z, source = views(200, 5, 12)
    linear = normal(12, 12, seed=9) + 3 * torch.eye(12)
    assert lidar(z @ linear, source, delta=0) == pytest.approx(lidar(z, source, delta=0), rel=1e-6)
    assert 1 <= lidar(z, source) <= 12
    few, which = views(5, 4, 12)
    assert lidar(few, which) <= 4 + 1e-9
    planted = z * torch.tensor([1.0] * 3 + [0.0] * 9) + 0.3 * normal(1000, 12, seed=8)
    shuffled = source[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert lidar(planted, source) < 5 < 11 < lidar(planted, shuffled)  # a shuffled queue silently computes something else
    same = normal(20, 6).repeat_interleave(3, 0)
    assert math.isfinite(lidar(same, torch.arange(20).repeat_interleave(3)))


def test_lidar_says_what_it_needs():
    """L4."""
    z, source = views(10, 2, 4)
    with pytest.raises(ValueError, match="say which image each row shows with source="):
        lidar(z)
    with pytest.raises(ValueError, match="20 of 20 images have a single row, such as image 0"):
        lidar(z, torch.arange(20))
    with pytest.raises(ValueError, match="each of the 20 rows, but has shape"):
        lidar(z, source[:5])
    with pytest.raises(ValueError, match="every row shows the same one"):
        lidar(z, torch.zeros(20))
    with pytest.raises(ValueError, match="give a positive delta"):
        lidar(normal(4, 9).repeat_interleave(2, 0), torch.arange(4).repeat_interleave(2), delta=0)
    with pytest.warns(RuntimeWarning, match="features are all the same"):
        assert lidar(torch.full((20, 4), 0.1), source) == 0
    assert lidar(z, [f"image {i // 2}" for i in range(20)]) == pytest.approx(lidar(z, source))


def test_noise_raises_rankme_and_barely_lidar():
    """N1, N2, from the reference sheet: 16 signal dimensions of 64, 1000 images of 10 views, noise 0.3."""
    source = torch.arange(1000).repeat_interleave(10)
    signal = torch.cat([normal(1000, 16), torch.zeros(1000, 48)], 1)[source] + 0.3 * normal(10000, 64, seed=1)
    per_view = torch.cat([signal, 0.3 * normal(10000, 64, seed=2)], 1)
    per_image = torch.cat([signal, normal(1000, 64, seed=3)[source]], 1)
    assert rankme(per_view) > 1.7 * rankme(signal)
    assert lidar(per_view, source) < 1.25 * lidar(signal, source)
    assert lidar(per_image, source) > 3 * lidar(signal, source)


def test_few_views_bias_lidar_upwards():
    def planted(q):
        source = torch.arange(1000).repeat_interleave(q)
        signal = torch.cat([normal(1000, 16), torch.zeros(1000, 48)], 1)[source]
        return lidar(signal + 0.3 * normal(1000 * q, 64, seed=1), source)

    assert planted(2) > planted(5) > planted(10) > 16


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STREAMING | STREAMING_NORMALISED))
@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["centred", "offset"])
def test_moments_give_the_number_of_the_whole(name, offset):
    z = decaying(700, 120, power=0.4).float() + offset
    seen = [Moments(120, normalise=name in STREAMING_NORMALISED) for _ in range(2)]
    for part in z[:300].split(77):
        seen[0].update(part)
    for part in z[300:].split(90):
        seen[1].update(part.numpy())
    whole = MEASURES[name](z)
    streamed = MEASURES[name](seen[0].merge(seen[1]))
    assert streamed == pytest.approx(whole, rel=1e-6)
    assert (streamed.n, streamed.d) == (700, 120)


def test_moments_are_the_sums_written_out():
    z = decaying(200, 7) + 1e3
    seen = Moments(7)
    for part in z.split(23):
        seen.update(part)
    np.testing.assert_allclose(seen.mean, z.mean(0), rtol=1e-13)
    np.testing.assert_allclose(seen.scatter / 199, np.cov(z.numpy().T), rtol=1e-9)
    np.testing.assert_allclose(seen.second(centre=False), z.T @ z, rtol=1e-12)


def test_moments_remember_the_coarsest_type():
    """What came in half precision stays rounded, whatever comes after; the floor and the numerical rank follow it."""
    z = normal(40, 6)
    half = Moments(6).update(z.half()).update(z)
    assert half.dtype == torch.float16
    assert half.update(z.bfloat16()).update(z.numpy()).dtype == torch.bfloat16
    assert Moments.of(z).dtype == Moments.of(z.int()).dtype == torch.float64
    assert Moments.of(z).merge(Moments.of(z.float())).dtype == torch.float32
    assert Moments.of(z.float()).merge(Moments.of(z)).dtype == torch.float32


def test_spectrum_streams():
    z = decaying(500, 30)
    np.testing.assert_allclose(spectrum(Moments.of(z, normalise=True))["value"], spectrum(z)["value"], rtol=1e-8)
    with pytest.raises(ValueError, match="the two must agree"):
        spectrum(Moments.of(z))


@pytest.mark.parametrize("name", sorted(GROUPED))
def test_groups_give_the_number_of_the_whole_in_any_order(name):
    z, source = views(50, 4, 8)
    z = z + 100 * (name == "lidar")
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    normalise = name == "alignment"
    first, second = Groups(8, normalise=normalise), Groups(8, normalise=normalise)
    for rows in order[:120].split(37):
        first.update(z[rows], source[rows])
    second.update(z[order[120:]], source[order[120:]])
    assert MEASURES[name](first.merge(second)) == pytest.approx(MEASURES[name](z, source), rel=1e-6)


def test_streams_say_what_does_not_fit():
    z = normal(10, 4)
    with pytest.raises(ValueError, match="rows 4 wide, but got rows of 3"):
        Moments(4).update(z[:, :3])
    with pytest.raises(ValueError, match="seen no rows"):
        rankme(Moments(4))
    with pytest.raises(ValueError, match=r"Moments\(4, normalise=True\)"):
        selfcluster(Moments.of(z))
    with pytest.raises(ValueError, match=r"Moments\(4, normalise=True\)"):
        normalised_std(Moments.of(z))
    with pytest.raises(ValueError, match="do not add to moments of 5"):
        Moments.of(z).merge(Moments(5))
    with pytest.raises(ValueError, match=r"Groups\(4, normalise=True\)"):
        alignment(Groups(4).update(z, [*range(5)] * 2))
    with pytest.raises(ValueError, match=r"Groups\(4\)"):
        lidar(Groups(4, normalise=True).update(z, [*range(5)] * 2))
    with pytest.raises(TypeError, match="moments have forgotten them"):
        bootstrap(rankme, Moments.of(z))


def test_memory_maps_are_read_in_place(tmp_path):
    z = decaying(300, 20).float().numpy()
    np.save(tmp_path / "z.npy", z)
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    assert rankme(mapped) == rankme(z)
    assert uniformity(mapped) == uniformity(z)


# --- numbers that carry their facts, intervals, tables --------------------------------------------------------------


def test_measured_is_a_float():
    got = Measured(2.5, name="RankMe", n=10, d=4, convention="uncentred")
    assert repr(got) == "RankMe 2.5 (N=10, D=4, uncentred)"
    assert f"{got:.2f}" == "2.50"
    assert got + 1 == 3.5
    assert json.loads(json.dumps({"value": got})) == {"value": 2.5}
    back = pickle.loads(pickle.dumps(got.within(2, 3)))
    assert (back, back.low, back.high, back.n, back.convention) == (2.5, 2, 3, 10, "uncentred")
    assert repr(back) == "RankMe 2.5 [2, 3] (N=10, D=4, uncentred)"


def coverage(measure, make, *, repeats=60, resamples=60):
    """The share of intervals that hold the measure's mean over samples of this size."""
    truth = np.mean([measure(make(10_000 + i)) for i in range(300)])
    got = [bootstrap(measure, make(i), resamples=resamples, seed=i) for i in range(repeats)]
    return np.mean([g.low <= truth <= g.high for g in got])


@pytest.mark.parametrize("measure", [rankme, participation_ratio, nesum])
def test_intervals_cover_as_often_as_they_say(measure):
    """95% intervals of 60 samples with a decaying spectrum; with replacement the naive interval covers none (next test)."""

    def make(seed):
        return normal(300, 16, seed=seed) * torch.arange(1, 17) ** -0.7

    assert coverage(measure, make) >= 0.85


def test_drawing_with_replacement_would_miss():
    """Why the rows are halved: copies of rows bias the rank down, and the percentile interval with them."""
    z = normal(200, 64)
    rng = np.random.default_rng(0)
    naive = [rankme(z[torch.from_numpy(rng.integers(0, 200, 200))]) for _ in range(50)]
    truth = np.mean([rankme(normal(200, 64, seed=100 + i)) for i in range(20)])
    assert max(naive) < truth
    got = bootstrap(rankme, z, resamples=50)
    assert got.low < truth < got.high


def test_interval_of_a_mean_is_the_textbook_one():
    z = normal(400, 1)

    def mean(z):
        return float(z.mean())

    got = bootstrap(mean, z, resamples=2000)
    half = 1.96 * float(z.std()) / 20
    assert got.high - got.low == pytest.approx(2 * half, rel=0.08)
    assert got == mean(z)
    assert (got.n, got.d, got.name) == (400, 1, "mean")


def test_intervals_keep_groups_together_and_repeat():
    z, source = views(40, 4, 6)
    one = bootstrap(lidar, z, source, groups=source, resamples=40)
    assert one.low < one < one.high
    assert vars(one) == vars(bootstrap(lidar, z, source, groups=source, resamples=40))
    assert vars(one) != vars(bootstrap(lidar, z, source, groups=source, resamples=40, seed=1))
    with pytest.raises(ValueError, match="at least 4 rows"):
        bootstrap(rankme, z[:3])
    for wrong in (source[:100], torch.cat([source, source])):
        with pytest.raises(ValueError, match=f"groups must have a value for each of the 160 rows, but got {len(wrong)}"):
            bootstrap(rankme, z, groups=wrong)
    with pytest.raises(ValueError, match="beside the features must have a value for each of the 160 rows, but got 100"):
        bootstrap(lidar, z, source[:100])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap(rankme, z, interval=95)


@pytest.mark.parametrize("measure", [lidar, alignment])
@pytest.mark.parametrize("q", [2, 4])
def test_an_interval_of_a_measure_of_views_keeps_the_views_of_an_image_together(measure, q):
    z, source = views(40, q, 6)
    seen = []

    def watched(z, source, **settings):
        seen.append(np.bincount(np.asarray(source))[np.unique(source)].tolist())
        return measure(z, source, **settings)

    got = bootstrap(watched, z, source, resamples=40)
    assert seen == [[q] * 40] + [[q] * 20] * 40
    assert vars(got) == vars(bootstrap(measure, z, source, resamples=40, groups=source))
    assert vars(got) == vars(bootstrap(measure, z, source.tolist(), resamples=40))
    coarser = bootstrap(measure, z, source, resamples=40, groups=source // 2)  # two images each, as of one patient
    assert coarser.low < coarser < coarser.high
    with pytest.raises(ValueError, match="part the views of one image"):
        bootstrap(measure, z, source, resamples=40, groups=torch.arange(len(z)))


class Layers(dict):
    """Features as measures see them: matrices by layer, factors beside."""

    def __init__(self, layers, factors):
        super().__init__(layers)
        self.factors = factors


def test_over_layers_is_tidy():
    z, source = views(30, 4, 12)
    features = Layers({"backbone": z, "projector": z[:, :5]}, pd.DataFrame({"source": source.numpy()}))
    table = over_layers(features, rank=rankme, lidar=lidar, top=lambda z: float(z.max()))
    assert list(table) == ["layer", "measure", "value", "n", "d", "convention"]
    assert len(table) == 6
    one = table[(table["layer"] == "projector") & (table["measure"] == "rank")].iloc[0]
    assert (one["value"], one["n"], one["d"]) == (float(rankme(z[:, :5])), 120, 5)
    assert "singular values" in one["convention"]
    assert table["value"].dtype == float


def test_over_layers_of_spectra_keeps_each_as_it_is():
    z = views(30, 4, 12)[0]
    table = over_layers({"backbone": z, "projector": z[:, :5].float()}, spectrum=spectrum)
    assert list(table) == ["layer", "measure", "value", "n", "d", "convention", "rank", "floor"]
    for layer, own in {"backbone": z, "projector": z[:, :5].float()}.items():
        rows = table[table["layer"] == layer].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[list(spectrum(own))], spectrum(own))
    assert table.groupby("layer")["floor"].nunique().eq(1).all() and table["floor"].nunique() == 2


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda z: over_layers({"a": z}), ValueError, "name at least one measure"),
        (lambda z: over_layers({}, rank=rankme), ValueError, "at least one layer, but the features are empty"),
        (lambda z: over_layers(z.numpy(), rank=rankme), TypeError, r"Features or {name: matrix}, but got ndarray"),
        (lambda z: over_layers({"a": z}, rank="rankme"), TypeError, "such as wb.rankme, but rank is 'rankme'"),
        (lambda z: over_layers({"a": z}, r=rankme, s=spectrum), ValueError, "s gives a table a layer, and r a number"),
        (lambda z: over_layers({"a": z}, s=spectrum, r=rankme), ValueError, "ask for them one after the other"),
    ],
)
def test_over_layers_says_what_it_wants(make, error, words):
    with pytest.raises(error, match=words):
        make(decaying(20, 4))


def test_over_layers_gives_intervals_on_request():
    z, source = views(30, 4, 12)
    features = Layers({"backbone": z}, pd.DataFrame({"source": source.numpy()}))
    table = over_layers(features, interval=0.9, resamples=30, rank=rankme, lidar=lidar)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    want = bootstrap(lidar, z, source, groups=source, interval=0.9, resamples=30)
    assert table.set_index("measure").loc["lidar", "low"] == pytest.approx(want.low)


def test_over_layers_takes_the_eigenvalues_once(monkeypatch):
    taken = []
    real = decomposition._tridiagonal
    monkeypatch.setattr(decomposition, "_tridiagonal", lambda s, m: taken.append(s.shape) or real(s, m))
    over_layers({"a": decaying(300, 20)}, a=rankme, b=effective_rank, c=stable_rank, d=nesum, e=participation_ratio)
    assert len(taken) == 1  # for the centred and the others
    rankme(decaying(300, 20))
    rankme(decaying(300, 20))
    assert len(taken) == 3  # nothing is remembered outside the table
