"""Objectives: what all of them promise, and each against its paper's equation, in loops, and against other codes.

The oracles are the equations written out in float64 loops, closed forms, and lightly (MIT), where it follows the authors.
"""

import copy
import math
import warnings

import pandas as pd
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import workbench.objectives
from workbench.core import Embedding, Views
from workbench.models.autoencoder import Autoencoder
from workbench.models.encoder import Encoder
from workbench.models.pretrained import Timm
from workbench.models.tokens import TokenViT
from workbench.objectives import (
    barlow,
    byol,
    directclr,
    factorvae,
    masking,
    mocov3,
    sigreg,
    simclr,
    simsiam,
    supervised,
    variational,
    vicreg,
)
from workbench.objectives.base import Objective, embed, embed_together, off_diagonal, sample_embedding
from workbench.objectives.masking import Masked
from workbench.spec import available, build, describe

OBJECTIVES = available(workbench.objectives, Objective)
every = pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
pytestmark = pytest.mark.filterwarnings("ignore:.* trains the representation and uses no projector")

B, SHAPE, WIDTH = 12, (3, 4, 4), 16


def small(dtype=torch.float32, projector=True):
    """A smooth encoder without BatchNorm."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, WIDTH))
    return Encoder(backbone, nn.Linear(WIDTH, 10) if projector else nn.Identity()).to(dtype)


def tokens(dtype=torch.float32):
    """An encoder of 16 patches, for objectives that hide some."""
    torch.manual_seed(1)
    return Encoder(TokenViT(4, 1, 8, 2, 2), nn.Linear(8, 10)).to(dtype)


def drawing(dtype=torch.float32, code="gaussian"):
    """An autoencoder of images of 4 pixels."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, WIDTH))
    backbone.out = WIDTH
    decoder = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 48), nn.Unflatten(1, SHAPE))
    return Autoencoder(backbone, decoder, 5, code=code).to(dtype)


def fitting(kind, dtype=torch.float32):
    """A model that the objective can train."""
    if kind.code:
        return drawing(dtype, kind.code)
    return tokens(dtype) if issubclass(kind, Masked) else small(dtype)


def seen_by(kind, **settings):
    """As many views as the objective takes."""
    return views_of(kind.takes, **settings)


def views_of(n=2, b=B, dtype=torch.float32, seed=2):
    g = torch.Generator().manual_seed(seed)
    return Views([torch.rand(b, *SHAPE, generator=g, dtype=torch.float64).to(dtype) for _ in range(n)], torch.arange(b))


def ready(kind, model, **settings):
    """An objective that has begun."""
    torch.manual_seed(3)
    if kind.__name__ == "FactorVAE":
        settings = {"width": 16, "depth": 2} | settings
    objective = kind(**settings)
    objective.read(pd.DataFrame({"label": [i % 3 for i in range(64)]}))
    objective.begin(model, sample_embedding(model, *SHAPE) if next(model.parameters()).dtype == torch.float32 else sample(model))
    return objective


def sample(model):
    return model(torch.zeros(2, *SHAPE, dtype=next(model.parameters()).dtype))


def step(objective, model, views):
    torch.manual_seed(4)
    return objective(model, views)


class Given(nn.Module):
    """A model whose images are its embeddings, so that a loss can be put beside an equation of embeddings."""

    def forward(self, x):
        return Embedding(x, x)


def pair(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g, dtype=torch.float64)
    return a, a + 0.7 * torch.randn(n, d, generator=g, dtype=torch.float64)


def given(objective, *zs):
    return objective(Given(), Views(list(zs), torch.arange(len(zs[0]))))


# What every objective promises


def test_all_are_found():
    assert set(OBJECTIVES) >= {"SimCLR", "DirectCLR", "VICReg", "BarlowTwins", "BYOL", "SimSiam", "SIGReg", "Supervised"}
    assert set(OBJECTIVES) >= {"MAE", "SimMIM", "MoCoV3"}
    assert set(OBJECTIVES) >= {"BetaVAE", "AnnealedVAE", "FactorVAE", "BetaTCVAE", "AdaVAE", "QLAE", "HFS"}


@every
def test_terms_are_finite_scalars_and_every_parameter_learns(kind):
    model = fitting(kind)
    objective = ready(kind, model)
    terms = step(objective, model, seen_by(kind))
    assert "loss" in terms
    assert all(t.ndim == 0 and t.isfinite() for t in terms.values())
    terms["loss"].backward()
    learned = {n: p for n, p in [*model.named_parameters(), *objective.named_parameters()] if p.requires_grad}
    assert learned
    assert [n for n, p in learned.items() if p.grad is None] == []
    # a bias in front of a normalisation moves nothing, so its gradient may be 0
    assert [n for n, p in learned.items() if not p.grad.any() and not n.endswith("bias")] == []


@every
def test_the_order_of_a_batch_does_not_matter(kind, monkeypatch):
    """Where patches are hidden, what decides which ones moves with its image."""
    model = fitting(kind, torch.float64)
    objective = ready(kind, model)
    views = seen_by(kind, dtype=torch.float64)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(5))
    shuffled = Views([x[order] for x in views.images], views.index[order])
    noise, normal, chances = torch.rand(B, 16), torch.randn(B, 5), torch.rand(B, 5)
    monkeypatch.setattr(factorvae, "permuted", lambda z: z.gather(0, chances.argsort(0)))
    monkeypatch.setattr(masking, "noise", lambda x, n: noise)
    monkeypatch.setattr(variational, "noise", lambda mean: normal)
    expected = step(objective, model, views)
    monkeypatch.setattr(masking, "noise", lambda x, n: noise[order])
    monkeypatch.setattr(variational, "noise", lambda mean: normal[order])
    back = order.argsort()
    monkeypatch.setattr(factorvae, "permuted", lambda z: z[back].gather(0, chances.argsort(0))[order])
    torch.testing.assert_close(step(objective, model, shuffled), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"AdaVAE"}))  # which draws a code of each, and asks one of the other
def test_swapping_the_views_does_not_matter(name):
    kind = OBJECTIVES[name]
    model = fitting(kind, torch.float64)
    objective = ready(kind, model)
    views = seen_by(kind, dtype=torch.float64)
    swapped = views._replace(images=views.images[::-1])
    torch.testing.assert_close(step(objective, model, swapped)["loss"], step(objective, model, views)["loss"], rtol=1e-10, atol=0)


@every
def test_description_builds_it_again(kind):
    objective = ready(kind, fitting(kind))
    again = build(describe(objective))
    assert type(again) is kind
    assert describe(again) == describe(objective)
    assert kind.__name__ in repr(objective)


@every
def test_state_round_trip(kind):
    model = fitting(kind)
    objective = ready(kind, model)
    objective.after_step(model, 0.5)
    again = build(describe(objective))
    again.read(pd.DataFrame({"label": [i % 3 for i in range(64)]}))
    torch.manual_seed(99)
    again.begin(model, sample_embedding(model, *SHAPE))
    again.load_state_dict(objective.state_dict(), strict=True)
    torch.testing.assert_close(step(again, model, seen_by(kind)), step(objective, model, seen_by(kind)), rtol=0, atol=0)


@every
def test_beginning_twice_is_beginning_once(kind):
    model = fitting(kind)
    objective = ready(kind, model)
    first = copy.deepcopy(objective.state_dict())
    torch.manual_seed(3)
    objective.begin(model, sample_embedding(model, *SHAPE))
    torch.testing.assert_close(objective.state_dict(), first, rtol=0, atol=0)


@every
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_finite_at_total_collapse(kind, value):
    """All embeddings are one point (value 0: the origin): the loss and its gradient stay finite, so training can go on."""
    model = fitting(kind)
    last = model.backbone.norm if issubclass(kind, Masked) else model.backbone[-1]
    for p in [*last.parameters(), *model.projector.parameters()]:
        nn.init.constant_(p, value)
    objective = ready(kind, model)
    images = torch.rand(1, *SHAPE).expand(B, *SHAPE)
    terms = step(objective, model, Views([images.clone() for _ in range(kind.takes)], torch.arange(B)))
    terms["loss"].backward()
    assert all(t.isfinite() for t in terms.values())
    assert all(p.grad.isfinite().all() for p in [*model.parameters(), *objective.parameters()] if p.grad is not None)


@every
def test_autocast_keeps_statistics_in_float32(kind):
    model = fitting(kind)
    objective = ready(kind, model)
    exact = step(objective, model, seen_by(kind))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(objective, model, seen_by(kind))
    assert all(t.dtype == torch.float32 and t.isfinite() for t in terms.values())
    torch.testing.assert_close(terms["loss"], exact["loss"], rtol=0.05, atol=0.05)
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"SimSiam", "QLAE"}))  # whose targets stand still: tested by themselves
def test_gradient_is_the_finite_difference(name):
    """The gradient of the whole objective along a random direction of the model's parameters, in float64."""
    kind = OBJECTIVES[name]
    model = fitting(kind, torch.float64)
    objective = ready(kind, model)
    views = seen_by(kind, dtype=torch.float64)
    torch.manual_seed(6)
    along = [torch.randn_like(p) for p in model.parameters()]
    step(objective, model, views)["loss"].backward()
    slope = sum((p.grad * v).sum() for p, v in zip(model.parameters(), along, strict=True) if p.grad is not None)
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, v in zip(moved.parameters(), along, strict=True):
                p.add_(v, alpha=sign * 1e-8)  # so small a step that no ReLU of a predictor switches
        values.append(step(objective, moved, views)["loss"])
    torch.testing.assert_close((values[0] - values[1]) / 2e-8, slope, rtol=1e-5, atol=1e-6)


@every
def test_one_view_is_too_few_except_for_labels(kind):
    objective = ready(kind, fitting(kind))
    if kind.__name__ == "Supervised" or kind.takes == 1:
        assert step(objective, fitting(kind), views_of(1))["loss"].isfinite()
        return
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} compares (at least )?(two|2) views of each image, but got 1; use a view maker"
    ):
        step(objective, fitting(kind), views_of(1))


@every
def test_three_views_are_not_cut_to_two(kind):
    objective = ready(kind, fitting(kind))
    if kind.__name__ in ("SIGReg", "SupCon", "Supervised"):
        assert step(objective, fitting(kind), views_of(3))["loss"].isfinite()
        return
    wanted = r"compares two views of each image, but got 3; use a view maker with n=2"
    if kind.takes == 1:
        wanted = r"\w+ sees one view of each image, but got 3; use a view maker with n=1"
    with pytest.raises(ValueError, match=wanted):
        step(objective, fitting(kind), views_of(3))


@every
def test_one_image_is_too_few_except_for_labels(kind):
    objective = ready(kind, fitting(kind))
    if kind.__name__ == "Supervised" or kind.takes == 1:
        assert step(objective, fitting(kind), seen_by(kind, b=1))["loss"].isfinite()
        return
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs at least 2 images in a batch, but got 1; raise batch_size"):
        step(objective, fitting(kind), seen_by(kind, b=1))


@every
def test_views_of_other_images_are_refused(kind):
    objective = ready(kind, fitting(kind))
    views = views_of()
    with pytest.raises(ValueError, match=r"views of the same images, but the views hold \[12, 11\] images"):
        step(objective, fitting(kind), views._replace(images=[views.images[0], views.images[1][:11]]))


@every
def test_a_model_that_returns_a_tensor_is_refused(kind):
    objective = ready(kind, fitting(kind))
    wanted = r"must return Embedding\(h, z\), but Flatten returned a Tensor; wrap"
    if issubclass(kind, Masked):
        wanted = rf"{kind.__name__} hides patches from a backbone of tokens, but got a Flatten; use build_encoder\('vit-tiny'"
    elif kind.code:
        wanted = rf"draws images again from a {kind.code} code, but got a Flatten; use build_autoencoder"
    with pytest.raises(TypeError, match=wanted):
        step(objective, nn.Flatten(), seen_by(kind))


@every
def test_a_step_before_begin_says_so(kind):
    if kind.__name__ in ("BYOL", "SimSiam", "MoCoV3", "FactorVAE") or issubclass(kind, Masked):
        with pytest.raises(RuntimeError, match=rf"{kind.__name__} has not begun.*Call objective.begin"):
            kind()(fitting(kind), seen_by(kind))
    elif kind.__name__ == "BetaTCVAE":
        with pytest.raises(RuntimeError, match="does not know how many images there are: call objective.read"):
            kind()(fitting(kind), seen_by(kind))
    elif kind.__name__ in ("SupCon", "Supervised"):
        with pytest.raises(RuntimeError, match=r"knows no labels: call objective.read\(images.factors\)"):
            kind()(fitting(kind), seen_by(kind))
    else:  # nothing to make: a plain loop needs no begin
        assert kind()(fitting(kind), seen_by(kind))["loss"].isfinite()


# Of FactorVAE the loss rises as its discriminator learns, of AnnealedVAE as it asks for more; QLAE's steps go past its values
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"AnnealedVAE", "FactorVAE", "QLAE"}))
def test_training_lowers_it(name):
    """No proof of meaning (the equations below are), but a sign error would show."""
    kind = OBJECTIVES[name]
    model = fitting(kind)
    objective = ready(kind, model)
    first = step(objective, model, seen_by(kind))["loss"].item()
    optimiser = torch.optim.Adam([p for p in [*model.parameters(), *objective.parameters()] if p.requires_grad], lr=1e-2)
    for k in range(30):
        terms = step(objective, model, seen_by(kind))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        objective.after_step(model, k / 30)
    assert step(objective, model, seen_by(kind))["loss"].item() < first


# What they share


@pytest.mark.parametrize(("n", "d"), [(5, 9), (9, 5), (6, 6)])
def test_off_diagonal_is_the_sum_over_pairs(n, d):
    a, b = pair(n, d)
    naive = sum(sum(a[i, j] * b[i, k] for i in range(n)) ** 2 for j in range(d) for k in range(d) if j != k)
    torch.testing.assert_close(off_diagonal(a, b), naive)
    a.requires_grad_()
    assert torch.autograd.gradcheck(off_diagonal, (a, b))


def test_views_pass_together_or_each_by_itself():
    """BatchNorm sees both views as one batch, or every view as its own."""
    norm = nn.BatchNorm1d(4, affine=False)
    model = Encoder(nn.Sequential(nn.Flatten(), norm), nn.Identity(), mean=[0.0], std=[1.0])
    x1, x2 = torch.rand(8, 1, 2, 2), 3 + torch.rand(8, 1, 2, 2)
    each = [e.z.mean(0) for e in embed(model, [x1, x2])]
    torch.testing.assert_close(each, [torch.zeros(4)] * 2, atol=1e-5, rtol=0)
    e1, e2 = embed_together(model, [x1, x2])
    torch.testing.assert_close(e1.z.mean(0) + e2.z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert (e2.z.mean(0) > 0.9).all()


def test_views_of_several_sizes_keep_their_order():
    model = Encoder(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Identity(), mean=[0.0], std=[1.0])
    images = [torch.full((4, 3, s, s), float(i)) for i, s in enumerate([8, 4, 8, 4])]
    assert [e.z.mean().item() for e in embed_together(model, images)] == [0, 1, 2, 3]


# SimCLR


def nt_xent_in_loops(z1, z2, tau):
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=1, keepdim=True)
    total, n = 0.0, len(z1)
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        below = sum(math.exp(z[i] @ z[k] / tau) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(z[i] @ z[p] / tau) / below)
    return total / (2 * n)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_simclr_is_the_equation(tau):
    z1, z2 = pair(7, 5)
    loss = given(simclr.SimCLR(temperature=tau), z1, z2)["loss"]
    assert loss.item() == pytest.approx(nt_xent_in_loops(z1, z2, tau), rel=1e-12)


def test_simclr_is_lightlys():
    ntx = pytest.importorskip("lightly.loss").NTXentLoss
    z1, z2 = pair(32, 16)
    for tau in (0.07, 0.5):
        torch.testing.assert_close(given(simclr.SimCLR(temperature=tau), z1, z2)["loss"], ntx(temperature=tau)(z1, z2))


def test_simclr_closed_forms():
    same = torch.ones(6, 4, dtype=torch.float64)
    assert simclr.nt_xent(same, same, temperature=0.1).item() == pytest.approx(math.log(11), rel=1e-12)
    apart = torch.eye(6, dtype=torch.float64)  # positives at cosine 1, the other 2N - 2 = 10 at 0
    assert simclr.nt_xent(apart, apart, temperature=0.5).item() == pytest.approx(math.log(1 + 10 * math.exp(-2)), rel=1e-12)


def test_simclr_does_not_see_lengths():
    z1, z2 = pair(8, 5)
    scaled = z1 * torch.rand(8, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(simclr.nt_xent(scaled, z2, temperature=0.2), simclr.nt_xent(z1, z2, temperature=0.2))


@pytest.mark.parametrize("tau", [1e-2, 1e-3, 1e-4])
def test_contrast_is_stable_at_tiny_temperature(tau):
    """float32 against float64, relative to the size of the logits."""
    z1, z2 = pair(64, 16)
    for term in (simclr.nt_xent, directclr.info_nce):
        exact = term(z1, z2, temperature=tau)
        z = z1.float().requires_grad_()
        loss = term(z, z2.float(), temperature=tau)
        loss.backward()
        assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6 / tau)
        assert z.grad.isfinite().all()


def test_simclr_share_of_a_batch_holds_its_rows_alone():
    z1, z2 = pair(8, 5)
    whole = simclr.nt_xent(z1, z2, temperature=0.3)
    shares = [simclr.nt_xent(z1[i : i + 4], z2[i : i + 4], z1, z2, temperature=0.3, first=i) for i in (0, 4)]
    torch.testing.assert_close(sum(shares) / 2, whole)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_simclr_with_drawn_negatives_is_the_equation(k, monkeypatch):
    """The k negatives of each row are those with the largest of its random numbers, which are numbered here in loops."""
    n, tau = 7, 0.3
    z1, z2 = pair(n, 5)
    chance = torch.rand(n, 4 * n, generator=torch.Generator().manual_seed(9))
    monkeypatch.setattr(simclr, "noise", lambda z, columns: chance)
    u = torch.cat([z1, z2])
    u = u / u.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        own = {j: chance[i % n, 2 * n * (i // n) + j].item() for j in range(2 * n) if j not in (i, p)}
        drawn = sorted(own, key=own.get)[-k:]
        positive = math.exp(u[i] @ u[p] / tau)
        total -= math.log(positive / (positive + sum(math.exp(u[i] @ u[j] / tau) for j in drawn)))
    loss = given(simclr.SimCLR(temperature=tau, drawn=k), z1, z2)["loss"]
    assert loss.item() == pytest.approx(total / (2 * n), rel=1e-12)


def test_one_drawn_negative_is_on_average_the_mean_over_all_negatives():
    n, tau = 5, 0.5
    z1, z2 = pair(n, 4)
    u = F.normalize(torch.cat([z1, z2]), dim=1)
    terms = []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        terms += [F.softplus((u[i] @ u[j] - u[i] @ u[p]) / tau) for j in range(2 * n) if j not in (i, p)]
    torch.manual_seed(0)
    losses = torch.stack([given(simclr.SimCLR(temperature=tau, drawn=1), z1, z2)["loss"] for _ in range(2000)])
    assert abs(losses.mean() - sum(terms) / len(terms)) < 4 * losses.std() / 2000**0.5
    assert losses.std() > 0


def test_drawn_negatives_are_so_many_others_drawn_alike():
    z, counts = torch.zeros(6, 2), torch.zeros(12, 12)
    torch.manual_seed(0)
    for _ in range(600):
        among = simclr.drawn_negatives(z, 3)
        assert (among.sum(1) == 3).all()
        counts += among
    row = torch.arange(12)
    assert (counts[row, row] == 0).all() and (counts[row, (row + 6) % 12] == 0).all()
    others = counts[counts > 0]
    assert len(others) == 120 and abs(others / 600 - 0.3).max() < 4 * (0.3 * 0.7 / 600) ** 0.5


def test_all_negatives_drawn_are_all_negatives():
    z1, z2 = pair(8, 5)
    for how in ({}, {"decoupled": True}, {"negatives": "sq"}):
        torch.testing.assert_close(
            given(simclr.SimCLR(drawn=14, **how), z1, z2), given(simclr.SimCLR(**how), z1, z2), rtol=1e-12, atol=0
        )


def test_drawn_negatives_say_how_many_there_are():
    z1, z2 = pair(8, 5)
    with pytest.raises(ValueError, match="15 negatives were to be drawn, but 8 images have 14; raise batch_size, or lower drawn"):
        given(simclr.SimCLR(drawn=15), z1, z2)
    with pytest.raises(ValueError, match="drawn must be above 0, but got 0"):
        simclr.SimCLR(drawn=0)
    with pytest.raises(ValueError, match="drawn is a whole number of negatives, or None for all of them, but got 1.5"):
        simclr.SimCLR(drawn=1.5)


def test_a_drawn_negative_is_told_in_the_record():
    again = build(describe(simclr.SimCLR(drawn=1)))
    assert again.drawn == 1 and "drawn=1" in repr(again)


@pytest.mark.parametrize("kind", [simclr.SimCLR, directclr.DirectCLR])
@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_temperature_is_above_zero(kind, tau):
    with pytest.raises(ValueError, match="temperature must be above 0, but got"):
        kind(temperature=tau)


# DirectCLR


def info_nce_in_loops(a, b, tau):
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(len(a)):
        total -= math.log(math.exp(a[i] @ b[i] / tau) / sum(math.exp(a[i] @ b[j] / tau) for j in range(len(b))))
    return total / len(a)


def test_directclr_is_the_equation():
    h1, h2 = pair(7, 10)
    expected = (info_nce_in_loops(h1[:, :4], h2[:, :4], 0.1) + info_nce_in_loops(h2[:, :4], h1[:, :4], 0.1)) / 2
    assert given(directclr.DirectCLR(dim=4), h1, h2)["loss"].item() == pytest.approx(expected, rel=1e-12)
    assert given(directclr.DirectCLR(dim=0.4), h1, h2)["loss"].item() == pytest.approx(expected, rel=1e-12)


def test_directclr_has_half_of_lightlys_negatives():
    """lightly contrasts the slice with SimCLR's 2N - 2 negatives; the authors, and we, with the N - 1 of the other view."""
    lightly = pytest.importorskip("lightly.loss.directclr_loss").DirectCLRLoss(loss_dim=4, temperature=0.1)
    h1, h2 = pair(16, 10)
    torch.testing.assert_close(lightly(h1, h2), simclr.nt_xent(h1[:, :4], h2[:, :4], temperature=0.1))
    assert given(directclr.DirectCLR(dim=4), h1, h2)["loss"] < lightly(h1, h2) - 0.1


def test_directclr_default_is_the_papers_360_of_2048():
    assert directclr.DirectCLR().contrasted(2048) == 360
    assert directclr.DirectCLR().contrasted(2) == 1
    assert directclr.DirectCLR(dim=1.0).contrasted(64) == 64


def test_directclr_gradient_stops_at_the_slice():
    h1, h2 = (h.requires_grad_() for h in pair(7, 10))
    given(directclr.DirectCLR(dim=4), h1, h2)["loss"].backward()
    assert not h1.grad[:, 4:].any()
    assert h1.grad[:, :4].any(1).all()


def test_directclr_freezes_the_projector_it_does_not_use():
    model = small()
    with pytest.warns(UserWarning, match=r"uses no projector: the model's \(170 parameters\) is frozen"):
        directclr.DirectCLR().begin(model, sample(model))
    assert not any(p.requires_grad for p in model.projector.parameters())
    bare = small(projector=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directclr.DirectCLR().begin(bare, sample(bare))
    assert all(p.requires_grad for p in bare.parameters())


def test_directclr_refuses_more_dimensions_than_there_are():
    model = small()
    with pytest.raises(ValueError, match="the first 360 dimensions of the representation, but it has 16; choose dim up to 16"):
        directclr.DirectCLR(dim=360).begin(model, sample(model))
    with pytest.raises(ValueError, match="the first 360 dimensions"):
        directclr.DirectCLR(dim=360)(model, views_of())
    with pytest.raises(ValueError, match=r"a fraction up to 1.0, but got 360.0; write dim=360"):
        directclr.DirectCLR(dim=360.0)
    with pytest.raises(ValueError, match="dim must be above 0, but got 0"):
        directclr.DirectCLR(dim=0)


# VICReg


def vicreg_in_loops(x, y):
    """The paper's terms, with the authors' averages: 25 s + 25 (v + v') / 2 + (c + c')."""
    n, d = x.shape
    s = sum((x[i, j] - y[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)

    def moments(z):
        mean = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        return [[sum((z[i, j] - mean[j]) * (z[i, k] - mean[k]) for i in range(n)) / (n - 1) for k in range(d)] for j in range(d)]

    v = c = 0.0
    for cov in (moments(x), moments(y)):
        v += sum(max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d
        c += sum(cov[j][k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    return s.item(), v / 2, c.item()


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
def test_vicreg_is_the_equation(n, d):
    x, y = pair(n, d)
    x, y = 0.8 * x, 0.8 * y
    s, v, c = vicreg_in_loops(x, y)
    terms = {k: t.item() for k, t in given(vicreg.VICReg(), x, y).items()}
    assert terms == pytest.approx({"loss": 25 * s + 25 * v + c, "invariance": s, "variance": v, "covariance": c}, rel=1e-10)
    assert v > 0  # the hinge is at work


@pytest.mark.parametrize(("n", "d"), [(64, 24), (24, 64)])
def test_vicreg_is_lightlys(n, d):
    lightly = pytest.importorskip("lightly.loss").VICRegLoss()
    x, y = pair(n, d)
    torch.testing.assert_close(given(vicreg.VICReg(), 0.5 * x, y)["loss"], lightly(0.5 * x, y))


def test_vicreg_closed_forms():
    assert vicreg.variance(torch.zeros(5, 3, dtype=torch.float64)).item() == pytest.approx(0.99, rel=1e-12)  # 1 - sqrt(1e-4)
    z = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 3)  # every covariance is 2
    assert vicreg.covariance(z).item() == pytest.approx(6 * 2**2 / 3, rel=1e-12)
    x, _ = pair(8, 4)
    assert vicreg.variance(10 * x).item() == 0
    torch.testing.assert_close(vicreg.covariance(x + 7), vicreg.covariance(x))


# Barlow Twins


def correlations_in_loops(x, y, *, ddof, eps):
    n, d = x.shape

    def normal(z, j):
        m = sum(z[i, j] for i in range(n)) / n
        s = math.sqrt(sum((z[i, j] - m) ** 2 for i in range(n)) / (n - ddof) + eps)
        return [(z[i, j] - m) / s for i in range(n)]

    a, b = [normal(x, j) for j in range(d)], [normal(y, j) for j in range(d)]
    c = [[sum(p * q for p, q in zip(a[j], b[k], strict=True)) / n for k in range(d)] for j in range(d)]
    on = sum((1 - c[j][j]) ** 2 for j in range(d))
    off = sum(c[j][k] ** 2 for j in range(d) for k in range(d) if j != k)
    return on.item(), off.item()


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
def test_barlow_is_the_equation(n, d):
    x, y = pair(n, d)
    on, off = correlations_in_loops(x, y, ddof=0, eps=1e-5)
    terms = {k: t.item() for k, t in given(barlow.BarlowTwins(scale=0.1), x, y).items()}
    assert terms == pytest.approx({"loss": 0.1 * (on + 0.0051 * off), "invariance": on, "redundancy": off}, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(64, 24), (24, 64)])
def test_barlow_is_lightlys(n, d):
    lightly = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=0.0051)
    x, y = pair(n, d)
    torch.testing.assert_close(given(barlow.BarlowTwins(), x, y)["loss"], lightly(x, y))


def test_barlow_std_is_the_biased_one():
    """Identical views correlate fully; with the unbiased std (stable-pretraining 0.1.8) they would keep d / n^2."""
    x, _ = pair(10, 4)
    x = 100 * x  # eps does not matter
    assert barlow.invariance(x, x).item() == pytest.approx(0, abs=1e-12)
    unbiased, _ = correlations_in_loops(x, x, ddof=1, eps=0)
    assert unbiased == pytest.approx(4 / 10**2, rel=1e-9)


def test_barlow_does_not_see_scale_and_shift_of_a_dimension():
    x, y = pair(20, 4)
    stretched = 1000 * x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    for term in (barlow.invariance, barlow.redundancy):
        torch.testing.assert_close(term(stretched, y), term(1000 * x, y), rtol=1e-6, atol=1e-9)


# BYOL


def cosine_in_loops(a, b):
    return sum(a[i] @ b[i] / math.sqrt(a[i] @ a[i]) / math.sqrt(b[i] @ b[i]) for i in range(len(a))).item() / len(a)


def test_byol_is_the_equation():
    """Sum over both directions of the squared distance of unit vectors, with the predictor written out."""
    model = small(torch.float64)
    objective = ready(byol.BYOL, model, hidden=6)
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p.add_(0.1)
    views = views_of(dtype=torch.float64)
    z1, z2 = (model(x).z for x in views.images)
    t1, t2 = (objective.teacher(x).z for x in views.images)

    def predict(z):
        first, norm, _, last = objective.predictor
        y = z @ first.weight.T + first.bias
        y = (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        return y.clamp(min=0) @ last.weight.T

    expected = sum(
        sum(((q[i] / q[i].norm() - t[i] / t[i].norm()) ** 2).sum() for i in range(B)).item() / B
        for q, t in [(predict(z1), t2), (predict(z2), t1)]
    )
    assert step(objective, model, views)["loss"].item() == pytest.approx(expected, rel=1e-12)


def test_byol_without_a_predictor_compares_the_embeddings_themselves():
    model = small(torch.float64)
    objective = ready(byol.BYOL, model, hidden=0)
    views = views_of(dtype=torch.float64)
    (z1, z2), (t1, t2) = ([m(x).z.detach() for x in views.images] for m in (model, objective.teacher))
    expected = 4 - 2 * cosine_in_loops(z1, t2) - 2 * cosine_in_loops(z2, t1)
    assert step(objective, model, views)["loss"].item() == pytest.approx(expected, rel=1e-12)
    assert not list(objective.predictor.parameters())


def test_byol_and_simsiam_distances_are_lightlys():
    lightly = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    p, z = pair(16, 5)
    torch.testing.assert_close(simsiam.negative_cosine(p, z), lightly(p, z))
    torch.testing.assert_close(byol.regression(p, z), 2 + 2 * lightly(p, z))
    assert byol.regression(p, 3 * p).item() == pytest.approx(0, abs=1e-12)
    assert byol.regression(p, -p).item() == pytest.approx(4, rel=1e-12)


def test_byol_teacher_moves_by_the_schedule():
    model = small()
    objective = ready(byol.BYOL, model, momentum=0.9)
    assert [objective.momentum_at(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    before = [p.clone() for p in objective.teacher.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    objective.after_step(model, 0.5)
    torch.testing.assert_close(list(objective.teacher.parameters()), [p + 0.05 for p in before])
    objective.after_step(model, 1.0)
    torch.testing.assert_close(list(objective.teacher.parameters()), [p + 0.05 for p in before])


def test_byol_teacher_is_a_copy_that_learns_nothing():
    model = small()
    objective = ready(byol.BYOL, model)
    step(objective, model, views_of())["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.projector.weight.zero_()
    assert objective.teacher.projector.weight.any()


def test_byol_teacher_normalises_by_its_batch_and_keeps_its_own_statistics():
    model = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8)), nn.Linear(8, 5))
    objective = ready(byol.BYOL, model)
    assert objective.teacher.training
    step(objective, model, views_of())
    kept = objective.teacher.backbone[2].running_mean.clone()
    assert kept.any()
    model.backbone[2].running_mean.fill_(9)
    objective.after_step(model, 0.0)
    torch.testing.assert_close(objective.teacher.backbone[2].running_mean, kept)
    assert not objective.eval().teacher.training


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_byol_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match="from 0 to 1, but got"):
        byol.BYOL(momentum=momentum)


# SimSiam


def test_simsiam_is_the_equation():
    model = small(torch.float64)
    objective = ready(simsiam.SimSiam, model, hidden=6)
    views = views_of(dtype=torch.float64)
    z1, z2 = (model(x).z for x in views.images)
    p1, p2 = objective.predictor(z1), objective.predictor(z2)
    p1, p2, z1, z2 = (x.detach() for x in (p1, p2, z1, z2))
    expected = -(cosine_in_loops(p1, z2) + cosine_in_loops(p2, z1)) / 2
    assert step(objective, model, views)["loss"].item() == pytest.approx(expected, rel=1e-12)


def test_simsiam_target_stands_still():
    """The gradient is that of a loss whose targets are constants."""
    model = small(torch.float64)
    objective = ready(simsiam.SimSiam, model)
    views = views_of(dtype=torch.float64)
    step(objective, model, views)["loss"].backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    z1, z2 = (model(x).z for x in views.images)
    c1, c2 = z1.detach().clone(), z2.detach().clone()
    p1, p2 = objective.predictor(z1), objective.predictor(z2)
    (-(F.cosine_similarity(p1, c2).mean() + F.cosine_similarity(p2, c1).mean()) / 2).backward()
    torch.testing.assert_close(ours, [p.grad for p in model.parameters()])


def test_simsiam_predictor_is_a_quarter_wide():
    model = Encoder(nn.Flatten(), nn.Linear(48, 64))
    assert ready(simsiam.SimSiam, model).predictor[0].out_features == 16
    assert ready(simsiam.SimSiam, model, hidden=7).predictor[0].out_features == 7


# MoCo v3


def test_mocov3_is_the_equation():
    """2 tau times the cross-entropies of both directions, with the predictor written out and keys from the teacher."""
    model = small(torch.float64)
    objective = ready(mocov3.MoCoV3, model, hidden=6, temperature=0.3)
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p.add_(0.1)
    views = views_of(dtype=torch.float64)
    with torch.no_grad():
        (z1, z2), (k1, k2) = ([net(x).z for x in views.images] for net in (model, objective.teacher))

    def normal(y):
        return (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()

    def predict(z):
        first, norm, _, last, _ = objective.predictor
        y = normal(z @ first.weight.T) * norm.weight + norm.bias
        return normal(y.clamp(min=0) @ last.weight.T).detach()

    expected = 2 * 0.3 * (info_nce_in_loops(predict(z1), k2, 0.3) + info_nce_in_loops(predict(z2), k1, 0.3))
    assert step(objective, model, views)["loss"].item() == pytest.approx(expected, rel=1e-12)


def test_mocov3_contrast_closed_forms():
    same = torch.ones(6, 4, dtype=torch.float64)
    assert mocov3.contrast(same, same, temperature=0.1).item() == pytest.approx(2 * 0.1 * math.log(6), rel=1e-12)
    apart = torch.eye(6, dtype=torch.float64)  # the right key at cosine 1, the other 5 at 0
    loss = mocov3.contrast(apart, 3 * apart, temperature=0.5).item()
    assert loss == pytest.approx(2 * 0.5 * math.log(1 + 5 * math.exp(-2)), rel=1e-12)


def test_mocov3_share_of_a_batch_holds_its_rows_alone():
    q, k = pair(8, 5)
    whole = mocov3.contrast(q, k, temperature=0.3)
    shares = [mocov3.contrast(q[i : i + 4], k, temperature=0.3, first=i) for i in (0, 4)]
    torch.testing.assert_close(sum(shares) / 2, whole)


def test_mocov3_keys_stand_still_and_the_teacher_follows():
    """The teacher is a copy that no gradient reaches; with a momentum of 0.9 it comes nearer by 0.05 at half of the way."""
    model = small()
    objective = ready(mocov3.MoCoV3, model, hidden=6, momentum=0.9)
    assert [objective.momentum_at(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    step(objective, model, views_of())["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    before = [p.clone() for p in objective.teacher.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    objective.after_step(model, 0.5)
    torch.testing.assert_close(list(objective.teacher.parameters()), [p + 0.05 for p in before])


def test_mocov3_freezes_the_projection_of_patches_alone():
    for model in (tokens(), Encoder(Timm("test_vit", image_size=32), nn.Linear(64, 10))):
        objective = mocov3.MoCoV3(hidden=6, frozen_patches=True)
        objective.begin(model, Embedding(torch.zeros(2, 8), torch.zeros(2, 10)))
        frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
        assert {n.rpartition("patch_embed.")[2] for n in frozen} == {"proj.weight", "proj.bias"}
        kept = {n: p.clone() for n, p in objective.teacher.named_parameters() if n in frozen}
        objective.after_step(model, 0.0)
        assert all(torch.equal(p, kept[n]) for n, p in objective.teacher.named_parameters() if n in kept)
    with pytest.raises(TypeError, match=r"a vision transformer.*but the model has a Sequential; use build_encoder\('vit-tiny'"):
        ready(mocov3.MoCoV3, small(), frozen_patches=True)


@pytest.mark.parametrize(("settings", "match"), [
    ({"momentum": 1.1}, "the share of the teacher that stays, from 0 to 1, but got 1.1"),
    ({"temperature": 0.0}, "temperature must be above 0, but got 0.0"),
])  # fmt: skip
def test_mocov3_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        mocov3.MoCoV3(**settings)


# SIGReg


def epps_pulley_in_loops(x, *, reach=3.0, nodes=17):
    """The statistic of one projection, with complex numbers and trapezoids over the whole of [-reach, reach]."""
    n, h = len(x), reach / (nodes - 1)
    total = 0.0
    for k in range(-(nodes - 1), nodes):
        t = k * h
        ecf = sum(complex(math.cos(t * v), math.sin(t * v)) for v in x.tolist()) / n
        ends = 0.5 if abs(k) == nodes - 1 else 1.0
        total += ends * h * abs(ecf - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2)
    return n * total


def test_epps_pulley_is_the_equation():
    x = pair(11, 4)[0]
    ours = sigreg.epps_pulley(sigreg.characteristic(x, nodes=17, reach=3.0), n=11, reach=3.0)
    assert ours.tolist() == pytest.approx([epps_pulley_in_loops(x[:, s]) for s in range(4)], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_characteristic_function_is_that_of_sines_and_cosines(dtype):
    """The products of exp(i h x) do not drift from the functions themselves, nor does their gradient, also far out."""
    x = (10 * pair(50, 6)[0]).to(dtype).requires_grad_()
    t = torch.linspace(0, 5, 33, dtype=torch.float64)
    angle = x.detach().double().requires_grad_()
    exact = torch.stack([(angle[..., None] * t).cos().mean(0), (angle[..., None] * t).sin().mean(0)])
    weights = torch.randn(exact.shape, dtype=torch.float64)
    ours = sigreg.characteristic(x, nodes=33, reach=5.0)
    (ours * weights).sum().backward()
    (exact * weights).sum().backward()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=300 * eps)
    torch.testing.assert_close(x.grad.double(), angle.grad, rtol=0, atol=1000 * eps)


def test_epps_pulley_of_a_point_is_the_integral():
    """All at 0: the characteristic function is 1, and T = N times the integral of (1 - e^(-t^2/2))^2 e^(-t^2/2) over [-3, 3]."""

    def bell(a):  # integral of exp(-a t^2 / 2) over [-3, 3]
        return math.sqrt(2 * math.pi / a) * math.erf(3 * math.sqrt(a / 2))

    ecf = sigreg.characteristic(torch.zeros(7, 1, dtype=torch.float64), nodes=4097, reach=3.0)
    ours = sigreg.epps_pulley(ecf, n=7, reach=3.0)
    assert ours.item() == pytest.approx(7 * (bell(1) - 2 * bell(2) + bell(3)), rel=1e-6)


def test_epps_pulley_of_gaussians_has_its_expectation():
    """E T = integral of (1 - e^(-t^2)) e^(-t^2/2) over [-3, 3] = 1.053, for any N."""
    torch.manual_seed(0)
    expected = math.sqrt(2 * math.pi) * math.erf(3 / math.sqrt(2)) - math.sqrt(2 * math.pi / 3) * math.erf(3 * math.sqrt(1.5))
    assert expected == pytest.approx(1.053, abs=1e-3)
    for n in (16, 256):
        x = torch.randn(n, 3000, dtype=torch.float64)
        mean = sigreg.epps_pulley(sigreg.characteristic(x, nodes=17, reach=3.0), n=n, reach=3.0).mean().item()
        assert mean == pytest.approx(expected, abs=0.06)  # its standard deviation over 3,000 draws is 0.02


def test_sigreg_is_the_equation():
    zs = [pair(6, 3, seed=s)[0] for s in range(3)]
    objective = sigreg.SIGReg(weight=0.3, directions=4)
    torch.manual_seed(7)
    terms = given(objective, *zs)
    torch.manual_seed(7)
    a = torch.randn(4, 3, dtype=torch.float64)
    a = a / a.norm(dim=1, keepdim=True)
    centre = sum(zs) / 3
    s = sum(((z[i, k] - centre[i, k]) ** 2).item() for z in zs for i in range(6) for k in range(3)) / (6 * 3 * 3)
    t = sum(epps_pulley_in_loops(z @ a[j]) for z in zs for j in range(4)) / 12
    expected = {"loss": 0.7 * s + 0.3 * t, "invariance": s, "sigreg": t}
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-10)


def test_sigreg_is_lightlys(monkeypatch):
    lejepa = pytest.importorskip("lightly.loss.lejepa_loss")
    large = torch.stack([pair(16, 5, seed=s)[0] for s in range(2)])
    little = torch.stack([pair(16, 5, seed=s)[0] for s in range(2, 5)])
    a = F.normalize(torch.randn(5, 1024, dtype=torch.float64), dim=0)
    theirs = lejepa.LeJEPALoss().double()
    monkeypatch.setattr(theirs.sigreg, "_generate_unit_vectors", lambda *args, **kwargs: a)
    monkeypatch.setattr(sigreg, "from_first", lambda _: a.T)
    ours = sigreg.SIGReg()
    z = torch.cat([large, little])
    loss = 0.95 * sigreg.invariance(z, large.mean(0)) + 0.05 * ours.statistic(z)
    # lightly holds its nodes in float32 rounding
    torch.testing.assert_close(loss, theirs(local_proj=little, global_proj=large), rtol=1e-6, atol=1e-9)


def test_sigreg_centre_is_that_of_the_large_views():
    model = Encoder(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Identity(), mean=[0.0], std=[1.0])
    images = [torch.full((4, 3, s, s), v) for s, v in [(8, 0.0), (8, 2.0), (4, 4.0)]]  # the centre is 1
    terms = sigreg.SIGReg()(model, Views(images, torch.arange(4)))
    assert terms["invariance"].item() == pytest.approx((1 + 1 + 9) / 3)


@pytest.mark.parametrize(("settings", "match"), [
    ({"weight": 1.5}, "share of the loss, from 0 to 1, but got 1.5"),
    ({"nodes": 1}, "at least 2 nodes, but got 1"),
    ({"directions": 0}, "directions must be above 0, but got 0"),
    ({"reach": -3.0}, "reach must be above 0, but got -3.0"),
])  # fmt: skip
def test_sigreg_refuses(settings, match):
    with pytest.raises(ValueError, match=match):
        sigreg.SIGReg(**settings)


# Supervised


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_supervised_is_the_equation(smoothing):
    model = small(torch.float64)
    objective = ready(supervised.Supervised, model, smoothing=smoothing)
    views = views_of(dtype=torch.float64)._replace(index=torch.arange(20, 20 + B))
    total = hits = 0.0
    for x in views.images:
        logits = (model(x).z @ objective.head.weight.T + objective.head.bias).tolist()
        for i, row in enumerate(logits):
            norm = math.log(sum(math.exp(v) for v in row))
            y = (20 + i) % 3
            total -= sum(((1 - smoothing) * (c == y) + smoothing / 3) * (row[c] - norm) for c in range(3))
            hits += max(range(3), key=row.__getitem__) == y
    terms = step(objective, model, views)
    assert terms["loss"].item() == pytest.approx(total / (2 * B), rel=1e-12)
    assert terms["accuracy"].item() == pytest.approx(hits / (2 * B), rel=1e-6)


def test_supervised_keeps_its_classes_in_its_description():
    objective = supervised.Supervised(factor="kind")
    objective.read(pd.DataFrame({"kind": ["shirt", "bag", "shirt"]}))
    assert describe(objective)["classes"] == ["bag", "shirt"]
    again = build(describe(objective))
    model = small()
    again.begin(model, sample(model))  # the head needs no images
    assert again.head.out_features == 2
    again.read(pd.DataFrame({"kind": ["shirt", "shirt"]}))  # a subset keeps the codes
    assert again.labels.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"have the 'kind' 'boot', which is not among the classes \['bag', 'shirt'\]"):
        again.read(pd.DataFrame({"kind": ["boot"]}))


def test_supervised_refuses_what_is_no_class():
    objective = supervised.Supervised()
    with pytest.raises(KeyError, match=r"learns the factor 'label', but the images have \['pose'\]; choose factor="):
        objective.read(pd.DataFrame({"pose": [0.1, 0.2]}))
    with pytest.raises(ValueError, match=r"'pose' is continuous \(2 values in 2 images\), but Supervised names classes"):
        supervised.Supervised(factor="pose").read(pd.DataFrame({"pose": [0.1, 0.2]}))
    with pytest.raises(ValueError, match="1 of 2 images have no 'label'"):
        objective.read(pd.DataFrame({"label": [1, None]}))
    with pytest.raises(RuntimeError, match="knows no labels"):
        objective.begin(small(), sample(small()))


# Smooth terms by gradcheck


@pytest.mark.parametrize(
    "term",
    [
        lambda a, b: simclr.nt_xent(a, b, temperature=0.5),
        lambda a, b: directclr.info_nce(a, b, temperature=0.5),
        vicreg.invariance,
        lambda a, b: vicreg.variance(0.3 * a) + vicreg.variance(0.3 * b),
        lambda a, b: vicreg.covariance(a) + vicreg.covariance(b),
        barlow.invariance,
        barlow.redundancy,
        byol.regression,
        lambda a, b: mocov3.contrast(a, b, temperature=0.5),
        lambda a, b: sigreg.epps_pulley(sigreg.characteristic(a + b, nodes=17, reach=3.0), n=6, reach=3.0),
    ],
    ids=[
        "nt_xent",
        "info_nce",
        "vicreg.invariance",
        "variance",
        "covariance",
        "barlow.invariance",
        "redundancy",
        "regression",
        "contrast",
        "epps",
    ],
)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=["tall", "wide"])
def test_gradcheck(term, shape):
    a, b = (z.requires_grad_() for z in pair(*shape, seed=8))
    assert torch.autograd.gradcheck(term, (a, b))
