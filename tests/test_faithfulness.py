"""What samples of a representation say of their source: numbers against naive loops, closed forms, invariances and controls."""

import functools
import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import sqrtm

import workbench as wb
from workbench.measures import sources
from workbench.measures.agreement import factor_agreement, factor_changes
from workbench.measures.distances import frechet_distance, kernel_distance
from workbench.measures.resampling import bootstrap
from workbench.measures.sources import rank_summary, source_ranks
from workbench.measures.variation import invariance_ratio, sample_maps, sample_variation

METRICS = ("standardised", "euclidean", "cosine")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(gallery, rows, copies=2, noise=1.0, seed=5):
    """Samples around rows of a gallery."""
    return gallery[rows].repeat_interleave(copies, 0) + noise * normal(len(rows) * copies, gallery.shape[1], seed=seed)


# --- the place of the source --------------------------------------------------------------------------------------------------


def naive_ranks(samples, rows, gallery, metric):
    """The definition, a pair at a time, in float64."""
    samples, gallery = samples.numpy(), gallery.numpy()
    copies = len(samples) // len(rows)

    def apart(x, y):
        if metric == "cosine":
            return 1 - sum(x * y) / math.sqrt(sum(x * x) * sum(y * y))
        by = gallery.std(0) if metric == "standardised" else np.ones(len(x))
        return math.sqrt(sum(((x - y) / by) ** 2))

    found = []
    for i, x in enumerate(samples):
        own = rows[i // copies]
        far = [apart(x, g) for g in gallery]
        others = [v for j, v in enumerate(far) if j != own]
        rank = 1 + sum(v < far[own] for v in others) + sum(v == far[own] for v in others) / 2
        found.append((rank, far[own], far[own] / np.mean(others), int(np.argmin(far))))
    return np.array(found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("chunk", [1 << 23, 100])
def test_ranks_are_the_definition_written_out(metric, chunk, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", chunk)
    monkeypatch.setattr("workbench.measures.moments.CHUNK", chunk)
    gallery, rows = normal(300, 5) * torch.tensor([1, 2, 0.1, 5, 1.0]) + 0.5, [7, 0, 299, 31]
    samples = near(gallery, rows, copies=3)
    table = source_ranks(samples, rows, gallery, metric=metric)
    assert list(table) == ["source", "copy", "rank", "candidates", "distance", "relative", "nearest"]
    np.testing.assert_allclose(
        table[["rank", "distance", "relative", "nearest"]], naive_ranks(samples, rows, gallery, metric), rtol=1e-9
    )
    assert table["source"].tolist() == [r for r in rows for _ in range(3)] and table["copy"].tolist() == [0, 1, 2] * 4
    assert set(table["candidates"]) == {300} and table["rank"].nunique() > 3


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_share_the_mean_of_their_ranks(metric):
    """A collapsed representation has the rank of chance, and a twin of the source counts half."""
    same = torch.full((9, 4), 0.3)
    assert source_ranks(same[:3], range(3), same, metric=metric)["rank"].tolist() == [5.0] * 3
    gallery = normal(50, 4)
    gallery[10] = gallery[20] = gallery[3]
    table = source_ranks(gallery[[3, 4]], [3, 4], gallery, metric=metric)
    assert table["rank"].tolist() == [2.0, 1.0] and table["distance"].abs().max() < 1e-6


@pytest.mark.parametrize("metric", METRICS)
def test_the_real_image_itself_is_first(metric):
    """Invariant 5, the oracle control: rank 1 and MRR 1, also where its features were rounded."""
    gallery = normal(400, 16) + 2
    table = rank_summary(source_ranks(gallery[:50].float(), range(50), gallery, metric=metric)).set_index("measure")
    for measure in ("mean rank", "median rank", "MRR"):
        assert table.loc[measure, ["value", "low", "high"]].tolist() == [1, 1, 1]
    assert table.loc["relative distance", "value"] < 1e-3


@pytest.mark.parametrize("metric", METRICS)
def test_shuffled_conditions_are_at_chance(metric):
    """Invariant 5: the mean rank of n samples held against other sources is (N + 1) / 2, give or take 3 N / sqrt(12 n)."""
    n, count = 500, 400
    gallery, rows = normal(count, 8), np.arange(250)
    samples = near(gallery, rows, noise=0.1)
    honest = rank_summary(source_ranks(samples, rows, gallery, metric=metric)).set_index("measure")
    shuffled = rank_summary(source_ranks(samples, np.roll(rows, 1), gallery, metric=metric)).set_index("measure")
    for measure in ("mean rank", "median rank"):
        assert abs(shuffled.loc[measure, "value"] - (count + 1) / 2) < 3 * count / math.sqrt(12 * n) * (1 + (measure[2] == "d"))
        assert shuffled.loc[measure, "chance"] == (count + 1) / 2
    harmonic = sum(1 / r for r in range(1, count + 1)) / count
    assert shuffled.loc["MRR", "chance"] == pytest.approx(harmonic, rel=1e-12)
    assert shuffled.loc["MRR", "value"] == pytest.approx(harmonic, abs=3 * 0.08 / math.sqrt(n))
    assert shuffled.loc["relative distance", "value"] == pytest.approx(1, abs=0.1)
    assert honest.loc["mean rank", "value"] < 5 and honest.loc["MRR", "value"] > 0.8
    assert set(honest["n"]) == {n} and set(honest["sources"]) == {250} and set(honest["candidates"]) == {count}


def test_what_leaves_ranks_as_they_are():
    """Invariant 6, and that a distance does not forgive what it does not claim to."""
    gallery, rows = normal(200, 6) + 0.5, list(range(40))
    samples = near(gallery, rows)
    scale, shift = torch.tensor([0.01, 3, 1, 100, 0.5, 2.0]), torch.tensor([1000.0, -2, 0, 5, 0, 0])
    turn = torch.linalg.qr(normal(6, 6, seed=3)).Q
    changes = {
        "scale": lambda z: 1e6 * z,
        "affine": lambda z: scale * z + shift,
        "rotation": lambda z: z @ turn,
        "lengths": lambda z: z * (1 + z.square().sum(1, keepdim=True)),
    }
    keeps = {"standardised": {"scale", "affine"}, "euclidean": {"scale", "rotation"}, "cosine": {"scale", "rotation", "lengths"}}
    for metric, (name, change) in itertools.product(METRICS, changes.items()):
        want = source_ranks(samples, rows, gallery, metric=metric)
        got = source_ranks(change(samples), rows, change(gallery), metric=metric)
        same = want["rank"].equals(got["rank"])
        assert same == (name in keeps[metric]), f"{metric} under {name}"
        if same and (metric, name) != ("euclidean", "scale"):
            np.testing.assert_allclose(got["distance"], want["distance"], rtol=1e-6)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    place = torch.argsort(order)
    moved = source_ranks(samples, place[:40], gallery[order])
    assert moved["rank"].equals(source_ranks(samples, rows, gallery)["rank"])
    assert order[moved["nearest"].tolist()].tolist() == source_ranks(samples, rows, gallery)["nearest"].tolist()


def test_a_constant_column_counts_for_nothing():
    gallery = normal(60, 4)
    samples = near(gallery, [1, 2, 3], noise=0.5)
    padded = [torch.cat([z, torch.full((len(z), 1), fill)], 1) for z, fill in ((samples, 7.0), (gallery, 3.0))]
    pd.testing.assert_frame_equal(source_ranks(padded[0], [1, 2, 3], padded[1]), source_ranks(samples, [1, 2, 3], gallery))


def test_sources_may_be_representations_of_images_that_are_elsewhere():
    gallery, rows = normal(100, 6), [4, 9]
    samples = near(gallery, rows)
    by_row = source_ranks(samples, rows, gallery)
    same = source_ranks(samples, gallery[rows].float(), gallery)  # of another precision, and the same images
    assert same["rank"].equals(by_row["rank"]) and set(same["candidates"]) == {100} and same["source"].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(same["distance"], by_row["distance"], rtol=1e-5)
    kept = [r for r in range(100) if r not in rows]
    away = source_ranks(samples, gallery[rows], gallery[kept], metric="euclidean")  # one candidate more than there are rows
    assert away["rank"].equals(source_ranks(samples, rows, gallery, metric="euclidean")["rank"] - _other_ahead(samples, gallery))
    assert set(away["candidates"]) == {99}


def _other_ahead(samples, gallery):
    """Whether the other of the two sources is nearer than the sample's own."""
    far = torch.cdist(samples, gallery[[4, 9]])
    return pd.Series((far[:, [1, 0]].flatten()[[0, 2, 5, 7]] < far.flatten()[[0, 2, 5, 7]]).double().numpy())


def test_arrays_memory_maps_and_lists_do_as_well(tmp_path):
    gallery, rows = normal(80, 5), [3, 70]
    samples = near(gallery, rows)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    want = source_ranks(samples, rows, gallery)
    for given in (np.array(rows), torch.tensor(rows)):
        pd.testing.assert_frame_equal(source_ranks(samples.numpy(), given, mapped), want)


def test_the_interval_is_over_sources_and_widens_when_copies_are_alike():
    """Copies of one sample tell nothing new: eight of each must not shrink the interval of one."""
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"source": range(60), "rank": rng.integers(1, 100, 60).astype(float), "relative": 0.5, "candidates": 100})
    eight = one.loc[one.index.repeat(8)].reset_index(drop=True)
    for a, b in zip(rank_summary(one).itertuples(), rank_summary(eight).itertuples(), strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    mean = rank_summary(one, resamples=2000).iloc[0]
    theory = 1.96 * one["rank"].std() / math.sqrt(60)
    assert (mean["high"] - mean["low"]) / 2 == pytest.approx(theory, rel=0.1)
    few = rank_summary(one[:3])
    assert few[["low", "high"]].isna().all().all() and few["value"].notna().all()
    wide = rank_summary(one.assign(rank=[1.0] * 58 + [100.0, 100.0]))
    assert wide["low"].ge([1, 1, 0, 0]).all() and wide["high"][2] <= 1  # no rank is before the first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"copies": 3}, "samples of 2 sources are 2 times as many rows as each has copies"),
        ({"samples": torch.zeros(4, 7)}, "as wide as the gallery, 5; but got shape"),
        ({"sources": [0, 100]}, "the gallery has the rows 0 to 99, but sources are 0 to 100"),
        ({"sources": [0.5, 1.5]}, "sources are row numbers of the gallery, or a matrix"),
        ({"sources": ["a", "b"]}, r"sources are row numbers of the gallery, .* but got \(2,\) of <U1"),
        ({"sources": [True, False]}, r"but got \(2,\) of bool"),
        ({"metric": "taxi"}, "got metric='taxi'"),
        ({"gallery": torch.full((100, 5), math.nan)}, "hold NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    given = {"samples": normal(4, 5), "sources": [0, 1], "gallery": normal(100, 5)} | change
    with pytest.raises(ValueError, match=words):
        source_ranks(given.pop("samples"), given.pop("sources"), given.pop("gallery"), **given)


def nearly_dead(n=400, d=50, on=3):
    """Rows of which one dimension is constant but for ``on`` of them; and one row more, in which it is on by far."""
    gallery = normal(n, d)
    gallery[:, 7] = 2.0
    gallery[:on, 7] = 2.1
    far = gallery[-1:].clone()
    far[0, 7] = 5.0
    return gallery, far


@pytest.mark.parametrize("of", [source_ranks, wb.out_of_distribution])
def test_distances_of_dimensions_that_hardly_vary_are_warned_of(of):
    given = (lambda far, gallery: (far, [0], gallery)) if of is source_ranks else lambda far, gallery: (far, gallery)
    gallery, far = nearly_dead()
    with pytest.warns(
        UserWarning, match=r"^\d+% of the squared distances are of 1 of 50 dimensions, constant but for at most 1 %"
    ):
        of(*given(far, gallery))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of(*given(gallery[-1:] + 0.1, gallery))  # it is there, but off
        gallery, far = nearly_dead(on=5)
        of(*given(far, gallery))  # it is on in more than 1 %
        if of is source_ranks:
            source_ranks(*given(far, nearly_dead()[0]), metric="euclidean")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_representation_is_told_to_give_its_values(where):
    given = [normal(4, 5), [0, 1], normal(100, 5)]
    given[where] = wb.Representation(normal(2, 5).float())
    with pytest.raises(TypeError, match="takes a matrix .* but got Representation; take its .values"):
        source_ranks(*given)


@pytest.mark.parametrize("measure", [wb.rankme, frechet_distance, invariance_ratio], ids=lambda f: f.__name__)
def test_every_measure_says_what_to_take_of_a_representation(measure):
    h = wb.Representation(normal(30, 5))
    with pytest.raises(TypeError, match="takes a matrix .* but got Representation; take its .values"):
        measure(*[h] if measure is wb.rankme else [h, h])


def test_a_summary_wants_the_table_of_ranks():
    with pytest.raises(KeyError, match=r"rank_summary needs .* but \['rank'"):
        rank_summary(pd.DataFrame({"source": [1]}))


# --- factors ------------------------------------------------------------------------------------------------------------------


def readings(sources=40, copies=5, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    wanted = pd.DataFrame({"shape": rng.choice(["disc", "star", "drop"], sources), "x": rng.integers(0, 6, sources) / 5})
    read = wanted.loc[wanted.index.repeat(copies)].reset_index(drop=True)
    for name, values in {"shape": ["disc", "star", "drop"], "x": np.arange(6) / 5}.items():
        wrong = rng.random(len(read)) > right
        read.loc[wrong, name] = rng.choice(values, wrong.sum())
    return read, wanted


def naive_agreement(a, b, copies, same):
    """Every pair, one at a time."""
    n, s = len(a), len(b)
    kept = np.mean([same(a[i], b[i // copies]) for i in range(n)])
    others = np.mean([same(a[i], b[j]) for i in range(n) for j in range(s) if i // copies != j])
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    shared = np.mean([same(a[i], a[j]) for i, j in pairs if i // copies == j // copies])
    apart = np.mean([same(a[i], a[j]) for i, j in pairs if i // copies != j // copies])
    return [kept, others, shared, apart]


def test_agreement_is_the_definition_written_out(monkeypatch):
    monkeypatch.setattr("workbench.measures.agreement.BLOCK", 130)
    read, wanted = readings(12, 4)
    table = factor_agreement(read, wanted, within={"x": 0.21})
    got = table.set_index(["factor", "measure"])
    for name, same in {"shape": lambda p, q: p == q, "x": lambda p, q: abs(p - q) <= 0.21}.items():
        want = naive_agreement(read[name].tolist(), wanted[name].tolist(), 4, same)
        found = [got.loc[(name, m), c] for m in ("kept", "shared") for c in ("value", "chance")]
        assert found == pytest.approx(want, rel=1e-12)
    assert (table["n"] == 48).all() and (table["sources"] == 12).all()
    assert table["convention"].tolist() == ["equal", "equal", "within 0.21", "within 0.21"]
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()


def test_agreement_of_perfect_and_of_shuffled_samples():
    read, wanted = readings(300, 4, right=1.0)
    perfect = factor_agreement(read, wanted)
    assert perfect[["value", "low", "high"]].eq(1).all().all()
    blind = factor_agreement(readings(300, 4, right=0.0, seed=1)[0], wanted)
    assert (blind["value"] - blind["chance"]).abs().max() < 0.05
    assert ((blind["low"] < blind["chance"]) & (blind["chance"] < blind["high"])).mean() >= 0.75
    assert blind["chance"].iloc[0] == pytest.approx(1 / 3, abs=0.02) and blind["chance"].iloc[2] == pytest.approx(1 / 6, abs=0.02)


def test_samples_may_agree_with_each_other_and_not_with_their_source():
    wanted = pd.DataFrame({"side": ["left", "right"] * 10})
    turned = pd.DataFrame({"side": np.repeat(["right", "left"] * 10, 3)})
    got = factor_agreement(turned, wanted).set_index("measure")["value"]
    assert (got["kept"], got["shared"]) == (0, 1)


def test_the_interval_of_agreement_is_that_of_a_mean_over_sources():
    read, wanted = readings(200, 3)
    kept = (read["shape"].to_numpy().reshape(-1, 3) == wanted["shape"].to_numpy()[:, None]).mean(1)
    row = factor_agreement(read, wanted, resamples=2000).iloc[0]
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * kept.std(ddof=1) / math.sqrt(200), rel=0.1)


def test_single_precision_and_factors_that_go_round():
    wanted = pd.DataFrame({"hue": [0.0, 0.125, 0.496, 0.9]})
    read = wanted.astype("float32")
    assert factor_agreement(read, wanted)["value"].tolist() == [1.0]
    around = pd.DataFrame({"hue": [0.98, 0.1, 0.5, 0.93]})
    flat = factor_agreement(around, wanted, within={"hue": 0.05})["value"][0]
    assert (flat, factor_agreement(around, wanted, within={"hue": 0.05}, periods={"hue": 1.0})["value"][0]) == (0.75, 1.0)


def test_columns_that_are_no_factors_or_in_one_table_alone_are_left_out():
    read, wanted = readings(6, 2)
    table = factor_agreement(read.drop(columns="shape").assign(other=1), wanted.assign(source=range(6)))
    assert set(table["factor"]) == {"x"}
    assert set(factor_agreement(read[:6], wanted)["measure"]) == {"kept"}  # one copy has no other to agree with


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, w: (r[:-1], w, {}), "6 sources with copies=1 want 6 rows, but got 11"),
        (lambda r, w: (r.drop(columns=["shape", "x"]).assign(hue=0), w, {}), "no factor is in both"),
        (lambda r, w: (r.assign(x=r["x"] + 0.013), w, {}), "readings of 'x' never are one of its values"),
        (lambda r, w: (r.assign(x=np.nan), w, {}), "'x' misses 12 values"),
        (lambda r, w: (r, w, {"within": {"shape": 1.0}}), "'shape' is no quantity"),
    ],
)
def test_tables_that_do_not_fit_are_said(change, words):
    read, wanted, settings = change(*readings(6, 2))
    with pytest.raises(ValueError, match=words):
        factor_agreement(read, wanted, **settings)


def test_changes_by_a_manipulation_against_random_dimensions():
    read, _ = readings(50, 4)
    half = read.copy()
    half.loc[::2, "shape"] = "none"
    some = read.copy()
    some.loc[::4, "shape"] = "none"
    table = factor_changes(read, {"common": half, "random": some}, against="random", copies=4)
    got = table.set_index(["change", "factor", "measure"])
    assert got.loc[("common", "shape", "changed"), "value"] == 0.5
    assert got.loc[("random", "shape", "changed"), "value"] == 0.25
    assert got.loc[("common", "shape", "beyond"), ["value", "low", "high"]].tolist() == [0.25, 0.25, 0.25]
    assert got.loc[("common", "x", "beyond"), ["value", "low", "high"]].tolist() == [0, 0, 0]
    assert ("random", "shape", "beyond") not in got.index and (table["sources"] == 50).all() and (table["n"] == 200).all()
    alone = factor_changes(read, half, copies=4)
    assert alone["change"].unique().tolist() == ["changed"] and alone["value"].tolist() == [0.5, 0.0]
    assert factor_changes(read, {"shape": half["shape"].tolist()}, copies=4)["value"].tolist() == [0.5]
    nothing = factor_changes(read, read, copies=4)  # a manipulation of no dimension is the identity
    assert nothing[["value", "low", "high"]].eq(0).all().all()


def test_a_manipulation_that_does_no_more_than_chance_is_not_news():
    rng = np.random.default_rng(0)
    before = pd.DataFrame({"hue": rng.integers(0, 8, 400)})
    after = {}
    for name in ("common", "random"):
        moved = before["hue"].where(rng.random(400) > 0.3, rng.integers(0, 8, 400))
        after[name] = moved.to_frame()
    row = factor_changes(before, after, against="random").set_index("measure").loc["beyond"]
    assert row["low"] < 0 < row["high"]


def test_changes_that_do_not_fit_are_said():
    read, _ = readings(6, 2)
    with pytest.raises(ValueError, match=r"against is one of \['a'\], but got 'b'"):
        factor_changes(read, {"a": read}, against="b")
    with pytest.raises(ValueError, match=r"12 before and 11 after \(changed\)"):
        factor_changes(read, read[:-1])


# --- how much varies ----------------------------------------------------------------------------------------------------------


def test_the_ratio_of_invariance_is_its_definition_over_all_pairs():
    h = normal(30, 4) * torch.tensor([1, 2, 0.1, 5.0]) + 3
    moved = h + 0.3 * normal(30, 4, seed=2)
    above = np.mean([float((moved[i] - h[i]).square().sum()) for i in range(30)])
    below = np.mean([float((h[j] - h[i]).square().sum()) for i in range(30) for j in range(30) if i != j])
    assert invariance_ratio(h, moved) == pytest.approx(above / below, rel=1e-12)


def test_the_ratio_of_invariance_knows_its_ends_and_what_changes_nothing():
    h, noise = normal(4000, 6), normal(4000, 6, seed=2)
    assert invariance_ratio(h, h) == 0
    assert invariance_ratio(h, h[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]) == pytest.approx(1, abs=0.05)
    assert invariance_ratio(h, h + 0.5 * noise) == pytest.approx(0.25 / 2, rel=0.05)  # closed form: s² D / (2 D)
    turn = torch.linalg.qr(normal(6, 6, seed=3)).Q
    want = invariance_ratio(h, h + noise)
    for change in (lambda z: 7 * z, lambda z: z @ turn, lambda z: z + 100):
        assert invariance_ratio(change(h), change(h + noise)) == pytest.approx(want, rel=1e-9)
    got = bootstrap(invariance_ratio, h, h + noise, resamples=50)
    assert got.low < got < got.high and got.high - got.low < 0.1
    with pytest.raises(ValueError, match="got shapes"):
        invariance_ratio(h, h[:, :5])
    with pytest.warns(RuntimeWarning, match="one representation"):
        assert math.isnan(invariance_ratio(torch.ones(5, 2), normal(5, 2)))


def test_maps_are_means_and_deviations_of_each_source():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 2, 5), dtype=np.uint8)
    mean, deviation = sample_maps(images, copies=4)
    assert mean.shape == (3, 3, 2, 5) and deviation.shape == (3, 2, 5)
    own = images[4:8].astype(float) / 255
    np.testing.assert_allclose(mean[1], sum(own) / 4)
    np.testing.assert_allclose(deviation[1] ** 2, sum((own - mean[1]) ** 2).mean(0) / 3)
    same = sample_maps(torch.from_numpy(images).double() / 255, copies=4)
    np.testing.assert_allclose(same[0], mean)
    np.testing.assert_allclose(same[1], deviation)


def test_variation_is_that_of_all_pairs_of_samples():
    images = np.random.default_rng(1).random((12, 3, 2, 2)) * np.repeat([1, 0.2, 0.5], 4)[:, None, None, None]

    def difference(pairs):
        return np.mean([((images[i] - images[j]) ** 2).mean() for i, j in pairs])

    pairs = list(itertools.combinations(range(12), 2))
    own = difference([p for p in pairs if p[0] // 4 == p[1] // 4])
    other = difference([p for p in pairs if p[0] // 4 != p[1] // 4])
    table = sample_variation(images, copies=4)
    assert table["measure"].tolist() == ["of one source", "of two sources", "share"]
    assert table["value"].tolist() == pytest.approx([own**0.5, other**0.5, own / other], rel=1e-12)
    assert table[["low", "high"]].isna().all().all()  # three sources


def test_variation_knows_its_ends():
    rng = np.random.default_rng(2)
    one = np.repeat(rng.random((20, 1, 3, 3)), 3, 0)
    assert (sample_variation(one, copies=3).set_index("measure").loc["share", ["value", "low", "high"]] < 1e-20).all()
    noise = sample_variation(rng.random((400, 1, 3, 3)), copies=4).set_index("measure").loc["share"]
    assert noise["low"] < 1 < noise["high"] and noise["high"] - noise["low"] < 0.2


@pytest.mark.parametrize("f", [sample_maps, sample_variation])
def test_images_that_are_not_copies_of_each_source_are_said(f):
    for images, copies in ((np.zeros((5, 1, 2, 2)), 2), (np.zeros((4, 4)), 2), (np.zeros((4, 1, 2, 2)), 1)):
        with pytest.raises(ValueError, match="copies of each source together and at least two"):
            f(images, copies=copies)
    for wrong in (255.0, np.nan):
        with pytest.raises(ValueError, match=r"uint8 or lie in \[0, 1\], but these lie in"):
            f(np.full((4, 1, 2, 2), wrong), copies=2)
    with pytest.raises(ValueError, match="two sources or more"):
        sample_variation(np.zeros((2, 1, 2, 2)), copies=2)


# --- distributions ------------------------------------------------------------------------------------------------------------


def exact(n, mean, deviations, seed=0):
    """Rows whose mean and covariance are exactly these."""
    z = normal(n, len(deviations), seed=seed)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1))).T
    return z * torch.as_tensor(deviations).double() + torch.as_tensor(mean).double()


def test_the_frechet_distance_of_diagonal_gaussians_is_its_closed_form():
    s, t, mean = [1, 2, 0.5, 0], [3, 2, 0.1, 1], [1.0, 0, -2, 0]
    want = sum(m * m for m in mean) + sum((p - q) ** 2 for p, q in zip(s, t, strict=True))
    assert frechet_distance(exact(50, mean, s), exact(70, [0.0] * 4, t, seed=1)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n", [400, 21], ids=["many", "few"])
def test_the_frechet_distance_of_a_set_from_itself_and_from_itself_shifted(n):
    z, shift = normal(n, 30) @ normal(30, 30, seed=1), normal(30, seed=2)
    turn = torch.linalg.qr(normal(30, 30, seed=3)).Q
    with warnings.catch_warnings(action="ignore"):
        assert frechet_distance(z, z.flip(0)) < 1e-9
        assert frechet_distance(z, z + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)
        other = 2 * normal(35, 30, seed=4)
        want = frechet_distance(z, other)
        assert want == pytest.approx(frechet_distance(other, z), rel=1e-9)
        assert frechet_distance(3 * z @ turn + 1, 3 * other @ turn + 1) == pytest.approx(9 * want, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(60, 80), (60, 5), (4, 6)])
def test_the_frechet_distance_is_the_matrix_root_written_out(n, m):
    a, b = (normal(n, 8) @ normal(8, 8, seed=1)).numpy(), normal(m, 8, seed=2).numpy() + 0.3
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    with warnings.catch_warnings(action="ignore"):
        assert frechet_distance(a, b) == pytest.approx(want, rel=1e-5)  # what scipy's root of a singular matrix is good to


def test_the_frechet_distance_of_few_rows_is_biased_and_says_so():
    with pytest.warns(RuntimeWarning, match="20 rows of 10 columns: .* biased upwards"):
        few = frechet_distance(normal(20, 10), normal(40, 10, seed=1))
    with warnings.catch_warnings(action="error"):
        many = frechet_distance(normal(2000, 10), normal(2000, 10, seed=1))
    assert few > 10 * many > 0
    assert bootstrap(functools.partial(frechet_distance, normal(500, 4)), normal(300, 4, seed=1) + 1, resamples=30).low > 2


def naive_kernel_distance(a, b, d):
    k = lambda x, y: (float(x @ y) / d + 1) ** 3  # noqa: E731
    own = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (a, b)]
    return sum(own) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_the_kernel_distance_is_its_definition_over_all_pairs(monkeypatch):
    monkeypatch.setattr("workbench.measures.distances.BLOCK", 25)
    a, b = normal(12, 5), 2 * normal(9, 5, seed=1) + 0.2
    assert kernel_distance(a, b) == pytest.approx(naive_kernel_distance(a, b, 5), rel=1e-10)


def test_the_kernel_distance_has_no_bias_where_the_frechet_distance_has():
    drawn = [kernel_distance(normal(20, 10, seed=2 * i), normal(20, 10, seed=2 * i + 1)) for i in range(200)]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / math.sqrt(200)
    assert min(drawn) < 0 < max(drawn)
    assert kernel_distance(normal(200, 4), normal(200, 4, seed=1) + 1) > 0.5


@pytest.mark.parametrize("f", [frechet_distance, kernel_distance])
def test_sets_that_cannot_be_compared_are_said(f):
    with pytest.raises(ValueError, match="features 4 and 5 wide"):
        f(normal(9, 4), normal(9, 5))
    with pytest.raises(ValueError, match="at least two rows, but got 9 and 1"):
        f(normal(9, 4), normal(1, 4))
