"""The command line does what the Python calls do, names what is known, and ends with honest exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.cli import VERBS, main
from workbench.cli.typed import datasets, images_for, measures, objectives, read_images, value, view_makers
from workbench.run import Run

TINY = ["--set", "data.n=96", "backbone.width=4", "--projector", "16-8", "--batch-size", "32", "--epochs", "2", "--no-progress"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run made on the command line."""
    out = tmp_path_factory.mktemp("runs") / "shell"
    settings = ["objective.temperature=0.3", "views.flip=0.0", "data.seed=3"]
    assert main(["train", *TINY, "--set", *settings, "--lr", "2e-3", "--seed", "5", "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_training_from_a_shell_gives_the_weights_of_the_python_call(trained, tmp_path):
    torch.manual_seed(5)
    model = wb.build_encoder("convnet", "16-8", channels=3, image_size=32, width=4)
    trainer = wb.Trainer(epochs=2, batch_size=32, lr=2e-3, seed=5, device="cpu")
    images, views = wb.garments(96, seed=3), wb.Augment(flip=0.0)
    called = trainer.fit(model, wb.SimCLR(temperature=0.3), images, views, out=tmp_path / "called", progress=False)
    typed = wb.Run(trained)
    parts = ("trainer", "model", "objective", "views", "images", "total")
    assert {p: typed.spec[p] for p in parts} == {p: called.spec[p] for p in parts}
    ours, theirs = typed.model().state_dict(), called.model().state_dict()
    assert typed.steps == called.steps
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_what_a_run_says_in_a_shell(trained, capsys):
    assert main(["show", str(trained)]) == 0
    shown = capsys.readouterr().out
    assert "objective.temperature" in shown
    assert "0.3" in shown
    assert "weights of steps 0, 1, 2" in shown
    assert f"no tables yet: workbench replay {trained}" in shown
    assert main(["show", str(trained), "--layers"]) == 0
    assert "projector.0" in capsys.readouterr().out.splitlines()
    assert main(["runs", str(trained.parent)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["run", "finished", "step", "total", "objective"]
    assert row.split()[:5] == ["shell", "True", "6", "6", "SimCLR"]
    assert main(["runs", str(trained.parent), "--csv"]) == 0
    assert "trainer.weight_decay" in capsys.readouterr().out.splitlines()[0].split(",")


def test_a_run_is_evaluated_as_in_python(trained, tmp_path, capsys):
    asked = ["--shots", "2", "0.5", "all", "--draws", "2", "--no-progress"]
    assert main(["evaluate", str(trained), *asked, "--tune", str(tmp_path / "tuned"), "--epochs", "1", "--csv"]) == 0
    typed = pd.read_csv(io.StringIO(capsys.readouterr().out))
    run = wb.Run(trained)
    shots = {"shots": [2, 0.5, float("inf")], "draws": 2, "progress": False}
    called = wb.protocols(run, run.images(), run.held_out(), out=tmp_path / "called", epochs=1, **shots)
    pd.testing.assert_frame_equal(typed, called)
    assert main(["evaluate", str(trained), *asked, "--layer", "projector"]) == 0
    header, first, *_, about, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["protocol", "20", "46", "96"] and first.split()[0] == "kNN" and "±" in first
    assert about.startswith("accuracy of 'label' on 96 held-out images in %") and "fine-tuning: --tune FOLDER" in last


def test_runs_are_compared_by_the_settings_in_which_they_differ(trained, tmp_path, capsys):
    for name, lr in (("a", "1e-3"), ("b", "3e-3")):
        spec = json.loads((trained / "run.json").read_text())
        spec["trainer"]["lr"] = float(lr)
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(spec))
    assert main(["runs", str(tmp_path)]) == 0
    header = capsys.readouterr().out.splitlines()[0].split()
    assert "lr" in header
    assert "warmup" not in header


def test_features_and_measures_agree_with_the_library(trained, tmp_path, capsys):
    out = tmp_path / "kept"
    taken = ["features", str(trained), "--layers", "backbone", "projector", "--out", str(out), "--no-progress"]
    assert main([*taken, "--set", "data.n=64", "data.split=test"]) == 0
    assert "Features(64 rows; backbone 32, projector 8" in capsys.readouterr().out
    assert main(["measure", str(out), "--measures", "RankMe", "participation-ratio", "--csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), index_col=["layer", "measure"])
    kept = wb.Features.load(out)
    for layer in ("backbone", "projector"):
        assert table.loc[(layer, "rankme"), "value"] == pytest.approx(float(wb.rankme(kept[layer])), rel=1e-6)
        expected = float(wb.participation_ratio(kept[layer]))
        assert table.loc[(layer, "participation_ratio"), "value"] == pytest.approx(expected, rel=1e-6)


def test_measures_in_a_shell_say_what_they_are_of_and_how_they_were_taken(tmp_path, capsys):
    layers = {"backbone": torch.randn(1200, 24), "projector": torch.randn(1200, 8)}
    wb.Features(layers, pd.DataFrame({"label": range(1200)})).save(tmp_path / "kept")
    assert main(["measure", str(tmp_path / "kept"), "--measures", "rankme", "alpha_req", "--interval", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    want = wb.bootstrap(wb.rankme, layers["projector"], interval=0.9)
    assert lines[2].split()[0] == "projector"
    assert f" {want:.4g} [{want.low:.4g}, {want.high:.4g}]" in lines[2]
    assert lines[4] == "N = 1,200 rows; D = 24 (backbone), 8 (projector)"
    assert lines[5] == f"rankme: {want.convention}"
    assert lines[6] == f"alpha_req (backbone): {wb.alpha_req(layers['backbone']).convention}"
    assert lines[7].startswith("alpha_req (projector): eigenvalues 11 to 8 ")
    assert len(lines) == 8
    assert main(["measure", str(tmp_path / "kept")]) == 0
    assert "[" not in capsys.readouterr().out
    assert main(["measure", str(tmp_path / "kept"), "--interval", "95"]) == 1
    assert "interval must lie between 0 and 1" in capsys.readouterr().err


def test_tokens_are_pooled_as_asked_in_a_shell(trained, tmp_path, capsys):
    asked = ["features", str(trained), "--layers", "backbone", "--n", "8", "--no-progress", "--out", str(tmp_path / "kept")]
    assert main([*asked, "--tokens", "cls"]) == 1
    assert "tokens must be one of mean, patches, first, but is 'cls'" in capsys.readouterr().err
    assert main([*asked, "--tokens", "first"]) == 0
    assert json.loads((tmp_path / "kept" / "store.json").read_text())["tokens"] == "first"


def test_features_of_views_are_measured_in_a_shell(trained, tmp_path, capsys):
    out = tmp_path / "views"
    asked = ["features", str(trained), "--layers", "backbone", "--views", "augment", "--set", "views.n=3", "--n", "16"]
    assert main([*asked, "--seed", "2", "--out", str(out), "--no-progress"]) == 0
    assert "48 rows" in capsys.readouterr().out
    assert main(["measure", str(out), "--measures", "alignment", "--csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    run = wb.Run(trained)
    drawn = run.images()[np.sort(np.random.default_rng(2).permutation(96)[:16])]
    again = wb.extract(run.model(), drawn, "backbone", views=wb.Augment(3), seed=2, progress=False)
    assert table["value"].item() == pytest.approx(float(wb.alignment(again["backbone"], again.factors["source"])), rel=1e-6)


def test_a_run_is_replayed_in_a_shell(trained, capsys):
    asked = ["replay", str(trained), "--layers", "backbone", "projector", "--n", "48", "--steps", "0", "6", "--no-progress"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    table = wb.Run(trained).table("measures")
    assert set(table["step"]) == {0, 6}
    last = table[(table["step"] == 6) & (table["layer"] == "projector") & (table["measure"] == "rankme")]["value"].item()
    row = next(line for line in printed.splitlines() if line.split()[0] == "projector")
    assert f"{last:.4g}" in row.split()
    assert "N = 48 rows; D = 32 (backbone), 8 (projector)" in printed
    assert "rankme: entropy of the singular values, uncentred, eps=1e-07" in printed
    assert "knn: label, by 20 nearest of 48 rows" in printed
    assert main([*asked, "--factor", "colour"]) == 1
    assert "no factor 'colour'; they have label, class_name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (
            ["train", "--objective", "simclrr", "--out", "x"],
            2,
            "there is no objective 'simclrr'; there are AdaVAE, AnnealedVAE, BYOL",
        ),
        (
            ["train", "--data", "garment", "--out", "x"],
            2,
            "there is no data set 'garment'; there are .*garments.*or the path of a folder",
        ),
        (["train", "--views", "crop", "--out", "x"], 2, "there is no view maker 'crop'; there are Augment"),
        (
            ["train", "--set", "objective.temp=1", "--out", "x"],
            2,
            "SimCLR takes no objective.temp; it takes objective.temperature",
        ),
        (["train", "--set", "lr=1", "--out", "x"], 2, "--set wants PART.KEY=VALUE with one of data, views, backbone, objective"),
        (["train", "--backbone", "convnext", "--out", "x"], 1, "there is no backbone 'convnext'; there are convnet"),
        (["train", "--projector", "64-x", "--out", "x"], 1, "a projector is widths such as '2048-2048-128'"),
        (["train", "--epochs", "0", "--out", "x"], 1, "epochs must lie between 1 and 1e\\+09, but is 0"),
        (["train", "--epochs", "many", "--out", "x"], 2, "argument --epochs: invalid int value: 'many'"),
        (["train"], 2, "the following arguments are required: --out"),
        (["fit"], 2, "invalid choice: 'fit'"),
        (["show", "nowhere"], 1, "nowhere is no run: it does not exist"),
        (["runs", "nowhere"], 1, "there is no folder nowhere"),
        (["measure", "nowhere"], 1, "nowhere holds no features"),
        (["know", "nowhere"], 2, "nowhere is no run: it does not exist"),
        (["know", "--data", "no/where"], 2, "there is no no/where; give a data set by its name, or a folder or table of images"),
        (["reproduce", "nothing"], 1, "there is no notebook 'nothing'; there are"),
        (["reproduce", "a", "b", "--out", "x"], 2, "--out names the folder of one notebook, but got 2"),
        (["apps"], 1, "there is no folder apps/ here"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(argv, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if argv == ["apps"]:
        monkeypatch.setattr("workbench.notebooks.__file__", str(tmp_path / "site/workbench/notebooks.py"))
    assert main(argv) == code
    shown = capsys.readouterr()
    assert re.search(said, shown.err.replace("\n", " ")), shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(FileNotFoundError, match="nowhere is no run"):
        main(["show", "nowhere", "--debug"])


def test_every_verb_has_help_and_every_example_in_it_parses(capsys):
    from workbench import notebooks
    from workbench.cli import _parser

    for name, (verb, _) in VERBS.items():
        assert main([name, "--help"]) == 0
        assert name in capsys.readouterr().out
        for line in verb.__doc__.splitlines():
            words = line.replace("'", "").partition(" > ")[0].split()
            if words[:1] == ["workbench"]:
                parsed = _parser(words[1:]).parse_args(words[1:])
                assert parsed.run_verb is verb
                if name == "reproduce" and parsed.name != ["list"]:
                    for notebook in parsed.name:
                        path = notebooks.notebook_paths()[notebook]
                        notebooks._checked(path, notebooks.parameters_of(path), {k: value(v) for k, v in parsed.parameter})


def test_menus_find_what_stands_in_the_library(capsys):
    assert {"garments", "digits", "sprites", "scenes", "fashion_mnist", "cifar10", "cifar100"} <= set(datasets())
    assert {"dsprites", "shapes3d", "mpi3d", "cars3d", "small_norb"} <= set(datasets())
    assert "folder" not in datasets()
    assert {"SimCLR", "DirectCLR", "VICReg", "BarlowTwins", "BYOL", "SimSiam", "SIGReg", "Supervised"} <= set(objectives())
    assert {"Augment", "MultiCrop", "Rerender"} <= set(view_makers())
    assert {"rankme", "alpha_req", "lidar"} <= set(measures())
    assert "spectrum" not in measures()
    for verb, found in (("data", datasets()), ("objectives", objectives()), ("measures", measures())):
        assert main([verb]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(found)
    assert main(["backbones"]) == 0
    assert "convnet" in capsys.readouterr().out.split()
    assert main(["device"]) == 0
    assert torch.__version__ in capsys.readouterr().out


def test_a_training_with_a_time_limit_ends_well_and_can_be_gone_on_with(tmp_path, capsys):
    arguments = ["train", *TINY, "--epochs", "100000", "--device", "cpu", "--out", str(tmp_path / "run")]
    began = time.monotonic()
    assert main([*arguments, "--minutes", "0.02"]) == 0
    assert time.monotonic() - began < 60
    assert f"next: workbench resume {tmp_path / 'run'}; workbench replay" in capsys.readouterr().out
    stopped = wb.Run(tmp_path / "run")
    reached = stopped.steps[-1]
    assert reached == stopped.checkpoint()[0]
    assert main([*arguments, "--minutes", "0.02", "--resume"]) == 0
    assert wb.Run(tmp_path / "run").steps[-1] > reached > 0


def test_values_are_read_as_python_or_as_words():
    typed = {"1e-3": 1e-3, "3": 3, "0.2": 0.2, "true": True, "None": None, "[1, 2]": [1, 2], "(0.2, 1.0)": (0.2, 1.0)}
    typed |= {"cpu": "cpu", "runs/a": "runs/a", "'3'": "3", "null": None, "-1": -1}
    for text, expected in typed.items():
        assert value(text) == expected
        assert type(value(text)) is type(expected)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_keeps_the_run_says_how_to_go_on_and_resume_ends_at_the_uninterrupted_weights(tmp_path):
    arguments = ["train", *TINY, "--epochs", "80", "--device", "cpu", "--out"]
    command = [sys.executable, "-m", "workbench.cli", *arguments, str(tmp_path / "stopped"), "--checkpoint-seconds", "0.05"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = tmp_path / "stopped/last"
    deadline = time.monotonic() + 120
    while not list(last.glob("*.safetensors")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"workbench resume {tmp_path / 'stopped'}" in said
    assert "Traceback" not in said
    stopped = wb.Run(tmp_path / "stopped")
    assert not stopped.finished
    assert main(["resume", str(stopped.path), "--no-progress"]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    ours, theirs = stopped.model().state_dict(), wb.Run(tmp_path / "whole").model().state_dict()
    assert wb.Run(stopped.path).finished
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_resuming_says_what_it_wants_where_it_cannot_go_on_by_itself(trained, tmp_path, capsys):
    spec = json.loads((trained / "run.json").read_text())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/run.json").write_text(json.dumps(spec))
    assert main(["resume", str(tmp_path / "empty")]) == 1
    assert "keeps no weights yet" in capsys.readouterr().err
    spec["images"]["recipe"] = {"is": "workbench.data.folders:folder", "path": "/pictures"}
    (tmp_path / "empty/run.json").write_text(json.dumps(spec))
    assert main(["resume", str(tmp_path / "empty")]) == 1
    assert "was trained on 'garments_train', which is not made again; pass the images" in capsys.readouterr().err


def test_measures_of_views_are_left_out_where_there_are_none(trained, tmp_path, capsys):
    out = str(tmp_path / "plain")
    assert main(["features", str(trained), "--layers", "backbone", "--n", "32", "--out", out, "--no-progress"]) == 0
    assert "Features(32 rows" in capsys.readouterr().out
    assert main(["measure", out, "--measures", "rankme", "lidar", "alignment", "--csv"]) == 0
    shown = capsys.readouterr()
    assert set(pd.read_csv(io.StringIO(shown.out))["measure"]) == {"rankme"}
    assert "left out: for lidar and alignment several views of each image are needed: workbench features" in shown.err
    assert main(["measure", out, "--measures", "lidar"]) == 2
    assert "for lidar several views of each image are needed" in capsys.readouterr().err


def test_a_run_on_a_folder_says_the_command_that_works(tmp_path, capsys):
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (tmp_path / "pics" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "pics" / kind / f"{i}.png")
    pics, out = str(tmp_path / "pics"), str(tmp_path / "run")
    small = [
        "--set",
        "backbone.width=4",
        "data.size=16",
        "--projector",
        "8",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--no-progress",
    ]
    assert main(["train", "--data", pics, *small, "--out", out]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    command = said.partition("next: ")[2].partition(";")[0]
    assert command == f"workbench replay {out} --data {pics}"
    assert main([*command.split()[1:], "--no-progress"]) == 0
    assert "nothing is held out of these images: a random half is searched for the other half" in capsys.readouterr().out
    assert main(["replay", out, "--no-progress"]) == 1
    assert f"which is not made again; pass the images (in a shell: --data {pics})\n" in capsys.readouterr().err


def test_a_folder_is_read_as_it_was_for_the_run(tmp_path, trained):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(10):
        Image.new("RGB", (40, 30), (25 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    photos, model = str(tmp_path / "photos"), wb.build_encoder("convnet", None, width=2)
    small = wb.folder(photos, size=12, fit="pad", progress=False)
    for name, images in (("whole", small), ("part", small[:4])):
        wb.keep_model(model, tmp_path / name, images=images)
        read = images_for(photos, ["no/where", str(tmp_path / name)])()
        assert torch.equal(read.at(range(10)), small.at(range(10)))
    assert images_for(photos, [str(tmp_path)])().pixels.shape[2] == 12  # a folder of runs
    assert read_images(photos, {"size": 20}, Run(tmp_path / "part")).recipe["fit"] == "pad"
    assert read_images(photos, {}, Run(trained)).pixels.shape[1:] == Run(trained).images().pixels.shape[1:]
    assert read_images(photos, {}).pixels.shape[1:] == (3, 64, 64)
    assert images_for(None, []) is None and images_for(photos, [])().pixels.shape[2] == 64


def test_a_name_that_is_nearly_right_is_suggested(capsys):
    assert main(["train", "--objective", "vicrg", "--out", "nowhere"]) == 2
    assert "(did you mean VICReg?)" in capsys.readouterr().err


def test_the_package_is_the_command_line_too():
    done = subprocess.run([sys.executable, "-m", "workbench", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wb.__version__


def test_a_server_ends_with_the_process_that_serves(tmp_path):
    script = "from workbench.cli import serving; import sys; serving._serve([sys.executable, '-c', sys.argv[1]])"
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, child]) as server:
        for _ in range(300):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        server.terminate()
        assert server.wait(timeout=30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
