"""Dimensional collapse: the linear networks behave as the paper's theorems say; the real recipes are what they claim to be."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.core import Views
from workbench.models.fixed import FixedProjector
from workbench.papers import dimensional_collapse as dc
from workbench.spec import build, describe

SEEDS = (0, 1, 2)


def test_gap_of_the_augmented_dimensions_grows_with_augmentation():
    expected = {0.01: 0.0, 0.5: -0.33, 1.0: -0.83, 1.5: -1.3, 3.0: -2.5}
    for seed in SEEDS:
        gaps = [dc.split_gap(dc.augmentation_toy(s, seed=seed, every=5000)) for s in expected]
        assert np.allclose(gaps, list(expected.values()), atol=0.1), (seed, gaps)
        assert np.all(np.diff(gaps) < 0)


def test_it_is_the_augmented_inputs_that_a_layer_stops_reading():
    weight = np.array([[3.0, 0.0, 1.0, 0.5], [4.0, 5.0, 0.0, 0.0]])
    assert math.isclose(dc.input_gap(weight, augmented=2), math.log(0.5) / 2 - math.log(5))
    expected = {0.01: 0.0, 1.5: -1.3, 3.0: -2.5}
    for seed in SEEDS:
        ends = [list(dc.augmentation_live(s, seed=seed, every=5000))[-1] for s in expected]
        assert np.allclose([dc.input_gap(end.weights[0]) for end in ends], list(expected.values()), atol=0.1)


def test_collapsed_dimensions_are_the_augmented_ones():
    *_, last = dc.augmentation_live(1.5, every=5000)
    _, values, v = np.linalg.svd(last.weights[0])
    assert np.square(v[:8, :8]).sum() / 8 > 0.99
    assert np.log(values[:8].mean() / values[8:].mean()) > 1


@pytest.mark.parametrize(("depth", "dead"), [(1, 0), (2, 4), (3, 9), (4, 13)])
def test_dead_dimensions_grow_with_depth(depth, dead):
    found = [dc.dead_dimensions(dc.depth_toy(depth, seed=seed, every=5000)[0]) for seed in SEEDS]
    assert all(abs(n - dead) <= (depth > 1) for n in found), found


def test_relu_collapses_less_but_still():
    assert [dc.dead_dimensions(dc.depth_toy(2, nonlinear=True, seed=seed, every=5000)[0]) for seed in SEEDS] == [1, 1, 1]


def test_layers_align_in_the_directions_that_grow():
    for seed in SEEDS:
        start, *_, end = dc.depth_live(2, every=5000, seed=seed)
        assert dc.block_mass(*start.weights) < 0.6
        assert dc.block_mass(*end.weights) > 0.95


@pytest.fixture
def small_layers():
    rng = torch.Generator().manual_seed(0)
    w1, w2, m = (torch.randn(8, 8, generator=rng, dtype=torch.float64) / 16 for _ in range(3))
    return w1, w2, m @ m.T + torch.eye(8)


def test_flow_conserves_the_difference_of_the_layers_to_first_order(small_layers):
    w1, w2, x = small_layers

    def drift(h):
        a, b = dc.gradient_flow(w1, w2, x, h=h, time=6.0)
        return float((a @ a.T - b.T @ b - w1 @ w1.T + w2.T @ w2).norm() / (b.T @ b).norm())

    assert drift(1e-3) < 1e-4
    assert 8 < drift(1e-3) / drift(1e-4) < 12


def test_flow_aligns_the_top_direction_and_its_values_run_away(small_layers):
    a, b = dc.gradient_flow(*small_layers, h=1e-3, time=6.0)
    assert dc.alignment(a.numpy(), b.numpy())[0, 0] > 0.999
    values = torch.linalg.svdvals(a)
    assert values[0] > 5 * values[1]
    with pytest.raises(ValueError, match="choose a shorter time"):
        dc.gradient_flow(*small_layers, h=1e-2, time=30.0)


def test_contrast_matrix_is_the_gradient_of_the_papers_loss():
    rng = torch.Generator().manual_seed(0)
    x, other = (torch.randn(6, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    w = torch.randn(3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    z, z2 = x @ w.T, other @ w.T
    loss = 0
    for i in range(6):
        same = torch.exp(-(z[i] - z2[i]).square().sum() / 2)
        rest = sum(torch.exp(-(z[i] - z[j]).square().sum() / 2) for j in range(6) if j != i)
        loss = loss - torch.log(same / (rest + same))
    (gradient,) = torch.autograd.grad(loss, w)
    assert torch.allclose(-gradient, w.detach() @ dc.contrast_matrix(x, other, w.detach()), atol=1e-10)


def test_strong_augmentation_makes_the_contrast_matrix_negative_exactly_there():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(512, 16, generator=rng)
    noise = torch.randn(512, 16, generator=rng) * torch.tensor([0.0] * 8 + [3.0] * 8)
    diagonal = dc.contrast_matrix(x, x + noise, torch.eye(16) / 4).diagonal()
    assert (diagonal[:8] > 0).all()
    assert (diagonal[8:] < 0).all()


def test_written_out_gradient_is_that_of_the_loss():
    first, second = dc.depth_live(3, steps=1, every=1, nonlinear=True, strength=0.1)
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        torch.rand(16, 16, generator=rng)
    torch.randn(1000, 16, generator=rng, dtype=torch.float64)
    x = torch.randn(128, 16, generator=rng)
    x = (x + 0.1 * torch.randn(2, 128, 16, generator=rng)).flatten(0, 1)
    weights = [torch.tensor(w, dtype=torch.float32, requires_grad=True) for w in first.weights]
    z1, z2 = ((x @ weights[0].T).relu() @ weights[1].T).relu().mm(weights[2].T).chunk(2)
    loss = torch.nn.functional.cross_entropy(z1 @ z2.T / 0.1, torch.arange(128))
    for before, gradient, after in zip(first.weights, torch.autograd.grad(loss, weights), second.weights, strict=True):
        assert np.allclose(before - 0.01 * gradient.numpy(), after, atol=1e-6)


def test_the_same_seed_gives_the_same_table_and_the_table_is_tidy():
    a, b = dc.augmentation_toy(1.0, steps=60, every=25, seed=3), dc.augmentation_toy(1.0, steps=60, every=25, seed=3)
    assert a.equals(b)
    assert list(a) == ["step", "matrix", "rank", "value"]
    assert sorted(a.step.unique()) == [0, 25, 50, 60]
    table, matrix = dc.depth_toy(1, steps=10, every=10)
    assert matrix is None
    assert set(table.matrix) == {"W", "embedding"}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: dc.augmentation_toy(-1.0), "must not be negative"),
        (lambda: dc.depth_toy(0), "at least 1"),
        (lambda: dc.depth_toy(2, steps=0), "at least 1, but got 0"),
    ],
)
def test_wrong_settings_say_what_was_wanted(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    return folder, *dc.reproduce(folder, scale="smoke", seeds=[0], progress=False)


def test_reproduction_has_every_condition_beside_its_controls(smoke):
    _, measures, spectra = smoke
    assert set(measures["condition"]) == {*dc.PUBLISHED, "untrained", "raw pixels", "chance"}
    assert set(measures["measure"]) == {"linear", "knn", "drawn", "rankme", "directions"}
    assert measures[measures["measure"].isin(["linear", "knn"])]["value"].between(0, 1).all()
    assert (measures[measures["measure"] == "drawn"]["value"] < 1).all()
    widths = spectra.groupby(["condition", "layer"])["rank"].max()
    assert (widths.xs("backbone", level="layer") == 32).all()
    assert (widths.xs("projector", level="layer") == 16).all()
    directions = measures[(measures["measure"] == "directions") & (measures["layer"] == "backbone")]
    for condition, seed, value in directions[["condition", "seed", "value"]].itertuples(index=False):
        own = spectra[(spectra["condition"] == condition) & (spectra["seed"] == seed) & (spectra["layer"] == "backbone")]["value"]
        assert own.nlargest(int(value)).sum() >= 0.99 * own.sum() > own.nlargest(int(value) - 1).sum()
    rank = measures[(measures["measure"] == "rankme") & (measures["layer"] == "backbone")]["value"]
    assert rank.between(1, 32.01).all()


def test_reproduction_does_not_train_again_what_stands(smoke):
    folder, measures, spectra = smoke
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    again = dc.reproduce(folder, scale="smoke", seeds=[0], progress=False)
    assert len(before) > 6
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    pd.testing.assert_frame_equal(again[0], measures)
    pd.testing.assert_frame_equal(again[1], spectra)


def test_summary_puts_mean_and_spread_beside_the_published(smoke):
    _, measures, _ = smoke
    two = pd.concat([measures, measures.assign(seed=1, value=measures["value"] + 0.02)])
    table = dc.summary(two)
    value = measures.query("condition == 'none' and layer == 'backbone' and measure == 'linear'")["value"].item()
    assert table.loc["none", "linear"] == f"{100 * value + 1:.1f} ± {2 / 2**0.5:.1f}"
    assert table.loc["DirectCLR", "published"] == 62.7
    assert list(table.index) == [*dc.PUBLISHED, "untrained", "raw pixels", "chance"]


def test_conditions_differ_in_the_projector_alone():
    models = {c: dc.recipe(c, scale="smoke", seed=3)[0] for c in dc.PUBLISHED}
    weights = [torch.cat([p.flatten() for p in m.backbone.parameters()]) for m in models.values()]
    assert all(torch.equal(weights[0], w) for w in weights[1:])
    other = dc.recipe("none", scale="smoke", seed=4)[0]
    assert not torch.equal(weights[0], torch.cat([p.flatten() for p in other.backbone.parameters()]))
    x = torch.rand(4, 3, 32, 32)
    assert {c: m(x).z.shape[1] for c, m in models.items()} == {
        "2-layer MLP": 16, "linear": 16, "none": 32, "DirectCLR": 32, "fixed low-rank": 6, "resampled": 6,
    }  # fmt: skip
    assert [p.requires_grad for p in models["fixed low-rank"].projector.parameters()] == []


def test_dimensions_that_directclr_leaves_alone_learn_through_the_residual():
    model, objective = dc.recipe("DirectCLR", scale="smoke")
    maps = {}

    def keep(_module, arguments, output):
        maps["before"], maps["after"] = arguments[0], output
        arguments[0].retain_grad()
        output.retain_grad()

    list(model.backbone.children())[-1].register_forward_hook(keep)
    views = [torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    objective(model, Views(views, torch.arange(8)))["loss"].backward()
    before, after = (maps[name].grad.abs().sum((0, 2, 3)) for name in ("before", "after"))
    assert (after[6:] == 0).all()
    assert (after[:6] > 0).all()
    assert (before > 0).all()


def test_unknown_conditions_are_named():
    with pytest.raises(KeyError, match="there is no 'MLP'; there are 2-layer MLP"):
        dc.recipe("MLP")
    with pytest.raises(KeyError, match="there is no 'tpu'"):
        dc.recipe("none", scale="tpu")
    with pytest.raises(KeyError, match="there is no 'flips'; there are crops, redrawn"):
        dc.train("none", "nowhere", views="flips")
    with pytest.raises(ValueError, match="at least one seed"):
        dc.reproduce("nowhere", scale="smoke", seeds=[])


def test_fixed_projectors():
    h = torch.randn(5, 12)
    assert torch.equal(FixedProjector(12, 3)(h), h[:, :3])
    orthogonal = FixedProjector(12, 4, kind="orthogonal", seed=1)
    assert torch.allclose(orthogonal.directions.T @ orthogonal.directions, torch.eye(4), atol=1e-6)
    assert torch.equal(build(describe(orthogonal))(h), orthogonal(h))
    resampled = FixedProjector(12, 3, kind="resampled").train()
    torch.manual_seed(0)
    kept = [resampled(h) for _ in range(8)]
    assert len({tuple(z[0].tolist()) for z in kept}) > 1
    assert all(any(torch.equal(column, h[:, j]) for j in range(12)) for z in kept for column in z.T)
    assert torch.equal(resampled.eval()(h), h)
    reweighted = FixedProjector(12, 5, kind="reweighted", decay=0.5)
    assert torch.allclose(reweighted(h), h[:, :5] * torch.tensor([1, 0.5, 0.25, 0.125, 0.0625]))
    assert torch.equal(build(describe(reweighted))(h), reweighted(h))
    with pytest.raises(ValueError, match="decay lies above 0 and at most at 1, but is 1.5"):
        FixedProjector(12, 5, kind="reweighted", decay=1.5)
    with pytest.raises(ValueError, match="from 1 to 12 of 12 dimensions, but dim is 13"):
        FixedProjector(12, 13)
    with pytest.raises(ValueError, match="one of diagonal, orthogonal, resampled, reweighted"):
        FixedProjector(12, 3, kind="random")
