"""Fine-tuning: a copy learns, at rates that fall with depth, and its head's accuracy is what counting says."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.features import digest
from workbench.train import Training


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def halves(n=96, side=16, seed=0):
    """Images that are bright in the upper or in the lower half."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (n,), generator=g)
    pixels = torch.randint(0, 120, (n, 3, side, side), generator=g)
    for image, low in zip(pixels, label.tolist(), strict=True):
        image[:, side // 2 * low : side // 2 * (low + 1)] += 120
    return wb.Images(
        pixels.to(torch.uint8), pd.DataFrame({"label": label.numpy(), "word": np.where(label, "low", "high")}), "halves"
    )


BACKBONES = [
    {"name": "convnet", "width": 4, "projector": (16, 8)},
    {"name": "resnet18", "width": 4},
    {"name": "vit-tiny", "width": 24, "depth": 2, "heads": 2, "frozen": True},
    {"name": "timm:test_vit", "image_size": 16},
]


@pytest.mark.parametrize("settings", BACKBONES, ids=lambda s: s["name"])
def test_a_copy_of_every_backbone_learns(settings, tmp_path):
    model = wb.build_encoder(**{"image_size": 16} | settings)
    before = digest(model)
    how = {"epochs": 12, "batch_size": 32, "lr": 3e-3, "layer_decay": 0.75, "progress": False}
    run = wb.fine_tune(model, halves(), out=tmp_path / "run", factor="word", **how)
    assert digest(model) == before
    after = run.model()
    moved = [not torch.equal(p, q) for p, q in zip(model.backbone.parameters(), after.backbone.parameters(), strict=True)]
    assert np.mean(moved) > 0.9  # a bias of keys, for one, has no gradient
    assert len(after.projector) == 0 and not after.frozen
    other = halves(seed=1)
    assert wb.head_accuracy(run, other) > 0.9
    model, objective = run.model(), run.objective()
    with torch.no_grad():
        logits = objective.head(model.backbone(model.normalise(other.at(range(96)).float() / 255)))
    said = np.array(["high", "low"])[logits.argmax(1).numpy()]
    assert (wb.head_answers(run, other) == said).all()
    assert wb.head_accuracy(run, other) == pytest.approx((said == other.factors["word"]).mean())


def test_a_run_is_a_start_and_fewer_images_than_a_batch_are_enough(tmp_path):
    images = halves()
    model = wb.build_encoder("convnet", width=4, projector=(8,))
    first = wb.Trainer(epochs=1, batch_size=32).fit(model, wb.SimCLR(), images, wb.Augment(), out=tmp_path / "a", progress=False)
    how = {"epochs": 2, "progress": False}
    run = wb.fine_tune(first, images[:7], out=tmp_path / "b", **how)
    assert run.spec["trainer"]["batch_size"] == 7 and run.steps[-1] == 2
    for name, p in run.model(0).backbone.named_parameters():
        assert torch.equal(p, first.model().backbone.get_parameter(name))
    assert wb.fine_tune(first, images[:7], out=tmp_path / "b", resume=True, **how).finished
    with pytest.raises(ValueError, match=r"was fine-tuned from other weights; give another folder"):
        wb.fine_tune(wb.build_encoder("convnet", width=4), images[:7], out=tmp_path / "b", resume=True, **how)
    with pytest.raises(FileExistsError, match="already holds a run"):
        wb.fine_tune(first, images[:7], out=tmp_path / "b", **how)


def test_the_seed_draws_the_head_and_all_else(tmp_path):
    model, images = wb.build_encoder("convnet", width=4), halves()
    how = {"epochs": 1, "batch_size": 32, "progress": False}
    runs = [wb.fine_tune(model, images, out=tmp_path / n, seed=s, **how) for n, s in (("a", 0), ("b", 0), ("c", 1))]
    heads = [run.objective().head.weight for run in runs]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert digest(runs[0].model()) == digest(runs[1].model())


def test_rates_fall_from_stage_to_stage():
    images, decay = halves(), 0.5
    model = wb.build_encoder("vit-tiny", projector=None, image_size=16, width=24, depth=2, heads=2)
    training = wb.Trainer(epochs=1, batch_size=32, layer_decay=decay).steps(model, wb.Supervised(), images, wb.Augment(1))
    name_of = {id(p): name for name, p in training.system.named_parameters()}
    next(training)
    rates = {name_of[id(p)]: group["lr"] for group in training.optimizer.param_groups for p in group["params"]}
    top = training.trainer.rate(1, training.total)
    want = {"model.backbone.cls_token": 3, "model.backbone.patch_embed.proj.weight": 3, "model.backbone.blocks.0.norm1.weight": 2}
    want |= {"model.backbone.blocks.1.mlp.fc2.weight": 1, "model.backbone.norm.weight": 0, "objective.head.weight": 0}
    for name, depth in want.items():
        assert rates[name] == pytest.approx(top * decay**depth), name
    assert len(rates) == len(list(training.system.parameters()))


def test_a_decay_of_one_changes_nothing():
    images = halves()
    groups = []
    for settings in ({}, {"layer_decay": 1.0}, {"layer_decay": 1 - 1e-9}):
        torch.manual_seed(0)
        model = wb.build_encoder("convnet", width=4, projector=None)
        training: Training = wb.Trainer(epochs=1, batch_size=32, **settings).steps(model, wb.Supervised(), images, wb.Augment(1))
        list(training)
        groups.append(copy.deepcopy(list(model.parameters())))
    assert all(torch.equal(p, q) for p, q in zip(*groups[:2], strict=True))
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(*groups[1:], strict=True))


def test_what_cannot_be_tuned_says_so(tmp_path):
    images = halves()
    with pytest.raises(TypeError, match=r"fine_tune takes an Encoder or a Run, but got ConvNet; wrap a backbone as wb.Encoder"):
        wb.fine_tune(wb.ConvNet(4), images, out=tmp_path / "a")
    with pytest.raises(KeyError, match=r"learns the factor 'shape', but the images have \['label', 'word'\]"):
        wb.fine_tune(wb.build_encoder("convnet", width=4), images, out=tmp_path / "b", factor="shape", progress=False)
    flat = wb.Encoder(torch.nn.Flatten(), wb.Projector([768, 8]))
    with pytest.raises(ValueError, match=r"layer_decay=0.5 lowers the rate .* this Flatten names none; use layer_decay=1"):
        wb.Trainer(epochs=1, batch_size=8, layer_decay=0.5).steps(flat, wb.SimCLR(), images, wb.Augment())
    with pytest.raises(ValueError, match=r"layer_decay must be above 0"):
        wb.Trainer(layer_decay=0)
    with pytest.raises(ValueError, match=r"layer_decay must lie between 0 and 1, but is 1.5"):
        wb.Trainer(layer_decay=1.5)
    model = wb.build_encoder("convnet", width=4, projector=(8,))
    run = wb.Trainer(epochs=1, batch_size=32).fit(model, wb.SimCLR(), images, wb.Augment(), out=tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match=r"learned by SimCLR, which has no head that names classes; fine_tune it"):
        wb.head_accuracy(run, images)
    tuned = wb.fine_tune(model, images, out=tmp_path / "d", epochs=1, progress=False)
    bare = wb.Images(images.pixels, images.factors[["word"]], "bare")
    with pytest.raises(KeyError, match=r"learned the factor 'label', but the images have word"):
        wb.head_accuracy(tuned, bare)
