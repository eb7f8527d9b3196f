"""Features: right rows in the right place, in little memory, and nothing lost when it is stopped."""

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn

import workbench as wb
from workbench.core import Views, mixed_seed


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 16, 16), generator=g, dtype=torch.uint8)
    return wb.Images(pixels, pd.DataFrame({"label": np.arange(50) % 5}), "noise")


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = wb.ConvNet(8)
    return wb.Encoder(backbone, wb.Projector([backbone.out, 16, 4]))


LAYERS = ["backbone", "projector.0", "projector"]


def test_rows_are_what_the_model_says_of_each_image(model, images):
    features = wb.extract(model, images, LAYERS, batch_size=7, progress=False)
    model.eval()
    with torch.no_grad():
        for i in (0, 6, 7, 49):
            h, z = model(images.at([i]).float() / 255)
            torch.testing.assert_close(features["backbone"][i], h[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features["projector"][i], z[0], rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(features.factors, images.factors)


def test_maps_are_averaged_over_space_and_tokens_over_tokens(images):
    class Tokens(nn.Module):
        def forward(self, x):
            return x.flatten(2).transpose(1, 2)  # (B, pixels, channels)

    model = nn.Sequential(nn.Conv2d(3, 5, 1), Tokens())
    features = wb.extract(model, images, ["0", "1"], progress=False)
    want = model[0](images.pixels.float() / 255).mean((2, 3)).detach()
    torch.testing.assert_close(features["0"], want)
    torch.testing.assert_close(features["1"], want)


def noise(n, *shape):
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, *shape), generator=g, dtype=torch.uint8)
    return wb.Images(pixels, pd.DataFrame({"label": np.arange(n) % 5}), "noise")


def given(model, name, images):
    """What a layer gives, by a hook of ours."""
    kept = []
    hook = dict(model.named_modules())[name].register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        model.eval()(images.pixels.float() / 255)
    hook.remove()
    return kept[-1]


def test_maps_with_the_channels_last_are_averaged_over_space_too():
    torch.manual_seed(0)
    model, images = wb.Timm("swin_tiny_patch4_window7_224", image_size=64), noise(2, 3, 64, 64)
    first, *stages = layers = ["model.patch_embed.proj", "model.patch_embed", *model.stages]
    features = wb.extract(model, images, layers, progress=False)
    assert [z.shape[1] for z in features.values()] == [96, 96, 96, 192, 384, 768]
    torch.testing.assert_close(features[first], given(model, first, images).mean((2, 3)))
    for name in stages:
        torch.testing.assert_close(features[name], given(model, name, images).mean((1, 2)))
    with pytest.raises(ValueError, match=r"'model\.layers\.0\.blocks\.0\.attn' gives 18 rows for 2 images"):
        wb.extract(model, images, "model.layers.0.blocks.0.attn", progress=False)


class Turned(nn.Module):
    """(B, C, H, W) to (B, H, W, C)."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def test_maps_whose_three_axes_are_equal_are_told_apart_by_what_the_model_is():
    import timm

    small = {"img_size": 64, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **small, num_classes=0)
    convnext = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), num_classes=0)
    first, last = (2, 3), (1, 2)
    cases = [
        (swin, 64, {"patch_embed.proj": first, "patch_embed": last, "layers.0": last}),
        (convnext, 32, {"stages.0": first, "stages.0.blocks.0.conv_dw": first, "stages.0.blocks.0.mlp": last}),
        (wb.ResNet18(width=16), 16, {"conv1": first, "layer1": first, "layer1.0": first}),
        (nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU()), 16, {"1": first}),
        (nn.Sequential(Turned(), nn.Linear(3, 16), nn.ReLU()), 16, {"2": last}),
        (nn.Sequential(nn.Conv2d(3, 16, 1), Turned(), nn.Linear(16, 16), nn.ReLU()), 16, {"0": first, "2": last}),
    ]
    for model, size, axes in cases:
        images = noise(2, 3, size, size)
        features = wb.extract(model, images, list(axes), progress=False)
        for name, space in axes.items():
            output = given(model, name, images)
            assert len(set(output.shape[1:])) == 1, name
            torch.testing.assert_close(features[name], output.mean(space), msg=lambda m, name=name: f"{name}: {m}")
    for model, size, name in ((cases[-1][0], 16, "3"), (convnext, 32, "stages.0.blocks.0")):
        with pytest.raises(ValueError, match=f"layer '{name}': it cannot be told whether the channels"):
            wb.extract(model, noise(2, 3, size, size), name, progress=False)


def test_maps_of_oblong_images():
    model, images = nn.Sequential(nn.Conv2d(3, 8, 1), Turned()), noise(3, 3, 8, 16)
    features = wb.extract(model, images, ["0", "1"], progress=False)
    assert features["0"].shape == features["1"].shape == (3, 8)
    torch.testing.assert_close(features["0"], features["1"])


def test_tokens_are_pooled_as_asked():
    import timm

    images, size = noise(4, 3, 32, 32), {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    token = timm.create_model("vit_tiny_patch16_224", patch_size=8, reg_tokens=3, **size)
    mean = timm.create_model("vit_tiny_patch16_224", patch_size=8, reg_tokens=3, global_pool="avg", **size)
    tokens = given(token, "blocks.1", images)
    assert tokens.shape == (4, 1 + 3 + 16, 24)
    layers, ways = ["blocks.1", "norm"], ("mean", "patches", "first")
    took = {how: wb.extract(token, images, layers, tokens=how, progress=False) for how in ways}
    torch.testing.assert_close(took["mean"]["blocks.1"], tokens.mean(1))
    torch.testing.assert_close(took["patches"]["blocks.1"], tokens[:, 4:].mean(1))
    torch.testing.assert_close(took["first"]["blocks.1"], tokens[:, 0])
    with torch.no_grad():  # a network ends with the class token, or with the patches, itself
        torch.testing.assert_close(took["first"]["norm"], token(images.pixels.float() / 255))
        patches = wb.extract(mean, images, "blocks.1", tokens="patches", progress=False)["blocks.1"]
        torch.testing.assert_close(mean.fc_norm(patches), mean(images.pixels.float() / 255))


def test_tokens_that_are_not_there():
    class Patches(nn.Module):
        def forward(self, x):
            return x.flatten(2).transpose(1, 2)  # (B, 64, 3)

    import timm

    model, images = nn.Sequential(Patches()), noise(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"layer '0': nothing says how many of its 64 tokens.*set model.num_prefix_tokens"):
        wb.extract(model, images, "0", tokens="patches", progress=False)
    model.num_prefix_tokens = 2
    want = model(images.pixels.float() / 255)
    torch.testing.assert_close(wb.extract(model, images, "0", tokens="patches", progress=False)["0"], want[:, 2:].mean(1))
    model.num_prefix_tokens = 0
    with pytest.raises(ValueError, match="no class token stands before its 64 patches"):
        wb.extract(model, images, "0", tokens="first", progress=False)
    model.num_prefix_tokens = 64
    with pytest.raises(ValueError, match="its 64 tokens are class or register tokens"):
        wb.extract(model, images, "0", tokens="patches", progress=False)
    with pytest.raises(ValueError, match="tokens must be one of mean, patches, first, but is 'cls'"):
        wb.extract(model, images, "0", tokens="cls", progress=False)
    late = timm.create_model("cait_xxs24_224", img_size=32, patch_size=8, depth=1, num_classes=0)  # its class token joins late
    torch.testing.assert_close(
        wb.extract(late, noise(4, 3, 32, 32), "blocks.0", tokens="patches", progress=False)["blocks.0"],
        given(late, "blocks.0", noise(4, 3, 32, 32)).mean(1),
    )


def test_a_store_remembers_how_tokens_were_pooled(images, tmp_path):
    model = nn.Sequential(nn.Flatten(2))
    wb.extract(model, images, "0", out=tmp_path / "store", progress=False)
    with pytest.raises(FileExistsError, match=r"taken otherwise \(other tokens\)"):
        wb.extract(model, images, "0", tokens="first", out=tmp_path / "store", progress=False)


def test_the_mode_of_the_model_and_the_random_state_are_left_alone(model, images):
    model.train()
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    wb.extract(model, images, "backbone", views=wb.Augment(), progress=False)
    assert model.training and torch.equal(torch.rand(1), want)
    assert not any(m._forward_hooks for m in model.modules())
    model.backbone.eval()
    wb.extract(model, images, "backbone", progress=False)
    assert model.projector.training and not model.backbone.training, "each part keeps its own mode"


def test_convolutions_of_features_keep_all_digits_on_a_gpu(images):
    """What a GPU does with the switch is tested in test_cuda.py."""
    asked = []

    class Asking(nn.Module):
        def forward(self, x):
            asked.append(torch.backends.cudnn.allow_tf32)
            return x.mean((2, 3))

    before = torch.backends.cudnn.allow_tf32
    wb.extract(nn.Sequential(Asking()), images, "0", progress=False)
    assert asked and not any(asked)
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_store_on_disk_is_the_same_and_is_a_memory_map(model, images, tmp_path):
    memory = wb.extract(model, images, LAYERS, progress=False)
    disk = wb.extract(model, images, LAYERS, out=tmp_path / "store", batch_size=16, progress=False)
    again = wb.Features.load(tmp_path / "store")
    for layer in LAYERS:
        torch.testing.assert_close(disk[layer], memory[layer], rtol=1e-4, atol=1e-5)
        assert torch.equal(again[layer], disk[layer])
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == sorted(
        [f"{n}.npy" for n in LAYERS] + ["factors.parquet", "store.json"]
    )
    assert np.load(tmp_path / "store" / "backbone.npy").shape == (50, 64) == tuple(memory["backbone"].shape)
    assert [len(c) for c in again.chunks("projector", 20)] == [20, 20, 10]


def test_an_interrupted_extraction_goes_on_where_it_stopped(model, images, tmp_path):
    class Tired(nn.Module):
        def __init__(self, inner, limit):
            super().__init__()
            self.inner, self.limit, self.seen = inner, limit, 0

        def forward(self, x):
            self.seen += len(x)
            if self.seen > self.limit:
                raise KeyboardInterrupt
            return self.inner(x)

    layers = [f"inner.{n}" for n in LAYERS]
    tired = Tired(model, 30)
    with pytest.raises(KeyboardInterrupt):
        wb.extract(tired, images, layers, out=tmp_path / "store", batch_size=10, progress=False)
    assert not (tmp_path / "store").exists()
    tired.limit, tired.seen = 1000, 0
    features = wb.extract(tired, images, layers, out=tmp_path / "store", batch_size=10, progress=False)
    assert tired.seen == 20, "the 30 images before the interruption are not taken again"
    whole = wb.extract(tired, images, layers, progress=False)
    for layer in layers:
        torch.testing.assert_close(features[layer], whole[layer], rtol=1e-4, atol=1e-5)
    tired.seen = 0
    wb.extract(tired, images, layers, out=tmp_path / "store", batch_size=10, progress=False)
    assert tired.seen == 0, "a finished store is read"
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(FileExistsError, match="another model or other images"):
        wb.extract(tired, images, layers, out=tmp_path / "store", progress=False)


def test_programs_that_want_the_same_store_at_once_write_it_once(tmp_path):
    code = textwrap.dedent(f"""
        import time, torch, workbench as wb
        from workbench.storing import FolderStore

        torch.manual_seed(0)
        model, images, take, times = wb.Encoder(wb.ConvNet(4), wb.Projector([])), wb.sprites(40), FolderStore.take, []

        def slow(self, *batch):
            time.sleep(0.1)
            times.append(take(self, *batch))

        FolderStore.take = slow
        found = wb.extract(model, images, "backbone", batch_size=4, out={str(tmp_path / "store")!r}, progress=False)
        print(len(times), len(found["backbone"]))
    """)
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=120)[0] for process in both) == ["0 40\n", "10 40\n"]


def test_views_give_rows_grouped_by_source(model, images, tmp_path):
    class Brighter:
        def __call__(self, pixels, index):
            x = pixels.float() / 255
            return Views([x, x / 2, x / 4], index)

    features = wb.extract(model, images, LAYERS, views=Brighter(), batch_size=8, progress=False)
    assert len(features.factors) == 150
    assert features.factors["source"].tolist() == [i for i in range(50) for _ in range(3)]
    assert features.factors["view"].tolist() == [0, 1, 2] * 50
    plain = wb.extract(model, images, LAYERS, progress=False)
    torch.testing.assert_close(features["backbone"][::3], plain["backbone"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features["backbone"][1::3], plain["backbone"])
    disk = wb.extract(model, images, LAYERS, views=Brighter(), batch_size=8, out=tmp_path / "store", progress=False)
    torch.testing.assert_close(disk["projector"], features["projector"])


@pytest.fixture
def many():
    return noise(200, 3, 8, 8)


@pytest.fixture
def flat():
    """Gives the pixels of a view, so that two views are the same where the features are."""
    return nn.Sequential(nn.Flatten())


def test_views_do_not_depend_on_the_size_of_the_batches(many, flat):
    """More and fewer than the 64 images whose views are drawn together, and no divisor of it."""
    want = wb.extract(flat, many, "0", views=wb.Augment(2), seed=3, batch_size=200, progress=False)
    for size in (1, 7, 64, 100, 128, 1000):
        features = wb.extract(flat, many, "0", views=wb.Augment(2), seed=3, batch_size=size, progress=False)
        assert torch.equal(features["0"], want["0"]), size
    sources = want.factors["source"].to_numpy()
    assert (sources == np.repeat(np.arange(200), 2)).all()


def test_no_two_seeds_and_no_two_blocks_share_their_draws(many, flat):
    class Random:
        def __call__(self, pixels, index):
            return Views([torch.rand(pixels.shape)], index)

    seeds = (0, 1, 32, 64, -1)
    rows = [wb.extract(flat, many, "0", views=Random(), seed=s, batch_size=32, progress=False)["0"] for s in seeds]
    assert len(torch.cat(rows).unique(dim=0)) == len(seeds) * len(many)


def test_an_interrupted_extraction_of_views_goes_on_with_other_batches(many, flat, tmp_path, monkeypatch):
    import workbench.storing

    want = wb.extract(flat, many, "0", views=wb.Augment(2), progress=False)["0"]
    took, take = [], workbench.storing.FolderStore.take

    def stops(self, image, *rest):
        if took:
            raise KeyboardInterrupt
        take(self, image, *rest)
        took.append(image)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(workbench.storing.FolderStore, "take", stops)
        wb.extract(flat, many, "0", views=wb.Augment(2), batch_size=10, out=tmp_path / "store", progress=False)
    features = wb.extract(flat, many, "0", views=wb.Augment(2), batch_size=150, out=tmp_path / "store", progress=False)
    assert took == [0]
    assert torch.equal(features["0"], want)


def test_what_was_done_to_a_view_stands_beside_its_features(many, flat, tmp_path, monkeypatch):
    """Also where the extraction was interrupted, and where nothing was left to do but to finish."""
    import workbench.storing

    views = wb.Augment(3, scale=(0.3, 1.0), record=True)
    got = wb.extract(flat, many, "0", views=views, seed=4, batch_size=70, progress=False)
    block = 1  # rows 64 to 127
    torch.manual_seed(mixed_seed(4, block))
    made = views(many.at(range(64, 128)), torch.arange(64, 128))
    for v, action in enumerate(made.actions):
        rows = (got.factors["view"] == v) & got.factors["source"].between(64, 127)
        for name, value in action.items():
            assert np.allclose(got.factors.loc[rows, f"action.{name}"], value.double()), name
        assert torch.equal(got["0"][torch.from_numpy(rows.to_numpy(copy=True))], made.images[v].flatten(1))
    f = got.factors
    assert (f["action.x"] * 8).to_numpy() == pytest.approx((f["action.left"] + f["action.width"] / 2).to_numpy(), abs=1e-5)
    assert (f["action.area"] * 64).to_numpy() == pytest.approx((f["action.height"] * f["action.width"]).to_numpy(), abs=1e-4)
    assert [f[f"action.{n}"].dtype.kind for n in ("flip", "left", "hue")] == ["b", "i", "f"]

    def stops(*_, **__):
        raise KeyboardInterrupt

    for step in ("take", "finish"):
        out = tmp_path / step
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(workbench.storing.FolderStore, step, stops)
            wb.extract(flat, many, "0", views=views, seed=4, out=out, progress=False)
        disk = wb.extract(flat, many, "0", views=views, seed=4, batch_size=30, out=out, progress=False)
        pd.testing.assert_frame_equal(disk.factors, got.factors)
        assert list(disk) == ["0"] and len(list(out.glob("*.npy"))) == 1


def test_actions_that_not_every_view_has_are_left_out(many, flat):
    class Odd:
        def __call__(self, pixels, index):
            x, n = pixels.float() / 255, len(index)
            matrix = {"matrix": torch.zeros(n, 2, 2)}
            return Views([x, x], index, [matrix | {"a": torch.arange(n), "b": torch.zeros(n)}, matrix | {"a": torch.arange(n)}])

    before = torch.get_rng_state()
    factors = wb.extract(flat, many, "0", views=Odd(), progress=False).factors
    assert torch.equal(torch.get_rng_state(), before)
    assert [c for c in factors if c.startswith("action.")] == ["action.a"]
    drawn = wb.extract(flat, wb.sprites(70), "0", views=wb.Rerender(wb.sprites(70)), progress=False).factors
    assert (drawn["action.x"] != drawn["x"]).mean() > 0.5 and (drawn["x"][::2] == drawn["x"][1::2].to_numpy()).all()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_any_precision(model, images, kind):
    want = wb.extract(model, images, LAYERS, progress=False)
    for views in (None, wb.Plain(1)):
        features = wb.extract(model.to(kind), images, LAYERS, views=views, progress=False)
        for layer in LAYERS:
            assert features[layer].dtype is torch.float32
            torch.testing.assert_close(features[layer], want[layer], rtol=0.05, atol=0.05)


def test_where_keeps_factors_joined(model, images):
    features = wb.extract(model, images, LAYERS, progress=False)
    some = features.where(features.factors["label"] == 3)
    assert len(some.factors) == 10 and (some.factors["label"] == 3).all()
    assert torch.equal(some["backbone"], features["backbone"][3::5])
    for rows in ("label == 3", slice(3, None, 5), list(range(3, 50, 5)), torch.arange(3, 50, 5), np.arange(3, 50, 5) - 50):
        again = features.where(rows)
        assert torch.equal(again["backbone"], some["backbone"])
        pd.testing.assert_frame_equal(again.factors, some.factors)
    assert len(features.where([]).factors) == len(features.where("label > 9")["backbone"]) == 0
    with pytest.raises(ValueError, match=r"features: the query 'labl == 1' failed .*the factors are \['label'\]"):
        features.where("labl == 1")
    with pytest.raises(ValueError, match="a mask of 49 for 50 rows"):
        features.where(np.ones(49, bool))
    with pytest.raises(IndexError, match="rows 0 to 49, but row 50"):
        features.where([3, 50])
    with pytest.raises(TypeError, match=r"picked by a query, a mask, a slice or row numbers, but got an array of shape \(\)"):
        features.where(3)


def test_features_of_arrays(tmp_path):
    z = np.arange(12.0).reshape(6, 2)
    z.flags.writeable = False
    factors = pd.DataFrame({"label": range(6)})
    features = wb.Features({"a": z, "b/c": torch.ones(6, 1, dtype=torch.bfloat16, requires_grad=True)}, factors)
    features.save(tmp_path / "store")
    again = wb.Features.load(tmp_path / "store")
    assert torch.equal(again["a"], torch.arange(12.0, dtype=torch.float64).view(6, 2))
    assert torch.equal(again["b/c"], torch.ones(6, 1))
    with pytest.raises(TypeError, match="layer 'a' must be a matrix of numbers, a tensor or an array, but is list"):
        wb.Features({"a": [[1.0]]}, factors)
    with pytest.raises(TypeError, match="but is an array of object"):
        wb.Features({"a": np.array([[None]])}, factors)
    with pytest.raises(ValueError, match=r"layer 'a' must be \(6 rows, dimensions\), but is \(5, 2\)"):
        wb.Features({"a": z[:5]}, factors)
    with pytest.raises(TypeError, match="layers by name, {name: matrix}, but got ndarray"):
        wb.Features(z, factors)
    with pytest.raises(TypeError, match="factors must be a DataFrame of one row an image, but got list"):
        wb.Features({"a": z}, [0] * 6)


def test_messages(model, images, tmp_path):
    with pytest.raises(KeyError, match=r"no layer 'head'; among its layers are backbone"):
        wb.extract(model, images, ["head"])
    with pytest.raises(KeyError, match=r"no layer 'projector\.7'.*projector"):
        wb.extract(model, images, ["projector.7"])
    with pytest.raises(TypeError, match=r"extract takes Images, but got Tensor; make them with wb\.from_arrays"):
        wb.extract(model, images.pixels, "backbone")
    with pytest.raises(TypeError, match="a model that is a torch module, but got str"):
        wb.extract("resnet18", images, "backbone")
    with pytest.raises(ValueError, match=r"name at least one layer; wb\.main_layers"):
        wb.extract(model, images, [])
    with pytest.raises(TypeError, match=r"a view maker gives Views\(images, index\), but this one gave Tensor"):
        wb.extract(model, images, "backbone", views=lambda pixels, index: pixels / 255, progress=False)
    model.head = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="the model has the layer 'head', but did not run it"):
        wb.extract(model, images, ["backbone", "head"], progress=False)
    features = wb.extract(model, images, "backbone", progress=False)
    with pytest.raises(KeyError, match="no features of layer 'projector'; there are backbone"):
        features["projector"]
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="'backbone' is not finite for images 0 to 49: the model has diverged"):
        wb.extract(model, images, "backbone", progress=False)
    with pytest.raises(FileNotFoundError, match="holds no features"):
        wb.Features.load(tmp_path)


def test_a_damaged_or_hostile_store_is_refused(model, images, tmp_path):
    features = wb.extract(model, images, "backbone", progress=False)
    features.save(tmp_path / "a")
    (tmp_path / "a" / "backbone.npy").write_bytes((tmp_path / "a" / "backbone.npy").read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        wb.Features.load(tmp_path / "a")
    features.save(tmp_path / "b")
    np.save(tmp_path / "b" / "backbone.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is damaged"):
        wb.Features.load(tmp_path / "b")
    features.save(tmp_path / "c")
    np.save(tmp_path / "secret.npy", np.zeros((50, 2)))
    (tmp_path / "c" / "extra.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(ValueError, match="points outside its folder"):
        wb.Features.load(tmp_path / "c")


def test_half_a_gigabyte_of_features_needs_little_memory(tmp_path):
    """120,000 x 1,024 float32 are 490 MB; the process must grow by far less."""
    script = textwrap.dedent(
        f"""
        import resource, numpy as np, pandas as pd, torch, torch.nn as nn
        import workbench as wb
        class Wide(nn.Module):
            def forward(self, x):
                return x.flatten(1)[:, :1] * torch.arange(1024.0) 
        n = 120_000
        pixels = np.memmap({str(tmp_path / "p")!r}, np.uint8, "w+", shape=(n, 1, 2, 2)); pixels[:, 0, 0, 0] = np.arange(n) % 256
        images = wb.Images(pixels, pd.DataFrame({{"row": np.arange(n)}}), "wide")
        model = nn.Sequential(Wide())
        wb.extract(model, images[:1024], "0", progress=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        features = wb.extract(model, images, "0", out={str(tmp_path / "store")!r}, progress=False)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        rows = [0, 77_777, n - 1]
        assert torch.allclose(features["0"][rows, 1000], torch.tensor([1000 * (r % 256) / 255 for r in rows]))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 120, f"grew by {done.stdout} MB"


def test_the_table_of_a_store_is_as_suspect_as_its_matrices(model, images, tmp_path):
    features = wb.extract(model, images, "backbone", progress=False)
    for name in "abc":
        features.save(tmp_path / name)
    (tmp_path / "a/factors.parquet").rename(tmp_path / "secret.parquet")
    (tmp_path / "a/factors.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(ValueError, match="points outside its folder"):
        wb.Features.load(tmp_path / "a")
    (tmp_path / "b/factors.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"factors\.parquet is damaged"):
        wb.Features.load(tmp_path / "b")
    np.save(tmp_path / "c/backbone.npy", np.full((50, 1), b"word"))
    with pytest.raises(ValueError, match=r"backbone\.npy is damaged"):
        wb.Features.load(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "secret.parquet"]


def test_processes_wait_for_each_other_as_often_wherever_they_go_on_from(model, images, tmp_path, monkeypatch):
    """One that has nothing left to do must meet the others, or they would wait for ever."""
    import workbench.storing

    waits, complete = [], workbench.storing.complete
    monkeypatch.setattr(workbench.storing, "wait", lambda: waits.append(1))
    monkeypatch.setattr(workbench.storing, "complete", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        wb.extract(model, images, LAYERS, out=tmp_path / "store", progress=False)
    all_to_do, waits[:] = len(waits) + 1, []
    monkeypatch.setattr(workbench.storing, "complete", complete)
    wb.extract(model, images, LAYERS, out=tmp_path / "store", progress=False)
    assert len(waits) == all_to_do
