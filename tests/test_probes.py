"""Probes against scikit-learn, closed forms and the contract of its estimators."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.generate.representations import Representation
from workbench.logistic import softmax_regression
from workbench.perceptron import MLPProbe
from workbench.probes import KNNProbe, LinearProbe, RidgeProbe, probe_layers

PROBES = [LinearProbe(), RidgeProbe(), KNNProbe(), MLPProbe(epochs=5)]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]


def blobs(n=400, d=20, k=4, apart=1.0, seed=0):
    y = torch.arange(n) % k
    return apart * normal(k, d, seed=99)[y] + normal(n, d, seed=seed), y


def loss(x, y, w, b, *, c):
    """scikit-learn's objective over n, written out."""
    logits = x @ w.T + b
    logits -= logits.max(1, keepdims=True)
    fit = np.mean([math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(logits, y, strict=True)])
    return fit + (w**2).sum() / (2 * c * len(x))


# --- the linear probe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("k", [2, 4])
def test_linear_probe_is_scikit_learns_logistic_regression(c, k):
    x, y = blobs(k=k)
    probe = LinearProbe(C=c, tol=1e-18, max_iter=1000).fit(x, y)
    scaled = StandardScaler().fit_transform(x)
    want = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(scaled, y)
    np.testing.assert_allclose(probe.predict_proba(x), want.predict_proba(scaled), atol=2e-6)
    if k > 2:
        np.testing.assert_allclose(probe.coef_, want.coef_, atol=2e-5)
        np.testing.assert_allclose(
            probe.intercept_ - probe.intercept_.mean(), want.intercept_ - want.intercept_.mean(), atol=2e-5
        )


def test_the_default_tolerance_is_kept(digits):
    x, y, *_ = digits
    scaled = StandardScaler().fit_transform(x)
    best = LogisticRegression(tol=1e-7, max_iter=10_000).fit(scaled, y)
    for dtype in (np.float32, np.float64):
        probe = LinearProbe().fit(x.astype(dtype), y)
        got = loss(scaled, y, probe.coef_.double().numpy(), probe.intercept_.double().numpy(), c=1.0)
        assert 0 <= got - loss(scaled, y, best.coef_, best.intercept_, c=1.0) < 5e-4
        assert probe.n_iter_ < best.n_iter_[0] / 3


def test_accuracy_is_scikit_learns_within_three_tenths_of_a_point(digits):
    x, y, a, b = digits
    want = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-7, max_iter=2000)).fit(x, y).score(a, b)
    assert LinearProbe().fit(x.astype(np.float32), y).score(a.astype(np.float32), b) == pytest.approx(want, abs=0.003)
    assert want > 0.95


@pytest.mark.parametrize("n", [30, 60])
def test_more_dimensions_than_rows_is_the_same_problem_rotated(n):
    x, y = blobs(n=n, d=45)
    probe = LinearProbe(tol=1e-12).fit(x, y)
    scaled = StandardScaler().fit_transform(x)
    want = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaled, y)
    np.testing.assert_allclose(probe.coef_, want.coef_, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_linear_probe_does_not_see_the_scale_of_the_features(seed, scale, shift):
    x, y = blobs(n=80, d=6, seed=seed)
    one, other = (LinearProbe(tol=1e-12).fit(z, y).predict_proba(z) for z in (x, scale * x + shift))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_penalty_is_chosen_on_held_out_rows_and_fitted_to_all():
    x, y = blobs(n=300, d=200, apart=0.25)
    probe = LinearProbe(C=[100.0, 1e-4, 0.01]).fit(x, y)
    assert probe.C_ in (1e-4, 0.01)
    alone = LinearProbe(C=probe.C_).fit(x, y)
    np.testing.assert_allclose(probe.coef_, alone.coef_, atol=1e-3)
    fresh, truth = blobs(n=2000, d=200, apart=0.25, seed=5)
    assert probe.score(fresh, truth) >= LinearProbe(C=100.0).fit(x, y).score(fresh, truth)


def test_solver_reaches_the_minimum_from_a_path_of_penalties():
    x, y = blobs(n=200, d=8)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    (_, path), _ = softmax_regression(z.T.contiguous(), y, classes=4, penalties=[1.0, 1e-3], tol=1e-12)
    (alone,), _ = softmax_regression(z.T.contiguous(), y, classes=4, penalties=[1e-3], tol=1e-12)
    assert torch.allclose(path, alone, atol=1e-4)
    p = (z @ alone[:, :-1].T + alone[:, -1]).softmax(1) - torch.nn.functional.one_hot(y, 4)
    gradient = p.T @ z / 200 + 1e-3 * alone[:, :-1]
    assert float(gradient.abs().max()) < 1e-5
    assert float(p.sum(0).abs().max()) < 1e-3


@pytest.mark.parametrize("c", [1.0, 10.0, 100.0, 300.0])
def test_fully_collapsed_features_are_read(c):
    """One direction in 256 columns of float32: the second moment that preconditions is far from positive definite."""
    t = normal(3000, 1)
    x, y = (t @ normal(1, 256, seed=1)).float(), (3 * t[:, 0]).round().clamp(-2, 2).long() + 2
    probe = LinearProbe(C=c).fit(x, y)
    scaled = StandardScaler().fit_transform(x.double())
    one = 16 * scaled[:, :1]  # 256 equal columns under one penalty
    best = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(one, y)
    want = loss(one, y.tolist(), best.coef_, best.intercept_, c=c)
    got = loss(scaled, y.tolist(), probe.coef_.double().numpy(), probe.intercept_.double().numpy(), c=c)
    assert got == pytest.approx(want, abs=5e-3)
    assert probe.score(x, y) > 0.98


def test_solver_says_when_it_stopped_early():
    x, y = blobs(n=60, d=50)
    with pytest.warns(RuntimeWarning, match="stopped after 2 steps"):
        LinearProbe(C=1e6, max_iter=2).fit(x, y)


def test_one_hot_features_are_read_perfectly():
    """P1."""
    y = torch.arange(100) % 10
    x = torch.nn.functional.one_hot(y).float()
    for probe in (LinearProbe(), KNNProbe(k=5)):
        assert probe.fit(x, y).score(x, y) == 1
    assert RidgeProbe().fit(x, y).score(x, y) > 0.9999


def test_shuffled_labels_are_read_at_chance():
    """P2: within three standard deviations."""
    x, fresh = normal(1000, 10), normal(2000, 10, seed=1)
    y, truth = torch.arange(1000) % 5, torch.arange(2000) % 5
    for probe in (LinearProbe(), KNNProbe()):
        assert abs(probe.fit(x, y).score(fresh, truth) - 0.2) < 3 * math.sqrt(0.2 * 0.8 / 2000)
    assert RidgeProbe().fit(x, normal(1000, seed=2)).score(fresh, normal(2000, seed=3)) < 0.02


def test_standardisation_is_of_the_training_rows_alone():
    """P4: what is asked about moves nothing, and a constant column of training stays harmless."""
    x, y = blobs()
    x[:, 3] = 5.0
    probe = LinearProbe().fit(x, y)
    np.testing.assert_allclose(probe.mean_, x.mean(0))
    np.testing.assert_allclose(probe.scale_[:3], x.std(0, correction=0)[:3])
    assert probe.scale_[3] == 1
    far = 1e3 + x[:10]
    np.testing.assert_array_equal(probe.predict_proba(far)[:1], probe.predict_proba(far[:1]))


# --- the ridge probe ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(80, 10), (30, 60)])
def test_ridge_probe_is_scikit_learns_with_the_penalty_left_one_out(shape):
    n, d = shape
    x = normal(n, d) @ normal(d, d, seed=1)
    y = torch.stack([x[:, 0] + normal(n, seed=2), normal(n, seed=3), x @ normal(d, seed=4)], 1)
    alphas = (1e-3, 1e-1, 10.0)
    probe = RidgeProbe(alphas).fit(x, y)
    scaled = StandardScaler().fit_transform(x)
    for t in range(3):
        want = RidgeCV([a * n for a in alphas]).fit(scaled, y[:, t])
        assert probe.alpha_[t] == pytest.approx(want.alpha_ / n)
        exact = Ridge(want.alpha_).fit(scaled, y[:, t])
        np.testing.assert_allclose(probe.coef_[t], exact.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(probe.predict(x)[:, t], exact.predict(scaled), rtol=1e-6, atol=1e-8)


def test_leaving_one_out_is_what_refitting_without_it_gives():
    x, y = normal(25, 4), normal(25, seed=1)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    value, vector = torch.linalg.eigh(z.T @ z / 25)
    u, centred = z @ vector, (y - y.mean())[:, None]
    got = float(RidgeProbe._left_out(u, centred, u.T @ centred / 25, value, 0.3))
    errors = []
    for i in range(25):
        keep = np.arange(25) != i
        fitted = Ridge(0.3 * 25).fit(z[keep], y[keep])
        errors.append(float(y[i]) - fitted.predict(z[i : i + 1])[0])
    assert got == pytest.approx(np.square(errors).mean(), rel=1e-6)


def test_r2_is_scikit_learns():
    from sklearn.metrics import r2_score

    x, y = normal(60, 5), normal(60, 2, seed=1)
    probe = RidgeProbe().fit(x[:40], y[:40])
    assert probe.score(x[40:], y[40:]) == pytest.approx(r2_score(y[40:], probe.predict(x[40:])))
    assert probe.predict(x).shape == (60, 2)
    assert RidgeProbe().fit(x, y[:, 0]).predict(x).shape == (60,)
    constant = np.ones(20)
    assert probe.scores(x[40:], np.stack([constant, y[40:, 1]], 1))[0] == 0


# --- neighbours -----------------------------------------------------------------------------------------------------


def naive_neighbours(x, y, asked, k, temperature, same=False):
    out = []
    for i, q in enumerate(asked.tolist()):
        cos = []
        for j, r in enumerate(x.tolist()):
            dot = sum(a * b for a, b in zip(q, r, strict=True))
            cos.append(-9.0 if same and i == j else dot / math.hypot(*q) / math.hypot(*r))
        near = sorted(range(len(x)), key=lambda j: -cos[j])[:k]
        votes = [sum(math.exp(cos[j] / temperature) for j in near if y[j] == c) for c in range(int(max(y)) + 1)]
        out.append([v / sum(votes) for v in votes])
    return np.array(out)


def test_neighbours_vote_as_the_equation_says():
    x, y = blobs(n=60, d=5)
    fresh, _ = blobs(n=20, d=5, seed=4)
    probe = KNNProbe(k=7, temperature=0.07, chunk=8).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(fresh), naive_neighbours(x, y, fresh, 7, 0.07), atol=1e-9)


def test_counted_votes_are_scikit_learns():
    x, y = blobs(n=200, d=5)
    fresh, _ = blobs(n=50, d=5, seed=4)
    want = KNeighborsClassifier(9, metric="cosine").fit(x, y)
    got = KNNProbe(k=9, temperature=None).fit(x, y)
    np.testing.assert_allclose(got.predict_proba(fresh), want.predict_proba(fresh), atol=1e-12)


def test_rows_do_not_vote_for_themselves():
    """P6: asked about the rows it was fitted on, in one chunk or in many."""
    x, y = blobs(n=60, d=5)
    for chunk in (7, 1024):
        probe = KNNProbe(k=5, chunk=chunk).fit(x, y)
        np.testing.assert_allclose(probe.predict_proba(x), naive_neighbours(x, y, x, 5, 0.07, same=True), atol=1e-9)
    random = torch.arange(60)
    assert KNNProbe(k=1).fit(x, random).score(x, random) == 0
    assert KNNProbe(k=1, exclude_self=False).fit(x, random).score(x, random) == 1
    assert KNNProbe(k=1).fit(x, random).score(x[:30], random[:30]) == 1  # other rows were asked about, as far as it can tell
    with pytest.raises(ValueError, match="no neighbour but itself"):
        KNNProbe().fit(x[:1], y[:1]).predict(x[:1])


def test_fewer_rows_than_neighbours_all_vote():
    x, y = blobs(n=8, d=3, k=2)
    np.testing.assert_allclose(KNNProbe(k=20, temperature=None).fit(x, y).predict_proba(x + 1), np.full((8, 2), 0.5))


# --- the network ----------------------------------------------------------------------------------------------------


def rings(n=600, seed=0):
    """Two classes on circles of radius 1 and 2: no line tells them apart."""
    y = torch.arange(n) % 2
    z = normal(n, 2, seed=seed)
    return (1 + y[:, None]) * torch.nn.functional.normalize(z) + 0.05 * normal(n, 2, seed=seed + 1), y


def test_a_network_reads_what_no_line_can():
    (x, y), (fresh, truth) = rings(), rings(seed=7)
    assert LinearProbe().fit(x, y).score(fresh, truth) < 0.65
    assert MLPProbe((32,), lr=0.01).fit(x, y).score(fresh, truth) > 0.98


def test_a_network_is_as_accurate_as_scikit_learns(digits):
    """Means over seeds, within what the seeds make of each: the two draw other weights and other held-out rows."""
    x, y, a, b = digits
    mean, std = x.mean(0), x.std(0) + (x.std(0) == 0)
    x, a = ((z - mean) / std for z in (x, a))
    ours = [MLPProbe(epochs=30, seed=s).fit(x, y).score(a, b) for s in range(5)]
    settings = {"early_stopping": True, "max_iter": 30, "batch_size": 256}
    with pytest.warns(match="Maximum iterations"):
        theirs = [MLPClassifier((256,), random_state=s, **settings).fit(x, y).score(a, b) for s in range(5)]
    off = abs(np.mean(ours) - np.mean(theirs))
    assert off < max(3 * math.sqrt((np.var(ours) + np.var(theirs)) / 5), 0.01)


def test_a_network_stops_early_and_keeps_its_best_epoch():
    x, y = blobs(n=400, d=20, k=4, apart=0.15)
    probe = MLPProbe((64,), lr=0.01, patience=3).fit(x, y)
    assert probe.epochs_ < 100
    held = probe._held_out(y, torch.Generator().manual_seed(0))
    assert int(held.sum()) == 40 and torch.bincount(y[held]).tolist() == [10] * 4
    assert probe.score(x[held], y[held]) == pytest.approx(probe.best_)
    again = MLPProbe((64,), lr=0.01, patience=3, epochs=probe.epochs_ - 3).fit(x, y)  # the best epoch was its last
    assert again.best_ == probe.best_ and np.array_equal(again.predict(x), probe.predict(x))


def test_a_network_of_few_rows_holds_none_out():
    x, y = blobs(n=36, d=5, k=4, apart=3.0)
    probe = MLPProbe((16,), epochs=40, lr=0.01).fit(x, y)  # 9 rows a class
    assert probe.epochs_ == 40 and math.isnan(probe.best_) and probe.score(x, y) > 0.9


def test_a_network_leaves_the_random_state_alone():
    x, y = blobs(n=60, d=5)
    before = torch.get_rng_state()
    one = MLPProbe((8,), epochs=2, seed=1).fit(x, y).decision_function(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    with torch.no_grad():
        np.testing.assert_array_equal(MLPProbe((8,), epochs=2, seed=1).fit(x, y).decision_function(x), one)
    assert not np.array_equal(MLPProbe((8,), epochs=2, seed=2).fit(x, y).decision_function(x), one)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": ()}, r"hidden are widths of at least 1, such as \(256,\), but is \(\); without any, use LinearProbe"),
        ({"hidden": 64}, "but is 64"),
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"held_out": 1.0}, "held_out is a share of the rows, from 0 to below 1, but is 1.0"),
    ],
)
def test_a_network_says_what_is_wrong(settings, said):
    with pytest.raises(ValueError, match=said):
        MLPProbe(**settings).fit(*blobs(n=40, d=5))


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_probes_are_estimators(probe):
    x, y = (z.numpy() for z in blobs())
    assert clone(probe).get_params() == probe.get_params()
    assert is_classifier(probe) != is_regressor(probe)
    scores = cross_val_score(probe, x, y, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    assert make_pipeline(StandardScaler(), clone(probe)).fit(x, y).predict(x).shape == y.shape
    name = next(iter(probe.get_params()))
    search = GridSearchCV(probe, {name: [probe.get_params()[name]]}, cv=2).fit(x, y)
    assert np.isfinite(search.best_score_)
    assert not hasattr(probe, "n_features_in_")  # cloned, not fitted in place
    with pytest.raises(ValueError, match="has no setting 'depth'"):
        probe.set_params(depth=3)
    assert type(probe).__name__ in repr(probe)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_probes_take_tensors_arrays_and_frames_alike(probe):
    x, y = blobs()
    want = clone(probe).fit(x, y).predict(x)
    for rows, targets in (
        (x.numpy(), y.numpy()),
        (x.clone().requires_grad_(), y),
        (x.numpy(), pd.Series(y.numpy())),
        (x, y.tolist()),
    ):
        np.testing.assert_array_equal(clone(probe).fit(rows, targets).predict(rows), want)
    assert clone(probe).fit(x.float(), y).predict(x).shape == want.shape  # other precision than that of the fit
    assert clone(probe).fit(x, y).predict(x.half()).shape == want.shape
    grown = x.clone().requires_grad_()
    fitted = clone(probe).fit(grown, y)
    fitted.score(grown, y)
    assert grown.grad is None  # P3


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_probes_repeat(probe):
    """P5."""
    x, y = blobs(apart=0.3)
    assert clone(probe).fit(x[:300], y[:300]).score(x[300:], y[300:]) == clone(probe).fit(x[:300], y[:300]).score(
        x[300:], y[300:]
    )


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_probes_say_what_is_wrong(probe):
    x, y = blobs(n=40, d=5)
    with pytest.raises(NotFittedError, match="call fit"):
        clone(probe).predict(x)
    with pytest.raises(ValueError, match="fitted on 5 dimensions, but got rows of 4"):
        clone(probe).fit(x, y).predict(x[:, :4])
    with pytest.raises(ValueError, match="each of the 40 rows"):
        clone(probe).fit(x, y[:7])
    with pytest.raises(ValueError, match="but got shape"):
        clone(probe).fit(x[0], y)
    spoilt = x.clone()
    spoilt[3, 1] = math.nan
    with pytest.raises(TypeError, match="but got Representation; take its .values"):
        clone(probe).fit(Representation(x), y)
    with pytest.raises(TypeError, match=r"but got dict; take a layer of it, such as \['backbone'\]"):
        clone(probe).fit({"backbone": x}, y)
    with pytest.raises(ValueError, match="1 of 40 rows hold NaN"):
        clone(probe).fit(spoilt, y)
    with pytest.raises(ValueError, match="1 of 40 rows hold NaN"):
        clone(probe).fit(x, y).predict(spoilt)


def test_probes_say_what_is_wrong_with_targets():
    x, y = blobs(n=40, d=5)
    words = np.array(["boot", "shirt"])[y.numpy() % 2]
    with pytest.raises(ValueError, match="all 40 rows are of class 3\\.$"):
        LinearProbe().fit(x, np.full(40, 3))
    with pytest.raises(ValueError, match="for classes use LinearProbe"):
        RidgeProbe().fit(x, words)
    with pytest.raises(ValueError, match="NaN or infinite"):
        RidgeProbe().fit(x, [math.nan] * 40)
    with pytest.raises(ValueError, match="3 of 40 classes are missing"):
        LinearProbe().fit(x, np.where(np.arange(40) < 3, None, words))
    with pytest.raises(ValueError, match="C must be positive"):
        LinearProbe(C=-1).fit(x, y)
    with pytest.raises(ValueError, match="alphas must be positive"):
        RidgeProbe([0.0]).fit(x, y)
    with pytest.raises(ValueError, match="temperature positive"):
        KNNProbe(temperature=0).fit(x, y)
    for k in (0, 5.0, "5"):
        with pytest.raises(ValueError, match=f"k must be a whole number of at least 1 .* got k={k}"):
            KNNProbe(k).fit(x, y)
    assert KNNProbe(np.int64(3)).fit(x, y).score(x, y) > 0
    many, _ = blobs(n=300, d=5)
    with pytest.raises(ValueError, match="for numbers use RidgeProbe"):
        LinearProbe().fit(many, normal(300))
    assert set(LinearProbe().fit(x, words).predict(x)) <= {"boot", "shirt"}


# --- all layers -----------------------------------------------------------------------------------------------------


class Layers(dict):
    def __init__(self, layers, factors):
        super().__init__(layers)
        self.factors = factors


def layered(n, seed):
    """One layer that holds the factors linearly, one that holds nothing."""
    rng = np.random.default_rng(seed)
    factors = pd.DataFrame({"label": rng.integers(0, 3, n), "shape": rng.choice(["star", "moon"], n), "angle": rng.random(n)})
    held = np.stack([factors["label"] == k for k in range(3)] + [factors["shape"] == "star", factors["angle"]], 1)
    noise = rng.normal(size=(n, 5))
    return Layers(
        {"backbone": torch.from_numpy(held + 0.05 * noise).float(), "projector": torch.from_numpy(noise).float()}, factors
    )


def test_probe_layers_is_tidy_and_right():
    train, test = layered(500, 0), layered(300, 1)
    table = probe_layers(train, test)
    assert list(table) == ["layer", "factor", "probe", "measure", "value", "chance", "n_train", "n_test"]
    assert len(table) == 6
    value = table.set_index(["layer", "factor"])["value"]
    assert (value["backbone"] > 0.95).all()
    assert value["projector", "label"] < 0.45
    assert abs(value["projector", "angle"]) < 0.1
    kinds = table.set_index("factor")["measure"].to_dict()
    assert kinds == {"label": "accuracy", "shape": "accuracy", "angle": "r2"}
    alone = LinearProbe().fit(train["backbone"], train.factors["label"]).score(test["backbone"], test.factors["label"])
    assert value["backbone", "label"] == alone
    chance = table[table["factor"] == "shape"]["chance"].iloc[0]
    common = train.factors["shape"].mode()[0]
    assert chance == pytest.approx((test.factors["shape"] == common).mean())
    assert set(table["n_train"]) == {500}


def test_probe_layers_asks_for_what_is_there():
    train, test = layered(100, 0), layered(60, 1)
    one = probe_layers(train, test, factor="label", probe=KNNProbe(k=5))
    assert set(one["probe"]) == {"KNNProbe"}
    assert len(one) == 2
    for names, factor in itertools.product([train], ["size"]):
        with pytest.raises(KeyError, match="no factor 'size'; they have label, shape, angle"):
            probe_layers(names, test, factor=factor)
    with pytest.raises(KeyError, match="no layer 'projector'"):
        probe_layers(train, Layers({"backbone": test["backbone"]}, test.factors))


def test_by_default_only_factors_of_which_something_can_be_learned_are_read():
    train, test = layered(200, 0), layered(100, 1)
    for features, split in ((train, "train"), (test, "test")):
        n = len(features.factors)
        features.factors = features.factors.assign(
            constant=3,
            still=0.5,
            path=[f"{split}/{i}.png" for i in range(n)],
            again=features.factors["label"].map({0: "boot", 1: "shirt", 2: "bag"}),
            turned=features.factors["angle"],
            holes=np.where(np.arange(n) == 7, np.nan, features.factors["angle"]),
            endless=np.where(np.arange(n) == 7, np.inf, features.factors["angle"]),
            gaps=np.where(np.arange(n) == 7, None, features.factors["shape"]),
            elsewhere=np.arange(n) % 3 + 3 * (split == "test"),
            source=np.arange(n) % 5,
        )
    with pytest.warns(UserWarning) as caught:
        table = probe_layers(train, test)
    assert table["factor"].unique().tolist() == ["angle", "label", "shape"]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for said in (
        "'constant' (constant)",
        "'still' (constant)",
        "'path' (200 values in 200 rows)",
        "'again' (says the same as 'label')",
        "'turned' (says the same as 'angle')",
        "'holes' (missing or infinite in some rows)",
        "'endless' (missing",
        "'gaps' (missing",
        "'elsewhere' (no test row has a value of the training rows)",
    ):
        assert said in str(caught[0].message)
    assert "source" not in str(caught[0].message)
    named = probe_layers(train, test, factor=["again", "turned"]).set_index(["layer", "factor"])["value"]
    read = table.set_index(["layer", "factor"])["value"]
    assert named["backbone", "again"] == read["backbone", "label"]
    assert named["backbone", "turned"] == pytest.approx(read["backbone", "angle"])


def test_factors_that_are_the_same_on_the_training_rows_alone_are_both_read():
    train, test = layered(200, 0), layered(100, 1)
    train.factors["biased"], test.factors["biased"] = train.factors["label"], (test.factors["label"] + 1) % 3
    value = probe_layers(train, test).set_index(["layer", "factor"])["value"]
    assert value["backbone", "label"] > 0.95 > 0.05 > value["backbone", "biased"]


def test_probe_layers_reads_drawn_garments_as_they_come():
    import workbench as wb

    train, test = (wb.garments(n, split=s) for n, s in ((300, "train"), (100, "test")))
    layers = [Layers({"pixels": x.pixels.float().mean((2, 3))}, x.factors) for x in (train, test)]
    with pytest.warns(UserWarning, match=r"'class_name' \(says the same as 'label'\), 'garment' \(300 values in 300 rows\)"):
        table = probe_layers(*layers)
    assert {"label", "hue", "light"} <= set(table["factor"])


def test_probe_layers_says_which_factor_of_which_layer_is_wrong():
    train, test = layered(100, 0), layered(60, 1)
    with pytest.raises(TypeError, match=r"takes Features\(layers, factors\), but train is dict"):
        probe_layers({"a": train["backbone"]}, test)
    for probe in (RidgeProbe(), KNNProbe, "knn"):
        with pytest.raises(TypeError, match="probe reads the classes, as LinearProbe"):
            probe_layers(train, test, probe=probe)
    with pytest.raises(ValueError, match="layer 'backbone', factor 'label': k must be a whole number"):
        probe_layers(train, test, factor="label", probe=KNNProbe(2.0))
    one = Layers(train, train.factors.assign(label=np.full(100, 3)))
    with pytest.raises(ValueError, match="layer 'backbone', factor 'label': .* all 100 rows are of class 3"):
        probe_layers(one, test, factor="label")
    spoilt = Layers(train, train.factors.assign(angle=np.where(np.arange(100) < 2, np.nan, 0.1)))
    with pytest.raises(ValueError, match="factor 'angle' is missing or infinite in 2 of the train rows"):
        probe_layers(spoilt, test, factor=["label", "angle"])
    with pytest.raises(ValueError, match=r"none of the factors can be read: 'label' \(constant\)"):
        probe_layers(Layers(one, one.factors[["label"]]), test)
    with pytest.raises(ValueError, match="none of the factors can be read: there are none"):
        probe_layers(Layers(one, one.factors[[]]), test)
