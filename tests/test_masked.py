"""Token transformers against timm's, and objectives that hide patches against their papers' equations in loops.

The oracles are timm's ``VisionTransformer``, the equations written out in float64, and closed forms.
"""

import itertools
import math

import pytest
import timm
import torch
from torch import nn

import workbench as wb
from workbench.cli import main
from workbench.core import Views
from workbench.features import extract
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder, Projector
from workbench.models.tokens import TokenViT
from workbench.objectives import masking
from workbench.objectives.base import sample_embedding
from workbench.objectives.mae import MAE
from workbench.objectives.masking import random_masks, take, to_images, to_patches
from workbench.objectives.simmim import SimMIM
from workbench.spec import build, describe, without_weights
from workbench.transformer import Attention, sincos_positions

KINDS = pytest.mark.parametrize("kind", [MAE, SimMIM])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def same(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def theirs(**settings):
    """A vision transformer of timm, shaken so that no tensor is zero or one."""
    shape = {"img_size": 24, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    model = timm.models.VisionTransformer(**(shape | settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def output_of(model, name, x):
    """What a part of the model gives for images."""
    kept = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: kept.append(output))
    model(x)
    hook.remove()
    return kept[0]


def small(patch=4, size=16, channels=3, dtype=torch.float64):
    """An encoder of tokens with weights at random, in float64."""
    model = Encoder(TokenViT(size, patch, 8, 2, 2, channels=channels), Projector([]), mean=(0.4,), std=(0.3,)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def ready(objective, model, size=16):
    torch.manual_seed(3)
    x = torch.zeros(2, model.backbone.channels, size, size, dtype=next(model.parameters()).dtype)
    objective.begin(model, model(x))
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return objective


def masks_of(objective, model, x):
    """The masks that the next step draws; the generator stays where it was."""
    with torch.random.fork_rng():
        return objective.hide(x, model.backbone)


# ---- the transformer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"global_pool": "avg", "fc_norm": False}, {"class_token": False, "global_pool": "avg", "fc_norm": False}],
    ids=["cls", "mean", "no class token"],
)
def test_it_is_timms_with_the_same_weights(settings):
    model = theirs(**settings, mlp_ratio=2.0, in_chans=2)
    cls = settings == {}
    ours = TokenViT(
        24,
        4,
        24,
        3,
        3,
        mlp_ratio=2,
        channels=2,
        positions="learned",
        pool="cls" if cls else "mean",
        class_token=settings.get("class_token", True),
    )
    assert set(ours.state_dict()) == set(model.state_dict())
    ours.load_state_dict(model.state_dict())
    x = torch.rand(2, 2, 24, 24)
    same(ours(x), model(x))
    same(ours.encode(x), model.forward_features(x))
    same(TokenViT.of(model)(x), model(x))
    for name in ("blocks.1.norm1", "blocks.1.attn", "blocks.1.norm2", "blocks.1.mlp", "blocks.2", "norm"):
        same(output_of(ours, name, x), output_of(model, name, x))


def test_images_of_other_sizes_have_timms_positions():
    model = theirs(dynamic_img_size=True)
    x = torch.rand(2, 3, 32, 16)
    same(TokenViT.of(model)(x), model(x))


def test_of_says_what_it_cannot_be():
    for settings, said in [
        ({"init_values": 0.1}, "ls1.gamma"),
        ({"reg_tokens": 2}, "reg_token"),
        ({"pre_norm": True}, "norm_pre"),
    ]:
        with pytest.raises(ValueError, match=f"(?s)is no plain vision transformer of timm's: .*{said}"):
            TokenViT.of(theirs(**settings))
    with pytest.raises(ValueError, match="this ResNet is no plain vision transformer of timm's"):
        TokenViT.of(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match="has the weights of a plain vision transformer, but computes otherwise"):
        TokenViT.of(theirs(act_layer="relu"))


def test_of_keeps_its_description_and_the_model_as_it_was():
    model = theirs(num_classes=5).train()
    ours = TokenViT.of(model)
    assert model.training
    again = build(describe(ours))
    again.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 24, 24)
    same(again(x), ours(x))
    assert (ours.pool, ours.out, ours.size, ours.patch) == ("cls", 24, 24, 4)


def test_weights_of_a_file_and_of_another_grid(tmp_path):
    model = theirs(img_size=40)
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    encoder = build_encoder(
        "vit-tiny", None, image_size=24, patch=4, width=24, depth=3, heads=3, pool="cls", checkpoint=tmp_path / "w.pth"
    )
    assert "tensors found under the prefix 'model.module.'" in encoder.backbone.report
    assert encoder.mean == (0.485, 0.456, 0.406)
    grid = model.pos_embed[:, 1:].reshape(1, 10, 10, 24).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 36, 24)
    same(encoder.backbone.pos_embed[:, 1:], wanted)
    assert torch.equal(encoder.backbone.pos_embed[:, :1], model.pos_embed[:, :1])
    (tmp_path / "w.pth").unlink()
    with without_weights():
        assert describe(build(describe(encoder))) == describe(encoder)


def test_positions_are_sines_of_columns_then_of_rows():
    ours, width = sincos_positions(3, 5, 12), 12
    for i, j in itertools.product(range(3), range(5)):
        omega = [10_000 ** (-k / 3) for k in range(width // 4)]
        wanted = [f(p * w) for p in (j, i) for f in (math.sin, math.cos) for w in omega]
        assert ours[i * 5 + j].tolist() == pytest.approx(wanted, abs=1e-6)
    assert not TokenViT(16, 4, 8, 1, 2).pos_embed[0, 0].any()
    with pytest.raises(ValueError, match="a width that is a multiple of 4, but got 6"):
        sincos_positions(2, 2, 6)


def test_all_patches_visible_is_no_mask():
    vit = small().backbone
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    whole, some = vit.encode(x), vit.encode(x, visible=order)
    same(some[:, 0], whole[:, 0], 1e-12)
    same(some[:, 1:], take(whole[:, 1:], order), 1e-12)


def test_hidden_patches_do_not_enter():
    """What is encoded of some patches is what a transformer makes of these alone, whatever the others show."""
    vit = small().backbone
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    visible = torch.tensor([[3, 5, 0], [15, 2, 9]])
    tokens = []
    for b in range(2):
        rows = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
        for n in visible[b].tolist():
            i, j = 4 * (n // 4), 4 * (n % 4)
            patch = x[b, :, i : i + 4, j : j + 4].flatten()
            rows.append(vit.patch_embed.proj.weight.flatten(1) @ patch + vit.patch_embed.proj.bias + vit.pos_embed[0, 1 + n])
        tokens.append(torch.stack(rows))
    same(vit.encode(x, visible=visible), vit.norm(vit.blocks(torch.stack(tokens))), 1e-10)
    other = to_patches(torch.rand_like(x), 4).scatter(1, visible[:, :, None].expand(-1, -1, 48), take(to_patches(x, 4), visible))
    same(vit.encode(to_images(other, x.shape, 4), visible=visible), vit.encode(x, visible=visible), 1e-12)


def test_mask_tokens_stand_where_patches_stood():
    vit = small().backbone
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    where, token = torch.rand(2, 16) < 0.5, torch.randn(8, dtype=torch.float64)
    tokens = vit.enter(x)
    wanted = torch.where(where[:, :, None], token + vit.pos_embed[:, 1:], tokens[:, 1:])
    same(vit.enter(x, masked=where, mask_token=token)[:, 1:], wanted, 1e-12)
    with pytest.raises(ValueError, match="give both, or neither"):
        vit.encode(x, masked=where)


def test_attention_maps_are_those_that_forward_uses():
    model = theirs()
    for block in model.blocks:
        block.attn.fused_attn = False
    kept = []
    hooks = [block.attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o)) for block in model.blocks]
    x = torch.rand(2, 3, 24, 24)
    model(x)
    [hook.remove() for hook in hooks]
    maps = TokenViT.of(model).attention(x)
    assert [m.shape for m in maps] == [(2, 3, 37, 37)] * 3
    same(maps, kept)
    same(maps[0].sum(-1), torch.ones(2, 3, 37))


def test_attention_is_the_equation():
    """softmax(Q K' / sqrt(d)) V in loops over heads and tokens."""
    layer = Attention(6, 2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    q, k, v = (x[0] @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=1)
    rows = []
    for t in range(4):
        row = []
        for h in (slice(0, 3), slice(3, 6)):
            scores = [math.exp((q[t, h] @ k[s, h]).item() / math.sqrt(3)) for s in range(4)]
            row.append(sum(scores[s] / sum(scores) * v[s, h] for s in range(4)))
        rows.append(torch.cat(row))
    same(layer(x)[0], torch.stack(rows) @ layer.proj.weight.T + layer.proj.bias, 1e-12)


def test_features_of_every_part_of_a_block():
    images = wb.garments(8)
    model = build_encoder("vit-tiny", None)
    names = [f"backbone.blocks.{i}{part}" for i in (0, 3) for part in ("", ".norm1", ".attn", ".norm2", ".mlp")]
    features = extract(model, images, [*names, "backbone"], progress=False)
    assert {z.shape for z in features.values()} == {(8, 96)}
    assert len({tuple(z[0].tolist()) for z in features.values()}) == len(names) + 1
    tokens = {
        kind: extract(model, images, "backbone.norm", tokens=kind, progress=False)["backbone.norm"]
        for kind in ("first", "patches")
    }
    same(tokens["patches"], features["backbone"])
    model.backbone.pool = "cls"
    same(tokens["first"], extract(model, images, "backbone", progress=False)["backbone"])
    patches = extract(model, images, "backbone.patch_embed", tokens="patches", progress=False)["backbone.patch_embed"]
    x = model.normalise(images.at(range(8)).float() / 255)
    same(patches, model.backbone.patch_embed(x).mean(1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TokenViT(30, 4), r"patches of 4 x 4 pixels do not tile an image of 30 x 30; choose patch= or the images' size"),
        (lambda: TokenViT(8, 4, 8, 1, 2)(torch.rand(1, 3, 8, 10)), "do not tile an image of 8 x 10"),
        (lambda: TokenViT(8, 4, 8, 1, 3), "a width of 8 cannot be shared by 3 heads"),
        (lambda: TokenViT(8, 4, 8, 1, 2, positions="rope"), "positions must be 'sincos' or 'learned', but got 'rope'"),
        (lambda: TokenViT(8, 4, 8, 1, 2, pool="max"), "pool must be 'mean', or 'cls' with a class token, but got 'max'"),
        (lambda: TokenViT(8, 4, 8, 1, 2, pool="cls", class_token=False), "but got 'cls', class_token=False"),
    ],
)
def test_transformers_that_cannot_be(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# ---- masks ---------------------------------------------------------------------------------------------------------------


def test_patches_are_cut_row_by_row_and_put_together_again():
    x = torch.rand(2, 3, 8, 12)
    patches = to_patches(x, 4)
    assert patches.shape == (2, 6, 48)
    for n, (i, j) in enumerate(itertools.product(range(2), range(3))):
        block = x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        same(patches[:, n], block.permute(0, 2, 3, 1).flatten(1), 0)
    same(to_images(patches, x.shape, 4), x, 0)


@pytest.mark.parametrize(("ratio", "side", "hidden"), [(0.75, 1, 48), (0.6, 2, 40), (0.9, 1, 58), (0.999, 4, 48), (0.01, 1, 1)])
def test_masks_share_the_patches(ratio, side, hidden):
    """Each patch is visible or masked, once; as many are masked as the ratio says, rounded up to squares, but not all."""
    visible, masked = random_masks(torch.zeros(50, 1), (8, 8), ratio=ratio, side=side)
    assert masked.shape == (50, hidden)
    assert (torch.cat([visible, masked], 1).sort(1).values == torch.arange(64)).all()
    where = torch.zeros(50, 64).scatter(1, masked, 1.0).view(50, 8 // side, side, 8 // side, side)
    assert (where == where[:, :, :1, :, :1]).all()  # squares are hidden whole


def test_every_patch_is_masked_as_often_and_independently():
    _, masked = random_masks(torch.zeros(4000, 1), (4, 4), ratio=0.75)
    where = torch.zeros(4000, 16).scatter(1, masked, 1.0)
    assert (where.mean(0) - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 4000)
    together = (where.T @ where / 4000)[~torch.eye(16, dtype=torch.bool)]
    assert (together - 12 / 16 * 11 / 15).abs().max() < 5 * math.sqrt(0.25 / 4000)


def test_nine_tenths_of_ten_is_nine():
    _, masked = random_masks(torch.zeros(1, 1), (2, 5), ratio=0.9)
    assert masked.shape[1] == 9


@pytest.mark.parametrize(
    ("size", "patch", "pixels"),
    [(192, 4, 32), (224, 16, 32), (32, 4, 4), (64, 8, 8), (28, 4, 4), (96, 8, 16), (36, 4, 4)],  # the first two are the paper's
)
def test_simmim_hides_squares_of_a_sixth(size, patch, pixels):
    assert SimMIM().side((size // patch, size // patch), patch) * patch == pixels


def test_simmim_squares_that_do_not_fit():
    assert SimMIM(square=8).side((8, 8), 4) == 2
    for square in (6, 12):
        with pytest.raises(ValueError, match=rf"squares of {square} pixels, .* patches of 4 pixels and tile an image of 32 x 32"):
            SimMIM(square=square).side((8, 8), 4)


# ---- the equations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_is_the_equation(normalise):
    """The authors' way: tokens put back in order, all patches decoded, the loss of those that a mask marks."""
    model = small()
    objective = ready(MAE(width=8, heads=2, normalise=normalise), model)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    visible, masked = masks_of(objective, model, x)
    assert (visible.shape, masked.shape) == ((3, 4), (3, 12))
    vit, decoder = model.backbone, objective.decoder
    encoded = decoder.embed(vit.encode(model.normalise(x), visible=visible))
    total = 0.0
    for b in range(3):
        rows = [encoded[b, 0]]
        for n in range(16):
            inside = (visible[b] == n).nonzero()
            token = encoded[b, 1 + inside.item()] if len(inside) else decoder.mask_token
            rows.append(token + decoder.places[n].double())
        said = decoder.head(decoder.norm(decoder.blocks(torch.stack(rows)[None])))[0, 1:]
        for n in masked[b].tolist():
            i, j = 4 * (n // 4), 4 * (n % 4)
            wanted = [(x[b, c, i + p, j + q].item() - 0.4) / 0.3 for p in range(4) for q in range(4) for c in range(3)]
            if normalise:
                mean = sum(wanted) / 48
                std = math.sqrt(sum((w - mean) ** 2 for w in wanted) / 47 + 1e-6)
                wanted = [(w - mean) / std for w in wanted]
            total += sum((s - w) ** 2 for s, w in zip(said[n].tolist(), wanted, strict=True)) / 48
    loss = objective(model, Views([x], torch.arange(3)))["loss"]
    assert loss.item() == pytest.approx(total / 36, rel=1e-6)  # the encoder's mean and std, and the places, are float32


@pytest.mark.parametrize("square", [None, 8])
def test_simmim_is_the_equation(square):
    """The authors' way: a picture of predictions, and the absolute error of the pixels that a mask marks."""
    model = small()
    objective = ready(SimMIM(square=square), model)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    _, masked = masks_of(objective, model, x)
    assert masked.shape == ((3, 10) if square is None else (3, 12))
    where = torch.zeros(3, 16, dtype=torch.bool).scatter(1, masked, torch.ones_like(masked, dtype=torch.bool))
    pixels = model.normalise(x)
    encoded = model.backbone.encode(pixels, masked=where, mask_token=objective.mask_token)[:, 1:]
    said = encoded @ objective.head.weight.T + objective.head.bias
    total = count = 0.0
    for b, c, i, j in itertools.product(range(3), range(3), range(16), range(16)):
        n = 4 * (i // 4) + j // 4
        if where[b, n]:
            total += abs(said[b, n, (4 * (i % 4) + j % 4) * 3 + c].item() - pixels[b, c, i, j].item())
            count += 1
    loss = objective(model, Views([x], torch.arange(3)))["loss"]
    assert loss.item() == pytest.approx(total / count, rel=1e-10)


def test_mae_closed_forms():
    """A decoder that says nothing meets patches of variance 1: P - 1 of P, for the variance is the unbiased one."""
    model = small()
    objective = ready(MAE(width=8, heads=2), model)
    for p in objective.decoder.head.parameters():
        nn.init.zeros_(p)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    assert objective(model, Views([x], torch.arange(3)))["loss"].item() == pytest.approx(47 / 48, rel=1e-4)


def test_mae_does_not_see_the_brightness_and_contrast_of_a_hidden_patch():
    model = small()
    objective = ready(MAE(width=8, heads=2), model)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    _, masked = masks_of(objective, model, x)
    patches = to_patches(x, 4)
    faded = patches.scatter(1, masked[:, :, None].expand(-1, -1, 48), take(patches, masked) * 0.5 + 0.2)
    losses = []
    for images in (x, to_images(faded, x.shape, 4)):
        with torch.random.fork_rng():
            losses.append(objective(model, Views([images], torch.arange(3)))["loss"])
    same(*losses, 1e-4)  # 1e-6 is added to variances that differ


@KINDS
def test_predictions_know_nothing_of_what_is_hidden(kind):
    model = small()
    objective = ready(kind(), model)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    visible, masked = masks_of(objective, model, x)
    noisy = to_patches(x, 4).scatter(1, masked[:, :, None].expand(-1, -1, 48), 7.0)
    said = [objective.predict(model.backbone, pixels, visible, masked) for pixels in (x, to_images(noisy, x.shape, 4))]
    same(*said, 1e-12)
    seen = to_patches(x, 4).scatter(1, visible[:, :, None].expand(-1, -1, 48), 7.0)
    assert not torch.allclose(objective.predict(model.backbone, to_images(seen, x.shape, 4), visible, masked), said[0], atol=1e-3)


@KINDS
def test_the_mask_changes_with_every_step_and_comes_from_the_seed(kind):
    model = small()
    objective = ready(kind(), model)
    views = Views([torch.rand(2, 3, 16, 16, dtype=torch.float64)], torch.arange(2))
    losses = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        losses.append(objective(model, views)["loss"].item())
    assert losses[0] == losses[1] != losses[2]


@KINDS
def test_grey_and_larger_images(kind):
    """Images of another size and shape than the backbone's, and grey ones for a backbone of three channels."""
    model = small()
    model.mean, model._scale, model._shift = (0.4,) * 3, model._scale.expand(3, 1, 1), model._shift.expand(3, 1, 1)
    objective = ready(kind(), model)
    x = torch.rand(2, 1, 24, 32, dtype=torch.float64)
    loss = objective(model, Views([x], torch.arange(2)))["loss"]
    loss.backward()
    assert loss.isfinite()
    torch.manual_seed(1)
    masked, filled = objective.reconstruct(model, x)
    assert masked.shape == filled.shape == (2, 3, 24, 32)


# ---- pictures ------------------------------------------------------------------------------------------------------------


@KINDS
def test_reconstruction_keeps_what_was_seen(kind):
    model = small().train()
    objective = ready(kind(), model)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(1)
    visible, hidden = masks_of(objective, model, x)
    masked, filled = objective.reconstruct(model, x)
    assert model.training
    assert objective.training
    same(take(to_patches(masked, 4), visible), take(to_patches(x, 4), visible), 0)
    same(take(to_patches(filled, 4), visible), take(to_patches(x, 4), visible), 1e-6)
    assert (take(to_patches(masked, 4), hidden) == 0.5).all()
    assert 0 <= filled.min() <= filled.max() <= 1
    assert not torch.allclose(take(to_patches(filled, 4), hidden), take(to_patches(x, 4), hidden), atol=0.1)


@KINDS
def test_a_perfect_prediction_is_the_image(kind, monkeypatch):
    model = small()
    objective = ready(kind(), model)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)

    def knows(backbone, pixels, visible, masked):
        patches = take(to_patches(pixels, 4), masked)
        if kind is SimMIM:
            return patches
        return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()

    monkeypatch.setattr(objective, "predict", knows)
    same(objective.reconstruct(model, x).filled, x, 1e-6)
    assert objective(model, Views([x], torch.arange(2)))["loss"].item() == pytest.approx(0, abs=1e-12)


# ---- training ------------------------------------------------------------------------------------------------------------


@KINDS
def test_training_from_a_shell_asks_for_one_view(kind, tmp_path, capsys):
    command = ["train", "--objective", kind.__name__, "--backbone", "vit-tiny", "--projector", "none", "--epochs", "1"]
    command += ["--batch-size", "32", "--no-progress", "--set", "data.n=64"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    run = wb.Run(tmp_path / "run")
    assert run.spec["views"]["n"] == 1
    assert run.spec["model"]["backbone"]["is"] == "workbench.models.tokens:TokenViT"
    images = run.images().at([0, 1]).float() / 255
    shown = []
    for model, objective in [(run.model(), run.objective()) for _ in range(2)]:
        torch.manual_seed(0)
        shown.append(objective.reconstruct(model, images).filled)
    same(*shown, 0)
    assert main([*command, "views.n=2", "--out", str(tmp_path / "two")]) == 1
    assert f"{kind.__name__} sees one view of each image, but got 2; use a view maker with n=1" in capsys.readouterr().err


@KINDS
def test_training_goes_on_to_the_same_weights(kind, tmp_path):
    """Stopped after the first step and gone on with: the masks of the later steps are those that they would have been."""
    runs = []
    for minutes in ([None], [0, None]):
        for limit in minutes:
            torch.manual_seed(0)
            model = build_encoder("vit-tiny", None, depth=1, width=16, heads=2)
            trainer, out = wb.Trainer(epochs=2, batch_size=16, precision="fp32"), tmp_path / str(len(minutes))
            how = {"out": out, "resume": True, "minutes": limit, "progress": False}
            run = trainer.fit(model, kind(), wb.garments(48), wb.Plain(), **how)
            assert run.finished == (limit is None)
        runs.append(run)
    for part in ("model", "objective"):
        same(getattr(runs[1], part)().state_dict(), getattr(runs[0], part)().state_dict(), 0)


# ---- what is said --------------------------------------------------------------------------------------------------------


@KINDS
def test_the_projector_is_frozen_and_said_to_be(kind):
    model = build_encoder("vit-tiny", [8])
    with pytest.warns(
        UserWarning, match=rf"{kind.__name__} trains the representation and uses no projector: the model's \(768 param"
    ):
        kind().begin(model, sample_embedding(model, 3, 32, 32))
    assert not any(p.requires_grad for p in model.projector.parameters())
    assert all(p.requires_grad for p in model.backbone.parameters())


@KINDS
def test_a_model_without_tokens_is_refused(kind):
    for model in (build_encoder("convnet", None), build_encoder("timm:test_vit", None, image_size=32)):
        name = type(model.backbone).__name__
        wanted = (
            rf"{kind.__name__} hides patches from a backbone of tokens, but got a {name}; use build_encoder\('vit-tiny', None\)"
        )
        with pytest.raises(TypeError, match=wanted):
            kind().begin(model, sample_embedding(model, 3, 32, 32))


@KINDS
@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.1, True, "half"])
def test_ratios_that_are_none(kind, ratio):
    with pytest.raises(ValueError, match=rf"{kind.__name__}'s ratio is the share of patches that is hidden.*but got {ratio!r}"):
        kind(ratio=ratio)


def test_noise_is_that_of_the_images_place():
    torch.manual_seed(4)
    drawn = masking.noise(torch.zeros(5, 1), 7)
    torch.manual_seed(4)
    same(drawn, torch.rand(5, 7), 0)
