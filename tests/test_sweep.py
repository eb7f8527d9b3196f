"""A sweep runs every row once, whatever stops it, on processes here or on a cluster; its folders say what became of each row."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.cli import main
from workbench.rows import doing, row_name
from workbench.sweeping import Book, _Watch, grid, sweep

TASKS = """
import os, time
from pathlib import Path

import beside  # a module in the same folder


def tell(out, word):
    with (out / "ran.txt").open("a") as f:
        threads, trim = (os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"))
        f.write(f"{word} {os.getpid()} {threads} {trim}\\n")


def square(out, x, nap=0.0):
    tell(out, "begin")
    time.sleep(nap)
    tell(out, "end")
    return {"y": x * x + beside.NOTHING}


def picky(out, x):
    tell(out, "begin")
    if x == 2 and not (out.parent / "mended").exists():
        raise ValueError("two is not liked\\nat all")
    return {"y": x}


def dies(out, x):
    if x == 1:
        os._exit(3)
    return {"y": x}


def train(out, epochs, seed=0):
    import workbench as wb

    def watch(model):
        tell(out, "step")
        time.sleep(0.05)
        return {}

    model = wb.build_encoder("convnet", "8-8", width=4)
    trainer = wb.Trainer(epochs=epochs, batch_size=32, seed=seed, device="cpu")
    how = {"log_every": 1, "checkpoint_seconds": 0, "watch": watch, "progress": False}
    return trainer.fit(model, wb.SimCLR(), wb.garments(64), wb.Augment(), out=out, resume=True, **how)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A file of tasks in a folder to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "beside.py").write_text("NOTHING = 0\n")
    return str(tmp_path / "tasks.py")


def told(out, word=None):
    """Returns what every row has told, by row."""
    found = {p.parent.name: [line.split() for line in p.read_text().splitlines()] for p in sorted(Path(out).glob("*/ran.txt"))}
    return found if word is None else {name: sum(line[0] == word for line in lines) for name, lines in found.items()}


def here(task, table, **settings):
    return sweep(task, table, out="out", workers=0, progress=False, **settings)


def double(out, x, **_):
    return {"y": 2 * x}


# --- the table -------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_grids_add_up():
    assert grid(a=[1, 2], b="xy", c=range(2)) == [
        {"a": 1, "b": "xy", "c": 0},
        {"a": 1, "b": "xy", "c": 1},
        {"a": 2, "b": "xy", "c": 0},
        {"a": 2, "b": "xy", "c": 1},
    ]
    assert [type(v) for v in grid(lr=np.array([0.1, 0.2]))[0].values()] == [np.float64]
    assert grid(**{"objective.temperature": [0.1]}, layers=[[1, 2]]) == [{"objective.temperature": 0.1, "layers": [1, 2]}]
    assert grid(a=[]) == []


def test_names_are_read_by_people_and_never_shared():
    assert row_name({"lr": 1e-5, "flip": True, "to": None, "views": "Augment"}) == "lr=1e-05,flip=true,to=null,views=Augment"
    odd = ["a/b", "a-b", "../a", "a b", "ä,b=c", "x" * 90, "x" * 91, [1, 2], {"k": 1}, "", "."]
    names = [row_name({"v": v}) for v in odd]
    assert len(set(names)) == len(odd)
    assert all(re.fullmatch(r"v=[\w.+-]{0,47}", name) for name in names), names
    assert row_name({"v": "a/b"}) == row_name({"v": "a/b"})
    long = [row_name({f"setting{i}": value for i in range(20)}) for value in (0, 1)]
    assert max(map(len, long)) <= 160
    assert len(set(long)) == 2


def test_one_tidy_table_comes_back_and_stands_in_the_folder(tasks):
    def many(out, x, note=None):
        if x == 3:
            raise ValueError("no")
        return pd.DataFrame({"layer": ["a", "b"], "value": [x, x / 2]})

    found = here(many, [{"x": 1}, {"x": 2, "note": "hm"}, {"x": 3}], fixed={})
    assert list(found.columns) == ["run", "x", "note", "state", "seconds", "error", "layer", "value"]
    assert found["run"].tolist() == ["x=1", "x=1", "x=2,note=hm", "x=2,note=hm", "x=3"]
    assert found["value"].tolist()[:4] == [1, 0.5, 2, 1]
    assert found["state"].tolist() == ["done"] * 4 + ["failed"]
    assert (found["seconds"] >= 0).all()
    assert found["error"].tolist()[4] == "ValueError: no"
    pd.testing.assert_frame_equal(pd.read_parquet("out/sweep.parquet"), found, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv("out/sweep.csv"), found, check_dtype=False)


def test_a_run_gives_its_last_metrics(tasks, measured_run):
    path = measured_run()
    found = here(lambda out, lr: wb.Run(path), [{"lr": 0.5}])
    last = wb.Run(path).metrics.iloc[-1]
    assert found.iloc[0][["lr", "step", "loss"]].tolist() == [0.5, last["step"], last["loss"]]
    assert "epoch" not in found


def test_settings_of_all_kinds_reach_the_task_as_json_gives_them(tasks):
    seen = []

    def look(out, **settings):
        seen.append(settings)
        return {"n": len(settings)}

    rows = [{"a": np.int64(3), "b": np.float64(0.5), "c": (1, "z"), "d": Path("p"), "e": True}, {"a": "text", "c": {"k": 1}}]
    found = here(look, rows, fixed={"g": 2})
    assert seen == [{"a": 3, "b": 0.5, "c": [1, "z"], "d": "p", "e": True, "g": 2}, {"a": "text", "c": {"k": 1}, "g": 2}]
    assert json.loads(Path("out", found["run"][0], "settings.json").read_text())["settings"] == seen[0]
    assert pd.read_parquet("out/sweep.parquet")["c"].tolist() == ['[1, "z"]', '{"k": 1}']
    assert "g" not in found["run"][0]


def test_a_frame_is_a_table_and_its_empty_cells_are_not_passed(tasks):
    table = pd.DataFrame({"x": [1, 2], "y": [None, "b"]})
    found = here(lambda out, **settings: {"n": len(settings)}, table)
    assert found["n"].tolist() == [1, 2]
    assert found["run"].tolist() == ["x=1", "x=2,y=b"]


def test_a_row_that_stands_there_twice_runs_once(tasks):
    found = here(f"{tasks}:square", grid(x=[1, 2]) + grid(x=[2, 3]))
    assert found["y"].tolist() == [1, 4, 9]
    assert set(told("out", "begin").values()) == {1}


def test_what_other_calls_made_stays_in_the_files(tasks):
    here(double, grid(x=[1, 2]))
    found = here(double, grid(x=[3]))
    assert found["x"].tolist() == [3]
    assert sorted(pd.read_csv("out/sweep.csv")["y"]) == [2, 4, 6]


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ((double, [{}]), ValueError, "row 0 of the table has no settings"),
        ((double, [{"x": 1, "out": "a"}]), ValueError, "the table cannot set out"),
        ((double, [{"x": 1, "state": "a"}]), ValueError, "the table cannot set state"),
        ((double, [{"x": 1}, {"x": "1"}]), ValueError, r"two rows would share the folder x=1: \{'x': 1\} and \{'x': '1'\}"),
        ((double, [{"x": object()}]), TypeError, "the setting x is a object, which JSON cannot hold"),
        ((double, [{"z": 1}]), TypeError, r"the task double cannot be called as double\(out=..., z=1\): missing a req.* 'x'"),
        ((functools.partial(double, x=1), [{"z": 1}]), TypeError, "a task is a function, but got a partial; .* go into `fixed`"),
        (("double", [{"z": 1}]), ValueError, "a task is named by FILE.py:function or package.module:function, but got 'double'"),
        (("workbench.rows:none", [{"z": 1}]), ValueError, "there is no function none in workbench.rows"),
        (("nowhere.py:f", [{"z": 1}]), FileNotFoundError, "there is no file .*nowhere.py"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(arguments, kind, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        here(*arguments)
    assert list(Path("out").glob("*/*")) == []


def test_a_number_of_workers_is_checked(tasks):
    for settings in ({"workers": -1}, {"workers": 0, "scheduler": "tcp://localhost:1"}):
        with pytest.raises(ValueError, match="workers is a number of processes, or 0 for this one without a scheduler, but is"):
            sweep(double, grid(x=[1]), out="out", **settings)
    with pytest.raises(ValueError, match="x cannot|cannot set x: that is fixed already"):
        here(double, grid(x=[1]), fixed={"x": 2})


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "TypeError: a task returns a Run, numbers by name or a DataFrame, but this one returned a NoneType"),
        ({"a": [1, 2]}, "TypeError: a task returns numbers by name, but a is a list"),
        ({"x": 7}, "ValueError: the task returned a column 'x', but the table of the sweep has another of that name"),
        ({"state": "fine"}, "ValueError: the task returned a column 'state'"),
        (pd.DataFrame({"a": []}), "ValueError: the task returned a table without a row"),
    ],
)
def test_what_a_task_may_not_return_fails_its_row_alone(tasks, result, said):
    found = here(lambda out, x: result if x == 1 else {"x": x, "ok": np.float32(1)}, grid(x=[1, 2]))
    assert found["state"].tolist() == ["failed", "done"]
    assert found["error"][0].startswith(said)
    assert found["ok"][1] == 1


# --- what was done stays done ----------------------------------------------------------------------------------------------


def test_failed_rows_say_why_and_run_again_when_asked(tasks):
    task, table = f"{tasks}:picky", grid(x=[1, 2, 3])
    first = here(task, table)
    assert first["state"].tolist() == ["done", "failed", "done"]
    failure = json.loads(Path("out/x=2/failed.json").read_text())
    assert failure["error"] == "ValueError: two is not liked\nat all"
    assert any("raise ValueError" in line for line in failure["traceback"])
    here(task, table)
    assert told("out", "begin") == {"x=1": 1, "x=2": 1, "x=3": 1}
    with pytest.raises(RuntimeError, match=r"1 rows of the sweep in out failed, the first, x=2, with ValueError: two is not"):
        here(task, table, strict=True)
    again = here(task, table, retry_failed=True)
    assert again["state"].tolist() == ["done", "failed", "done"]
    Path("out/mended").touch()
    mended = here(task, table, retry_failed=True)
    assert mended["state"].tolist() == ["done"] * 3
    assert mended["error"].isna().all()
    assert told("out", "begin") == {"x=1": 1, "x=2": 3, "x=3": 1}
    assert not Path("out/x=2/failed.json").exists()


def test_changed_settings_of_a_folder_are_refused(tasks):
    here(double, grid(x=[1]), fixed={"epochs": 3, "lr": 1})
    with pytest.raises(ValueError, match=r"x=1 was made with other settings: epochs was 3, is 4; lr was 1, is 1.0. Use those"):
        here(double, grid(x=[1, 2]), fixed={"epochs": 4, "lr": 1.0})
    with pytest.raises(ValueError, match="epochs was 3, is not set"):
        here(double, grid(x=[1]), fixed={"lr": 1})
    with pytest.raises(ValueError, match="task was '.*test_sweep:double', is '.*triple'"):

        def triple(out, x, **_):
            return {"y": 3 * x}

        here(triple, grid(x=[1]), fixed={"epochs": 3, "lr": 1})
    assert sorted(p.name for p in Path("out").glob("x=*")) == ["x=1"]


def test_one_sweep_at_a_time_in_a_folder(tasks):
    def within(out, x):
        return sweep(double, grid(x=[5]), out=out.parent, workers=0, progress=False)

    found = here(within, grid(x=[1]))
    said = f"RuntimeError: another process sweeps in {Path('out').resolve()}; wait for it, or give another folder"
    assert found["error"].tolist() == [said]


def test_ctrl_c_in_this_process_says_how_to_go_on(tasks):
    def stopped(out, x):
        if x == 2 and not Path("again").exists():
            raise KeyboardInterrupt
        return {"y": x}

    with pytest.raises(KeyboardInterrupt, match="stopped with 1 of 3 rows done, all of it kept in out; the same again goes on"):
        here(stopped, grid(x=[1, 2, 3]))
    assert pd.read_csv("out/sweep.csv")["state"].tolist() == ["done", "waiting", "waiting"]
    Path("again").touch()
    assert here(stopped, grid(x=[1, 2, 3]))["y"].tolist() == [1, 2, 3]


# --- processes here --------------------------------------------------------------------------------------------------------


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def elsewhere(task, table, **how):
    """Starts a process that sweeps."""
    code = f"import workbench as wb; print(wb.sweep({task!r}, {table!r}, out='out', **{how!r})['state'].tolist())"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background ignores it
    return subprocess.Popen([sys.executable, "-c", heard + code], start_new_session=True, text=True, **pipes)


def finished(out="out"):
    return len(list(Path(out).glob("*/result.parquet")))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_sweep_that_was_stopped_goes_on_and_does_nothing_twice(tasks, how):
    asked = functools.partial(elsewhere, f"{tasks}:square", grid(x=range(6)), fixed={"nap": 1.5}, workers=2)
    first = asked()
    until(lambda: finished() >= 2 and list(told("out", "end").values()).count(0) == 2)
    if how == "SIGKILL":
        first.kill()
    else:
        os.killpg(first.pid, signal.SIGINT)  # as a terminal sends it: to the processes too
    _, said = first.communicate(timeout=60)
    workers = {line[1] for lines in told("out").values() for line in lines}
    until(lambda: not any(map(alive, workers)), seconds=10)
    kept, halves = finished(), [name for name, n in told("out", "end").items() if n == 0]
    assert kept < 6
    assert halves
    if how == "SIGINT":
        assert f"KeyboardInterrupt: stopped with {kept} of 6 rows done, all of it kept in out; the same again goes on" in said
        assert pd.read_csv("out/sweep.csv")["state"].tolist().count("done") == kept
    printed, said = asked().communicate(timeout=180)
    assert printed == f"{['done'] * 6}\n", said
    assert told("out", "end") == {f"x={x}": 1 for x in range(6)}
    assert told("out", "begin") == {f"x={x}": 1 + (f"x={x}" in halves) for x in range(6)}
    assert pd.read_parquet("out/sweep.parquet")["y"].tolist() == [0, 1, 4, 9, 16, 25]
    assert {(*line[2:],) for lines in told("out").values() for line in lines} == {("1", "None")}
    assert list(Path("out").glob("*/running.json")) == []


def test_a_training_that_was_killed_within_a_row_goes_on_where_it_was(tasks):
    asked = functools.partial(elsewhere, f"{tasks}:train", grid(epochs=[24]), workers=1)
    first = asked()
    until(lambda: told("out", "step").get("epochs=24", 0) >= 10)
    first.kill()
    first.communicate()
    (worker,) = {line[1] for line in told("out")["epochs=24"]}
    until(lambda: not alive(worker), seconds=10)
    before = told("out", "step")["epochs=24"]
    assert before < 48
    printed, said = asked().communicate(timeout=180)
    assert printed == "['done']\n", said
    assert told("out", "step")["epochs=24"] - 48 in (0, 1)  # the step that was killed may be taken again
    assert wb.Run("out/epochs=24").finished
    assert wb.Run("out/epochs=24").metrics["step"].tolist() == list(range(1, 49))


def test_a_script_needs_no_guard_and_a_process_that_dies_fails_its_row_alone(tasks):
    script = Path("script.py")
    script.write_text("""
import os
import workbench as wb

print("once")

def mine(out, x):
    if x == 1:
        os._exit(3)
    return {"y": x}

found = wb.sweep(mine, wb.grid(x=range(5)), out="out", workers=2, progress=False)
print(found[["x", "state", "error", "y"]].to_csv(index=False))
assert __file__.endswith("script.py") and __spec__ is None
""")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    once, _, *rows = done.stdout.splitlines()
    said = "its process died, often for want of memory; fewer workers need less"
    assert (once, done.stdout.count("once")) == ("once", 1)
    assert rows[:5] == ["0,done,,0.0", f'1,failed,"{said}",', *(f"{x},done,,{x}.0" for x in (2, 3, 4))]


# --- a cluster that stands already -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two workers, started from a shell as on any cluster; gives the scheduler file."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(file)]
    with (folder / "log").open("w") as log:
        how = {"stdout": log, "stderr": log, "cwd": folder}
        scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common], **how)
        until(file.exists)
        worker = [*dask, "worker", "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0", *common]
        workers = subprocess.Popen(worker, **how)
        yield file
        for process in (workers, scheduler):
            process.terminate()
            process.wait(timeout=30)


def test_a_cluster_is_named_by_its_address_or_its_file(tasks, cluster):
    address = json.loads(cluster.read_text())["address"]
    first = sweep(f"{tasks}:square", grid(x=[1, 2]), out="out", scheduler=cluster, progress=False)
    both = sweep(f"{tasks}:square", grid(x=[1, 2, 3]), out="out", scheduler=address, workers=1, progress=False)
    assert first["y"].tolist() == [1, 4]
    assert both["y"].tolist() == [1, 4, 9]
    assert set(told("out", "begin").values()) == {1}
    assert str(os.getpid()) not in {line[1] for lines in told("out").values() for line in lines}


def test_a_client_of_ones_own_is_used_and_left_open(tasks, cluster):
    from distributed import Client

    with Client(scheduler_file=str(cluster), set_as_default=False) as client:
        table = sweep(f"{tasks}:picky", grid(x=[1, 2]), out="out", scheduler=client, progress=False)
        assert table["state"].tolist() == ["done", "failed"]
        assert client.status == "running"


def test_rows_left_running_on_a_cluster_are_waited_for_not_run_twice(tasks, cluster):
    asked = functools.partial(elsewhere, f"{tasks}:square", grid(x=[1, 2]), fixed={"nap": 6}, scheduler=str(cluster))
    first = asked()
    until(lambda: list(told("out", "begin").values()) == [1, 1])
    first.kill()
    first.communicate()
    printed, said = asked().communicate(timeout=120)
    assert printed == "['done', 'done']\n", said
    assert told("out", "begin") == {"x=1": 1, "x=2": 1}


def test_where_no_scheduler_answers(tasks):
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:9 .*; `dask scheduler` starts one"):
        sweep(double, grid(x=[1]), out="out", scheduler="tcp://127.0.0.1:9", progress=False)


# --- what is seen ----------------------------------------------------------------------------------------------------------


def test_what_a_row_is_doing_is_read_from_its_folder(tmp_path, measured_run):
    assert doing(tmp_path) == (0, 0)
    path = measured_run()
    assert doing(path) == (40, 40)
    assert doing(path.parent) == (40, 40)  # a task may train one folder down
    with (path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 41, "lo')
    assert doing(path) == (40, 40)


def test_the_bar_counts_rows_and_names_what_runs(tasks, capsys):
    sweep(f"{tasks}:picky", grid(x=[1, 2, 3]), out="out", workers=0)
    said = capsys.readouterr().err
    assert "out: 0 of 3 rows done" in said
    assert "out: 2 of 3 rows done, 1 failed" in said
    assert re.search(r"row/s|s/row", said)
    sweep(f"{tasks}:picky", grid(x=[1, 2, 3]), out="out", workers=0, progress=False)
    assert capsys.readouterr().err == ""


def test_the_bar_says_at_which_step_each_row_is_and_how_long_the_rest_takes(tasks, measured_run, capsys):
    book = Book(double, grid(x=[1, 2]), out=Path("out"))
    run = measured_run("out/x=1")
    (run / "run.json").write_text(json.dumps({"total": 80}))
    with _Watch(book, show=True) as watch:
        time.sleep(1)
        watch.show(["x=1", "x=2"], now=True)
    said = capsys.readouterr().err
    shown = re.search(r"out: 0 of 2 rows done \| x=1: step 40 of 80 \| x=2: begun +25%\|[^\r]*\[(\S+)<(\S+),", said)
    assert shown, said
    seconds = [int(text.rpartition(":")[2]) for text in shown.groups()]
    assert seconds[1] == pytest.approx(3 * seconds[0], abs=3)  # a quarter is done


# --- the command line ------------------------------------------------------------------------------------------------------

TINY = ["--data", "garments", "--projector", "16-8", "--batch-size", "32", "--device", "cpu"]


def test_trainings_are_swept_in_a_shell(tasks, capsys):
    argv = ["sweep", "train", *TINY, "--set", "data.n=64", "backbone.width=4", "--grid", "objective.temperature=0.1,0.2"]
    argv += ["lr=1e-3,2e-3", "--epochs", "1", "--out", "out", "--workers", "0", "--no-progress"]
    assert main([*argv, "--dry-run"]) == 0
    assert "4 rows: 4 waiting" in capsys.readouterr().out
    assert not Path("out").exists()
    assert main(argv) == 0
    assert "4 rows: 4 done; out/sweep.csv" in capsys.readouterr().out
    specs = [wb.Run(path).spec for path in sorted(Path("out").glob("*=*"))]
    assert [(s["objective"]["temperature"], s["trainer"]["lr"]) for s in specs] == [
        (0.1, 0.001),
        (0.1, 0.002),
        (0.2, 0.001),
        (0.2, 0.002),
    ]
    assert {(s["images"]["n"], s["trainer"]["epochs"], s["model"]["backbone"]["width"]) for s in specs} == {(64, 1, 4)}
    table = pd.read_csv("out/sweep.csv")
    assert table["loss"].tolist() == [wb.Run(Path("out", run)).metrics["loss"].iloc[-1] for run in table["run"]]
    alone = ["train", *TINY, "--set", "data.n=64", "backbone.width=4", "objective.temperature=0.2", "--lr", "2e-3"]
    assert main([*alone, "--epochs", "1", "--out", "alone", "--no-progress"]) == 0
    assert wb.Run("alone").metrics["loss"].iloc[-1] == table["loss"].iloc[-1]
    capsys.readouterr()
    assert main(["runs", "out"]) == 0
    listed = capsys.readouterr().out
    assert "objective.temperature=0.1,lr=0.001" in listed
    assert main([*argv, "--epochs", "2"]) == 1
    assert "was made with other settings: epochs was 1, is 2" in capsys.readouterr().err


def test_failures_in_a_shell_end_with_1_until_they_are_mended(tasks, capsys):
    argv = ["sweep", f"{tasks}:picky", "--grid", "x=1,2", "--out", "out", "--workers", "0", "--no-progress"]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert "ValueError: two is not liked" in said.out
    assert "2 rows: 1 done, 1 failed" in said.out
    assert "workbench: 1 of 2 rows failed; why is in out/*/failed.json; --retry-failed runs them again" in said.err
    Path("out/mended").touch()
    assert main(argv) == 1
    assert main([*argv, "--retry-failed"]) == 0
    assert "2 rows: 2 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (
            ["train", "--grid", "lrr=1"],
            2,
            "train has no setting 'lrr'; it has data, objective, .* and PART.KEY with one of",
        ),
        (["train", "--grid", "lr=a"], 2, "argument --lr: invalid float value: 'a'"),
        (["train", "--grid", "lr=-1"], 1, "lr must lie between 0 and 1e\\+06, but is -1"),
        (["train", "--grid", "objective.temp=1"], 2, "SimCLR takes no objective.temp; it takes objective.temperature"),
        (["train", "--grid", "views.fllp=1"], 2, "Augment takes no views.fllp; it takes"),
        (["train", "--grid", "objective=simclr,byoll"], 2, "there is no objective 'byoll'; there are AdaVAE"),
        (["train", "--grid", "lr"], 2, "a setting is written KEY=VALUE, and several values KEY=VALUE,VALUE, but got 'lr'"),
        (["train", "--grid", "lr=1", "lr=2"], 2, "--grid names lr twice; write all its values after one ="),
        (["train", "--grid", "lr=1", "--lr", "2"], 1, "the table cannot set lr: that is fixed already"),
        (["train"], 2, "the following arguments are required: --grid"),
        (["tasks.py:square", "--grid", "x=1", "--lr", "2"], 2, "--lr is a setting of train; for tasks.py:square write --set KEY"),
        (["tasks.py:square", "--grid", "z=1"], 1, "the task square cannot be called as square\\(out=..., z=1\\)"),
        (["tasks.py", "--grid", "x=1"], 1, "a task is named by FILE.py:function"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_runs(tasks, argv, code, said, capsys):
    assert main(["sweep", *argv, "--out", "out", "--workers", "0"]) == code
    assert re.search(said, capsys.readouterr().err)
    assert list(Path().glob("out/*=*")) == []


def test_importing_the_workbench_costs_no_dask():
    code = "import sys, workbench.sweeping, workbench.cli; print({'dask', 'distributed', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
