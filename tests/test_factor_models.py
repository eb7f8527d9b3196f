"""Models that learn factors: each objective against its equation in float64 loops or a closed form, and its runs.

The oracles are the equations written out, numerical integrals, enumeration of every batch of a tiny data set, and closed forms.
"""

import itertools
import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.cli import main
from workbench.core import Embedding, Views
from workbench.models.autoencoder import Autoencoder
from workbench.models.building import build_autoencoder
from workbench.objectives import variational
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
        build_autoencoder(latents=0)


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


def test_hfs_carries_what_it_is_added_to():
    objective = wb.HFS(wb.SimSiam(), weight=2)
    again = build(describe(objective))
    assert describe(again) == describe(objective) and again.undecayed == ("objective.predictor",)
    with pytest.raises(TypeError, match="HFS is of the codes that an objective .*, but MAE never calls its model"):
        masked, model = wb.HFS(wb.MAE()), wb.build_encoder("vit-tiny", None)
        masked.begin(model, model(torch.rand(2, 3, 32, 32)))
        masked(model, Views([torch.rand(2, 3, 32, 32)], torch.arange(2)))


# ---- runs ----------------------------------------------------------------------------------------------------------------


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("objective", [wb.HFS(wb.BetaVAE(beta=0), pairs=5)], ids=["HFS"])
def test_a_run_is_resumed_bit_for_bit(objective, arrows, tmp_path):
    def fit(out, **settings):
        torch.manual_seed(0)
        model = build_autoencoder("locatello-small", 4, code=objective.code, image_size=16)
        trainer = wb.Trainer(epochs=2, batch_size=64, device="cpu")
        views = wb.Plain(objective.takes)
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
    ("objective", "kind"), [("beta-vae", "BetaVAE"), ("beta-vae+hfs", "HFS"), ("hfs", "HFS"), ("simclr+HFS", "HFS")]
)
def test_it_is_trained_from_a_shell(objective, kind, tmp_path):
    data = ["--data", "sprites", "--set", "data.n=64", "data.size=16", "--views", "plain" if "vae" in objective else "augment"]
    tiny = ["--epochs", "1", "--batch-size", "32", "--no-progress", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", *data, "--objective", objective, *tiny]) == 0
    run = wb.Run(tmp_path / "run")
    assert type(run.objective()).__name__ == kind
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


@pytest.mark.parametrize("objective", [wb.BetaVAE(beta=1, pixel_std=0.1)], ids=["BetaVAE"])
def test_it_learns_to_draw_and_to_tell_factors(objective, arrows):
    """Above an untrained network, in what is drawn and in what the code says."""
    factors = arrows.factors[["scale", "x", "y"]]
    model, views = quick(objective), Views(objective.takes * [arrows.at(range(256)).float() / 255], torch.arange(256))
    trainer = wb.Trainer(epochs=6, batch_size=64, lr=3e-3, device="cpu", precision="fp32")
    training = trainer.steps(model, objective, arrows[torch.arange(256).repeat(8)], wb.Plain(objective.takes))
    drawn, told = [], []
    for taught in (False, True):
        if taught:
            list(training)
        drawn.append(objective(model.eval(), views)["reconstruction"].item())
        z = wb.extract(model, arrows, "latent", progress=False)["latent"]
        told.append(wb.dci(z, factors, backend="lasso"))
        model.train()
    print(drawn, told)
    assert drawn[1] < 0.5 * drawn[0]
    assert all(told[1][name] > told[0][name] + 0.1 for name in ("disentanglement", "informativeness"))
