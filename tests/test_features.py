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
from workbench.core import Views


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


def test_the_mode_of_the_model_and_the_random_state_are_left_alone(model, images):
    model.train()
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    wb.extract(model, images, "backbone", views=wb.Augment(), progress=False)
    assert model.training and torch.equal(torch.rand(1), want)
    assert not any(m._forward_hooks for m in model.modules())


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


def test_where_keeps_factors_joined(model, images):
    features = wb.extract(model, images, LAYERS, progress=False)
    some = features.where(features.factors["label"] == 3)
    assert len(some.factors) == 10 and (some.factors["label"] == 3).all()
    assert torch.equal(some["backbone"], features["backbone"][3::5])


def test_messages(model, images, tmp_path):
    with pytest.raises(KeyError, match=r"no layer 'head'; among its layers are backbone"):
        wb.extract(model, images, ["head"])
    with pytest.raises(KeyError, match=r"no layer 'projector\.7'.*projector"):
        wb.extract(model, images, ["projector.7"])
    features = wb.extract(model, images, "backbone", progress=False)
    with pytest.raises(KeyError, match="no features of layer 'projector'; there are backbone"):
        features["projector"]
    with torch.no_grad():
        model.backbone.stage1 if hasattr(model.backbone, "stage1") else None
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
    import workbench.features

    waits, finish = [], workbench.features._finish
    monkeypatch.setattr(workbench.features, "_barrier", lambda: waits.append(1))
    monkeypatch.setattr(workbench.features, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        wb.extract(model, images, LAYERS, out=tmp_path / "store", progress=False)
    all_to_do, waits[:] = len(waits) + 1, []
    monkeypatch.setattr(workbench.features, "_finish", finish)
    wb.extract(model, images, LAYERS, out=tmp_path / "store", progress=False)
    assert len(waits) == all_to_do
