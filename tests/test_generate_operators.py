"""Operators on representations and images: closed forms, naive loops, what is left alone, what is refused.

An encoder that is linear has its attack and its inversion in closed form, so both are held against these.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn
import torchvision.transforms.v2.functional as reference

import workbench as wb
from workbench.generate.pixels import as_pixels

D, SIZE = 5, 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=3, d=D, seed=1):
    return torch.randn(n, d, generator=seeded(seed))


def little():
    """An untrained denoiser that hears its condition."""
    torch.manual_seed(0)
    pipe = wb.build_denoiser(D, SIZE, (8, 16))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoder(width=4, seed=0):
    torch.manual_seed(seed)
    return wb.build_encoder("convnet", "6", width=width, depth=2)


class Flat(nn.Module):
    """Images to their values times a matrix."""

    channels = 1

    def __init__(self, matrix):
        super().__init__()
        self.map = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        self.map.weight.data = matrix.float()

    def forward(self, x):
        return self.map(x.flatten(1))


# --- between ---------------------------------------------------------------------------------------------------------------


def test_the_ends_of_a_line_are_the_representations_and_the_rest_is_straight():
    one, other = (wb.Representation(1e3 * rows(1, 64, seed), {"layer": "backbone"}) for seed in (0, 1))
    line = wb.between(one, other, 7)
    assert torch.equal(line.values[0], one.values[0]) and torch.equal(line.values[-1], other.values[0])
    assert line.source == {"layer": "backbone"}
    for k, row in enumerate(line.values):
        torch.testing.assert_close(row, one.values[0] * (1 - k / 6) + other.values[0] * (k / 6), rtol=1e-5, atol=1e-2)
    assert len(wb.between(one, other)) == 9
    many = wb.between(one.values.view(1, 4, 16), other.values.view(1, 4, 16), 7)  # tokens
    assert torch.equal(many.values.flatten(1), line.values)
    torch.testing.assert_close(wb.between(other, one, 7).values, line.values.flip(0), rtol=1e-5, atol=1e-3)


def test_the_first_and_last_frame_of_a_line_are_the_plain_samples():
    pipe, h = little(), rows(2)
    noise = wb.shared_noise(pipe, 2, seed=3)
    settings = {"num_images_per_rep": 2, "latents": noise, "num_inference_steps": 3}
    frames = pipe(wb.between(h[:1], h[1:], 4), **settings).images.unflatten(0, (4, 2))
    for frame, row in ((frames[0], h[:1]), (frames[-1], h[1:])):
        torch.testing.assert_close(frame, pipe(row, **settings).images, rtol=0, atol=1e-3)
    assert (frames[0] - frames[-1]).abs().mean() > 1e-2
    assert (frames[1] - frames[2]).abs().mean() > 1e-3


# --- noise -----------------------------------------------------------------------------------------------------------------


def test_an_image_starts_from_the_same_noise_however_many_there_are():
    pipe = little()
    few, many = wb.shared_noise(pipe, 2, seed=5), wb.shared_noise(pipe, 9, seed=5)
    torch.manual_seed(11)
    assert torch.equal(few, many[:2]) and torch.equal(many, wb.shared_noise(pipe, 9, seed=5))
    assert few.shape == (2, 3, SIZE, SIZE) and few.device.type == "cpu"
    apart = torch.corrcoef(torch.cat([many, wb.shared_noise(pipe, 9, seed=6)]).flatten(1)).fill_diagonal_(0).abs()
    assert apart.max() < 0.35  # of 192 numbers: 5 standard errors
    lots = wb.shared_noise(pipe, 200)
    assert abs(lots.mean()) < 0.02 and abs(lots.std() - 1) < 0.02
    whole, part = (
        pipe(rows(1), num_images_per_rep=n, latents=wb.shared_noise(pipe, n), num_inference_steps=2).images for n in (3, 1)
    )
    torch.testing.assert_close(whole[:1], part, rtol=0, atol=1e-3)


# --- common dimensions -----------------------------------------------------------------------------------------------------


def naive_common(h, gallery, k, least, sparse, quantile):
    """One representation's common dimensions, one number at a time."""
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    order = np.argsort([-unit(h) @ unit(g) for g in gallery])[:k]
    common = []
    for d in range(len(h)):
        column = gallery[:, d]
        if sparse:
            on = column != 0
        else:
            z = np.abs((column - column.mean()) / column.std())
            on = z > np.sort(z)[int(quantile * (len(z) - 1))]
        common.append(sum(bool(on[i]) for i in order) >= least)
    return common


@pytest.mark.parametrize("sparse", [True, False])
def test_common_dimensions_are_those_of_a_loop(sparse):
    gallery = rows(80, 12, 2) + 0.5 * rows(1, 12, 3)
    gallery = gallery.relu() if sparse else gallery
    h = 3 * gallery[:4] + 0.1 * rows(4, 12, 4).abs()
    for k, least, quantile in ((20, 11, 0.5), (10, 6, 0.3), (20, 7, 0.7)):
        found = wb.common_dimensions(h, gallery, neighbours=k, at_least=least, quantile=quantile)
        settings = (k, least, sparse, quantile)
        wanted = [naive_common(x, gallery.double().numpy(), *settings) for x in h.double().numpy()]
        assert found.tolist() == wanted
        assert 0 < found.double().mean() < 1
        assert wb.common_dimensions(h[2:3], gallery, neighbours=k, at_least=least, quantile=quantile).tolist() == wanted[2]
    assert wb.is_sparse(gallery) == sparse


def test_the_length_of_a_representation_does_not_choose_its_neighbours():
    gallery = rows(60, 10, 2).relu()
    h = gallery[:3]
    assert torch.equal(wb.common_dimensions(h, gallery), wb.common_dimensions(1e-3 * h, 50 * gallery))


def test_dense_dimensions_are_on_whatever_their_scale_and_never_where_they_do_not_vary():
    gallery, h = rows(60, 10, 2), rows(3, 10, 3)
    kinds = torch.tensor([1.0, -1, 1, 1, -1, 1, 1, 1, 1, 1])  # mirrored dimensions turn both alike
    usual = wb.common_dimensions(h, gallery, at_least=11)
    assert torch.equal(wb.common_dimensions(kinds * h, kinds * gallery, at_least=11), usual)
    still = gallery.clone()
    still[:, 4] = 1 / 3
    assert not wb.common_dimensions(h, still, sparse=False, at_least=1)[:, 4].any()
    assert wb.common_dimensions(h, still, sparse=True).all()


def test_what_is_not_common_by_the_authors_count_is_left_out():
    gallery = torch.ones(20, 3)
    gallery[:14, 1], gallery[:15, 2] = 0, 0
    gallery[:, 1:] = 1 - gallery[:, 1:]  # on in 14 and in 15 of the 20
    assert wb.common_dimensions(torch.ones(1, 3), gallery, sparse=True).tolist() == [True, False, True]
    assert wb.common_dimensions(torch.ones(1, 3), gallery, at_least=14, sparse=True).tolist() == [True, True, True]


# --- manipulation ----------------------------------------------------------------------------------------------------------


def test_no_dimension_is_the_identity_and_all_are_the_other():
    h, target = wb.Representation(rows(3), {"layer": "backbone"}), rows(3, seed=4)
    for none in (torch.zeros(D, dtype=torch.bool), torch.zeros(3, D, dtype=torch.bool), torch.tensor([], dtype=torch.long), []):
        for to in (None, target):
            same = wb.manipulate(h, none, to=to)
            assert torch.equal(same.values, h.values) and same.source == h.source
    every = torch.ones(D, dtype=torch.bool)
    assert torch.equal(wb.manipulate(h, every, to=target).values, target)
    assert torch.equal(wb.manipulate(h, every).values, torch.zeros(3, D))


def test_dimensions_are_zeroed_or_swapped_and_the_others_left():
    h, target = rows(3), rows(1, seed=4)
    which = torch.tensor([True, False, False, True, False])
    for dimensions in (which, which[None], which.expand(3, -1), torch.tensor([0, 3]), [3, 0]):
        zeroed, swapped = (wb.manipulate(h, dimensions, to=to).values for to in (None, target))
        assert torch.equal(zeroed, h * ~which)
        assert torch.equal(swapped[:, which], target[:, which].expand(3, -1)) and torch.equal(swapped[:, ~which], h[:, ~which])
        assert torch.equal(wb.manipulate(h, dimensions, to=target[0]).values, swapped)
    own = torch.eye(3, D, dtype=torch.bool)
    assert torch.equal(wb.manipulate(h, own).values == 0, own)
    projector = wb.RepresentationProjector(D, 4).standardise(h)
    meant = projector.standardised(wb.manipulate(h, which, to=h.mean(0)).values)
    torch.testing.assert_close(meant[:, which], torch.zeros(3, 2), rtol=0, atol=1e-5)


def test_of_tokens_every_one_is_changed():
    h, target = torch.randn(2, 4, D), torch.randn(1, 4, D)
    which = torch.tensor([True, False, False, True, False])
    assert torch.equal(wb.manipulate(h, which).values, h * ~which)
    assert torch.equal(wb.manipulate(h, which, to=target).values, torch.where(which, target, h))
    assert torch.equal(wb.manipulate(h, which, to=target[0, 0]).values, torch.where(which, target[0, 0], h))
    own = torch.stack([which, ~which])
    assert torch.equal(wb.manipulate(h, own).values, h * ~own[:, None])
    with pytest.raises(ValueError, match=r"for each of 5, or for each of \(2, 5\), but got \(4, 5\)"):
        wb.manipulate(h, torch.ones(4, D, dtype=torch.bool))


def test_random_dimensions_are_as_many_and_any():
    common = torch.stack([torch.arange(40) < k for k in (0, 1, 7, 40)])
    found = wb.random_dimensions(common)
    assert found.sum(1).tolist() == [0, 1, 7, 40]
    assert torch.equal(found, wb.random_dimensions(common)) and not torch.equal(found, wb.random_dimensions(common, seed=1))
    often = torch.stack([wb.random_dimensions(common[2], seed=s) for s in range(400)]).double().mean(0)
    assert (often - 7 / 40).abs().max() < 5 * (7 / 40 * 33 / 40 / 400) ** 0.5


def test_common_dimensions_change_samples_more_than_as_many_others(tmp_path):
    run, images = wb.demo_run(tmp_path / "demo"), wb.sprites(600, size=16, shapes=("heart", "arrow", "ell"), seed=3)
    pipe = wb.denoisers(run)["backbone"].model().pipeline()
    pipe.set_progress_bar_config(disable=True)
    gallery = wb.represent(run.model(), images, "backbone")
    h, common = gallery[:16], wb.common_dimensions(gallery[:16], gallery)
    draw = lambda h: pipe(h, latents=wb.shared_noise(pipe, 1), num_inference_steps=6).images  # noqa: E731
    plain, none = draw(h), draw(wb.manipulate(h, torch.zeros_like(common)))
    assert torch.equal(plain, none) and 0 < common.double().mean() < 1
    others = [wb.random_dimensions(common, seed=s) for s in range(2)]
    changed, *random = ((draw(wb.manipulate(h, which)) - plain).abs().mean() for which in (common, *others))
    assert 0.01 < max(random) < changed


# --- out of distribution ---------------------------------------------------------------------------------------------------


def test_how_far_is_that_of_a_loop():
    gallery, h = rows(30, 4, 2) * torch.tensor([1, 10, 0.1, 0]), rows(5, 4, 3) * torch.tensor([2, 1, 1, 0.5])
    table = wb.out_of_distribution(wb.Representation(h), gallery)
    std = gallery.double().std(0, correction=0)
    std[3] = 1  # it never varied, and is only centred
    scaled, asked = ((x.double() - gallery.double().mean(0)) / std for x in (gallery, h))
    own = [min(float((a - b).norm()) for j, b in enumerate(scaled) if i != j) for i, a in enumerate(scaled)]
    for i, row in table.iterrows():
        apart = [float((asked[i] - b).norm()) for b in scaled]
        assert row["nearest"] == int(np.argmin(apart)) and row["distance"] == pytest.approx(min(apart))
        assert row["relative"] == pytest.approx(min(apart) / float(torch.tensor(own).median()))
        assert row["beyond"] == pytest.approx(np.mean([o < min(apart) for o in own]))
    assert list(table["image"]) == list(range(5))


def test_what_is_like_the_gallery_is_spread_evenly_and_what_is_not_lies_beyond():
    gallery, like = rows(600, 6, 2), rows(400, 6, 3)
    beyond = wb.out_of_distribution(like, gallery)["beyond"]
    assert abs(beyond.mean() - 0.5) < 0.06
    assert (wb.out_of_distribution(like + 20, gallery)["beyond"] == 1).all()
    scale = torch.tensor([1e-3, 1, 10, 1, 1, 1])
    pd.testing.assert_series_equal(wb.out_of_distribution(like * scale, gallery * scale)["beyond"], beyond, rtol=1e-2, atol=0.02)


# --- reading ---------------------------------------------------------------------------------------------------------------


def test_pixels_are_represented_as_images_are():
    images, model = wb.garments(20), encoder()
    model.train()
    h = wb.represent(model, images, "backbone.stage1")
    for pixels in (images, images.pixels.float() / 255):
        found = wb.represent_pixels(model, pixels, "backbone.stage1", batch_size=7)
        torch.testing.assert_close(found.values, h.values, rtol=1e-5, atol=1e-6)
        assert found.source == h.source
    assert model.training and not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("layer", "tokens"),
    [
        ("backbone.stage1", "mean"),
        ("backbone", "mean"),
        ("projector", "mean"),
        ("blocks.1", "patches"),
        ("blocks.0.attn", "first"),
    ],
)
def test_the_slope_of_a_layer_is_the_difference_quotient_and_the_weights_get_none(layer, tokens):
    model = wb.TokenViT(8, 4, 12, 2, 2) if "blocks" in layer else encoder()
    model, x = model.double(), torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with wb.reading(model, layer, tokens=tokens) as read:
        wanted = rows(1, read(x).shape[1])
        value = lambda at: (read(at).double() * wanted).sum()  # noqa: E731
        (slope,) = torch.autograd.grad(value(x), x)
        for place in ((0, 0, 3, 3), (1, 2, 6, 5)):
            step = torch.zeros_like(x)
            step[place] = 0.5e-2
            with torch.no_grad():
                quotient = (value(x + step) - value(x - step)) / 1e-2
            assert float(slope[place]) == pytest.approx(float(quotient), rel=0.05, abs=2e-4)
    assert all(p.grad is None for p in model.parameters())


# --- views -----------------------------------------------------------------------------------------------------------------


def test_views_stand_beside_what_they_were_made_of_and_come_again():
    images, model = wb.sprites(70, size=16), encoder()
    seen = wb.represent_views(model, images, "backbone", seed=3)
    x = images.pixels.float() / 255
    assert torch.equal(seen["unmoved"].pixels, x)
    assert torch.equal(seen["flip"].pixels, x.flip(3))
    torch.testing.assert_close(seen["grey"].pixels, reference.rgb_to_grayscale(x, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["rotate"].pixels, wb.rotate(x, torch.full((70,), 30.0)), rtol=0, atol=1e-5)
    again, other = (wb.represent_views(model, images, "backbone", seed=s) for s in (3, 4))
    part = wb.represent_views(model, images[:5], "backbone", {"rotate": wb.MOVES["rotate"]}, seed=3)
    assert list(part) == ["unmoved", "rotate"]
    for name, (pixels, h) in seen.items():
        assert pixels.shape == x.shape and pixels.min() >= 0 and pixels.max() <= 1
        assert h.source == wb.represent(model, images, "backbone").source
        torch.testing.assert_close(h.values, wb.represent_pixels(model, pixels, "backbone").values, rtol=1e-5, atol=1e-6)
        assert torch.equal(pixels, again[name].pixels) and torch.equal(h.values, again[name].representation.values)
        assert torch.equal(pixels, other[name].pixels) == (name in ("unmoved", "grey", "flip", "rotate"))
        assert name == "unmoved" or (pixels - x).abs().mean() > 0.01
    same = wb.extract(model, images, "backbone", views=wb.MOVES["zoom"], seed=3, progress=False)["backbone"]
    torch.testing.assert_close(seen["zoom"].representation.values, same, rtol=1e-5, atol=1e-6)


def test_a_rotation_is_torchvisions_and_mirrors_beyond_the_border():
    x = torch.rand(4, 3, 15, 15, generator=seeded())
    angles = torch.tensor([0.0, 17.0, -60.0, 180.0])
    made = wb.rotate(x, angles)
    inside = ((torch.arange(15) - 7) ** 2)[:, None] + (torch.arange(15) - 7) ** 2 <= 36
    for one, image, angle in zip(made, x, angles, strict=True):
        theirs = reference.rotate(image, float(angle), reference.InterpolationMode.BILINEAR)
        torch.testing.assert_close(one[:, inside], theirs[:, inside], rtol=0, atol=2e-3)
    torch.testing.assert_close(made[0], x[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(made[3], x[3].flip(1, 2), rtol=0, atol=1e-4)
    assert wb.rotate(torch.ones(1, 1, 9, 9), torch.tensor([45.0])).min() > 0.999  # no black corner
    wide = torch.rand(1, 1, 6, 12, generator=seeded())
    torch.testing.assert_close(wb.rotate(wide, torch.tensor([180.0])), wide.flip(2, 3), rtol=0, atol=1e-4)
    views = wb.Rotate(2, degrees=(-20, 10), record=True)((255 * x).byte(), torch.arange(4))
    for image, action in zip(views.images, views.actions, strict=True):
        assert action["degrees"].min() >= -20 and action["degrees"].max() <= 10
        torch.testing.assert_close(image, wb.rotate((255 * x).byte() / 255, action["degrees"]))
    assert wb.Rotate()(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.arange(0)).images[0].shape == (0, 3, 4, 4)
    for wrong in ({"n": 0}, {"degrees": (3, 2)}, {"degrees": (0, float("inf"))}):
        with pytest.raises(ValueError, match="at least 1 view, but got n=0|degrees is .smallest, largest., but got"):
            wb.Rotate(**wrong)


# --- attacks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attackable():
    """A network that tells classes of sprites apart a little, images, their labels and a probe of its backbone."""
    torch.manual_seed(0)
    images, model = wb.sprites(120, size=16), encoder(8)
    labels = images.factors["label"].to_numpy()
    probe = wb.LinearProbe(C=10).fit(wb.represent(model, images, "backbone").values, labels)
    return model, probe, images, labels


def losses(model, probe, pixels, labels, layer="backbone"):
    chances = probe.predict_proba(wb.represent_pixels(model, pixels, layer).values.double())
    return -np.log(chances[np.arange(len(labels)), np.searchsorted(probe.classes_, labels)])


def test_the_fast_attack_is_its_equation(attackable):
    model, probe, images, labels = attackable
    x = (images.pixels.float() / 255).requires_grad_()
    h = model.eval()(x).h
    logits = ((h - probe.mean_) / probe.scale_) @ probe.coef_.T + probe.intercept_
    loss = -logits.log_softmax(1)[torch.arange(len(x)), torch.tensor(labels.tolist())].sum()
    (slope,) = torch.autograd.grad(loss, x)
    wanted = (x.detach() + 0.03 * slope.sign()).clamp(0, 1)
    found = wb.attacked(model, probe, images, labels, "backbone", 0.03)
    steep = slope.abs() > 1e-6 * slope.abs().amax((1, 2, 3), keepdim=True)  # elsewhere the sign is rounding's
    assert steep.double().mean() > 0.9
    torch.testing.assert_close(found[steep], wanted[steep], rtol=0, atol=1e-6)


def test_attacks_stay_in_their_ball_and_several_steps_do_no_less_than_one(attackable):
    model, probe, images, labels = attackable
    x = images.pixels.float() / 255
    before = losses(model, probe, x, labels)
    for eps in (2 / 255, 8 / 255):
        fast = wb.attacked(model, probe, images, labels, "backbone", eps)
        slow = wb.attacked(model, probe, x, labels.tolist(), "backbone", eps, steps=10)
        for moved in (fast, slow):
            assert (moved - x).abs().max() <= eps + 1e-6
            assert moved.min() >= 0 and moved.max() <= 1
        after = [losses(model, probe, moved, labels) for moved in (fast, slow)]
        assert before.mean() < after[0].mean() <= after[1].mean()
        assert (after[1] >= before - 1e-5).all()
    accuracy = probe.score(wb.represent_pixels(model, slow, "backbone").values, labels)
    assert accuracy < 0.5 * probe.score(wb.represent(model, images, "backbone").values, labels)


@pytest.mark.parametrize("steps", [None, 3])
def test_no_radius_is_no_attack_and_an_image_is_attacked_by_itself(attackable, steps):
    model, probe, images, labels = attackable
    model.train()
    x = images.pixels[:12].float() / 255

    def attack(which, eps=0.03, **k):
        return wb.attacked(model, probe, x[which], labels[:12][which], "backbone", eps, steps=steps, **k)

    assert torch.equal(attack(slice(12), 0.0), x)
    whole = attack(slice(12))
    torch.testing.assert_close(attack(slice(5)), whole[:5], rtol=0, atol=1e-5)
    torch.testing.assert_close(attack(slice(12), batch_size=5), whole, rtol=0, atol=1e-5)
    assert torch.equal(attack(slice(12)), whole)
    assert model.training and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(attack(slice(12)), whole)


def test_of_a_linear_encoder_and_two_classes_every_attack_is_the_sign_of_one_vector():
    matrix = rows(3, 16, 5)
    model, x = Flat(matrix), 0.4 + 0.2 * torch.rand(6, 1, 4, 4, generator=seeded())
    head = rows(2, 3, 6)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    down = ((head[1] - head[0]) @ matrix).sign().view(1, 4, 4)  # raises the loss of class 0
    wanted = torch.stack([image + 0.05 * (down if y == 0 else -down) for image, y in zip(x, labels, strict=True)])
    for steps in (None, 8):
        found = wb.attacked(model, lambda h: h @ head.T, x, labels, "map", 0.05, steps=steps)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_labels_may_be_words(attackable):
    model, _, images, labels = attackable
    words = np.array(["e", "d", "c", "b", "a"])[labels]
    h = wb.represent(model, images, "backbone").values
    named, numbered = wb.LinearProbe().fit(h, words), wb.LinearProbe().fit(h, labels)
    one, other = (wb.attacked(model, p, images, y, "backbone", 0.02) for p, y in ((named, words), (numbered, labels)))
    assert (one - other).abs().mean() < 1e-3


# --- inversion -------------------------------------------------------------------------------------------------------------


def test_of_a_linear_encoder_the_inversion_is_the_solution_of_its_equation():
    side, d = 4, 9  # fewer equations than pixels: the prior decides the rest
    n = side * side
    matrix = torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=seeded())[:d]] + 0.2 * rows(d, n, 5).double()
    x = 0.35 + 0.3 * torch.rand(2, 1, side, side, generator=seeded(2))
    h = x.flatten(1).double() @ matrix.T
    links = [((i, j), (i + a, j + b)) for i, j in itertools.product(range(side), repeat=2) for a, b in ((0, 1), (1, 0))]
    rough = torch.zeros(n, n, dtype=torch.float64)
    for (i, j), (k, m) in links:
        if k < side and m < side:
            row = torch.zeros(n, dtype=torch.float64)
            row[i * side + j], row[k * side + m] = 1, -1
            rough += row[:, None] * row
    settings = {"image_size": side, "steps": 1000, "jitter": 0.0, "smooth": 0.1, "progress": False}
    found = wb.invert(Flat(matrix), h.float(), "map", **settings)
    for row, image, distance in zip(h, found.images, found.distance, strict=True):
        size = row.square().sum()
        wanted = torch.linalg.solve(matrix.T @ matrix / size + 0.1 / n * rough, matrix.T @ row / size)
        assert wanted.min() > 0 and wanted.max() < 1
        torch.testing.assert_close(image.flatten().double(), wanted, rtol=0, atol=2e-3)
        off = (matrix @ wanted - row).norm() / row.norm()
        assert float(distance) == pytest.approx(float(off), abs=2e-3)


@pytest.mark.parametrize(("method", "share"), [("pixels", 0.3), ("plug-in", 0.7)])
def test_the_distance_falls_and_images_are_inverted_by_themselves(method, share):
    images, model = wb.sprites(4, size=16), encoder(8)
    model.train()
    h = wb.represent(model, images, "backbone")
    settings = {"image_size": 16, "steps": 105, "method": method, "progress": False}
    found = wb.invert(model, h, "backbone", **settings)
    first = next(wb.inverting(model, h, "backbone", image_size=16, method=method))
    assert found.images.shape == (4, 3, 16, 16) and found.images.min() >= 0 and found.images.max() <= 1
    assert first.steps == 0 and found.steps == 105
    assert (found.distance < share * first.distance).all(), found.distance / first.distance
    said = wb.represent_pixels(model, found.images, "backbone").values
    torch.testing.assert_close(found.distance, (said - h.values).norm(dim=1) / h.values.norm(dim=1), rtol=1e-4, atol=1e-5)
    turned = wb.invert(model, h[[2, 0]], "backbone", batch_size=1, **settings)
    torch.testing.assert_close(turned.images, found.images[[2, 0]], rtol=0, atol=2e-2)
    assert torch.equal(wb.invert(model, h, "backbone", **settings).images, found.images)
    other = wb.invert(model, h, "backbone", seed=1, **settings)
    assert (other.images - found.images).abs().mean() > 1e-2
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_an_interrupted_inversion_keeps_what_it_has(monkeypatch):
    images, model = wb.sprites(2, size=16), encoder()
    h, told = wb.represent(model, images, "backbone"), []

    def impatient(bar, **_):
        told.append(bar.n)
        if len(told) == 4:
            raise KeyboardInterrupt

    import workbench.generate.inversion as inversion

    monkeypatch.setattr(inversion.tqdm, "set_postfix", impatient)
    found = wb.invert(model, h, "backbone", image_size=16, steps=200, progress=False)
    assert found.steps == 30
    going = wb.inverting(model, h, "backbone", image_size=16, steps=200)
    *_, last = itertools.islice(going, 4)
    assert last.steps == 30 and torch.equal(last.images, found.images)
    assert model.training is True and not any(m._forward_hooks for m in model.modules())  # also while it waits


def test_a_representation_of_nought_is_inverted_too():
    model = Flat(torch.eye(4))
    found = wb.invert(model, torch.zeros(1, 4), "map", image_size=2, steps=100, smooth=0.0, jitter=0.0, progress=False)
    assert found.images.max() < 0.02 and found.distance < 0.05


# --- bad input -------------------------------------------------------------------------------------------------------------


X = torch.rand(2, 3, 16, 16)
H = torch.ones(2, 8)
HERE, THERE = (wb.Representation(torch.ones(1, D), {"layer": layer, "model": "1f"}) for layer in ("backbone", "projector"))


def probe():
    return wb.LinearProbe().fit(torch.eye(8), [0, 1] * 4)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda m: wb.between(HERE, THERE), ValueError, "two ends do not come from the same: layer 'backbone' and 'projector'"),
        (lambda m: wb.between(HERE, torch.ones(1, 3)), ValueError, "two ends are .* of one layer, but have 5 and 3 dimensions"),
        (lambda m: wb.between(torch.ones(2, D), HERE), ValueError, r"at each end, but got 2; pick one by h\[3\]"),
        (lambda m: wb.between(torch.ones(1, 2, D), torch.ones(1, 3, D)), ValueError, "have 2 x 5 and 3 x 5 dimensions"),
        (lambda m: wb.manipulate(torch.ones(1, 2, D), [0], to=torch.ones(1, D)), ValueError, "have 2 x 5 and 5 dimensions"),
        (lambda m: wb.invert(m, torch.ones(1, 2, 8), "backbone", image_size=16), ValueError, r"got tokens \(1, 2, 8\)"),
        (lambda m: wb.between(HERE, HERE, 1), ValueError, "at least its 2 ends, but got n=1"),
        (lambda m: wb.between(HERE, torch.ones(1, D) / 0), ValueError, "must be finite, but 1 rows are not"),
        (lambda m: wb.between(torch.ones(D), HERE), TypeError, r"but got \(5,\)"),
        (lambda m: wb.shared_noise(None, 0), ValueError, "at least 1 image, but got n=0"),
        (lambda m: wb.common_dimensions(H, torch.ones(9, 8)), ValueError, "from 1 to the 9 rows of the gallery, but got 20"),
        (lambda m: wb.common_dimensions(H, torch.ones(30, 7)), ValueError, "h and the gallery are .* have 8 and 7 dimensions"),
        (lambda m: wb.common_dimensions(H, torch.ones(30, 8), at_least=21), ValueError, "to the 20 neighbours, but got 21"),
        (lambda m: wb.common_dimensions(H, torch.ones(30, 8), quantile=1.0), ValueError, "from 0 to below 1, but got 1.0"),
        (lambda m: wb.manipulate(H, torch.ones(7, dtype=torch.bool)), ValueError, r"for each of 8, or .* but got \(7,\)"),
        (lambda m: wb.manipulate(H, [8]), ValueError, "have dimensions 0 to 7, but 8 was asked for"),
        (lambda m: wb.manipulate(H, torch.ones(8)), ValueError, r"numbers in a row, but got \(8,\) of torch.float32"),
        (lambda m: wb.manipulate(H, [1], to=torch.ones(3, 8)), ValueError, "those of 1 or of 2 representations, but got 3"),
        (lambda m: wb.manipulate(HERE, [1], to=THERE), ValueError, "swapped for do not come from the same: layer"),
        (lambda m: wb.random_dimensions(torch.ones(8)), TypeError, "true or false .* but got torch.float32"),
        (lambda m: wb.out_of_distribution(H, H[:1]), ValueError, "at least 2 rows, so that each has another, but got 1"),
        (lambda m: wb.represent_pixels(m, 255 * X, "backbone"), ValueError, r"but these lie in .* write pixels / 255"),
        (lambda m: wb.represent_pixels(m, X / 0, "backbone"), ValueError, r"pixels lie in \[0, 1\], but"),
        (lambda m: wb.represent_pixels(m, X.byte(), "backbone"), TypeError, "floats .* but got a tensor of torch.uint8"),
        (lambda m: wb.represent_pixels(m, X[0], "backbone"), ValueError, r"N of at least 1, but got \(3, 16, 16\)"),
        (lambda m: wb.represent_pixels(m, X, "head"), KeyError, "no layer 'head'; among its layers are backbone"),
        (lambda m: wb.represent_pixels("model", X, "head"), TypeError, r"but got str; of a run take run.model\(\)"),
        (lambda m: wb.represent_views(m, X, "backbone"), TypeError, "made of wb.Images, but got Tensor"),
        (lambda m: wb.represent_views(m, wb.garments(2), "backbone", {"a": wb.Augment()}), ValueError, "'a' makes 2; .* n=1"),
        (lambda m: wb.represent_views(m, wb.garments(2), "backbone", {"unmoved": wb.Plain()}), ValueError, "view another"),
        (lambda m: wb.attacked(m, probe(), X, [0, 1], "backbone", 8), ValueError, "from 0 to 1, but got 8; .* write 8 / 255"),
        (lambda m: wb.attacked(m, probe(), X, [0, 1], "backbone", 0.1, steps=0), ValueError, "at least 1, or None .* but got 0"),
        (lambda m: wb.attacked(m, probe(), X, [0], "backbone", 0.1), ValueError, r"2 images has one label, but .*\(1,\)"),
        (lambda m: wb.attacked(m, probe(), X, [0, 7], "backbone", 0.1), ValueError, "apart, among which 7 is not: 0, 1"),
        (lambda m: wb.attacked(m, probe(), X, [0, 1], "projector", 0.1), ValueError, "8 dimensions, but .*'projector' gives 6"),
        (lambda m: wb.invert(m, H, "projector", image_size=16), ValueError, "gives 6 dimensions, but h has 8; name the layer"),
        (lambda m: wb.invert(m, THERE, "backbone", image_size=16), ValueError, "not of this model and layer: model '1f' instead"),
        (lambda m: wb.invert(m, H, "backbone", image_size=16, method="x"), ValueError, "one of 'pixels', 'plug-in', but got 'x'"),
        (lambda m: wb.invert(m, H, "backbone", image_size=16, steps=0), ValueError, "steps is a whole number of at least 1, but"),
        (lambda m: wb.invert(m, H, "backbone", image_size=16, jitter=2), ValueError, "jitter is from 0 to 1, but got 2"),
        (lambda m: wb.invert(m, "h", "backbone", image_size=16), TypeError, "tensor or array of floats .* but got str"),
        (lambda m: wb.invert(m, H / 0, "backbone", image_size=16), ValueError, "of finite representations, but some"),
        (lambda m: wb.attacked(m, wb.RidgeProbe(), X, [0, 1], "backbone", 0.1), TypeError, "LinearProbe .* but got RidgeProbe"),
        (lambda m: wb.attacked(m, lambda h: h, X, [0, 6], "projector", 0.1), ValueError, r"from 0 to 6 where it gives \(2, 6\)"),
        (lambda m: wb.attacked(m, lambda h: h.sum(1), X, [0, 1], "projector", 0.1), ValueError, r"where it gives \(2,\)"),
        (lambda m: wb.attacked(m, lambda h: h, X, [0, 0.5], "projector", 0.1), ValueError, "whole numbers .* but got float64"),
    ],
)  # fmt: skip
def test_bad_input_is_told_what_was_wanted(call, kind, says):
    with pytest.raises(kind, match=says):
        call(encoder())


def test_images_are_pixels_from_nought_to_one():
    images = wb.garments(3)
    assert torch.equal(as_pixels(images), images.pixels.float() / 255)


def test_operators_attacks_and_inversions_need_no_diffusers():
    import subprocess
    import sys

    code = (
        "import sys, workbench as wb; wb.between, wb.attacked, wb.invert, wb.represent_views; print('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
