"""Models that learn factors: each objective against its equation in float64 loops or a closed form, and its runs.

The oracles are the equations written out, numerical integrals, enumeration of every batch of a tiny data set, and closed forms.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.cli import main
from workbench.core import Embedding, Views
from workbench.models.autoencoder import Autoencoder, Quantiser
from workbench.models.building import build_autoencoder
from workbench.objectives import factorvae, variational
from workbench.objectives.betatcvae import log_shares, total_correlation
from workbench.objectives.factorvae import guessing, permuted
from workbench.objectives.variational import drawn, kl_to_prior, unlikelihood
from workbench.spec import build, describe

SHAPE, B, K = (3, 4, 4), 6, 3


def little(code="gaussian", seed=0, latents=K):
    """An autoencoder of images of 4 pixels, in float64."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh())
    backbone.out = 8
    decoder = nn.Sequential(nn.Linear(latents, 48), nn.Unflatten(1, SHAPE))
    return Autoencoder(backbone, decoder, latents, code=code).double()


def batch(n=1, b=B, seed=1):
    g = torch.Generator().manual_seed(seed)
    return Views([torch.rand(b, *SHAPE, generator=g, dtype=torch.float64) for _ in range(n)], torch.arange(b))


def gaussians(b=B, k=K, seed=0):
    """Means and logarithms of variances of b codes."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, k, generator=g, dtype=torch.float64), torch.randn(b, k, generator=g, dtype=torch.float64)


def normal(z, mean, log_variance):
    """The density of a normal variable, of numbers."""
    return math.exp(-((z - mean) ** 2) / (2 * math.exp(log_variance))) / math.sqrt(2 * math.pi * math.exp(log_variance))


@pytest.fixture
def epsilon(monkeypatch):
    """The random numbers of every draw of codes, held."""
    known = torch.randn(64, K, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    monkeypatch.setattr(variational, "noise", lambda mean: known[: len(mean), : mean.shape[1]])
    return known


def codes(model, views, epsilon):
    """What the encoder says of a batch, and the codes drawn of it, in plain formulas."""
    h = model.backbone(model.normalise(views.images[0]))
    mean = h @ model.projector.weight.T + model.projector.bias
    log_variance = h @ model.log_variance.weight.T + model.log_variance.bias
    return mean, log_variance, mean + log_variance.exp().sqrt() * epsilon[: len(mean)]


def kl_in_loops(mean, log_variance):
    rows = zip(mean.tolist(), log_variance.tolist(), strict=True)
    each = [sum((m * m + math.exp(v) - v - 1) / 2 for m, v in zip(*row, strict=True)) for row in rows]
    return sum(each) / len(each)


def bernoulli_in_loops(model, z, x):
    p = model.decoder(z).sigmoid().flatten(1)
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(x.flatten(1).tolist(), p.tolist(), strict=True)]
    return -sum(sum(a * math.log(b) + (1 - a) * math.log(1 - b) for a, b in row) for row in pairs) / len(pairs)


def quick(objective):
    """A perceptron of 16 x 16 pixels, which learns in seconds."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(768, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    backbone.out = 64
    decoder = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 768), nn.Unflatten(1, (3, 16, 16)))
    return Autoencoder(backbone, decoder, 6, code=objective.code)


@pytest.fixture(scope="module")
def arrows():
    """256 drawings: an arrow of 4 sizes in 8 x 8 places, in full."""
    one = {"orientations": 1, "hues": 1, "background_hues": 1}
    return wb.sprites(None, size=16, shapes=["arrow"], scales=4, positions=8, **one)


# ---- the model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "left"), [(64, 4), (32, 4), (28, 7), (24, 3), (16, 4)])
def test_locatellos_networks_mirror_each_other(size, left):
    net, decoder = wb.Locatello(size, channels=1), wb.LocatelloDecoder(5, size, channels=1)
    x = torch.rand(2, 1, size, size)
    assert net(x).shape == (2, 256) and decoder(torch.zeros(2, 5)).shape == x.shape
    assert net.full[1].in_features == left**2 * getattr(net, net.stages[-1])[0].out_channels


def test_at_64_pixels_it_is_the_authors():
    """Filters, strides and widths of disentanglement_lib's conv_encoder and deconv_decoder (76f41e3)."""
    net, decoder = wb.Locatello(), wb.LocatelloDecoder()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [(32, 4, 2), (32, 4, 2), (64, 2, 2), (64, 2, 2)]
    assert [m.out_features for m in decoder.modules() if isinstance(m, nn.Linear)] == [256, 1024]
    ups = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in ups] == [(64, 4, 2), (32, 4, 2), (32, 4, 2), (3, 4, 2)]
    assert {m.kernel_size[0] for m in wb.Locatello(deep_filter=4).modules() if isinstance(m, nn.Conv2d)} == {4}


def test_what_locatellos_networks_cannot_be():
    with pytest.raises(ValueError, match=r"even side of at least 6 pixels, but size=27, width=32"):
        wb.Locatello(27)
    with pytest.raises(ValueError, match="are 2 or 4 pixels wide, but deep_filter is 3"):
        wb.Locatello(deep_filter=3)
    with pytest.raises(ValueError, match="a code is 'gaussian' or 'quantised', but got 'binary'"):
        build_autoencoder(code="binary")
    with pytest.raises(ValueError, match="a code has at least 1 dimension, but latents is 0"):
        Autoencoder(wb.Locatello(8), nn.Identity(), 0)


@pytest.mark.parametrize("code", ["gaussian", "quantised"])
def test_the_code_is_a_layer_of_the_house(code, arrows):
    model = build_autoencoder("locatello-small", 6, code=code, image_size=16).eval()
    assert wb.main_layers(model) == ["backbone.stage1", "backbone.stage2", "backbone", "projector"]
    features = wb.extract(model, arrows, ["latent", "projector", "backbone"], progress=False)
    x = arrows.at(range(256)).float() / 255
    torch.testing.assert_close(features["latent"], model(x).z)
    assert (code == "gaussian") == torch.equal(features["latent"], features["projector"])
    torch.testing.assert_close(features["projector"], model.projector(features["backbone"]))


@pytest.mark.parametrize("name", ["locatello-small", "convnet", "resnet18"])
def test_any_backbone_has_a_decoder_and_a_description(name):
    model = build_autoencoder(name, 4, image_size=32, channels=1, width=8, mean=(0.4,), std=(0.3,))
    again = build(describe(model))
    again.load_state_dict(model.state_dict(), strict=True)
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)
    torch.testing.assert_close(again.decode(model(x).z), model.decoder(model(x).z).sigmoid(), rtol=0, atol=0)


def test_codes_are_decoded_as_they_come():
    model = little().train()
    z = torch.randn(5, K)
    images = model.decode(z.numpy())
    assert images.shape == (5, *SHAPE) and images.min() > 0 and images.max() < 1 and not images.requires_grad
    assert model.decoder.training
    with pytest.raises(ValueError, match=r"codes are a matrix \(images, 3\), but got shape \(5, 2\)"):
        model.decode(z[:, :2])


# ---- terms common to all -------------------------------------------------------------------------------------------------


def test_the_divergence_from_the_prior_is_the_integral():
    mean, log_variance = gaussians(4, 2)
    at = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    total = 0
    for m, v in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True):
        log_q = -((at - m) ** 2) / (2 * math.exp(v)) - (math.log(2 * math.pi) + v) / 2
        log_p = -(at**2) / 2 - math.log(2 * math.pi) / 2
        total += torch.trapezoid(log_q.exp() * (log_q - log_p), at).item()
    assert kl_to_prior(mean, log_variance).item() == pytest.approx(total / 4, rel=1e-9)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    theirs = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum() / 4
    torch.testing.assert_close(kl_to_prior(mean, log_variance), theirs)
    assert kl_to_prior(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_the_unlikelihood_of_images():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64)
    x = torch.rand(3, 1, 2, 2, generator=g, dtype=torch.float64)
    p = logits.sigmoid()
    total = -sum(a * math.log(b) + (1 - a) * math.log(1 - b) for a, b in zip(x.flatten(), p.flatten(), strict=True))
    assert unlikelihood(logits, x).item() == pytest.approx(float(total) / 3, rel=1e-12)
    normal = -torch.distributions.Normal(p, 0.1).log_prob(x).sum() / 3
    constant = 4 * (math.log(2 * math.pi) / 2 + math.log(0.1))
    assert unlikelihood(logits, x, std=0.1).item() == pytest.approx(float(normal) - constant, rel=1e-12)
    with pytest.raises(ValueError, match=r"decoder draws images \(1, 2, 2\), but the views are \(3, 2, 2\); give"):
        unlikelihood(logits, x.expand(3, 3, 2, 2))


def test_codes_are_drawn_of_their_distributions():
    mean, log_variance = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    torch.manual_seed(0)
    z = drawn(mean.expand(40_000, 2), log_variance.expand(40_000, 2))
    torch.testing.assert_close(z.mean(0), mean[0], rtol=0, atol=0.05)
    torch.testing.assert_close(z.std(0), (log_variance[0] / 2).exp(), rtol=0.02, atol=0)


# ---- beta-VAE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0, 1, 4.0])
def test_beta_vae_is_the_equation(beta, epsilon):
    model, views = little(), batch()
    terms = wb.BetaVAE(beta=beta)(model, views)
    mean, log_variance, z = codes(model, views, epsilon)
    assert terms["kl"].item() == pytest.approx(kl_in_loops(mean, log_variance), rel=1e-12)
    assert terms["reconstruction"].item() == pytest.approx(bernoulli_in_loops(model, z, views.images[0]), rel=1e-12)
    assert terms["loss"].item() == pytest.approx(terms["reconstruction"].item() + beta * terms["kl"].item(), rel=1e-12)


def test_models_and_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="beta must be above 0, but got -1"):
        wb.BetaVAE(beta=-1)
    with pytest.raises(TypeError, match="BetaVAE draws images again from a gaussian code, but got a Encoder; use build_autoenc"):
        wb.BetaVAE().begin(wb.build_encoder("convnet", width=4), None)
    with pytest.raises(TypeError, match="but got a Autoencoder with a quantised code"):
        wb.BetaVAE().begin(little("quantised"), None)


# ---- AnnealedVAE ---------------------------------------------------------------------------------------------------------


def test_annealed_vae_is_the_equation_and_its_capacity_rises_to_the_share(epsilon):
    model, views = little(), batch()
    objective = wb.AnnealedVAE(gamma=10, capacity=6, ramp=0.25)
    mean, log_variance, z = codes(model, views, epsilon)
    kl, drawn = kl_in_loops(mean, log_variance), bernoulli_in_loops(model, z, views.images[0])
    for progress, capacity in [(None, 0), (0.1, 2.4), (0.2, 4.8), (0.25, 6), (0.9, 6)]:
        if progress is not None:
            objective.after_step(model, progress)
        terms = objective(model, views)
        assert terms["capacity"].item() == pytest.approx(capacity, abs=1e-12)
        assert terms["loss"].item() == pytest.approx(drawn + 10 * abs(kl - capacity), rel=1e-12)
    with pytest.raises(ValueError, match="ramp is a share of the training, above 0 and up to 1, but got 2"):
        wb.AnnealedVAE(ramp=2)


# ---- beta-TCVAE ----------------------------------------------------------------------------------------------------------


def density(z, mean, log_variance):
    """The density of one code under one distribution, and of each of its dimensions."""
    each = [normal(*numbers) for numbers in zip(z.tolist(), mean.tolist(), log_variance.tolist(), strict=True)]
    return math.prod(each), each


def tc_in_loops(z, mean, log_variance, share):
    """The total correlation of codes where the j-th of a batch counts share(i, j) in q of the i-th."""
    total = 0
    for i in range(len(z)):
        found = [density(z[i], mean[j], log_variance[j]) for j in range(len(mean))]
        together = sum(share(i, j) * both for j, (both, _) in enumerate(found))
        alone = [sum(share(i, j) * each[d] for j, (_, each) in enumerate(found)) for d in range(z.shape[1])]
        total += math.log(together) - sum(map(math.log, alone))
    return total / len(z)


def test_weighted_and_stratified_total_correlation_are_the_equations():
    (mean, log_variance), (z, _) = gaussians(), gaussians(seed=1)
    weighted = tc_in_loops(z, mean, log_variance, lambda i, j: 1 / (20 * B))
    assert total_correlation(z, mean, log_variance, images=20).item() == pytest.approx(weighted, rel=1e-10)
    last, m = (20 - B + 1) / (20 * (B - 1)), B - 1
    expected = tc_in_loops(z, mean, log_variance, lambda i, j: 1 / 20 if i == j else last if j == (i + 1) % B else 1 / m)
    found = total_correlation(z, mean, log_variance, images=20, sampling="stratified")
    assert found.item() == pytest.approx(expected, rel=1e-10)
    exact = tc_in_loops(z, mean, log_variance, lambda i, j: 1 / B)
    everyone = total_correlation(z, mean, log_variance, images=B) - (K - 1) * math.log(B)  # a batch of all images
    assert everyone.item() == pytest.approx(exact, rel=1e-10)


def test_stratified_sampling_is_right_on_average_over_all_batches():
    """q(z) of a code of image 0 of five, from each of the ordered batches of three that hold it."""
    mean, log_variance = gaussians(5)
    z = mean[0] + 0.3
    exact = sum(density(z, mean[j], log_variance[j])[0] for j in range(5)) / 5
    shares = log_shares(3, 3, 5, sampling="stratified")[0].exp().tolist()
    values = [
        sum(share * density(z, mean[j], log_variance[j])[0] for share, j in zip(shares, (0, *others), strict=True))
        for others in itertools.permutations(range(1, 5), 2)
    ]
    assert sum(values) / len(values) == pytest.approx(exact, rel=1e-12)
    assert log_shares(4, 4, 9, sampling="stratified").exp().sum(1).tolist() == pytest.approx([1] * 4)


def test_the_divergence_is_information_and_total_correlation_and_dimensions():
    """Chen et al.'s eq. 2, by sums over a grid of codes of two dimensions and four images."""
    mean, log_variance = gaussians(4, 2)
    line = torch.linspace(-14, 14, 561, dtype=torch.float64)
    cell = (line[1] - line[0]) ** 2
    each = torch.distributions.Normal(mean, (log_variance / 2).exp())
    log_dims = each.log_prob(line[:, None, None])  # grid images dimensions
    log_q_of = log_dims[:, None, :, 0] + log_dims[None, :, :, 1]  # grid grid images
    log_q = log_q_of.logsumexp(2) - math.log(4)
    log_marginals = [log_dims[:, :, d].logsumexp(1) - math.log(4) for d in range(2)]
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(line)
    q, product = log_q.exp() * cell, log_marginals[0][:, None] + log_marginals[1][None]
    information = (log_q_of.exp() * (log_q_of - log_q[:, :, None])).sum() * cell / 4
    tc = (q * (log_q - product)).sum()
    dimensions = (q * (product - log_p[:, None] - log_p[None])).sum()
    torch.testing.assert_close(information + tc + dimensions, kl_to_prior(mean, log_variance).double(), rtol=1e-6, atol=0)
    torch.manual_seed(0)
    many, rows = 1000, torch.arange(4).repeat_interleave(1000)
    z = mean[rows] + (log_variance[rows] / 2).exp() * torch.randn(4 * many, 2, dtype=torch.float64)
    ours = torch.stack([total_correlation(z[k::many], mean, log_variance, images=4) for k in range(many)]) - math.log(4)
    assert abs(ours.mean() - tc) < 4 * ours.std() / many**0.5


def test_beta_tcvae_weighs_the_total_correlation(epsilon):
    model, views = little(), batch()
    objective = wb.BetaTCVAE(beta=5)
    objective.read(range(20))
    terms = objective(model, views)
    mean, log_variance, z = codes(model, views, epsilon)
    tc = tc_in_loops(z, mean, log_variance, lambda i, j: 1 / (20 * B))
    assert terms["tc"].item() == pytest.approx(tc, rel=1e-10)
    expected = bernoulli_in_loops(model, z, views.images[0]) + kl_in_loops(mean, log_variance) + 4 * tc
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="sampling is one of 'weighted', 'stratified', but got 'exact'"):
        wb.BetaTCVAE(sampling="exact")


# ---- FactorVAE -----------------------------------------------------------------------------------------------------------


def begun(objective, model):
    torch.manual_seed(3)
    objective.begin(model, model(torch.zeros(2, *SHAPE, dtype=torch.float64)))
    return objective


def test_factor_vae_is_the_equations(epsilon, monkeypatch):
    model, views = little(), batch()
    objective = begun(wb.FactorVAE(gamma=7, width=8, depth=2), model)
    chances = torch.rand(B, K, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    monkeypatch.setattr(factorvae, "chances", lambda z: chances)
    terms = objective(model, views)
    mean, log_variance, z = codes(model, views, epsilon)
    exchanged = torch.stack([z[sorted(range(B), key=chances[:, d].tolist().__getitem__), d] for d in range(K)], 1)
    of_codes, of_exchanged = (objective.discriminator(x).sigmoid().flatten().tolist() for x in (z, exchanged))
    tc = sum(math.log(d / (1 - d)) for d in of_codes) / B
    own = -sum(math.log(d) + math.log(1 - e) for d, e in zip(of_codes, of_exchanged, strict=True)) / (2 * B)
    assert terms["tc"].item() == pytest.approx(tc, rel=1e-9)
    assert terms["discriminator"].item() == pytest.approx(own, rel=1e-9)
    expected = bernoulli_in_loops(model, z, views.images[0]) + kl_in_loops(mean, log_variance) + 7 * tc
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-10)


def test_each_network_of_factor_vae_has_the_gradient_of_its_own_loss(epsilon):
    model, views = little(), batch()
    objective = begun(wb.FactorVAE(gamma=7, width=8, depth=2), model)

    def gradients(name, parameters):
        torch.manual_seed(4)
        terms = objective(model, views)
        value = terms["reconstruction"] + terms["kl"] + 7 * terms["tc"] if name == "model" else terms[name]
        return torch.autograd.grad(value, list(parameters))

    torch.manual_seed(4)
    objective(model, views)["loss"].backward()
    for name, part in [("model", model), ("discriminator", objective.discriminator)]:
        parameters = list(part.parameters())
        torch.testing.assert_close([p.grad for p in parameters], list(gradients(name, parameters)))


def test_permuted_codes_keep_every_dimension_and_lose_their_ties():
    torch.manual_seed(0)
    z = torch.randn(4000, 1).expand(4000, 3) * torch.tensor([1.0, 2.0, 3.0])
    exchanged = permuted(z)
    assert torch.equal(exchanged.sort(0).values, z.sort(0).values)
    assert (torch.corrcoef(exchanged.T) - torch.eye(3)).abs().max() < 0.06


def test_the_discriminator_learns_the_total_correlation():
    """Of two normal variables of correlation .8 it is -log(1 - .64) / 2 nats."""
    torch.manual_seed(0)
    known = -math.log(1 - 0.64) / 2
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    mix = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    for _ in range(200):
        z = torch.randn(256, 2) @ mix.T
        optimiser.zero_grad()
        guessing(net(z), net(permuted(z))).backward()
        optimiser.step()
    with torch.no_grad():
        assert net(torch.randn(20_000, 2) @ mix.T).mean().item() == pytest.approx(known, abs=0.1)


# ---- AdaVAE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gvae", "mlvae"])
def test_ada_vae_is_the_equations(how, monkeypatch):
    model, views = little(), batch(2)
    noises = torch.randn(2, B, K, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    given = iter(noises)
    monkeypatch.setattr(variational, "noise", lambda mean: next(given))
    terms = wb.AdaVAE(beta=2, average=how)(model, views)
    (m1, v1, _), (m2, v2, _) = (codes(model, Views([x], views.index), noises[0]) for x in views.images)
    (m1, v1), (m2, v2) = (m1.tolist(), v1.exp().tolist()), (m2.tolist(), v2.exp().tolist())
    count = 0
    for b in range(B):
        apart = [
            (v1[b][d] / v2[b][d] + (m1[b][d] - m2[b][d]) ** 2 / v2[b][d] - 1 + math.log(v2[b][d] / v1[b][d])) / 2
            for d in range(K)
        ]
        for d in range(K):
            if apart[d] < (max(apart) + min(apart)) / 2:
                count += 1
                mean, variance = (m1[b][d] + m2[b][d]) / 2, (v1[b][d] + v2[b][d]) / 2
                if how == "mlvae":
                    variance = 2 / (1 / v1[b][d] + 1 / v2[b][d])
                    mean = variance * (m1[b][d] / v1[b][d] + m2[b][d] / v2[b][d]) / 2
                m1[b][d] = m2[b][d] = mean
                v1[b][d] = v2[b][d] = variance
    assert 0 < count < B * K and terms["shared"].item() == pytest.approx(count / (B * K))
    kl = drawn = 0
    for x, m, v, noise in zip(views.images, (m1, m2), (v1, v2), noises, strict=True):
        m, v = torch.tensor(m, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)
        kl += kl_in_loops(m, v.log()) / 2
        drawn += bernoulli_in_loops(model, m + v.sqrt() * noise, x) / 2
    assert terms["kl"].item() == pytest.approx(kl, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(drawn + 2 * kl, rel=1e-10)


def test_a_pair_of_one_image_is_beta_vae(epsilon):
    model, x = little(), batch().images[0]
    terms = wb.AdaVAE(beta=3)(model, Views([x, x], torch.arange(B)))
    alone = wb.BetaVAE(beta=3)(model, Views([x], torch.arange(B)))
    assert terms["shared"] == 0
    torch.testing.assert_close(terms["loss"], alone["loss"], rtol=1e-12, atol=0)


def test_pairs_agree_in_all_factors_but_some(arrows):
    images = wb.sprites(
        None, size=16, shapes=["arrow", "heart"], scales=2, orientations=1, positions=3, hues=3, background_hues=1
    )
    names = ["label", "scale", "x", "y", "hue"]
    maker = wb.FactorPairs(images)
    assert list(maker._codes) == names  # the shape's name says what its label does, and one orientation says nothing
    table = images.factors[names].to_numpy()
    index = torch.arange(len(images))
    torch.manual_seed(0)
    differing = []
    for _ in range(20):
        views = maker(images.at(index), index)
        first, mate = (action["row"] for action in views.actions)
        assert torch.equal(first, index)
        torch.testing.assert_close(views.images[1], images.at(mate).float() / 255)
        differing.append((table[first] != table[mate]).sum(1))
    differing = torch.from_numpy(np.concatenate(differing)).float()
    assert differing.max() == 4
    # k of 5 is 1 to 4 with chance 1/4, and a factor of v values drawn anew is another one with chance 1 - 1/v
    assert differing.mean().item() == pytest.approx(2.5 * np.mean([1 / 2, 1 / 2, 2 / 3, 2 / 3, 2 / 3]), abs=0.06)
    one = wb.FactorPairs(images, factors=["x", "y"], changed=1)
    rows = torch.stack([action["row"] for action in one(images.at(index), index).actions])
    assert ((table[rows[0]] != table[rows[1]])[:, 2:4].sum(1) <= 1).all()
    again = build(describe(maker))
    torch.manual_seed(1)
    ours = maker(images.at(range(8)), torch.arange(8))
    torch.manual_seed(1)
    torch.testing.assert_close(again(images.at(range(8)), torch.arange(8)).images, ours.images)


def test_what_makes_no_pairs():
    images = wb.sprites(40, size=16)
    with pytest.raises(KeyError, match="sprites has no factor 'colour'; it has"):
        wb.FactorPairs(images, factors=["colour"])
    with pytest.raises(ValueError, match=r"has \['x', 'y'\] and changed is 2; it may be 1 to 1 of at least 2"):
        wb.FactorPairs(images, factors=["x", "y"], changed=2)
    many = dataclasses.replace(images, factors=images.factors.assign(x=range(40)))
    with pytest.raises(ValueError, match="images that agree in 'x' are needed, but sprites has 40 values of it in 40 images"):
        wb.FactorPairs(many)


# ---- QLAE ----------------------------------------------------------------------------------------------------------------


def test_a_quantised_code_takes_the_nearest_values_and_passes_the_gradient():
    torch.manual_seed(0)
    layer = Quantiser(3, 4).double()
    with torch.no_grad():
        layer.values.add_(0.1 * torch.randn(3, 4))
    z = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    out = layer(z)
    for row, quantised in zip(z.tolist(), out.tolist(), strict=True):
        for d, (number, value) in enumerate(zip(row, quantised, strict=True)):
            assert value == pytest.approx(min(layer.values[d].tolist(), key=lambda v: abs(v - number)))
    weights = torch.randn(20, 3, dtype=torch.float64)
    (out * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)
    assert layer.values.grad is None
    with pytest.raises(ValueError, match="a quantised dimension takes at least 2 values, but levels is 1"):
        Quantiser(3, 1)


def test_qlae_is_the_equation_and_each_term_moves_its_own():
    model, views = little("quantised"), batch()
    terms = wb.QLAE(quantise=0.3, commit=0.2)(model, views)
    c = model.projector(model.backbone(model.normalise(views.images[0])))
    z = model.latent(c)
    apart = ((c - z) ** 2).mean().item()
    assert terms["quantisation"].item() == pytest.approx(apart, rel=1e-12)
    expected = bernoulli_in_loops(model, z, views.images[0]) + 0.5 * apart
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-12)
    (values,) = torch.autograd.grad(terms["loss"], [model.latent.values], retain_graph=True)
    by_hand = torch.zeros_like(values)
    for i in range(B):
        for d in range(K):
            k = (model.latent.values[d] - z[i, d]).abs().argmin()
            by_hand[d, k] += 0.3 * 2 * (z[i, d] - c[i, d]).item() / (B * K)
    torch.testing.assert_close(values, by_hand)


# ---- HFS -----------------------------------------------------------------------------------------------------------------


def hfs_in_loops(z, pairs, standardise):
    if standardise:
        z = z / z.std(0, correction=0)
    z, total = z.tolist(), 0
    for p, q in pairs:
        near = [[min((a[p] - c[p]) ** 2 + (b[q] - c[q]) ** 2 for c in z) for b in z] for a in z]
        total += max(map(max, near))
    return total


@pytest.mark.parametrize("standardise", [None, True, False])
def test_hfs_is_added_to_beta_vae(standardise, epsilon):
    model, views = little(), batch()
    inner = wb.BetaVAE(beta=0)
    alone = inner(model, views)
    terms = wb.HFS(inner, weight=3, pairs=None, standardise=standardise)(model, views)
    mean, _, _ = codes(model, views, epsilon)
    expected = hfs_in_loops(mean, itertools.combinations(range(K), 2), standardise)
    assert terms["hfs"].item() == pytest.approx(expected, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(alone["loss"].item() + 3 * expected, rel=1e-12)
    assert terms["kl"] == alone["kl"] and terms["reconstruction"] == alone["reconstruction"]
    assert not model._forward_hooks


def test_hfs_is_added_to_simclr():
    """Of the first view's embeddings, standardised, since SimCLR does not hold their scale."""
    torch.manual_seed(0)
    model = wb.Encoder(nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), nn.Linear(8, K)).double()
    views, objective = batch(2), wb.HFS(wb.SimCLR(temperature=0.3), weight=0.5)
    assert (objective.takes, objective.code) == (2, None)
    terms, alone = objective(model, views), wb.SimCLR(temperature=0.3)(model, views)
    expected = hfs_in_loops(model(views.images[0]).z, itertools.combinations(range(K), 2), standardise=True)
    assert terms["hfs"].item() == pytest.approx(expected, rel=1e-12)
    assert terms["loss"].item() == pytest.approx(alone["loss"].item() + 0.5 * expected, rel=1e-12)


def test_hfs_looks_at_the_first_rows_and_at_pairs_by_chance():
    torch.manual_seed(0)
    z = torch.randn(10, 6, dtype=torch.float64)
    views = Views([z, z], torch.arange(10))

    class Given(nn.Module):
        def forward(self, x):
            return Embedding(x, x)

    each = {round(hfs_in_loops(z[:7], [pair], standardise=False), 9) for pair in itertools.combinations(range(6), 2)}
    few = wb.HFS(wb.VICReg(), pairs=1, rows=7, standardise=False)
    seen = {round(few(Given(), views)["hfs"].item(), 9) for _ in range(150)}
    assert seen == each and len(each) > 10


def test_hfs_draws_its_pairs_where_the_codes_are():
    """Different ones, and without a wait: tensors of the device "meta" have no values to ask for."""
    objective = wb.HFS(pairs=4)
    drawn = objective.drawn(torch.empty(8, 5))
    assert len({tuple(pair) for pair in drawn.tolist()}) == 4 and all(0 <= p < q < 5 for p, q in drawn.tolist())
    assert wb.HFS(pairs=None).drawn(torch.empty(8, 5)).tolist() == [list(p) for p in itertools.combinations(range(5), 2)]
    assert objective.drawn(torch.empty(8, 5, device="meta")).device.type == "meta"


def test_hfs_carries_what_it_is_added_to():
    objective = wb.HFS(wb.SimSiam(), weight=2)
    again = build(describe(objective))
    assert describe(again) == describe(objective) and again.undecayed == ("objective.predictor",)
    with pytest.raises(TypeError, match=r"added to an objective, such as SimCLR\(\), but got 'simclr'"):
        wb.HFS("simclr")
    with pytest.raises(TypeError, match="HFS is of the codes that an objective .*, but MAE never calls its model"):
        masked, model = wb.HFS(wb.MAE()), wb.build_encoder("vit-tiny", None)
        masked.begin(model, model(torch.rand(2, 3, 32, 32)))
        masked(model, Views([torch.rand(2, 3, 32, 32)], torch.arange(2)))


# ---- runs ----------------------------------------------------------------------------------------------------------------


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


RESUMED = [
    wb.HFS(wb.BetaTCVAE(), pairs=5),
    wb.AnnealedVAE(),
    wb.FactorVAE(width=16, depth=2),
    wb.AdaVAE(),
    wb.QLAE(),
]


@pytest.mark.parametrize("objective", RESUMED, ids=[type(o).__name__ for o in RESUMED])
def test_a_run_is_resumed_bit_for_bit(objective, arrows, tmp_path):
    def fit(out, **settings):
        torch.manual_seed(0)
        model = build_autoencoder("locatello-small", 4, code=objective.code, image_size=16)
        trainer = wb.Trainer(epochs=2, batch_size=64, device="cpu")
        views = wb.Plain() if objective.takes == 1 else wb.FactorPairs(arrows)
        return trainer.fit(model, build(describe(objective)), arrows, views, out=out, progress=False, log_every=1, **settings)

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", minutes=0)
    assert not wb.Run(tmp_path / "parts").finished
    parts = fit(tmp_path / "parts", resume=True)
    assert same_weights(parts.model(), whole.model())
    assert same_weights(parts.objective(), whole.objective())
    losses = [run.metrics.drop(columns=["rate", "waiting"]) for run in (parts, whole)]
    assert losses[0].equals(losses[1])
    assert {"loss", "reconstruction"} <= set(whole.metrics)
    z = whole.features(arrows, "latent")["latent"]
    assert whole.model(0).decode(z).shape == (256, 3, 16, 16)


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        ("beta-vae", "BetaVAE"),
        ("beta-vae+hfs", "HFS"),
        ("hfs", "HFS"),
        ("simclr+HFS", "HFS"),
        ("ada-vae", "AdaVAE"),
        ("qlae", "QLAE"),
    ],
)
def test_it_is_trained_from_a_shell(objective, kind, tmp_path):
    views = {"simclr+HFS": "Augment", "ada-vae": "FactorPairs"}.get(objective, "Plain")
    data = ["--data", "sprites", "--set", "data.n=64", "data.size=16", "data.positions=4"]
    tiny = ["--epochs", "1", "--batch-size", "32", "--no-progress", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", *data, "--objective", objective, *tiny]) == 0
    run = wb.Run(tmp_path / "run")
    assert (type(run.objective()).__name__, type(run.built("views")).__name__) == (kind, views)
    if objective != "simclr+HFS":
        assert run.model().latents == 10 and type(run.model().backbone).__name__ == "Locatello"


def test_settings_of_both_are_set_from_a_shell(capsys):
    from workbench.cli.typed import read_objective

    objective = read_objective("beta-vae+hfs", {"beta": 0, "weight": 5, "pairs": None})
    assert (objective.objective.beta, objective.weight, objective.pairs) == (0, 5, None)
    shared = ["--data", "sprites", "--set", "data.n=64", "--out", "runs/none"]
    assert main(["train", "--objective", "beta-vae", "--projector", "16-8", *shared]) == 2
    assert "of an autoencoder --projector is the dimensions of its code, such as 10, but got '16-8'" in capsys.readouterr().err
    assert main(["train", "--objective", "beta-vae+tc", *shared]) == 2
    assert "there is no term 'tc'; there are HFS" in capsys.readouterr().err


LEARNING = [wb.BetaVAE(beta=1, pixel_std=0.1), wb.AdaVAE(beta=1, pixel_std=0.1), wb.QLAE(pixel_std=0.1)]


@pytest.mark.parametrize("objective", LEARNING, ids=[type(o).__name__ for o in LEARNING])
def test_it_learns_to_draw_and_to_tell_factors(objective, arrows):
    """Above an untrained network, in what is drawn and in what the code says."""
    factors = arrows.factors[["scale", "x", "y"]]
    model, views = quick(objective), Views(objective.takes * [arrows.at(range(256)).float() / 255], torch.arange(256))
    many = arrows[torch.arange(256).repeat(8)]
    objective.read(many.factors)
    trainer = wb.Trainer(epochs=6, batch_size=64, lr=3e-3, device="cpu", precision="fp32")
    training = trainer.steps(model, objective, many, wb.Plain() if objective.takes == 1 else wb.FactorPairs(many))
    drawn, told = [], []
    for taught in (False, True):
        if taught:
            list(training)
        drawn.append(objective(model.eval(), views)["reconstruction"].item())
        z = wb.extract(model, arrows, "latent", progress=False)["latent"]
        told.append(wb.dci(z, factors, backend="lasso"))
        model.train()
    assert drawn[1] < 0.5 * drawn[0]
    assert all(told[1][name] > told[0][name] + 0.1 for name in ("disentanglement", "informativeness"))
