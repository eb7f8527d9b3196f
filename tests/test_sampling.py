"""A denoiser is trained, kept, stopped, gone on with and found as any other run."""

import json
import math

import pytest
import torch

import workbench as wb
from workbench.cli import main
from workbench.sampling import usual_trainer

TINY = {"widths": (8, 16)}
TRAINER = wb.Trainer(epochs=2, batch_size=16, lr=2e-3, weight_decay=0.0, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images():
    return wb.sprites(64, size=16, seed=0)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    torch.manual_seed(0)
    encoder = wb.build_encoder("convnet", "8", width=4)
    trainer = wb.Trainer(epochs=1, batch_size=32, device="cpu", precision="fp32")
    return trainer.fit(encoder, wb.SimCLR(), images, wb.Augment(), out=tmp_path_factory.mktemp("run") / "encoder", progress=False)


@pytest.fixture(scope="module")
def denoiser(run):
    return wb.train_denoiser(run, "projector", trainer=TRAINER, progress=False, **TINY)


def drawn(pipe, h, seed=0):
    pipe.set_progress_bar_config(disable=True)
    return pipe(h, num_images_per_rep=2, num_inference_steps=3, generator=torch.Generator().manual_seed(seed)).images


def test_a_denoiser_is_a_run_in_the_folder_of_the_run_and_draws_what_its_source_says(run, denoiser, images):
    assert denoiser.finished
    assert {k: v.path for k, v in wb.denoisers(run).items()} == {"projector": run.path / "denoisers" / "projector"}
    h = wb.represent(run, images[:3], "projector")
    assert h.source == wb.represent(run.model(), images[:3], "projector").source
    pipe = wb.denoisers(run)["projector"].model().pipeline()
    samples = drawn(pipe, h)
    assert samples.shape == (6, 3, 16, 16)
    torch.testing.assert_close(samples, drawn(denoiser.model().pipeline(), h), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"layer 'backbone' instead of 'projector'"):
        pipe(wb.represent(run, images[:3], "backbone"))


def test_the_statistics_are_of_all_representations(run, denoiser, images):
    h = wb.represent(run, images, "projector").values.double()
    for projector in (denoiser.model().projector, denoiser.model().average["projector"]):
        torch.testing.assert_close(projector.mean.double(), h.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(projector.std.double(), h.std(0, correction=0), rtol=1e-5, atol=1e-6)


def test_the_average_is_the_recursion_with_a_decay_that_grows(images):
    torch.manual_seed(0)
    h = torch.randn(len(images), 3, generator=torch.Generator().manual_seed(1))
    model, objective = wb.Denoiser(3, 16, (8,)), wb.Denoising(decay=0.3)
    followed = dict(model.named_parameters())["average.unet.conv_in.weight"].double().clone()
    training = TRAINER.steps(model, objective, images, wb.Conditioned(h))
    for k in range(1, 6):
        next(training)
        d = min(0.3, (1 + k) / (10 + k))
        followed = d * followed + (1 - d) * model.unet.conv_in.weight.detach().double()
    torch.testing.assert_close(model.average["unet"].conv_in.weight.double(), followed, rtol=1e-5, atol=1e-7)
    assert (model.unet.conv_in.weight != model.average["unet"].conv_in.weight).any()
    assert not any(p.requires_grad for p in model.average.parameters())


def test_a_training_that_was_stopped_comes_to_the_same_weights(run, denoiser, images, tmp_path):
    torch.manual_seed(TRAINER.seed)
    h = wb.represent(run, images, "projector")
    began = wb.train_denoiser(run, "projector", out=tmp_path / "stopped", trainer=TRAINER, minutes=0, progress=False, **TINY)
    assert not began.finished
    gone_on = wb.train_denoiser(run, "projector", h=h, out=tmp_path / "stopped", trainer=TRAINER, progress=False, **TINY)
    assert gone_on.finished
    for (name, got), wanted in zip(gone_on.model().state_dict().items(), denoiser.model().state_dict().values(), strict=True):
        assert torch.equal(got, wanted), name


@pytest.mark.parametrize(("layer", "conditioning"), [("projector", "adagn"), ("backbone.stage1", "xattn")])
def test_resume_goes_on_with_a_denoiser(run, tmp_path, capsys, layer, conditioning):
    import shutil

    shutil.copytree(run.path, tmp_path / "encoder", ignore=shutil.ignore_patterns("denoisers"))
    settings = {"trainer": TRAINER, "progress": False, "conditioning": conditioning} | TINY
    whole = wb.train_denoiser(run, layer, out=tmp_path / "whole", **settings)
    began = wb.train_denoiser(tmp_path / "encoder", layer, minutes=0, **settings)
    assert not began.finished
    assert main(["resume", str(began.path), "--no-progress"]) == 0
    assert wb.denoisers(tmp_path / "encoder")[layer].finished
    assert f"next: workbench know {tmp_path / 'encoder'}\n" in capsys.readouterr().out
    for got, wanted in zip(began.model().state_dict().values(), whole.model().state_dict().values(), strict=True):
        assert torch.equal(got, wanted)
    capsys.readouterr()
    assert main(["resume", str(whole.path), "--no-progress"]) == 1
    assert "stands in no folder of the run that it draws of" in capsys.readouterr().err


def test_features_of_no_run_are_enough(images, tmp_path):
    h = wb.Representation(torch.randn(len(images), 6))
    made = wb.train_denoiser(None, "cls", images, h=h, out=tmp_path, trainer=TRAINER, progress=False, **TINY)
    assert drawn(made.model().pipeline(), h[:2]).shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match="without a run there are no images, representations nor folder: give images=, h= and"):
        wb.train_denoiser(None, "cls", images, h=h)
    with pytest.raises(TypeError, match=r"denoisers draw Images, such as wb.folder\('photos', size=32\), but got str"):
        wb.train_denoiser(None, "cls", "photos", h=h, out=tmp_path)


def test_images_of_another_size_are_said(run, tmp_path):
    with pytest.warns(UserWarning, match="was trained on images of another size than .*: 16 x 16 and 8 x 8 pixels"):
        wb.train_denoiser(run, "projector", wb.sprites(32, size=8), out=tmp_path, trainer=TRAINER, progress=False, widths=(8,))


def test_other_representations_are_not_gone_on_with(run, images, tmp_path):
    one = wb.train_denoiser(run, "projector", out=tmp_path, trainer=TRAINER, minutes=0, progress=False, **TINY)
    assert one.spec["model"]["source"]["layer"] == "projector"
    with pytest.raises(ValueError, match="made with other settings"):
        wb.train_denoiser(run, "backbone", out=tmp_path, trainer=TRAINER, progress=False, **TINY)


def test_every_row_is_of_its_own_image(images):
    h = torch.arange(len(images))[:, None].float()
    views = wb.Conditioned(h)(images.at([5, 2]), torch.tensor([5, 2]))
    assert views.actions[0]["representation"].values.flatten().tolist() == [5, 2]
    torch.testing.assert_close(views.images[0], images.at([5, 2]).float() / 255)
    with pytest.raises(IndexError, match="no representation of image 63"):
        wb.Conditioned(h[:10])(images.at([63]), torch.tensor([63]))
    with pytest.raises(TypeError, match="got list"):
        wb.Conditioned([1.0])


def test_a_row_too_many_or_too_few_is_said(run, images, tmp_path):
    h = wb.represent(run, images, "backbone")
    for rows, shown in ((h[:60], images), (h, images[:60])):
        with pytest.raises(ValueError, match=f"but there are {len(rows)} rows and {len(shown)} images"):
            wb.train_denoiser(run, images=shown, h=rows, out=tmp_path / "none", trainer=TRAINER, progress=False, **TINY)


def test_a_denoiser_is_not_trained_on_images_of_another_shape_than_it_draws(images):
    h = torch.randn(len(images), 3, generator=torch.Generator().manual_seed(1))
    for settings in ({"image_size": 8}, {"image_size": 16, "channels": 1}):
        with pytest.raises(ValueError, match=r"draws images .*, but is shown \(3, 16, 16\); take wb.Conditioned\(h, size="):
            next(TRAINER.steps(wb.Denoiser(3, widths=(8,), **settings), wb.Denoising(), images, wb.Conditioned(h)))
    next(TRAINER.steps(wb.Denoiser(3, 8, (8,)), wb.Denoising(), images, wb.Conditioned(h, size=8)))


@pytest.mark.parametrize(("prediction", "time", "scale"), [("flow", 0, 1), ("epsilon", 0, 1), ("edm", math.log(2e-3) / 4, 2)])
def test_as_a_model_it_is_shown_images_with_hardly_any_noise_as_in_training(prediction, time, scale, monkeypatch):
    model, x = wb.Denoiser(3, 16, (8,), prediction=prediction).eval(), torch.rand(2, 3, 16, 16)
    shown, predict = [], model.predict
    monkeypatch.setattr(model, "predict", lambda *given: shown.append(given) or predict(*given))
    assert model(x).h.shape == (2, 8)
    torch.testing.assert_close(shown[0][0], scale * (2 * x - 1), rtol=1e-3, atol=1e-3)
    assert shown[0][1].tolist() == pytest.approx([time] * 2) and shown[0][3].all()


def test_without_withheld_representations_there_is_no_guidance(run, tmp_path):
    made = wb.train_denoiser(run, trainer=TRAINER, null=0.0, out=tmp_path, progress=False, **TINY)
    pipe, h = made.model().pipeline(), torch.zeros(1, 32)
    assert not pipe.config.guided and drawn(pipe, h).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="no representation was withheld when this denoiser was trained"):
        pipe(h, guidance_scale=2.0)


def test_tokens_are_taken_where_they_are_attended_to(run, images, tmp_path):
    how = {"conditioning": "xattn", "trainer": TRAINER, "out": tmp_path, "minutes": 0, "progress": False}
    made = wb.train_denoiser(run, "backbone.stage1", **how, **TINY)
    assert made.spec["model"]["source"]["tokens"] == "all" and made.spec["model"]["tokens"] > 1
    plain = wb.Denoiser.of(torch.randn(4, 6), 16, (8,))  # rows of which nothing is known
    assert plain.features_dim == 6 and plain.source is None


def test_a_denoiser_is_not_trained_on_another_layers_representations(images):
    h, other = (wb.generate.Representation(torch.randn(len(images), 3), {"layer": name}) for name in ("backbone", "projector"))
    training = TRAINER.steps(wb.Denoiser.of(h, 16, (8,)), wb.Denoising(), images, wb.Conditioned(other))
    with pytest.raises(ValueError, match="layer 'projector' instead of 'backbone'"):
        next(training)


def test_what_is_no_denoiser_is_said(images):
    views = wb.Conditioned(torch.zeros(len(images), 3))(images.at([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"trains a wb\.Denoiser, but got a Encoder"):
        wb.Denoising()(wb.build_encoder("convnet", "8", width=4), views)
    with pytest.raises(TypeError, match=r"take views from wb\.Conditioned"):
        wb.Denoising()(wb.Denoiser(3, 16, (8,)), views._replace(actions=None))
    with pytest.raises(ValueError, match="null lies from 0 to 1, but got 2"):
        wb.Denoising(null=2)


def test_the_verb_trains_each_layer_and_an_unknown_one_is_said(run, tmp_path, capsys):
    argv = ["denoise", str(run.path), "--no-progress", "--epochs", "1", "--batch-size", "32", "--widths", "8", "--layers"]
    assert main([*argv, "backbone.stage1"]) == 0
    assert f"next: workbench know {run.path}\n" in capsys.readouterr().out
    assert json.loads((run.path / "denoisers" / "backbone.stage1" / "run.json").read_text())["total"] == 2
    assert main([*argv, "backbone.stag1"]) == 1
    assert "backbone.stage1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "epochs"), [({}, 7), ({"seed": 1}, 7), ({"lr": 1e-3}, 7), ({"batch_size": 512}, 56), ({"epochs": 2}, 2)]
)
def test_a_setting_changes_nothing_else_of_the_training(asked, epochs):
    """A second seed is trained for as long as the first."""
    trainer = usual_trainer(wb.from_arrays(torch.zeros(6_400, 1, 2, 2, dtype=torch.uint8)), **asked)
    assert trainer == wb.Trainer(**{"epochs": epochs, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.0} | asked)


def test_denoisers_are_not_taken_for_encoders(run, denoiser):
    from workbench.panels.replayed import find_runs

    found, complaints = find_runs([run.path.parent])
    assert [other.path for other in found.values()] == [run.path]
    assert not complaints
