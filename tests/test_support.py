"""Factorised support against brute force, closed forms and what it must not see."""

import itertools
import time

import numpy as np
import pytest
import torch

from workbench.measures import support
from workbench.measures.dependence import total_correlation
from workbench.measures.support import hausdorff_loss, hausdorff_support, missing_corner


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(z, pairs):
    """The paper's equation with all B² product points, differentiated through everything."""
    total = 0
    for p, q in pairs:
        product = torch.cartesian_prod(z[:, p], z[:, q])
        total = total + (product[:, None] - z[None, :, [p, q]]).square().sum(-1).min(1).values.max()
    return total


def naive(z):
    """The same in float64 loops."""
    pairs = itertools.combinations(range(len(z[0])), 2)
    points = list(range(len(z)))
    return sum(
        max(min((z[i][p] - z[k][p]) ** 2 + (z[j][q] - z[k][q]) ** 2 for k in points) for i in points for j in points)
        for p, q in pairs
    )


@pytest.mark.parametrize(("b", "d"), [(12, 3), (64, 10), (100, 2)])
def test_the_fast_form_has_the_value_and_the_gradient_of_brute_force(b, d):
    z = normal(b, d).requires_grad_()
    pairs = list(itertools.combinations(range(d), 2))[:3]
    fast, slow = hausdorff_loss(z, pairs=pairs, standardise=False), brute_force(z, pairs)
    assert fast.item() == slow.item()
    assert torch.equal(torch.autograd.grad(fast, z)[0], torch.autograd.grad(slow, z)[0])


@pytest.mark.parametrize("memory", [1, 30**2 * 7, 30**3 * 4, 1 << 26])
def test_portions_of_rows_and_of_pairs_change_nothing(memory, monkeypatch):
    z = normal(30, 5)
    expected = brute_force(z, list(itertools.combinations(range(5), 2)))
    monkeypatch.setattr(support, "MEMORY", memory)
    assert hausdorff_loss(z, standardise=False).item() == pytest.approx(expected.item(), rel=1e-12)


def test_pairs_may_be_a_tensor():
    z, pairs = normal(20, 4), [(0, 2), (3, 1)]
    assert torch.equal(hausdorff_loss(z, pairs=torch.tensor(pairs)), hausdorff_loss(z, pairs=pairs))
    assert hausdorff_loss(z, pairs=torch.zeros(0, 2, dtype=torch.long)).item() == 0


def test_an_accelerator_is_never_waited_for():
    """Tensors of the device "meta" have no values: whatever asks for one, as a wait for a GPU would, fails."""
    z = torch.empty(64, 10, device="meta", requires_grad=True)
    hausdorff_loss(z, pairs=torch.empty(25, 2, dtype=torch.long, device="meta")).backward()
    assert z.grad.shape == (64, 10)


def test_the_loss_is_the_equation_written_out():
    z = normal(9, 4)
    assert float(hausdorff_loss(z, standardise=False)) == pytest.approx(naive(z.tolist()), rel=1e-12)


def test_the_gradient_of_the_standardised_loss_is_that_of_the_function():
    assert torch.autograd.gradcheck(hausdorff_loss, normal(8, 3).requires_grad_())


@pytest.mark.parametrize("n", [3, 5, 11])
def test_a_diagonal_misses_its_corners(n):
    z = torch.arange(float(n)).repeat(2, 1).T
    assert float(hausdorff_loss(z, standardise=False)) == (n - 1) ** 2 / 2
    assert hausdorff_support(z, convention="raw") == pytest.approx((n - 1) ** 2 / 2)


def test_a_grid_is_full_and_a_copy_of_it_changes_nothing():
    z = torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0), torch.arange(2.0))
    assert float(hausdorff_loss(z)) == 0
    assert hausdorff_support(z) == 0
    x = normal(50, 3)
    assert float(hausdorff_loss(torch.cat([x, x]))) == pytest.approx(float(hausdorff_loss(x)), rel=1e-12)


def loss_of_one_pair(z):
    return hausdorff_loss(z.detach(), pairs=[(0, 2)])


def test_flips_and_shifts_change_nothing():
    z = normal(50, 3)
    moved = z * torch.tensor([1, -1, 1]) + torch.tensor([0.0, 3, -2])
    assert float(hausdorff_loss(moved, standardise=False)) == pytest.approx(float(hausdorff_loss(z, standardise=False)), rel=1e-9)
    assert hausdorff_support(moved, grid=50) == pytest.approx(float(hausdorff_support(z, grid=50)), rel=1e-9)


def test_constant_codes_have_full_support_and_a_finite_gradient():
    z = normal(20, 3)
    z[:, 1] = 2
    z.requires_grad_()
    loss = hausdorff_loss(z, pairs=[(0, 1), (1, 2)])
    assert loss.item() == 0
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
    assert hausdorff_loss(z[:, :1]).item() == 0
    with pytest.warns(RuntimeWarning, match="1 of 3 codes are constant, and full with any other"):
        assert hausdorff_support(z) == pytest.approx(float(loss_of_one_pair(z)) / 3)
    with pytest.warns(RuntimeWarning, match="pairs of codes, and there is one code"):
        assert hausdorff_support(z[:, :1]) == 0


def test_support_of_few_rows_is_exact_and_of_many_a_lower_bound():
    few, many = normal(64, 3), normal(200, 3, seed=1)
    assert hausdorff_support(few) == pytest.approx(float(hausdorff_loss(few)) / 3, rel=1e-9)
    exact = float(hausdorff_loss(many)) / 3
    assert 0.9 * exact < hausdorff_support(many) <= exact * (1 + 1e-9)
    assert hausdorff_support(many, grid=200) == pytest.approx(exact, rel=1e-9)


def test_conventions_are_named():
    z = normal(300, 3) * torch.tensor([1.0, 2, 3])
    parts = [brute_force(z[a : a + 128], list(itertools.combinations(range(3), 2))) for a in (0, 128, 256)]
    got = hausdorff_support(z, convention="paper")
    assert got == pytest.approx(float(sum(parts)) / 3, rel=1e-9)
    assert got.convention == "paper, batches of 128"
    assert hausdorff_support(3 * z, convention="raw") == pytest.approx(9 * hausdorff_support(z, convention="raw"), rel=1e-9)
    assert hausdorff_support(z, batch=64).convention == "standardised, batches of 64"
    assert "45 of 66 pairs" in hausdorff_support(normal(70, 12)).convention
    with pytest.raises(ValueError, match="""HFS is "standardised", "raw" or the "paper"'s, but got convention='std'"""):
        hausdorff_support(z, convention="std")
    with pytest.raises(ValueError, match=r"matrix \(batch, dimensions\), but got shape \(5,\)"):
        hausdorff_loss(torch.zeros(5))


def test_the_witness_is_the_corner_that_was_taken_away():
    z = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
    z = z[(z[:, 0] < 6) | (z[:, 1] < 6)]
    found = missing_corner(z, 0, 1, standardise=False)
    assert found.point == (9, 9)
    assert found.distance == 4
    assert found.nearest in {(9, 5), (5, 9)}
    assert tuple(z[found.row].tolist()) == found.nearest
    with pytest.raises(ValueError, match="there are codes 0 to 1, but got 0 and 2"):
        missing_corner(z, 0, 2)


def turned(z, degrees):
    a = np.deg2rad(degrees)
    return z @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def correlated(sigma, n=256, seed=0):
    """Two uniform factors, drawn with the weight exp(-(a - b)² / 2 sigma²)."""
    rng = np.random.default_rng(seed)
    f = rng.random((40 * n, 2))
    weight = np.exp(-((f[:, 0] - f[:, 1]) ** 2) / (2 * sigma**2))
    return f[rng.choice(len(f), n, p=weight / weight.sum(), replace=False)]


@pytest.mark.parametrize(("sigma", "least"), [(1e3, 0), (0.4, 0), (0.1, 45)])
def test_support_prefers_the_factors_until_the_corners_are_empty(sigma, least):
    """Under strong correlation 256 rows have no corners, and the axes of the correlation look fuller: a limit of the measure."""
    z = correlated(sigma)
    z = z - z.mean(0)
    values = {a: hausdorff_support(turned(z, a), convention="raw") for a in (0, 45)}
    assert min(values, key=values.get) == least


def test_total_correlation_is_that_of_the_gaussian():
    z = normal(5000, 2)
    rho = 0.8
    mixed = torch.stack([z[:, 0], rho * z[:, 0] + (1 - rho**2) ** 0.5 * z[:, 1]], 1)
    r = np.corrcoef(mixed.numpy().T)[0, 1]
    assert total_correlation(mixed) == pytest.approx(-0.5 * np.log(1 - r**2), rel=1e-9)
    assert total_correlation(torch.cartesian_prod(*[torch.arange(3.0)] * 3)) == pytest.approx(0, abs=1e-12)
    with pytest.warns(RuntimeWarning, match="1 directions of the codes are linear in the others"):
        assert total_correlation(torch.cat([mixed, mixed[:, :1]], 1)) > 10
    assert total_correlation(torch.ones(5, 3)) == 0


def test_the_fast_form_is_fast():
    """Ten times at batch 64 and 25 pairs is measured in benchmarks/disentangle.py; a loaded machine leaves at least three."""
    z, pairs = normal(64, 10).float().requires_grad_(), list(itertools.combinations(range(10), 2))[:25]

    def took(loss):
        start = time.process_time()
        loss().backward()
        return time.process_time() - start

    fast = min(took(lambda: hausdorff_loss(z, pairs=pairs)) for _ in range(3))
    assert took(lambda: brute_force(z, pairs)) > 3 * fast
