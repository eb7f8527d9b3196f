"""The objectives between VICReg and SimCLR, and those beside them, against their equations in loops; the identity itself."""

import math

import pandas as pd
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from workbench.core import Embedding, Views
from workbench.objectives import duality, simclr, spectral_contrastive, supcon, vicreg


class Given(nn.Module):
    """A model whose images are its embeddings."""

    def forward(self, x):
        return Embedding(x, x)


def pair(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g, dtype=torch.float64)
    return a, a + 0.7 * torch.randn(n, d, generator=g, dtype=torch.float64)


def given(objective, *zs):
    return objective(Given(), Views(list(zs), torch.arange(len(zs[0]))))


# The identity


@pytest.mark.parametrize(("n", "m"), [(9, 5), (5, 9), (1, 4), (30, 64)])
def test_contrasting_samples_and_dimensions_differ_by_lengths_alone(n, m):
    """Theorem 3.3."""
    z, _ = pair(n, m)
    left = duality.dimension_contrast(z) + z.norm(dim=0).pow(4).sum()
    right = duality.sample_contrast(z) + z.norm(dim=1).pow(4).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


def test_contrasts_are_their_definitions():
    z, _ = pair(6, 4)
    gram, moments = z @ z.T, z.T @ z
    l_c = sum(gram[i, j].item() ** 2 for i in range(6) for j in range(6) if i != j)
    l_nc = sum(moments[i, j].item() ** 2 for i in range(4) for j in range(4) if i != j)
    assert duality.sample_contrast(z).item() == pytest.approx(l_c, rel=1e-12)
    assert duality.dimension_contrast(z).item() == pytest.approx(l_nc, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(50, 32), (12, 40)])
def test_the_offset_where_both_are_normalised(n, m):
    """Unit samples and dimensions of length sqrt(N / M), which can be had together: L_nc = L_c + N - N^2 / M."""
    z, _ = pair(n, m)
    for _ in range(3_000):
        z = F.normalize(z, dim=1)
        z = F.normalize(z, dim=0) * (n / m) ** 0.5
    assert z.norm(dim=1).sub(1).abs().max() < 1e-9
    offset = duality.dimension_contrast(z) - duality.sample_contrast(z)
    assert offset.item() == pytest.approx(n - n**2 / m, rel=1e-8)


# VICReg-exp and VICReg-ctr


def repulsion_in_loops(c, tau):
    k = len(c)
    return sum(math.log(sum(math.exp(c[i][j] / tau) for j in range(k) if j != i)) for i in range(k)) / k


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_vicreg_exp_is_the_equation(n, d, tau):
    x, y = (0.8 * z for z in pair(n, d))
    want = 0.0
    for z in (x, y):
        mean = [sum(z[i, j].item() for i in range(n)) / n for j in range(d)]
        cov = [
            [sum((z[i, j].item() - mean[j]) * (z[i, k].item() - mean[k]) for i in range(n)) / (n - 1) for k in range(d)]
            for j in range(d)
        ]
        want += repulsion_in_loops(cov, tau)
    terms = given(duality.VICRegExp(temperature=tau), x, y)
    assert terms["covariance"].item() == pytest.approx(want, rel=1e-10)
    plain = given(vicreg.VICReg(), x, y)
    for name in ("invariance", "variance"):
        torch.testing.assert_close(terms[name], plain[name])
    loss = 25 * plain["invariance"] + 25 * plain["variance"] + terms["covariance"]
    torch.testing.assert_close(terms["loss"], loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_vicreg_ctr_is_the_equation(n, d, tau):
    x, y = (0.8 * z for z in pair(n, d))
    v = c = 0.0
    for z in (x, y):
        mean = [sum(z[i, j].item() for i in range(n)) / n for j in range(d)]
        rows = [[z[i, j].item() - mean[j] for j in range(d)] for i in range(n)]
        gram = [[sum(a * b for a, b in zip(rows[i], rows[k], strict=True)) / (d - 1) for k in range(n)] for i in range(n)]
        v += sum(max(0.0, 1 - math.sqrt(gram[i][i] + 1e-4)) for i in range(n)) / n
        c += repulsion_in_loops(gram, tau)
    terms = {k: t.item() for k, t in given(duality.VICRegCtr(temperature=tau), x, y).items()}
    s = (x - y).square().mean().item()
    assert v > 0
    want = {"loss": 25 * s + 25 * v / 2 + c, "invariance": s, "variance": v / 2, "covariance": c}
    assert terms == pytest.approx(want, rel=1e-10)


def test_ctr_of_a_matrix_is_exp_of_its_transpose():
    z, _ = pair(8, 6)
    z = z - z.mean(0) - z.mean(1, keepdim=True) + z.mean()
    for tau in (0.1, 1.0):
        torch.testing.assert_close(duality.exp_gram(z, temperature=tau), duality.exp_covariance(z.T, temperature=tau))
    torch.testing.assert_close(duality.spread(z), vicreg.variance(z.T))


def test_one_dimension_has_no_other():
    with pytest.raises(ValueError, match="VICRegExp compares dimensions, but the embedding has 1; widen the projector"):
        given(duality.VICRegExp(), *pair(8, 1))


# SimCLR's variants


def variant_in_loops(z1, z2, tau, *, negatives="cosine", decoupled=False, dimensions="free"):
    n, m = z1.shape
    if dimensions != "free":
        z1, z2 = (z - z.mean(0) for z in (z1, z2))
    if dimensions == "standardised":
        z1, z2 = (torch.stack([z[:, j] / z[:, j].norm() * math.sqrt(n / m) for j in range(m)], 1) for z in (z1, z2))
    z = torch.cat([z1, z2])
    if dimensions != "standardised":
        z = z / z.norm(dim=1, keepdim=True)
    seen = {"cosine": lambda s: s, "abs": abs, "sq": lambda s: s**2}[negatives]
    total = 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        positive = (z[i] @ z[p]).item()
        below = sum(math.exp(seen((z[i] @ z[k]).item()) / tau) for k in range(2 * n) if k not in (i, p))
        total -= positive / tau - math.log(below + (0 if decoupled else math.exp(positive / tau)))
    return total / (2 * n)


@pytest.mark.parametrize("negatives", ["cosine", "abs", "sq"])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dimensions", ["free", "centred", "standardised"])
def test_variants_of_simclr_are_their_equations(negatives, decoupled, dimensions):
    z1, z2 = pair(7, 5)
    for tau in (0.15, 1.0):
        how = {"negatives": negatives, "decoupled": decoupled, "dimensions": dimensions}
        loss = given(simclr.SimCLR(temperature=tau, **how), z1, z2)["loss"]
        assert loss.item() == pytest.approx(variant_in_loops(z1, z2, tau, **how), rel=1e-11)


def test_dcl_is_lightlys():
    dcl = pytest.importorskip("lightly.loss").DCLLoss
    z1, z2 = pair(32, 16)
    torch.testing.assert_close(
        given(simclr.SimCLR(temperature=0.2, decoupled=True), z1, z2)["loss"], dcl(temperature=0.2)(z1, z2)
    )


def test_magnitude_and_square_agree_on_orthogonal_and_equal_embeddings():
    z = torch.eye(6, dtype=torch.float64)[[0, 0, 1, 2, 2, 3]]
    losses = [simclr.nt_xent(z, z, temperature=0.3, negatives=kind) for kind in ("abs", "sq", "cosine")]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize("settings", [{"negatives": "abs"}, {"decoupled": True}, {"negatives": "sq", "decoupled": True}])
def test_a_share_of_a_batch_holds_its_rows_alone(settings):
    z1, z2 = pair(8, 5)
    whole = simclr.nt_xent(z1, z2, temperature=0.3, **settings)
    shares = [simclr.nt_xent(z1[i : i + 4], z2[i : i + 4], z1, z2, temperature=0.3, first=i, **settings) for i in (0, 4)]
    torch.testing.assert_close(sum(shares) / 2, whole)


@pytest.mark.parametrize("settings", [{"negatives": "abs"}, {"negatives": "sq"}, {"decoupled": True}, {"unit": False}])
def test_gradients_of_the_variants(settings):
    a, b = (z.requires_grad_() for z in pair(6, 4, seed=8))
    assert torch.autograd.gradcheck(lambda a, b: simclr.nt_xent(a, b, temperature=0.5, **settings), (a, b))


@pytest.mark.parametrize(
    "term",
    [
        lambda a, b: duality.exp_covariance(a, temperature=0.5) + duality.exp_gram(b, temperature=0.5),
        lambda a, b: duality.spread(0.3 * a) + duality.spread(0.3 * b),
        lambda a, b: spectral_contrastive.spectral_contrast(a, spectral_contrastive.into_ball(b, radius=1.0)),
        lambda a, b: supcon.supervised_contrast(
            a, torch.tensor([0, 1] * 3), b, torch.tensor([0, 1] * 3), torch.arange(6), temperature=0.5
        ),
    ],
    ids=["exp", "spread", "spectral", "supcon"],
)
def test_gradients(term):
    a, b = (z.requires_grad_() for z in pair(6, 4, seed=8))
    assert torch.autograd.gradcheck(term, (a, b))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"negatives": "cos"}, "negatives is one of 'cosine', 'abs', 'sq', but got 'cos'"),
        ({"dimensions": "A"}, "dimensions is one of 'free', 'centred', 'standardised', but got 'A'"),
    ],
)
def test_simclr_says_what_there_is_to_choose(settings, said):
    with pytest.raises(ValueError, match=said):
        simclr.SimCLR(**settings)


# Spectral contrastive


@pytest.mark.parametrize("radius", [None, 1.0, 2.0])
def test_spectral_contrastive_is_the_equation(radius):
    """With a radius, the authors' code: lengths clipped, the loss over the radius' square."""
    x, y = pair(7, 4)
    loss = given(spectral_contrastive.SpectralContrastive(radius=radius), x, y)["loss"].item()
    if radius is not None:
        x, y = (torch.stack([r if r.norm() <= radius else r * radius / r.norm() for r in z]) for z in (x, y))
    same = sum((x[i] @ y[i]).item() for i in range(7)) / 7
    other = sum((x[i] @ y[j]).item() ** 2 for i in range(7) for j in range(7) if i != j) / (7 * 6)
    assert loss == pytest.approx((-2 * same + other) / (radius or 1) ** 2, rel=1e-12)


def test_the_spectral_loss_of_points_apart_and_of_one_point():
    apart, one = torch.eye(5, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    assert spectral_contrastive.spectral_contrast(apart, apart).item() == -2
    assert spectral_contrastive.spectral_contrast(one, one).item() == -1


# Supervised contrastive


def supcon_in_loops(zs, y, tau):
    z, y = torch.cat(zs), list(y) * len(zs)
    z = z / z.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(len(z)):
        below = math.log(sum(math.exp((z[i] @ z[k]).item() / tau) for k in range(len(z)) if k != i))
        positives = [k for k in range(len(z)) if k != i and y[k] == y[i]]
        total -= sum((z[i] @ z[k]).item() / tau - below for k in positives) / len(positives)
    return total / len(z)


def contrasted(labels, tau=0.1):
    objective = supcon.SupCon(temperature=tau)
    objective.read(pd.DataFrame({"label": labels}))
    return objective


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_supcon_is_the_equation(views, tau):
    labels = [2, 0, 2, 1, 0, 2, 5]
    zs = [pair(7, 5, seed=s)[1] for s in range(views)]
    loss = given(contrasted(labels, tau), *zs)["loss"].item()
    assert loss == pytest.approx(supcon_in_loops(zs, labels, tau), rel=1e-12)


def test_supcon_with_a_class_an_image_is_simclr():
    z1, z2 = pair(9, 5)
    torch.testing.assert_close(given(contrasted(range(9)), z1, z2)["loss"], simclr.nt_xent(z1, z2, temperature=0.1))
