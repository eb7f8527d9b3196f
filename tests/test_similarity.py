"""Similarity, neighbours, dimension and tokens: equations written out, closed forms, invariances, other implementations."""

import math
import warnings

import cka as pytorch_cka
import numpy as np
import pandas as pd
import pytest
import skdim
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm, compare
from scipy.spatial import procrustes as scipy_procrustes
from torch.utils.data import DataLoader, TensorDataset

import workbench.measures
from workbench.measures import intrinsic, neighbours, similarity
from workbench.measures.intrinsic import clid, cluster_learnability, twonn
from workbench.measures.neighbours import mutual_knn
from workbench.measures.resampling import bootstrap
from workbench.measures.similarity import cka, cka_map, permutation_null
from workbench.measures.subspaces import procrustes, svcca
from workbench.measures.tokens import attention_distance, attention_information, fourier_amplitude

BIASED = {"estimator": "biased"}
PAIRS = {
    "cka": cka,
    "biased cka": lambda x, y: cka(x, y, estimator="biased"),
    "mutual_knn": mutual_knn,
    "procrustes": procrustes,
    "svcca": svcca,
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(d, seed=1):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def related(n=80, p=7, q=9, noise=1.0, seed=0):
    x = normal(n, p, seed=seed) * torch.linspace(0.3, 2, p) + 3
    return x, x @ normal(p, q, seed=seed + 1) + noise * normal(n, q, seed=seed + 2)


def naive_hsic(k, m):
    """HSIC_1 of two Gram matrices in loops."""
    n, rows = len(k), range(len(k))
    trace = sum(k[i, j] * m[j, i] for i in rows for j in rows if i != j)
    one = [sum(k[i, j] for j in rows if j != i) for i in rows]
    other = [sum(m[i, j] for j in rows if j != i) for i in rows]
    crossed = sum(a * b for a, b in zip(one, other, strict=True))
    return (trace + sum(one) * sum(other) / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


def naive_cka(x, y):
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    return naive_hsic(k, m) / math.sqrt(naive_hsic(k, k) * naive_hsic(m, m))


# --- CKA: the equation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 3, 5), (12, 40, 30), (4, 2, 2), (16, 3, 60)])
def test_unbiased_cka_is_the_equation_written_out(shape):
    n, p, q = shape
    x, y = related(n, p, q)
    assert cka(x, y) == pytest.approx(naive_cka(x, y), abs=1e-12)


def test_biased_cka_is_the_equation_written_out():
    x, y = related()
    k, m = x @ x.T, y @ y.T
    h = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    inner = [float(torch.trace(a @ h @ b @ h)) for a, b in ((k, m), (k, k), (m, m))]
    assert cka(x, y, **BIASED) == pytest.approx(inner[0] / math.sqrt(inner[1] * inner[2]), rel=1e-12)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("n", [30, 300, 1500])
def test_features_and_grams_give_the_same(n, estimator, monkeypatch):
    """C8, for both estimators, over several blocks too, and for a model beside itself."""
    monkeypatch.setattr(similarity, "BLOCK", 1 << 18)
    xs, ys = ([similarity.centred(z) for z in related(n, 40, 25, seed=s)] for s in (0, 5))
    for other in (ys, None):
        one = similarity._by_features(xs, other, diagonal=estimator == "biased")
        two = similarity._by_grams(xs, other, diagonal=estimator == "biased")
        for a, b in zip(one, two, strict=True):
            assert torch.allclose(a, b, rtol=1e-10)


def test_the_cheaper_way_is_taken(monkeypatch):
    taken = []
    for name in ("_by_features", "_by_grams"):
        way = getattr(similarity, name)
        monkeypatch.setattr(similarity, name, lambda *a, name=name, way=way, **k: taken.append(name) or way(*a, **k))
    cka(normal(500, 4), normal(500, 4))
    cka(normal(10, 400), normal(10, 400))
    assert taken == ["_by_features", "_by_grams"]


# --- CKA: C1 to C9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_a_matrix_is_like_itself_and_similarity_is_symmetric(name):
    """C1, C2."""
    x, y = related()
    assert PAIRS[name](x, x) == pytest.approx(1, abs=1e-9)
    assert PAIRS[name](x, y) == pytest.approx(PAIRS[name](y, x), abs=1e-10)
    assert 0 < PAIRS[name](x, y) < 0.99


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"mutual_knn"}))
def test_similarity_ignores_rotation_scale_and_shift_of_either(name):
    """C3."""
    x, y = related()
    want = PAIRS[name](x, y)
    turned = 0.01 * y @ rotation(9) + 100
    assert PAIRS[name](x, turned) == pytest.approx(want, abs=1e-10)
    assert PAIRS[name](-7 * x @ rotation(7), turned) == pytest.approx(want, abs=1e-10)


def test_a_map_that_is_no_rotation_changes_cka_and_not_cca():
    """C4."""
    x, y = related()
    bent = x @ torch.diag(torch.linspace(0.2, 3, 7, dtype=torch.float64))
    assert abs(cka(bent, y) - cka(x, y)) > 0.02
    assert svcca(bent, y, keep=1) == pytest.approx(svcca(x, y, keep=1), abs=1e-10)


@pytest.mark.parametrize("shape", [(100, 500, 500), (1000, 500, 500), (512, 64, 32), (400, 30, 900)])
def test_unrelated_features_are_0_by_the_unbiased_estimator_alone(shape):
    """C5: the biased one gives sqrt(p q / ((n + p)(n + q))): .83 for 100 images of 500 dimensions."""
    n, p, q = shape
    x, y = normal(n, p, seed=1), normal(n, q, seed=2)
    assert abs(cka(x, y)) < 0.05
    assert cka(x, y, **BIASED) == pytest.approx(math.sqrt(p * q / ((n + p) * (n + q))), abs=0.01)


def test_batches_come_near_the_whole():
    """C6: the three terms are averaged before the ratio; the mean of ratios is something else."""
    x, y = related(512, 30, 40, noise=6)
    whole = cka(x, y)
    assert cka(x, y, batch_size=64) == pytest.approx(whole, abs=0.02)
    pieces = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 512, 64)]
    terms = np.array([[naive_hsic_of(a, b), naive_hsic_of(a, a), naive_hsic_of(b, b)] for a, b in pieces]).mean(0)
    assert cka(x, y, batch_size=64) == pytest.approx(terms[0] / math.sqrt(terms[1] * terms[2]), abs=1e-12)
    assert np.mean([cka(a, b) for a, b in pieces]) != pytest.approx(cka(x, y, batch_size=64), abs=1e-5)
    assert abs(cka(normal(512, 200, seed=3), y, batch_size=64)) < 0.05


def naive_hsic_of(x, y):
    k, m = x @ x.T, y @ y.T
    k, m, n = k.fill_diagonal_(0), m.fill_diagonal_(0), len(x)
    return float((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(0) @ m.sum(0)) / (n * (n - 3))


def test_too_few_rows_are_an_error():
    """C7."""
    x, y = related(3)
    with pytest.raises(ValueError, match="the unbiased estimator takes at least 4 rows at a time, but got 3"):
        cka(x, y)
    with pytest.raises(ValueError, match="at least 4 rows at a time, but got 2"):
        cka(*related(40), batch_size=2)
    with pytest.raises(ValueError, match="the biased estimator takes at least 2 rows at a time, but got 1"):
        cka(x[:1], y[:1], **BIASED)
    assert math.isfinite(cka(x, y, **BIASED))


def test_noise_of_equal_width_takes_a_known_share():
    """C9: beside as much isotropic noise, isotropic features keep 1 / sqrt 2."""
    x = normal(4000, 50)
    assert cka(x, torch.cat([x, normal(4000, 50, seed=9)], 1)) == pytest.approx(0.5**0.5, abs=0.01)


def test_a_few_rows_at_the_end_are_left_out_and_said_so():
    x, y = related(103)
    got = cka(x, y, batch_size=50)
    assert (got.n, "batches of 50" in got.convention) == (100, True)
    assert got == cka(x[:100], y[:100], batch_size=50)
    assert cka(*related(104), batch_size=50).n == 104


def test_features_in_which_nothing_varies_are_nan_and_a_warning():
    x, y = related()
    for name in sorted(set(PAIRS) - {"mutual_knn"}):
        with pytest.warns(RuntimeWarning, match="nothing varies"):
            assert math.isnan(PAIRS[name](torch.full_like(x, 0.1), y)), name
    with pytest.warns(RuntimeWarning, match="nothing varies"):
        table = cka_map({"dead": torch.full((80, 3), 0.1), "live": x.float()}, {"other": y}, permutations=20)
    assert table["value"].isna().tolist() == table["p"].isna().tolist() == table["null"].isna().tolist() == [True, False]
    assert table["null_map"].tolist() == [table["null"][1]] * 2


def test_a_large_offset_costs_no_digits():
    x, y = related(200)
    assert cka(x + 1e6, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(x.float() + 1000, y.float()) == pytest.approx(cka(x, y), abs=1e-4)


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_what_does_not_belong_together_is_refused(name):
    x, y = related()
    with pytest.raises(ValueError, match="same images, row by row, but got matrices of 80 and 79 rows"):
        PAIRS[name](x, y[:79])
    with pytest.raises(ValueError, match=r"takes a matrix \(samples, dimensions\), but got shape"):
        PAIRS[name](x, y[0])
    with pytest.raises(TypeError, match="but got list"):
        PAIRS[name](x, y.tolist())
    y[5, 2] = math.nan
    with pytest.raises(ValueError, match="1 of rows 0 to 79 hold NaN or infinity, first row 5"):
        PAIRS[name](x, y)


def test_wrong_words_are_refused():
    x, y = related()
    with pytest.raises(ValueError, match="'debiased'"):
        cka(x, y, estimator="debiased")
    with pytest.raises(ValueError, match="of='angle'"):
        procrustes(x, y, of="angle")
    with pytest.raises(ValueError, match="above 0 and at most 1, but got 99"):
        svcca(x, y, keep=99)
    with pytest.raises(ValueError, match="k lies between 1 and 79, but got k=80"):
        mutual_knn(x, y, k=80)
    with pytest.raises(ValueError, match="metric='dot'"):
        mutual_knn(x, y, metric="dot")
    with pytest.raises(ValueError, match="at least one permutation, but got 0"):
        permutation_null(cka, x, y, permutations=0)
    with pytest.raises(ValueError, match="no layers to compare"):
        cka_map({})
    with pytest.raises(ValueError, match="no layers to compare"):
        cka_map({"a": x}, {})
    with pytest.raises(TypeError, match="layer names and their matrices, such as Features, but got Tensor"):
        cka_map({"a": x}, y)


# --- CKA: other implementations ---------------------------------------------------------------------------------------------


def layers(n=300, widths=(20, 48, 7), seed=0):
    shared = normal(n, 12)
    return {
        f"layer{i}": (shared @ normal(12, w, seed=seed + i) + 0.5 * i * normal(n, w, seed=seed + 50 + i) + 1).float()
        for i, w in enumerate(widths)
    }


def grid(table):
    names = [list(dict.fromkeys(table[c])) for c in ("layer", "other")]
    return table["value"].to_numpy().reshape(len(names[0]), len(names[1]))


def test_a_map_is_that_of_pytorch_cka():
    one, other = layers(), layers(widths=(5, 64), seed=7)
    want = pytorch_cka.cka_from_features(*([z.double() for z in m.values()] for m in (one, other)))
    np.testing.assert_allclose(grid(cka_map(one, other)), want, atol=1e-9)
    np.testing.assert_allclose(grid(cka_map(one)), pytorch_cka.cka_from_features(*[list(one.values())] * 2), atol=1e-4)


class Lookup(torch.nn.Module):
    def __init__(self, stored):
        super().__init__()
        for name, z in stored.items():
            self.add_module(name, torch.nn.Embedding.from_pretrained(z))

    def forward(self, rows):
        return [layer(rows) for layer in self.children()]


@pytest.mark.parametrize("peer", ["pytorch-cka", "torch-cka"])
@pytest.mark.parametrize("batch", [50, 64])
def test_a_map_in_batches_is_that_of_the_peers_in_the_same_batches(peer, batch):
    """300 rows in batches of 64 leave a last batch of 44, which counts as much as the others, as theirs does."""
    one, other = layers(), layers(widths=(5, 64), seed=7)
    loader = DataLoader(TensorDataset(torch.arange(300)), batch_size=batch)
    models = Lookup(one), Lookup(other)
    if peer == "torch-cka":
        from torch_cka import CKA

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = CKA(*models, "one", "other", list(one), list(other), device="cpu")
            theirs.compare(loader, loader)
        want = theirs.hsic_matrix
    else:
        names = {"layers": list(one), "model2_layers": list(other)}
        want = pytorch_cka.compute_cka(*models, loader, **names, device="cpu", progress=False)[0]
    np.testing.assert_allclose(grid(cka_map(one, other, batch_size=batch)), want, atol=1e-4)


def rdm(z):
    return calc_rdm(Dataset(z.numpy()), method="euclidean")


def test_biased_cka_and_procrustes_are_those_of_rsatoolbox():
    """The whitened cosine of squared Euclidean distances is linear CKA; the Bures similarity is that of Procrustes."""
    x, y = related(40)
    assert cka(x, y, **BIASED) == pytest.approx(compare(rdm(x), rdm(y), method="cosine_cov").item(), abs=1e-6)
    assert procrustes(x, y) == pytest.approx(compare(rdm(x), rdm(y), method="bures").item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["even", "decaying", "offset", "tokens"])
@pytest.mark.parametrize("batch", [None, 100])
def test_products_in_single_precision_are_right_to_a_millionth(kind, batch, monkeypatch):
    x, y = {
        "even": (normal(1000, 90), normal(1000, 60, seed=2)),
        "decaying": related(1000, 90, 60),
        "offset": tuple(z + 100 for z in related(1000, 90, 60)),
        "tokens": (normal(1000, 4000), normal(1000, 3000, seed=2) + 1),
    }[kind]
    x, y = x.float(), y.float()
    want = cka(x.double(), y.double(), batch_size=batch)
    monkeypatch.setattr(similarity, "LARGE", 0)
    assert cka(x, y, batch_size=batch) == pytest.approx(float(want), abs=1e-6 if kind != "offset" else 1e-5)
    assert similarity._precision([x, y]) == torch.float32
    assert similarity._precision([x, y.double()]) == torch.float64


# --- the map and its null -----------------------------------------------------------------------------------------------------


def test_a_map_is_a_tidy_table_of_what_the_pairs_give():
    one, other = layers(60), layers(60, widths=(5, 64), seed=7)
    table = cka_map(one, other, permutations=50)
    assert list(table) == ["layer", "other", "measure", "value", "n", "convention", "null", "p", "null_map", "level"]
    assert len(table) == 6
    assert set(table["measure"]) == {"cka"}
    for row in table.itertuples():
        assert row.value == pytest.approx(float(cka(one[row.layer], other[row.other])), abs=1e-12)
        assert row.n == 60
    assert list(cka_map(one, other, estimator="biased")) == list(table)[:6]
    assert list(cka_map(one, other, permutations=0)) == list(table)[:6]


def test_a_map_of_a_model_with_itself_is_that_of_two_equal_models():
    one = layers(60, widths=(5, 9, 100, 3))
    mine, both = cka_map(one), cka_map(one, dict(one))
    np.testing.assert_allclose(mine["value"], both["value"], atol=1e-12)
    np.testing.assert_allclose(np.diag(grid(mine)), 1, atol=1e-12)
    assert mine["null_map"][0] <= both["null_map"][0]  # the diagonal is none of the pairs that are looked over


def test_many_images_are_taken_in_even_batches_and_few_at_once():
    assert [similarity._even(n) for n in (4, 2000, 2048, 10_000, 10_007, 50_000)] == [None, None, 256, 250, 251, 250]
    for n in range(2001, 12_000, 37):
        size = similarity._even(n)
        assert n % size == 0 or n % size >= size - n // size - 1, n  # the last is short of the others by less than their number
    z = {"a": normal(2100, 3), "b": normal(2100, 3, seed=1)}
    assert set(cka_map(z, permutations=0)["convention"]) == {"linear, unbiased HSIC averaged over batches of 263"}
    np.testing.assert_allclose(grid(cka_map(z, permutations=0)), grid(cka_map(z, permutations=0, batch_size=263)), atol=1e-15)


def test_the_null_of_unbiased_cka_has_mean_0_and_a_known_variance():
    """2 / (n (n - 3)) over all permutations, whatever the features: here all 720 of 6 rows, without any sampling."""
    from itertools import permutations

    x, y = related(6, 3, 2)
    drawn = np.array([float(cka(x, y[list(order)])) for order in permutations(range(6))])
    assert drawn.mean() == pytest.approx(0, abs=1e-12)
    assert drawn.var() == pytest.approx(2 / (6 * 3), rel=1e-10)


def test_the_null_tells_what_belongs_together():
    x, y = related(60, noise=4)
    null = permutation_null(cka, x, y, permutations=300)
    assert null.p == pytest.approx(1 / 301)
    assert null.value == cka(x, y)
    assert abs(null.drawn.mean()) < 4 * null.drawn.std() / 300**0.5
    assert null.drawn.std() == pytest.approx((2 / (60 * 57)) ** 0.5, rel=0.15)
    assert np.isclose((null.drawn < null.quantile(0.9)).mean(), 0.9, atol=0.01)
    lonely = [permutation_null(cka, normal(40, 5, seed=s), normal(40, 4, seed=s + 99), permutations=39).p for s in range(20)]
    assert 0.25 < np.mean(lonely) < 0.75  # even from 0 to 1
    assert null.drawn[:20].tolist() == permutation_null(cka, x, y, permutations=20).drawn.tolist()


def test_the_null_of_mutual_neighbours_is_k_of_the_others():
    x, y = related(60)
    assert permutation_null(mutual_knn, x, y, permutations=100).drawn.mean() == pytest.approx(10 / 59, rel=0.03)


@pytest.mark.parametrize("n", [60, 700])
def test_the_null_of_a_map_is_that_of_its_pairs(n):
    """Permuted in full up to 128 rows; of 128 rows and scaled above."""
    x, y = related(n, 12, 6, noise=0.5)
    table = cka_map({"x": x}, {"y": y}, permutations=1000, seed=3)
    null = permutation_null(cka, x, y, permutations=400, seed=1)
    assert table["null"][0] == pytest.approx(null.quantile(), rel=0.25)
    assert table["null_map"][0] == table["null"][0]
    assert table["p"][0] == pytest.approx(1 / 1001)
    drawn = similarity._null([x], [y], n, None, permutations=1000, seed=0)
    assert drawn.std() == pytest.approx((2 / (n * (n - 3))) ** 0.5, rel=0.1)
    assert abs(drawn.mean()) < 4 * drawn.std() / 1000**0.5


def test_the_null_of_batches_narrows_with_their_number():
    x, y = related(800)
    drawn = similarity._null([x], [y], 800, 50, permutations=2000, seed=0)
    assert drawn.std() == pytest.approx((2 / (50 * 47) / 16) ** 0.5, rel=0.1)
    shuffled = [float(cka(x, y[torch.randperm(800)], batch_size=50)) for _ in range(150)]
    assert np.std(shuffled) == pytest.approx(drawn.std(), rel=0.25)


def test_the_largest_of_a_map_of_unrelated_layers_stays_below_its_null():
    """At level .9 about 4 of 40 maps are above; a pair's null would let most of them through."""
    above = {"null": 0, "null_map": 0}
    for seed in range(40):
        one, other = ({str(i): normal(40, 6, seed=1000 * seed + 10 * k + i) for i in range(4)} for k in (0, 1))
        table = cka_map(one, other, level=0.9, seed=seed)
        for name in above:
            above[name] += bool((table["value"] > table[name]).any())
    assert above["null_map"] <= 10
    assert above["null"] >= 20


# --- neighbours -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_mutual_neighbours_are_counted_one_by_one(metric, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7 * 80)
    x, y = related()

    def near(z, i):
        z = z.numpy()
        if metric == "cosine":
            far = [-z[i] @ b / np.linalg.norm(z[i]) / np.linalg.norm(b) for b in z]
        else:
            far = [np.linalg.norm(z[i] - b) for b in z]
        return set([j for j in np.argsort(far) if j != i][:10])

    want = np.mean([len(near(x, i) & near(y, i)) / 10 for i in range(80)])
    assert mutual_knn(x, y, metric=metric) == pytest.approx(want, abs=1e-12)
    assert mutual_knn(x, y, k=79) == 1


# --- Procrustes, SVCCA ---------------------------------------------------------------------------------------------------------


def test_procrustes_is_the_best_rotation():
    x, y = related(q=7)
    a, b = (z - z.mean(0) for z in (x, y))
    a, b = a / a.norm(), b / b.norm()
    u, s, v = torch.linalg.svd(a.T @ b)
    assert procrustes(x, y) == pytest.approx(float(s.sum()), abs=1e-12)
    assert procrustes(x, y, of="distance") == pytest.approx(float((a @ u @ v - b).norm()), abs=1e-10)
    assert procrustes(x, y) == pytest.approx(math.sqrt(1 - scipy_procrustes(x.numpy(), y.numpy())[2]), abs=1e-10)


def test_the_distance_keeps_the_triangle_inequality():
    for seed in range(10):
        x, y, z = (normal(20, d, seed=seed * 3 + d) for d in (3, 4, 5))
        far = [procrustes(a, b, of="distance") for a, b in ((x, z), (x, y), (y, z))]
        assert far[0] <= far[1] + far[2] + 1e-12
    assert procrustes(x, x, of="distance") == pytest.approx(0, abs=1e-6)


def test_wide_features_are_as_similar_as_their_gram_matrices():
    x, y = related(20, 300, 200)
    turned = torch.linalg.qr(x.T).R.T  # the same Gram matrix in 20 columns
    assert procrustes(x, y) == pytest.approx(procrustes(turned, y), abs=1e-10)
    assert svcca(x, y, keep=0.8) == pytest.approx(svcca(turned, y, keep=0.8), abs=1e-9)


def naive_svcca(x, y, keep):
    def scores(z):
        z = z.numpy() - z.numpy().mean(0)
        u, s, _ = np.linalg.svd(z, full_matrices=False)
        k = next(i for i in range(1, len(s) + 1) if (s[:i] ** 2).sum() >= keep * (s**2).sum() * (1 - 1e-12))
        return u[:, :k] * s[:k]

    a, b = scores(x), scores(y)
    white = [np.linalg.inv(np.linalg.cholesky(z.T @ z)) for z in (a, b)]
    return np.linalg.svd(white[0] @ a.T @ b @ white[1].T)[1].mean()


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99, 1.0])
def test_svcca_is_the_mean_canonical_correlation(keep):
    x, y = related(p=9, q=6)
    assert svcca(x, y, keep=keep) == pytest.approx(naive_svcca(x, y, keep), abs=1e-9)


def test_svcca_counts_its_directions():
    x = torch.linalg.qr(normal(50, 4) - normal(50, 4).mean(0)).Q * torch.tensor([10.0, 5, 1, 0.01], dtype=torch.float64)
    assert svcca(x, x, keep=0.99).convention.startswith("2 and 2 directions of 0.99")
    assert svcca(x, x, keep=0.999).convention.startswith("3 and 3 directions")


def test_an_interval_of_a_pair_draws_the_same_rows_of_both():
    x, y = related(200, noise=3)
    got = bootstrap(cka, x, y, resamples=60)
    assert got.low < got < got.high
    assert got.high - got.low < 0.3


# --- dimension and clusters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
def test_a_planted_dimension_is_found(dimension):
    flat = torch.rand(3000, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.cat([flat @ normal(dimension, 30), (2 * flat).sin()], 1)  # bent into 30 + d dimensions
    assert twonn(z) == pytest.approx(dimension, rel=0.1)
    assert twonn(z, fit="likelihood") == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize("width", [6, 40])
@pytest.mark.parametrize("discard", [0.0, 0.1, 0.4])
def test_twonn_is_that_of_scikit_dimension(width, discard):
    z = normal(500, 5) @ normal(5, width, seed=1) + 100
    line = skdim.id.TwoNN(discard_fraction=max(discard, 0.01)).fit(z.numpy()).dimension_
    assert twonn(z, discard=max(discard, 0.01)) == pytest.approx(line, rel=1e-6)
    likely = skdim.id.TwoNN(method="mle", discard_fraction=discard).fit(z.numpy()).dimension_
    assert twonn(z, fit="likelihood", discard=discard) == pytest.approx(likely, rel=1e-6)


def test_copies_count_once():
    z = normal(400, 4)
    more = torch.cat([z, z[:90], z[:20]])
    got = twonn(more)
    assert got == pytest.approx(float(twonn(z)), rel=1e-12)
    assert (got.n, "110 copies left out" in got.convention) == (510, True)
    with pytest.warns(RuntimeWarning, match="1 different rows: too few to fit"):
        assert math.isnan(twonn(torch.ones(10, 3)))


def test_near_neighbours_under_a_large_offset_keep_their_distances():
    z = normal(300, 3)
    assert twonn(z + 1e6) == pytest.approx(float(twonn(z)), rel=1e-6)


def test_settings_of_twonn_are_checked():
    with pytest.raises(ValueError, match="fit='mle'"):
        twonn(normal(50, 3), fit="mle")
    with pytest.raises(ValueError, match="from 0 to below 1, but got 1"):
        twonn(normal(50, 3), discard=1)


def test_tight_clusters_are_learnable_and_even_directions_are_not():
    source = torch.arange(400) % 20
    tight = cluster_learnability(10 * normal(20, 8)[source] + 0.01 * normal(400, 8, seed=1), clusters=20)
    loose = cluster_learnability(normal(400, 200))
    assert tight > 0.97
    assert loose < 0.6
    assert "20 clusters" in loose.convention  # the root of 400
    with pytest.raises(ValueError, match="1 to 400 clusters, but got clusters=401"):
        cluster_learnability(normal(400, 3), clusters=401)


def test_cluster_learnability_is_the_vote_of_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.neighbors import KNeighborsClassifier

    z = related(300, 6, 12)[1]
    u = (z / z.norm(dim=1, keepdim=True)).numpy()
    label = KMeans(17, n_init=1, random_state=5).fit(u).labels_
    order = np.random.default_rng(5).permutation(300)
    known, held_out = order[:150], order[150:]
    vote = KNeighborsClassifier(1, metric="cosine").fit(u[known], label[known])
    assert cluster_learnability(z, seed=5) == pytest.approx(vote.score(u[held_out], label[held_out]), abs=1e-12)


def test_clid_adds_standard_scores():
    table = pd.DataFrame({"cluster_learnability": [0.2, 0.5, 0.8], "twonn": [20.0, 8, 8]}, index=["a", "b", "c"])
    root = 1.5**0.5
    want = [-root + 2**0.5, 0 - 0.5**0.5, root - 0.5**0.5]
    np.testing.assert_allclose(clid(table), want, atol=1e-12)
    assert clid(table).index.tolist() == ["a", "b", "c"]
    assert clid(table.assign(twonn=7.1)).tolist() == pytest.approx([-root, 0, root])
    assert clid(table.rename(columns={"twonn": "id"}), dimension="id").tolist() == pytest.approx(want)
    with pytest.raises(KeyError, match=r"\['twonn'\] are not among \['cluster_learnability'\]"):
        clid(table[["cluster_learnability"]])
    with pytest.raises(ValueError, match="at least two rows, but got 1"):
        clid(table[:1])
    assert math.isnan(clid(table.assign(twonn=[1, 2, math.nan]))["c"])


def test_the_dimension_is_read_from_distances_not_products():
    z = normal(100, 3)
    near = neighbours.nearest(z, 2, metric="euclidean")
    want = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf).topk(2, largest=False)
    assert torch.equal(near, want.indices)
    assert torch.allclose(neighbours.apart(z, near), want.values, rtol=1e-12)
    assert intrinsic._log_ratios(z)[0] >= 0


# --- tokens ---------------------------------------------------------------------------------------------------------------------


def naive_distance(weights, h, w, patch):
    places = [(i // w, i % w) for i in range(h * w)]
    sums = [
        sum(a / sum(row) * math.dist(places[i], places[j]) * patch for j, a in enumerate(row)) for i, row in enumerate(weights)
    ]
    return sum(sums) / len(sums)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5)])
def test_attention_distance_is_the_sum_written_out(shape):
    h, w = shape
    t = h * w + 2
    attention = torch.rand(4, 3, t, t, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    table = attention_distance(attention, grid=shape, before=2, patch=16)
    assert list(table) == ["head", "value"]
    assert table["head"].tolist() == [0, 1, 2]
    for head in range(3):
        want = np.mean([naive_distance(image[head, 2:, 2:].tolist(), h, w, 16) for image in attention])
        assert table["value"][head] == pytest.approx(want, rel=1e-12)


def test_attention_to_oneself_has_no_distance_and_even_attention_the_mean_one():
    alone, even = torch.eye(49), torch.full((49, 49), 1 / 49)
    got = attention_distance(torch.stack([alone, even, torch.zeros(49, 49)]))["value"]
    places = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0))
    assert got.tolist() == pytest.approx([0, *[float(torch.cdist(places, places).mean())] * 2], rel=1e-5)
    information = attention_information(torch.stack([alone, even]))["value"]
    assert information.tolist() == pytest.approx([1, 0], abs=1e-6)


def test_attention_information_is_the_equation_written_out():
    a = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    p = a[0, 0].numpy() / 4  # joint of query and key
    q, k = p.sum(1), p.sum(0)
    shared = sum(p[i, j] * math.log(p[i, j] / q[i] / k[j]) for i in range(4) for j in range(4))
    want = shared / math.sqrt((q * np.log(q)).sum() * (k * np.log(k)).sum())
    assert attention_information(a, grid=(2, 2))["value"][0] == pytest.approx(want, rel=1e-10)


def naive_amplitude(maps, f, eps=1e-6):
    """Of (N, h, h, D), the mean log-amplitude at frequency f down and across."""
    h = maps.shape[1]
    wave = np.exp(-2j * np.pi * f * (np.arange(h)[:, None] + np.arange(h)) / h)
    return np.mean([[math.log(abs((m[..., c] * wave).sum()) + eps) for c in range(maps.shape[-1])] for m in maps])


@pytest.mark.parametrize("h", [4, 5, 1])
def test_fourier_amplitudes_are_the_sums_written_out(h):
    tokens = normal(3, h * h + 1, 6)
    table = fourier_amplitude(tokens, before=1)
    maps = tokens[:, 1:].reshape(3, h, h, 6).numpy()
    assert table["frequency"].tolist() == pytest.approx([2 * f / h for f in range((h + 1) // 2)])
    assert table["frequency"].max() < 1
    for f, value in enumerate(table["value"]):
        assert value == pytest.approx(naive_amplitude(maps, f) - naive_amplitude(maps, 0), abs=1e-10)


def test_smooth_maps_lose_the_high_frequencies_and_rough_ones_do_not():
    """Of noise all frequencies but 0 are complex, and the mean logarithm of such is ln 2 / 2 above that of a real one."""
    rough = normal(400, 14 * 14, 8).reshape(400, 14, 14, 8)
    smooth = sum(rough.roll((a, b), (1, 2)) for a in range(4) for b in range(4))
    flat, falling = (fourier_amplitude(m.reshape(400, 196, 8))["value"] for m in (rough, smooth))
    assert flat[1:].tolist() == pytest.approx([math.log(2) / 2] * 6, abs=0.08)
    assert falling.iloc[-1] < -2
    assert flat.iloc[0] == falling.iloc[0] == 0


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(ValueError, match=r"197 tokens with before=0 are 197 patches, which are not 14 x 14: say which grid="):
        fourier_amplitude(torch.zeros(1, 197, 3))
    with pytest.raises(ValueError, match="as many patches down as across, but got 2 x 3"):
        fourier_amplitude(torch.zeros(1, 6, 3), grid=(2, 3))
    with pytest.raises(ValueError, match="of 4 tokens, before=4 leaves no patches"):
        attention_distance(torch.zeros(1, 4, 4), before=4)
    with pytest.raises(ValueError, match=r"\(images, heads, tokens, tokens\), but got shape \(2, 4\)"):
        attention_distance(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="give them after the softmax"):
        attention_distance(normal(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"\(images, tokens, dimensions\), but got shape \(3,\)"):
        fourier_amplitude(torch.zeros(3))


def test_all_of_it_is_had_from_the_top():
    for name in ("cka", "cka_map", "mutual_knn", "procrustes", "svcca", "permutation_null", "twonn", "clid"):
        assert getattr(workbench, name) is getattr(workbench.measures, name)
