"""Replaying: what the tables say is what the measures say of each snapshot, and nothing is measured twice."""

import pytest
import torch

import workbench as wb
import workbench.replaying


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = wb.build_encoder("convnet", "32-16", width=4)
    trainer = wb.Trainer(epochs=2, batch_size=64, device="cpu", precision="fp32")
    return trainer.fit(
        model, wb.SimCLR(), wb.garments(256), wb.Augment(), out=tmp_path_factory.mktemp("runs") / "a", progress=False
    )


def test_the_tables_hold_every_step_and_layer_and_agree_with_the_measures(run):
    tables = wb.replay(run, n=128, progress=False)
    layers = wb.main_layers(run.model())
    measures, spectrum = tables["measures"], tables["spectrum"]
    assert set(measures["step"]) == set(run.steps) and set(measures["layer"]) == set(layers)
    assert set(measures["measure"]) == {"rankme", "knn", "normalised_std"}
    assert spectrum["rank"].dtype.kind == "i" and spectrum["step"].is_monotonic_increasing
    held_out, bank = wb.garments(256, split="test")[:128], wb.garments(256)[:128]
    step = run.steps[2]
    seen, known = (wb.extract(run.model(step), x, layers, progress=False) for x in (held_out, bank))
    rows = measures[measures["step"] == step].set_index(["layer", "measure"])["value"]
    for layer in layers:
        assert rows[layer, "rankme"] == pytest.approx(float(wb.rankme(seen[layer])), rel=1e-6)
        probe = wb.KNNProbe().fit(known[layer], known.factors["label"].to_numpy())
        assert rows[layer, "knn"] == probe.score(seen[layer], seen.factors["label"].to_numpy())
        kept = spectrum[(spectrum["step"] == step) & (spectrum["layer"] == layer)]
        unit = torch.nn.functional.normalize(seen[layer].double(), dim=1)
        want = torch.linalg.eigvalsh(unit.T.cov()).flip(0)
        torch.testing.assert_close(torch.tensor(kept["value"].to_numpy()), want, rtol=1e-4, atol=1e-9)


def test_what_was_measured_is_not_measured_again_and_new_layers_join(run, monkeypatch):
    first = wb.replay(run, n=128, progress=False)
    seen = []
    extract = workbench.replaying.extract
    monkeypatch.setattr(
        workbench.replaying, "extract", lambda m, i, layers, **k: seen.append(list(layers)) or extract(m, i, layers, **k)
    )
    again = wb.replay(run, n=128, progress=False)
    assert not seen and len(again["measures"]) == len(first["measures"])
    more = wb.replay(run, layers=["projector.0.0"], n=128, progress=False)
    assert len(seen) == 2 * len(run.steps) and all(layers == ["projector.0.0"] for layers in seen)
    assert set(more["measures"]["layer"]) == {*first["measures"]["layer"], "projector.0.0"}
    assert len(run.table("measures")) == len(more["measures"])


def test_a_stopped_replay_keeps_the_last_step_first(run, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("tables"))
    copy, calls = wb.Run(tmp_path / "copy"), []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return extract(*args, **kwargs)

    extract = workbench.replaying.extract
    monkeypatch.setattr(workbench.replaying, "extract", stopped)
    with pytest.raises(KeyboardInterrupt):
        wb.replay(copy, n=64, progress=False)
    assert set(copy.table("measures")["step"]) == {run.steps[-1]}


def test_own_images_are_halved(run):
    images = wb.garments(200, seed=9)
    tables = wb.replay(run, images, steps=[0], layers=["backbone"], n=64, progress=False)
    assert set(tables["measures"]["n"]) == {64} and set(tables["measures"]["step"]) == {0}


def test_another_factor_is_measured_anew(run):
    def knn(factor):
        table = wb.replay(run, layers=["backbone"], steps=[0], n=64, factor=factor, progress=False)["measures"]
        assert set(table["factor"]) == {factor}
        return "knn" in set(table["measure"])

    assert knn("label")
    assert not knn("nobody")  # no such column, no neighbours
    assert knn("label")
