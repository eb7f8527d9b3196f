"""A run's folder: it reopens as it was, and one from a stranger can do no harm."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb


def make(folder, **changes):
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (64, 3, 16, 16), generator=g, dtype=torch.uint8)
    images = wb.Images(pixels, pd.DataFrame({"label": np.arange(64) % 4}), "noise")
    torch.manual_seed(0)
    backbone = wb.ConvNet(8)
    model = wb.Encoder(backbone, wb.Projector([backbone.out, 16, 8]))
    trainer = wb.Trainer(**{"epochs": 2, "batch_size": 32, "device": "cpu", "precision": "fp32"} | changes)
    run = trainer.fit(model, wb.BYOL(), images, wb.Augment(), out=folder, checkpoint_seconds=0, log_every=1, progress=False)
    return run, model, images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "byol")


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run")[0]


def rewrite(run, **parts):
    (run.path / "run.json").write_text(json.dumps(run.spec | parts))
    return wb.Run(run.path)


def test_it_reopens_as_it_was(made):
    run, model, _ = made
    again = wb.Run(run.path)
    x = torch.rand(4, 3, 16, 16)
    model.eval()
    assert torch.equal(again.model()(x).z, model(x).z)
    assert not torch.equal(again.model(0)(x).z, model(x).z)
    assert again.finished and again.steps == [0, 1, 2, 3, 4] and again.metrics["step"].tolist() == [1, 2, 3, 4]
    assert list(again.metrics.columns[:5]) == ["step", "epoch", "lr", "rate", "waiting"]


def test_the_objective_comes_back_with_what_it_learned(made):
    run, _model, _ = made
    objective = run.objective()
    _, tensors, _ = run.checkpoint()
    teacher = {k: v for k, v in tensors.items() if k.startswith("objective.")}
    assert teacher and all(torch.equal(objective.state_dict()[k[10:]], v) for k, v in teacher.items())


def test_features_are_taken_once_and_layers_can_be_added(made, monkeypatch):
    run, _, images = made
    first = run.features(images, ["backbone"])
    more = run.features(images, ["backbone", "projector"])
    assert torch.equal(first["backbone"], more["backbone"])
    import workbench.features

    monkeypatch.setattr(workbench.features, "extract", lambda *_a, **_k: pytest.fail("taken again"))
    again = run.features(images, "projector")
    assert torch.equal(again["projector"], more["projector"]) and list(again) == ["projector"]
    assert again.factors["label"].tolist() == images.factors["label"].tolist()


def test_features_by_another_pooling_of_tokens_are_kept_apart(tmp_path):
    images = wb.garments(32)
    model = wb.build_encoder("timm:test_vit", [8], image_size=32)
    trainer = wb.Trainer(epochs=1, batch_size=16, device="cpu")
    run = trainer.fit(model, wb.SimCLR(), images, wb.Augment(), out=tmp_path / "run", progress=False)
    layer = "backbone.model.blocks.0"
    for _ in range(2):  # taken, and then read
        for tokens in ("mean", "patches", "first"):
            want = wb.extract(run.model(), images, layer, tokens=tokens, progress=False)[layer]
            assert torch.equal(run.features(images, layer, tokens=tokens)[layer], want)
    assert not torch.equal(run.features(images, layer)[layer], want)
    with pytest.raises(ValueError, match="tokens must be one of mean, patches, first, but is 'cls'"):
        run.features(images, layer, tokens="cls")
    with pytest.raises(ValueError, match=r"name at least one layer; wb\.main_layers\(run\.model\(\)\)"):
        run.features(images, [])
    with pytest.raises(TypeError, match=r"features are taken of Images, such as run\.images\(\), but got Tensor"):
        run.features(images.pixels, layer)


def test_runs_gives_a_row_a_run(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "deep" / "b", lr=0.01)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    table = wb.runs(tmp_path).set_index("run")
    assert table.loc["a", "trainer.lr"] == 0.001 and table.loc["deep/b", "trainer.lr"] == 0.01
    assert table.loc["a", "objective.is"] == "BYOL" and table.loc["a", "step"] == 4
    assert "is damaged" in table.loc["broken", "error"]
    with pytest.raises(FileNotFoundError, match="workbench train"):
        wb.runs(tmp_path / "none")


def test_reading_a_run_imports_no_torch(made):
    code = (
        "import sys; from workbench.run import Run, runs\n"
        f"r = Run({str(made[0].path)!r}); r.metrics, r.steps, r.table('spectrum'), runs({str(made[0].path.parent)!r})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_are_kept(run):
    frame = pd.DataFrame({"step": [0, 1], "value": [0.5, 1.5]})
    assert run.table("spectrum") is None
    run.write_table("spectrum", frame)
    pd.testing.assert_frame_equal(run.table("spectrum"), frame)


# ---------------------------------------------------------------------------------------------------------------- damage


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, capsys):
    newest, before = sorted((run.path / "last").glob("*"), reverse=True)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    step, tensors, _ = run.checkpoint()
    assert step == int(before.stem) == 3 and tensors
    assert "damaged" in capsys.readouterr().out
    before.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read.*weights/ may still be whole"):
        run.checkpoint()


def test_a_run_with_a_damaged_checkpoint_resumes_to_the_same_weights(run, made):
    newest = max((run.path / "last").glob("*"))
    newest.write_bytes(b"nonsense")
    (run.path / "weights" / "00000004.safetensors").unlink()
    g = torch.Generator().manual_seed(1)
    images = wb.Images(
        torch.randint(0, 256, (64, 3, 16, 16), generator=g, dtype=torch.uint8),
        pd.DataFrame({"label": np.arange(64) % 4}),
        "noise",
    )
    torch.manual_seed(0)
    backbone = wb.ConvNet(8)
    model = wb.Encoder(backbone, wb.Projector([backbone.out, 16, 8]))
    trainer = wb.Trainer(epochs=2, batch_size=32, device="cpu", precision="fp32")
    resumed = trainer.fit(model, wb.BYOL(), images, wb.Augment(), out=run.path, resume=True, log_every=1, progress=False)
    want = made[0].model().state_dict()
    assert all(torch.equal(v, want[k]) for k, v in resumed.model().state_dict().items())


def test_damage_has_names(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run: it does not exist"):
        wb.Run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no run\.json"):
        wb.Run(run.path / "weights")
    with pytest.raises(KeyError, match="no weights of step 77; it keeps 0, 1, 2, 3, 4"):
        run.model(77)
    weights = run.path / "weights" / "00000004.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        run.model()
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 5, "lo')
    assert run.metrics["step"].tolist() == [1, 2, 3, 4]
    (run.path / "tables").mkdir()
    (run.path / "tables" / "spectrum.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="delete it and make it again"):
        run.table("spectrum")
    (run.path / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold an object"):
        wb.Run(run.path)


def test_other_weights_do_not_fit(run):
    changed = json.loads(json.dumps(run.spec["model"]))
    changed["projector"]["widths"][-1] = 12
    with pytest.raises(ValueError, match=r"(?s)do not fit Encoder.*size mismatch"):
        rewrite(run, model=changed).model()


# --------------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "torch:load",
        "torch.hub:load",
        "workbench.cli:main",
        "workbench.run:Run",
        "workbench.data.folders:folder",
        "workbench.spec:importlib",
        "workbench.models.encoder:torch",
        "workbench.models.encoder:nn.Linear",
        "workbench.nowhere:Encoder",
        "../../evil:Encoder",
        "",
        7,
        None,
    ],
)
def test_a_strangers_class_is_not_built(run, tmp_path, name):
    evidence = tmp_path / "evidence"
    hostile = {"is": name, "command": f"touch {evidence}", "path": str(tmp_path)}
    with pytest.raises(ValueError, match="not imported|only models, objectives"):
        rewrite(run, model=hostile).model()
    with pytest.raises(ValueError, match="not imported|only models, objectives"):
        rewrite(run, model={"is": "workbench.models.encoder:Encoder", "backbone": hostile, "projector": hostile}).model()
    assert not evidence.exists()


def test_a_trusted_package_can_be_named(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\nclass Flat(torch.nn.Flatten):\n    def __init__(self): super().__init__()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"allow=\['mine'\]"):
        rewrite(run, model={"is": "mine:Flat"}).model()
    from workbench.spec import build

    assert type(build({"is": "mine:Flat"}, allow=["mine"])).__name__ == "Flat"


def test_a_class_from_a_notebook_says_what_to_do(run):
    with pytest.raises(ValueError, match="defined in a notebook or script: pass the object itself"):
        rewrite(run, model={"is": "__main__:Net"}).model()
    x = torch.rand(2, 3, 16, 16)
    fresh = wb.Encoder(wb.ConvNet(8), wb.Projector([64, 16, 8]))
    again = wb.Run(run.path).model(into=fresh)
    assert again is fresh and torch.isfinite(again(x).z).all()


def test_a_pickle_is_not_loaded(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evidence"), "w"))

    for path in [run.path / "weights" / "00000004.safetensors", *(run.path / "last").glob("*")]:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="no safetensors file"):
        run.model()
    with pytest.raises(ValueError, match="no checkpoint"):
        run.checkpoint()
    assert not (tmp_path / "evidence").exists()


def test_links_out_of_the_folder_are_not_followed(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for inside in ["weights/00000004.safetensors", "metrics.jsonl"]:
        (run.path / inside).unlink()
        (run.path / inside).symlink_to(secret)
    with pytest.raises(ValueError, match="leads out of the run's folder"):
        run.model()
    with pytest.raises(ValueError, match="leads out of the run's folder"):
        run.metrics  # noqa: B018
    with pytest.raises(ValueError, match="leads out of the run's folder"):
        run.table("../../secret")
    with pytest.raises(ValueError, match="leads out of the run's folder"):
        run.write_table("../../secret", pd.DataFrame())
    assert secret.read_text() == "secret"


def test_images_from_elsewhere_have_to_be_passed(run):
    with pytest.raises(ValueError, match="trained on 'noise', which it cannot make again; pass the images"):
        run.images()


def test_images_drawn_here_are_drawn_again(tmp_path):
    images = wb.garments(64, seed=3)
    run, *_ = make(tmp_path / "other")
    again = rewrite(
        run, images={"name": "garments", "recipe": images.recipe, "digest": wb.digest(images), "shape": [3, 32, 32]}
    ).images()
    assert torch.equal(torch.as_tensor(again.pixels), torch.as_tensor(images.pixels))
    changed = rewrite(
        run, images={"name": "garments", "recipe": images.recipe | {"seed": 4}, "digest": wb.digest(images), "shape": [3, 32, 32]}
    )
    with pytest.warns(UserWarning, match="differs from what"):
        changed.images()


def test_a_digest_changes_with_one_pixel_and_with_one_label():
    images = wb.garments(300)
    pixels, factors = images.pixels.clone(), images.factors.copy()
    pixels[257, 1, 3, 3] += 1
    factors.loc[257, "label"] = (factors.loc[257, "label"] + 1) % 10
    once = wb.digest(images)
    assert once == wb.digest(wb.garments(300))
    assert once != wb.digest(wb.Images(pixels, images.factors, "one pixel"))
    assert once != wb.digest(wb.Images(images.pixels, factors, "one label"))


@pytest.mark.parametrize(
    "parts",
    [
        {"total": "x"},
        {"images": None},
        {"images": {"recipe": [1]}},
        {"images": {"recipe": {"is": "workbench.data.wardrobe:garments", "n": 8}}},
        {"images": {"recipe": {"is": "workbench.models.convnet:ConvNet"}}},
        {"model": {"is": 5}, "objective": ["a"]},
    ],
    ids=str,
)
def test_a_record_of_nonsense_is_an_error_that_hides_no_other_run(run, parts):
    strange = rewrite(run, **parts)
    make(run.path.parent / "sound")
    assert set(wb.runs(run.path.parent)["run"]) == {"run", "sound"}
    with pytest.raises(ValueError, match="pass the images"):
        strange.images()
    if "images" in parts:
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            strange.objective()


def test_a_record_that_is_too_deep_is_damaged(run):
    (run.path / "run.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        wb.Run(run.path)
    assert "is damaged" in wb.runs(run.path.parent)["error"].item()


def test_a_record_of_images_reads_no_weights_from_elsewhere(run, tmp_path, monkeypatch):
    import workbench.models.pretrained

    monkeypatch.setattr(workbench.models.pretrained, "load_weights", lambda *_a, **_k: pytest.fail("a file was read"))
    network = {"is": "workbench.models.pretrained:Timm", "name": "test_vit", "checkpoint": str(tmp_path / "any.pth")}
    recipe = {"is": "workbench.data.correlation:correlate", "images": network, "a": "x", "b": "y"}
    with pytest.raises(Exception, match="factors"):
        rewrite(run, images={"recipe": recipe}).images()


def test_what_a_killed_process_left_half_written_goes_when_the_run_goes_on(run):
    half = [run.path / "last/.part-abc", run.path / "weights/.part-def"]
    for path in half:
        path.write_bytes(b"half")
    run.forget_after(2)
    assert run.metrics["step"].tolist() == [1, 2]
    assert not any(path.exists() for path in half)


def test_held_out_images_are_of_the_same_kind_and_were_not_trained_on(run):
    def held_out(images):
        return rewrite(run, images={"name": images.name, "recipe": images.recipe, "digest": "", "n": len(images)}).held_out()

    assert set(held_out(wb.garments(40)).factors["garment"]).isdisjoint(wb.garments(40).factors["garment"])
    part = wb.garments(40)[::2]
    assert held_out(part).recipe == wb.garments(40, split="test").recipe
    tied = wb.correlate(wb.garments(400), "rotation", "scale", sigma=0.1, n=300)
    apart = held_out(tied)
    assert len(apart) == 300 and apart.factors["garment"].min() >= 10_000
    assert apart.factors["rotation"].corr(apart.factors["scale"]) > 0.8
    drawn = wb.sprites(50, seed=3)
    assert held_out(drawn).recipe == drawn.recipe | {"seed": 4}
    grid = wb.sprites(None, scales=1, orientations=2, positions=1, hues=1, background_hues=1)
    assert held_out(grid) is None and held_out(wb.correlate(grid, "label", "orientation")[:9]) is None


def test_a_metric_that_is_no_number_is_kept_as_json_can_hold_it(run):
    run.log(step=9, loss=float("nan"), other=float("inf"))
    line = (run.path / "metrics.jsonl").read_text().splitlines()[-1]
    assert line == '{"step": 9, "loss": null, "other": null}' and np.isnan(run.metrics["loss"].iloc[-1])


def test_a_run_is_not_made_among_weights_of_another(run):
    (run.path / "run.json").unlink()
    with pytest.raises(FileExistsError, match=r"holds weights of a run whose run\.json is gone; give another folder"):
        wb.Run.create(run.path, {})
