"""The app and its panels in a real browser, and a notebook in JupyterLab: what is drawn, not only that something loads."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFont

pytestmark = pytest.mark.browser
HOME = Path(__file__).parent.parent
FIGURE = """title => {
  const figures = Bokeh.documents.flatMap(d => [...d._all_models.values()]).filter(m => m.title?.text === title && m.renderers);
  const last = figures.at(-1);
  if (!last) return null;
  const plain = x => typeof x === 'object' && x?.length ? [...x] : x;
  const columns = data => Object.fromEntries(Object.entries(data).map(([k, v]) => [k, [...v].map(plain)]));
  return {
    lines: last.renderers.filter(r => r.data_source).map(r => ({kind: r.glyph.type, ...columns(r.data_source.data)})),
    spans: last.renderers.concat(last.center).filter(r => r.type === 'Span').map(r => [r.dimension, r.location]),
    range: [last.y_range.start, last.y_range.end],
  }
}"""


def figure(page, title: str) -> dict | None:
    """What Bokeh draws in the figure of that title, as the browser holds it."""
    return page.evaluate(FIGURE, title)


def curve(page, title: str, **match: str) -> list[float]:
    """The values of the line whose columns hold the given words."""
    for line in figure(page, title)["lines"]:
        if line["kind"] == "Line" and all(set(line.get(k, [])) == {v} for k, v in match.items()):
            return line["middle"]
    raise AssertionError(f"{title} draws no line of {match}")


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until a condition holds; errors on the way count as not yet."""
    until = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
            error = None
        except Exception as caught:
            error = caught
        if time.monotonic() > until:
            raise AssertionError("it did not come true in time") from error
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("localhost", port)) == 0


@contextmanager
def started(command: list[str], port: int, log: Path, **options) -> Iterator[str]:
    """Runs a server until the test is done; gives its address."""
    env = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    with log.open("w") as words, subprocess.Popen(command, env=env, stdout=words, stderr=words, **options) as server:
        try:
            eventually(lambda: server.poll() is not None or listens(port), 120)
            assert server.poll() is None, log.read_text()
            yield f"http://localhost:{port}"
        finally:
            server.kill()


def served(page, make: Callable) -> None:
    """Serves a viewer from this process, each session its own, and opens it."""
    import panel as pn

    from workbench.figures import theme

    def session():
        pn.state.curdoc.theme = theme.document_theme()
        return make()

    port = free_port()
    pn.serve(
        session,
        port=port,
        threaded=True,
        show=False,
        check_unused_sessions_milliseconds=1000,
        unused_session_lifetime_milliseconds=8000,
    )
    eventually(lambda: listens(port))
    page.goto(f"http://localhost:{port}")


def press(page, label: str) -> None:
    page.get_by_role("button", name=label, exact=True).click()


# the app, as it is served


@pytest.fixture
def app(measured_run, clean_page, tmp_path):
    paths = [measured_run("mine", fall=0.05), measured_run("other", fall=0.4), "/no/where"]
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "panel",
        "serve",
        str(HOME / "apps/collapse.py"),
        "--port",
        str(port),
        "--args",
        *map(str, paths),
    ]
    with started(command, port, tmp_path / "log") as address:
        clean_page.goto(f"{address}/collapse")
        yield clean_page


def test_the_app_replays_a_run(app):
    app.get_by_text("/no/where is no run: it does not exist.").wait_for()
    eventually(lambda: figure(app, "Spectrum") is not None)
    app.get_by_text("Step 40, projector").wait_for()
    assert np.allclose(curve(app, "Spectrum", layer="projector"), np.exp(-np.arange(12) * (0.2 + 0.1 * np.log1p(40))))
    assert np.allclose(curve(app, "Spectrum", layer="projector (other)"), np.exp(-np.arange(12) * (0.2 + 0.8 * np.log1p(40))))
    floors = [line["ys"] for line in figure(app, "Spectrum")["lines"] if line["kind"] == "MultiLine"]
    assert np.allclose(np.array(floors)[0, :, 0] * 1e15, [1 / 8, 1 / 16, 1 / 12] * 2)
    slider = app.get_by_role("slider").first
    slider.focus()
    slider.press("Home")
    app.get_by_text("Step 0, projector").wait_for()
    eventually(lambda: np.allclose(curve(app, "Spectrum", layer="projector"), np.exp(-np.arange(12) * 0.2)))
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    app.get_by_text("Step 4, projector").wait_for()
    eventually(lambda: np.allclose(curve(app, "Spectrum", layer="backbone"), np.exp(-np.arange(16) * (0.2 + 0.05 * np.log1p(4)))))
    for title in ("RankMe", "kNN accuracy", "Loss"):
        assert ["height", 5] in figure(app, title)["spans"], title
    printed = [w for line in figure(app, "mine")["lines"] if line["kind"] == "Text" for w in line["printed"]]
    assert {"0.34", "0.29", "0.24"} <= set(printed)


def test_the_apps_theory_counts_dead_dimensions(app):
    app.get_by_role("tab", name="Theory").click()
    app.get_by_text("Before training.").wait_for()
    eventually(lambda: np.allclose(curve(app, "Weights", matrix="W2"), np.exp(-0.35 * np.arange(16))))
    press(app, "Train")
    said = app.get_by_text(re.compile(r"Step 5,000: \d+ of 16"))
    said.wait_for(timeout=180_000)
    dead = int(re.search(r"(\d+) of 16", said.text_content())[1])
    eventually(lambda: sum(v < np.exp(-8) for v in curve(app, "Embedding", matrix="embedding")) == dead)
    assert 2 <= dead <= 6


# panels, served from here, with what they do at hand


def test_moving_the_depth_kills_dimensions(clean_page, servers):
    from workbench.panels import CollapseTheory, LinearToy

    views = []
    served(clean_page, lambda: views.append(CollapseTheory(LinearToy(steps=1500, depth=1))) or views[-1])
    press(clean_page, "Train")
    dead = {}
    for depth in (1, 4):
        if depth > 1:
            slider = clean_page.get_by_role("slider").first
            slider.focus()
            slider.press("End")
        said = clean_page.get_by_text(re.compile(r"Step 1,500: \d+ of 16"))
        eventually(lambda d=depth: views[0].toy.depth == d and views[0].job.done.is_set() and views[0].toy.step == 1500, 120)
        said.wait_for()
        dead[depth] = int(re.search(r"(\d+) of 16", said.text_content())[1])
        eventually(lambda d=depth: sum(v < np.exp(-8) for v in curve(clean_page, "Embedding", matrix="embedding")) == dead[d])
        assert dead[depth] == views[0].toy.dead()
    assert dead[1] == 0 and dead[4] > 8
    alignment = [line for line in figure(clean_page, "Alignment |V₂ᵀU₁|")["lines"] if line["kind"] == "Image"]
    assert len(alignment) == 1
    assert len(curve(clean_page, "Weights", matrix="W4")) == 16


def test_live_training_under_ones_hands(clean_page, servers):
    from workbench.panels import CollapseLive, Lesson

    views = []
    make = lambda: views.append(CollapseLive(Lesson(data="digits", images=512, batch_size=64, epochs=100))) or views[-1]  # noqa: E731
    served(clean_page, make)
    press(clean_page, "Start")
    eventually(lambda: len(curve(clean_page, "Loss", run="")) > 5, 180)
    lesson = views[0].lesson
    press(clean_page, "Pause")
    clean_page.get_by_role("button", name="Continue").wait_for()
    time.sleep(1)
    held = len(lesson.seen)
    time.sleep(1.5)
    assert len(lesson.seen) == held
    eventually(lambda: len(curve(clean_page, "Loss", run="")) == held - 1)
    losses = [s.terms["loss"] for s in lesson.seen[1:]]
    assert np.allclose(curve(clean_page, "Loss", run=""), losses)
    slider = clean_page.get_by_role("slider").last
    slider.focus()
    slider.press("ArrowRight")
    eventually(lambda: lesson.lr_factor == 2.0)
    press(clean_page, "Continue")
    eventually(lambda: len(curve(clean_page, "Loss", run="")) > held + 5)
    before, after = lesson.seen[held - 1], lesson.seen[held + 3]
    assert after.lr > 1.5 * before.lr * (after.step / before.step) * 0.9  # the warm-up rises, and twice as steeply
    newest = lesson.spectra()[-1][1]["value"]
    first = lesson.spectra()[0][1]["value"]
    eventually(lambda: len(curve(clean_page, "Spectrum now; dashed: before training", layer="backbone")) == len(newest))
    drawn = curve(clean_page, "Spectrum now; dashed: before training", layer="backbone (before training)")
    assert np.allclose(drawn, np.maximum(first, drawn[-1]), rtol=1e-5)
    press(clean_page, "Stop")
    eventually(lambda: not views[0].job.running)
    eventually(lambda: clean_page.get_by_role("button", name="Restart").is_enabled())


def test_sessions_share_nothing_and_do_not_wait_for_each_other(clean_page, context, servers):
    from workbench.panels import CollapseLive, Lesson
    from workbench.panels.live import Seen

    def teach(lesson):
        lesson.total = 4000
        for step in range(1, 4001):
            time.sleep(0.05)
            table = pd.DataFrame({"rank": [1, 2], "value": [1.0, 0.5], "layer": "backbone"})
            yield Seen(step, {"loss": 1.0 / step}, 1e-3, 1.0, {"backbone": 1.5}, table)

    views = []
    served(clean_page, lambda: views.append(CollapseLive(Lesson(teach))) or views[-1])
    press(clean_page, "Start")
    eventually(lambda: len(curve(clean_page, "Loss", run="")) > 3)
    other = context.new_page()
    other.goto(clean_page.url)
    other.get_by_text("Choose, press Start").wait_for()
    mine, theirs = next(v for v in views if v.job), views[-1]
    assert mine is not theirs and theirs.lesson.seen == [] and mine.job.running
    other.get_by_role("button", name="MLP").click()
    eventually(lambda: theirs.lesson.projector == "MLP", 60)
    assert mine.lesson.projector == "none"
    other.close()
    clean_page.goto("about:blank")  # whoever leaves, leaves nothing running
    eventually(lambda: not mine.job.running, 90)


PIXEL = """([x, y]) => {
  const find = v => v.model?.type === 'Figure' ? v : (v.child_views ?? []).map(find).find(Boolean);
  const view = Bokeh.index.roots.map(find).find(Boolean);
  if (!view?.frame?.x_scale) return null;
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)];
}"""


def test_a_map_shows_images_mutes_classes_and_gives_its_rows(clean_page, servers):
    import holoviews as hv
    import panel as pn

    from workbench.figures import embedding_map

    rng = np.random.default_rng(0)
    factors = pd.DataFrame({"label": np.repeat([0, 1], 50)})
    xy = rng.normal(size=(100, 2)) * 0.1 + 4 * factors["label"].to_numpy()[:, None]
    picked = []

    def make():
        points = embedding_map(xy, factors, colour="label", images=rng.integers(0, 255, (100, 8, 8), dtype=np.uint8))
        hv.streams.Selection1D(source=points).add_subscriber(lambda index: picked.append(index))
        return pn.pane.HoloViews(points)

    served(clean_page, make)
    eventually(lambda: clean_page.evaluate(PIXEL, [0, 0]) is not None)
    clean_page.mouse.move(*clean_page.evaluate(PIXEL, [float(v) for v in xy[7]]))
    clean_page.locator("img[src^='data:image/png']").first.wait_for()
    around = [(4 + 0.5 * np.cos(a), 4 + 0.4 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 16)]
    pixels = [clean_page.evaluate(PIXEL, [float(x), float(y)]) for x, y in around]
    clean_page.mouse.move(*pixels[0])
    clean_page.mouse.down()
    for pixel in pixels[1:]:
        clean_page.mouse.move(*pixel)
    clean_page.mouse.up()
    eventually(lambda: sorted(picked[-1]) == list(range(50, 100)))
    legend = "[...Bokeh.documents[0]._all_models.values()].find(m => m.type === 'Legend')"
    muted = f"() => {legend}.items.map(i => i.renderers[0].muted)"
    assert clean_page.evaluate(muted) == [False, False]
    place = """() => {
      const parts = v => [...(v.child_views ?? []), ...(v.renderer_views?.values() ?? [])];
      const find = v => v.model?.type === 'Legend' ? v : parts(v).map(find).find(Boolean);
      const box = Bokeh.index.roots.map(find).find(Boolean).el.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height - 12];
    }"""
    clean_page.mouse.click(*clean_page.evaluate(place))
    eventually(lambda: clean_page.evaluate(muted) == [False, True], 60)


# where to cut


CELL = """([title, column, row]) => {
  const figures = [];
  const walk = v => { if (v.model?.type === 'Figure' && v.model.title?.text === title) figures.push(v);
    (v.child_views ?? []).forEach(walk) };
  Bokeh.index.roots.forEach(walk);
  const view = figures.at(-1), box = view.canvas_view.el.getBoundingClientRect();
  return [box.x + view.frame.x_scale.compute(column + 0.5), box.y + view.frame.y_scale.compute(row + 0.5)];
}"""
CUTS = "What can be read from each layer"


def parted(page) -> list[list[int]]:
    """The rows of the held-out images that each of the two grids shows."""
    grids = page.locator(".parted")
    rows = "cells => cells.map(cell => Number(cell.dataset.row))"
    return [grids.nth(i).locator(".thumb").evaluate_all(rows) for i in range(grids.count())]


def test_where_to_cut_a_run(clean_page, tmp_path):
    import workbench as wb

    out = tmp_path / "runs" / "mine"
    model = wb.build_encoder("convnet", "16-8", width=4, depth=2)
    run = wb.Trainer(epochs=1, batch_size=64).fit(model, wb.SimCLR(), wb.garments(192), wb.Augment(), out=out, progress=False)
    port = free_port()
    command = [sys.executable, "-m", "panel", "serve", str(HOME / "apps/projector.py"), "--port", str(port), "--args", str(out)]
    with started(command, port, tmp_path / "log") as address:
        clean_page.goto(f"{address}/projector")
        press(clean_page, "Probe every layer")
        done = clean_page.get_by_text(re.compile(r"^label: .* at projector alone|^label: .* answer alike"))
        end = time.monotonic() + 120
        while time.monotonic() < end and not done.is_visible():
            clean_page.wait_for_timeout(500)
        if not done.is_visible():  # a browser starved by other tests may miss the news; a page opened again has it
            clean_page.reload()
        done.wait_for(timeout=120_000)
        clean_page.get_by_role("button", name="Probe what is missing").wait_for(timeout=120_000)
        table = run.table("answers").query("factor == 'label'").pivot(index="row", columns="layer", values="off")
        layers, top = list(dict.fromkeys(run.table("probes")["layer"])), run.table("probes")["factor"].nunique() - 1
        for layer in (layers[0], "projector.0"):
            clean_page.mouse.click(*clean_page.evaluate(CELL, [CUTS, layers.index(layer), top]))
            here = table.index[(table[layer] == 0) & (table["backbone"] == 1)]
            there = table.index[(table[layer] == 1) & (table["backbone"] == 0)]
            assert list(here) and list(there)
            eventually(lambda a=here, b=there: parted(clean_page) == [list(a[:24]), list(b[:24])])
            short = layer.removeprefix("backbone.")
            clean_page.get_by_text(f"Right at {short}, wrong at backbone").wait_for()
            spectrum = run.table("cuts").query("layer == @layer").sort_values("rank")["value"]
            eventually(lambda s=short, v=spectrum: np.allclose(curve(clean_page, "Spectrum of the two layers", layer=s), v))
            value = run.table("probes").query("layer == @layer and factor == 'label'")["value"].item()
            dots = [line for line in figure(clean_page, "label by depth")["lines"] if line["kind"] == "Scatter"]
            assert [layers.index(layer)] == dots[0]["depth"] and np.allclose(dots[0]["value"], value)
        one = clean_page.locator(".parted .thumb").first
        assert one.locator("img").evaluate("img => img.complete && img.naturalWidth") == 32
        said = run.table("answers").query(
            f"row == {one.get_attribute('data-row')} and layer == 'projector.0' and factor == 'label'"
        )
        assert one.inner_text().split("\n")[:2] == said[["truth", "answer"]].iloc[0].tolist()


# choosing without labels


def swept(folder: Path) -> None:
    """A sweep of two methods, three rates and two seeds, as one that trained leaves it."""
    from workbench.sweeping import grid, sweep

    def task(out, method, lr, seed):
        (out / "run.json").write_text(json.dumps({"total": 4, "trainer": {"lr": lr}}))
        logged = [{"step": s, "loss": 1000 * lr + seed + 1 / (1 + s)} for s in range(5)]
        (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        short = abs(np.log2(lr / 2e-3))
        high = method == "SimCLR"
        return {"rankme": (50 if high else 20) - 4 * short + seed, "label": (60 if high else 70) - 5 * short + seed}

    sweep(task, grid(method=["SimCLR", "VICReg"], lr=[1e-3, 2e-3, 8e-3], seed=[0, 1]), out=folder, workers=0, progress=False)


def places(page, title="RankMe against label") -> list[list[float]]:
    """Where points, rings and the cross are drawn, in this order."""
    found = [line for line in figure(page, title)["lines"] if line["kind"] == "Scatter"]
    return [[round(x, 6), round(y, 6)] for line in found for x, y in zip(line["x"], line["y"], strict=True)]


def test_choosing_without_labels(clean_page, tmp_path):
    swept(tmp_path / "mine")
    port, page = free_port(), clean_page
    command = [sys.executable, "-m", "panel", "serve", str(HOME / "apps/rank.py"), "--port", str(port)]
    with started([*command, "--args", str(tmp_path / "mine"), "/no/where"], port, tmp_path / "log") as address:
        page.goto(f"{address}/rank")
        page.get_by_text("there is no folder /no/where").wait_for()
        page.get_by_text("RankMe is not ranked across methods").wait_for()
        page.wait_for_function("() => Bokeh.documents[0].is_idle")
        drawn = places(page)
        for place in ([50.5, 60.5], [46.5, 55.5], [42.5, 50.5], [20.5, 70.5], [16.5, 65.5], [12.5, 60.5]):
            assert place in drawn
        costs = [w for line in figure(page, "What choosing costs")["lines"] if line["kind"] == "Text" for w in line["printed"]]
        assert costs == ["5.0 ± 0.0", "0.0 ± 0.0"] * 2
        title = "Loss of the runs of this setting"
        assert np.allclose(curve(page, title, run="seed 1"), 3 + 1 / np.arange(1, 6))
        for place in ([0, 46.5], [1, 50.5], [2, 42.5], [0, 16.5], [1, 20.5], [2, 12.5]):
            assert [round(place[0]), place[1]] in [[round(x), y] for x, y in places(page, "RankMe along lr")]
        page.get_by_role("slider").press(
            "End"
        )  # of the six settings, those within half of the range are equal: the first is taken
        page.get_by_text("SimCLR 5.0 ± 0.0").wait_for()
        page.get_by_role("slider").press("Home")
        page.get_by_text("SimCLR 0.0 ± 0.0").wait_for()
        page.mouse.click(*page.evaluate(PIXEL, [1.95, 12.7]))
        page.get_by_text("clicked").wait_for()
        assert page.locator("table.recipe").text_content().startswith("methodVICReglr0.008")
        eventually(lambda: np.allclose(curve(page, title, run="seed 0"), 8 + 1 / np.arange(1, 6)))
        eventually(lambda: places(page)[-1] == [12.5, 60.5])
        page.get_by_role("switch").or_(page.get_by_role("checkbox")).first.click()
        page.get_by_text("which no paper licenses").wait_for()
        page.get_by_text("10.0 ± 0.0").first.wait_for()


# two networks side by side


def near(page, side: str) -> list[int]:
    """The rows of the neighbours that one side shows."""
    return page.locator(f".side.{side} .thumb").evaluate_all("cells => cells.map(cell => Number(cell.dataset.row))")


def factor_runs(folder: Path) -> list:
    """Two small autoencoders, each under no correlation and under one, with the tables of their codes."""
    import torch

    import workbench as wb

    shape = {"size": 16, "shapes": ("heart", "ell"), "scales": 2, "orientations": 1, "positions": 4, "hues": 1}
    grid, found = wb.sprites(None, background_hues=1, **shape), []
    plain = wb.BetaVAE(beta=1, pixel_std=0.1)
    for name, objective in (("vae", plain), ("hfs", wb.HFS(plain, weight=3))):
        for ties in ({}, {"x": "y"}):
            torch.manual_seed(0)
            model, images = wb.build_autoencoder("locatello-small", 3, image_size=16), wb.correlate(grid, ties, sigma=0.15, n=192)
            settings = {"out": folder / f"{name}-{'tied' if ties else 'free'}", "progress": False}
            run = wb.Trainer(epochs=2, batch_size=32, lr=2e-3).fit(model, objective, images, wb.Plain(), **settings)
            wb.factor_run(run, progress=False)
            found.append(run)
    return found


def test_factors_of_the_world(clean_page, tmp_path):
    import workbench as wb

    found, page, port = factor_runs(tmp_path / "runs"), clean_page, free_port()
    shutil.rmtree(found[2].path / "tables")
    given = [str(found[i].path) for i in (1, 3)] + [str(tmp_path / "runs"), "/no/where"]
    command = [sys.executable, "-m", "panel", "serve", str(HOME / "apps/factors.py"), "--port", str(port), "--args", *given]

    def images(name: str) -> list[str]:
        return page.locator(f"img.{name}").evaluate_all("all => all.map(img => img.src)")

    def subjects() -> list[str]:
        return page.locator(".strips").count() and page.get_by_label("Run or model").all_inner_texts()

    with started(command, port, tmp_path / "log") as address:
        page.goto(f"{address}/factors")
        page.get_by_text("/no/where is no run: it does not exist.").wait_for()
        eventually(lambda: len(images("decoded")) == 2 and subjects() == ["vae-tied", "hfs-tied"])
        page.wait_for_function("() => Bokeh.documents[0].is_idle")

        # a slider turns a code: the image follows, in its column alone
        before = images("decoded")
        codes = wb.kept_factors(found[1])["codes"].to_numpy()
        page.get_by_role("slider").nth(2).focus()  # after that of the correlation and of code 0
        page.keyboard.press("Home")
        eventually(lambda: page.get_by_text("codes turned").count() == 1 and len(images("decoded")) == 2, 120)
        assert images("decoded")[0] != before[0] and images("decoded")[1] == before[1]
        shown = Image.open(io.BytesIO(base64.b64decode(images("decoded")[0].partition(",")[2])))
        turned = codes[:1].copy()
        turned[0, 1] = min(np.percentile(codes[:, 1], 1), codes[0, 1])
        wanted = (found[1].model().decode(turned)[0].permute(1, 2, 0) * 255).numpy()
        assert np.abs(np.asarray(shown) - wanted).max() < 3

        # a click in the matrix on the right: its code across in the scatter, the same factor on the left
        page.wait_for_function("() => Bokeh.documents[0].is_idle")
        factors = ["label", "scale", "x", "y"]
        chosen = page.locator(".strip.chosen").evaluate_all("all => all.map(one => +one.dataset.row)")
        code = next(c for c in range(3) if c != chosen[1])
        page.mouse.click(*page.evaluate(CELL, ["Code by factor", factors.index("scale"), 2 - code]))
        eventually(lambda: int(page.locator(".strip.chosen").nth(1).get_attribute("data-row")) == code)
        axes = (
            "() => Bokeh.documents[0]._all_models.values().toArray().filter(m => m.type === 'LinearAxis').map(a => a.axis_label)"
        )
        eventually(lambda: f"code {code}" in page.evaluate(axes))
        eventually(lambda: page.get_by_label("Factor", exact=True).first.inner_text() == "scale")

        # the correlation slider goes to the runs that were trained without one; one of them has to be judged first
        press(page, "Judge hfs-free")
        page.get_by_role("button", name="Judge hfs-free").wait_for(state="hidden", timeout=300_000)
        page.get_by_role("slider").first.focus()
        page.keyboard.press("Home")
        eventually(lambda: subjects() == ["vae-free", "hfs-free"])
        page.get_by_text("Both were trained on factors that do not go together").wait_for()
        eventually(lambda: page.locator(".strips").count() == 2 and page.locator(".suite").count() == 2)


def two_runs(folder: Path) -> list:
    """Two runs of very small networks."""
    import workbench as wb

    def trained(name: str):
        model = wb.build_encoder("convnet", "16-8", width=4, depth=2)
        settings = {"out": folder / name, "progress": False}
        return wb.Trainer(epochs=1, batch_size=64).fit(model, wb.SimCLR(), wb.garments(128), wb.Augment(), **settings)

    return [trained(name) for name in ("mine", "other")]


def test_two_networks_side_by_side(clean_page, tmp_path):
    import workbench as wb

    found, page, port = two_runs(tmp_path / "runs"), clean_page, free_port()
    layers = wb.main_layers(found[0].model())
    layers = [layer for layer in layers if layer != "backbone.stage2"]  # it is the backbone, pooled
    command = [sys.executable, "-m", "panel", "serve", str(HOME / "apps/compare.py"), "--port", str(port)]
    with started([*command, "--args", *(str(run.path) for run in found), "/no/where"], port, tmp_path / "log") as address:
        page.goto(f"{address}/compare")
        page.get_by_text("/no/where is no run: it does not exist.").wait_for()
        page.get_by_text("mine and other were not compared yet").wait_for()
        press(page, "Compare layer by layer")
        page.get_by_role("button", name="Compare again").wait_for(timeout=300_000)
        page.get_by_text("mine, projector · other, projector").wait_for()
        tables = wb.kept_comparison(*found)
        cka = tables["similarity"].query("measure == 'cka'").set_index(["layer", "other"])["value"]

        def drawn() -> dict:
            (cells, *_) = [line for line in figure(page, "CKA, layer by layer")["lines"] if line["kind"] == "Rect"]
            return {(d, a): float(v) for d, a, v in zip(cells["down"], cells["across"], cells["value"], strict=True)}

        short = {layer: layer.removeprefix("backbone.") for layer in layers}
        wanted = {(short[a], short[b]): cka[a, b] for a in layers for b in layers}
        eventually(lambda: drawn() == pytest.approx(wanted, rel=1e-4))
        note = page.locator(".finding").text_content()
        first, last = (f"{wanted[name, name]:.2f} between {name} and {name}" for name in ("stage1", "projector"))
        assert f"CKA {first}, {last}" in note
        page.wait_for_function("() => Bokeh.documents[0].is_idle")
        page.mouse.click(*page.evaluate(CELL, ["CKA, layer by layer", layers.index("projector.0"), layers.index("backbone")]))
        page.get_by_text("mine, backbone · other, projector.0").wait_for()
        known = {
            side: tables["neighbours"].query("side == @side and layer == @layer").sort_values(["row", "rank"])["neighbour"]
            for side, layer in (("one", "backbone"), ("other", "projector.0"))
        }
        known = {side: rows.to_numpy().reshape(-1, 10).tolist() for side, rows in known.items()}
        eventually(lambda: [near(page, "one"), near(page, "other")] == [known["one"][0], known["other"][0]])
        one = page.locator(".strip .thumb").nth(5)
        shared = len(set(known["one"][5]) & set(known["other"][5]))
        assert one.inner_text() == f"{shared} / 10" and one.locator("img").evaluate("img => img.naturalWidth") == 32
        one.click()
        eventually(lambda: [near(page, "one"), near(page, "other")] == [known["one"][5], known["other"][5]])
        framed = page.locator(".side.one .thumb img").evaluate_all("all => all.map(img => img.style.outlineStyle)")
        assert framed == ["solid" if row in known["other"][5] else "" for row in known["one"][5]]
        page.locator(".side.other .thumb").nth(2).press("Enter")
        eventually(lambda: near(page, "one") == known["one"][known["other"][5][2]])
        page.locator(".strip .thumb").first.click()
        eventually(lambda: near(page, "one") == known["one"][0])
        press(page, "Next")
        eventually(lambda: near(page, "other") == known["other"][1])


def decoded(source: str) -> np.ndarray:
    """The pixels of an image that the page holds as a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def pictures(page, where: str) -> list[str]:
    """The images at a place, in order; of samples without those of their cards."""
    return page.locator(where).evaluate_all("all => all.map(img => img.src)")


def samples(page, side: str, part: str = ".sheet") -> list[str]:
    return pictures(page, f".{side} {part} > .sample > img")


def inside(page, place) -> bool:
    """Whether all of a place is in the window."""
    box, size = place.bounding_box(), page.viewport_size
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    return 0 <= box["x"] <= right <= size["width"] and 0 <= box["y"] <= bottom <= size["height"]


def drawn(page, n: int) -> None:
    """Waits until both sides show so many samples and no empty place."""
    eventually(lambda: page.locator(".sample").count() == n and page.locator(".blank").count() == 0, 180)
    page.wait_for_function("() => Bokeh.documents[0].is_idle")


TOPS = """() => {
  const all = (root, what) => [...root.querySelectorAll(what),
    ...[...root.querySelectorAll('*')].filter(e => e.shadowRoot).flatMap(e => all(e.shadowRoot, what))];
  return ['.thumb', '.left .sheet', '.left .map', '.left .ranks'].map(
    what => all(document, what)[0]?.getBoundingClientRect().top);
}"""


def test_what_a_representation_knows(clean_page, denoised_run, tmp_path):
    import torch

    import workbench as wb

    pytest.importorskip("diffusers")
    runs = denoised_run(tmp_path / "mine"), denoised_run(tmp_path / "bare", layers=())
    page, port = clean_page, free_port()
    command = [sys.executable, "-m", "panel", "serve", str(HOME / "apps/rcdm.py"), "--port", str(port), "--args"]
    with started([*command, *(str(run.path) for run in runs), "/no/where"], port, tmp_path / "log") as address:
        page.goto(f"{address}/rcdm")
        page.get_by_text("/no/where is no run: it does not exist.").wait_for()
        drawn(page, 32)
        page.get_by_text(re.compile("^Samples (of neither layer come back|return)")).wait_for()

        # the samples are those that the pipeline draws of the image that is shown, on either side
        for side, layer in (("left", "backbone"), ("right", "projector")):
            pipe = wb.denoisers(runs[0])[layer].model().pipeline()
            pipe.set_progress_bar_config(disable=True)
            source = torch.tensor(decoded(*pictures(page, f".{side} .own img"))).permute(2, 0, 1)[None] / 255
            h = wb.represent_pixels(runs[0].model(), source, layer)
            wanted = pipe(h, num_images_per_rep=16, num_inference_steps=10, latents=wb.shared_noise(pipe, 16)).images
            shown = np.stack([decoded(one) for one in samples(page, side)])
            assert np.abs(shown - 255 * wanted.permute(0, 2, 3, 1).numpy()).max() < 2
        plain = samples(page, "left")

        # another image, and what is said of a sample that is pointed at
        places = [page.evaluate(TOPS)]
        page.locator(".thumb").nth(5).click()
        eventually(
            lambda: places.append(page.evaluate(TOPS)) or pictures(page, ".left .own img") == [pictures(page, ".thumb")[5]]
        )
        eventually(lambda: places.append(page.evaluate(TOPS)) or page.locator(".blank").count() == 0, 180)
        drawn(page, 32)
        assert all(one == places[0] for one in [*places, page.evaluate(TOPS)])  # nothing moves while samples are drawn
        second = samples(page, "left")
        assert second != plain
        page.locator(".left .sample").nth(3).hover()
        card = page.locator(".left .sample").nth(3).locator(".card")
        card.wait_for()
        said = card.inner_text()
        row = int(re.search(r"nearest real image, no. (\d+)", said)[1])
        assert "distance to the condition" in said and "of 48" in said
        assert inside(page, card) and page.locator(".left .sample:hover .card img").nth(1).bounding_box()["height"] == 64
        assert 0 <= row < 48 and (
            row >= 20 or pictures(page, ".thumb")[row] == pictures(page, ".left .sample:hover .card img")[1]
        )

        # the other seed, and back
        page.get_by_role("slider").nth(1).focus()
        page.keyboard.press("ArrowRight")
        eventually(lambda: samples(page, "left") != second)
        drawn(page, 32)
        page.keyboard.press("ArrowLeft")
        eventually(lambda: samples(page, "left") == second)

        # from that image to another: the ends are the samples from before
        press(page, "Interpolation")
        page.get_by_role("button", name="Second", exact=True).click()
        page.locator(".thumb").nth(0).click()
        drawn(page, 2 * (4 + 9 * 4))
        eventually(lambda: samples(page, "left", ".strip")[4::9] == samples(page, "left", ".large"))  # the middle
        page.get_by_role("slider").last.focus()
        page.keyboard.press("Home")
        eventually(lambda: samples(page, "left", ".large") == second[:4])
        page.get_by_role("slider").last.focus()
        page.keyboard.press("End")
        eventually(lambda: samples(page, "left", ".large") == plain[:4])
        page.locator(".left .frame").nth(4).click()
        eventually(lambda: samples(page, "left", ".large") not in (plain[:4], second[:4]))
        assert samples(page, "left", ".strip")[4::9] == samples(page, "left", ".large")
        for size in ({"width": 1024, "height": 768}, {"width": 1440, "height": 1000}):
            page.set_viewport_size(size)
            for side, at in (("left", 35), ("right", 8)):  # the last of the last row, the last of the first
                place = page.locator(f".{side} .strip .sample").nth(at)
                place.hover()
                image, card = place.locator("> img").bounding_box(), place.locator(".card")
                card.wait_for()
                assert image["width"] == image["height"] and image["x"] + image["width"] <= size["width"] and inside(page, card)
                assert "rank of the second image" in card.inner_text()

        # dimensions
        press(page, "Common dimensions")
        eventually(lambda: page.locator(".change").count() == 10)
        drawn(page, 2 * 5 * 8)
        some = not page.locator(".left .ends").inner_text().count("has 0 in common with its neighbours.")
        assert samples(page, "left")[:8] == second[:8]
        assert (samples(page, "left")[8:16] != second[:8]) == some

        # what is shown, as a file
        with page.expect_download() as download:
            page.get_by_text("Save as PNG").click()
        picture = Image.open(download.value.path())
        assert download.value.suggested_filename == "know_common_dimensions_no5_no0.png" and picture.format == "PNG"
        words = ["the image and the second", *page.locator(".left .words").all_inner_texts()]
        left = 32 + 18 + max(round(ImageFont.load_default(21).getlength(word)) for word in words)
        assert (np.asarray(picture)[193 + 102 : 193 + 198 : 6, left : left + 96 : 6] == decoded(second[0])).all()

        # a file that is no image, then one that is
        press(page, "Samples")
        page.get_by_role("button", name="Samples", exact=True).wait_for()
        page.locator("input[type=file]").set_input_files({"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
        page.get_by_text("That file is no image that can be read").wait_for()
        assert page.get_by_text("Drop an image in").is_visible() and page.get_by_text("Uploaded").count() == 0
        file = io.BytesIO()
        Image.new("L", (40, 30), 120).save(file, "PNG")
        page.locator("input[type=file]").set_input_files({"name": "g.png", "mimeType": "image/png", "buffer": file.getvalue()})
        eventually(lambda: (decoded(*pictures(page, ".left .own img")) == 120).all())
        page.get_by_text("That file is no image that can be read").wait_for(state="hidden")
        drawn(page, 32)
        assert page.locator(".thumb").first.get_attribute("data-row") == "-1"

        # a run without denoisers
        page.get_by_label("Run", exact=True).click()
        page.get_by_role("menuitem", name="bare").click()
        page.get_by_text("bare has no denoisers yet").wait_for()
        page.locator(".sample").first.wait_for(state="hidden")


# JupyterLab


LOOKS = """title => {
  const figures = Bokeh.documents.flatMap(d => [...d._all_models.values()]).filter(m => m.title?.text === title && m.renderers);
  const last = figures.at(-1);
  const below = type => last.below.find(part => part.type.endsWith(type));
  return [last.title, below('Axis'), below('Title')].map(part => part.text_font_size ?? part.axis_label_text_font_size);
}"""
CELLS = [
    "from workbench.panels import Collapse, notebook\nnotebook()",
    "import time\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(20), desc='walking'):\n    time.sleep(0.01)",
    "Collapse(RUN)",
]


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """JupyterLab on a folder, with settings of its own and no news."""
    port = free_port()
    options = ["--no-browser", "--allow-root", "--port", str(port), "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    env = {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"), "JUPYTER_RUNTIME_DIR": str(folder / ".runtime")}
    with started(
        [sys.executable, "-m", "jupyter", "lab", *options, "--LabApp.news_url=None"], port, folder / ".log", env=env, cwd=folder
    ) as address:
        yield address


def run_all(page, address: str, name: str, *, seconds: float) -> None:
    """Opens a notebook, runs every cell, and waits until the last has run."""
    page.goto(f"{address}/lab/tree/{name}")
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("| Idle").wait_for()
    kernel = page.get_by_role("button", name="Select", exact=True)  # asked for where the run comes before the kernel
    page.add_locator_handler(kernel, lambda: kernel.click())
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    eventually(lambda: all(re.fullmatch(r"\[\d+\]:", text) for text in prompts.all_text_contents()), seconds)
    errors = page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-OutputArea-output[data-mime-type*=error]")
    assert not [text for text in errors.all_text_contents() if "Traceback" in text or "Error" in text]


def write_notebook(path: Path, sources: list[str]) -> None:
    """Writes a notebook of these cells of code."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": c}
        for i, c in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def lab_page(page):
    """A page that fails the test on errors of its scripts, and that reaches nothing beyond this machine."""
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.route(lambda url: not url.startswith(("http://localhost", "data:", "blob:")), lambda route: route.abort())
    page.set_default_timeout(90_000)
    page.set_viewport_size({"width": 1500, "height": 1800})
    yield page
    assert errors == []


def test_the_panel_inside_jupyterlab_without_internet(lab_page, measured_run, tmp_path):
    from workbench.figures import theme

    path = measured_run("mine", fall=0.05)
    write_notebook(tmp_path / "small.ipynb", [*CELLS[:-1], CELLS[-1].replace("RUN", repr(str(path)))])
    with lab(tmp_path) as address:
        for _ in range(2):  # the second time the kernel is old and the page is new
            run_all(lab_page, address, "small.ipynb", seconds=180)
            assert lab_page.locator(".jupyter-widgets .progress-bar").count() == 1
            eventually(lambda: "step" in str(figure(lab_page, "Loss")["lines"]) and figure(lab_page, "Spectrum") is not None, 90)
            assert np.allclose(
                curve(lab_page, "Spectrum", layer="projector"), np.exp(-np.arange(12) * (0.2 + 0.1 * np.log1p(40)))
            )
            sizes = lab_page.evaluate(LOOKS, "Spectrum")
            assert sizes == [theme.SIZE["title"], theme.SIZE["label"], theme.SIZE["note"]]  # Material did not dress it anew
            slider = lab_page.get_by_role("slider").first
            slider.focus()
            slider.press("Home")
            lab_page.get_by_text("Step 0, projector").wait_for()
            eventually(lambda: np.allclose(curve(lab_page, "Spectrum", layer="projector"), np.exp(-np.arange(12) * 0.2)))


def test_two_networks_inside_jupyterlab_without_internet(lab_page, tmp_path):
    import workbench as wb

    found = two_runs(tmp_path / "runs")
    tables = wb.compare_runs(*found, n=32, k=5, permutations=9, progress=False)
    cells = [CELLS[0], f"from workbench.panels import Compare\nCompare({[str(run.path) for run in found]!r})"]
    write_notebook(tmp_path / "pair.ipynb", cells)
    rows = tables["neighbours"].query("side == 'other' and layer == 'projector'").sort_values(["row", "rank"])["neighbour"]
    rows = rows.to_numpy().reshape(-1, 5).tolist()
    with lab(tmp_path) as address:
        run_all(lab_page, address, "pair.ipynb", seconds=180)
        eventually(lambda: near(lab_page, "other") == rows[0], 90)
        lab_page.locator(".strip .thumb").nth(3).click()
        eventually(lambda: near(lab_page, "other") == rows[3], 90)


def test_what_a_representation_knows_inside_jupyterlab_without_internet(lab_page, denoised_run, tmp_path):
    pytest.importorskip("diffusers")
    run = denoised_run(tmp_path / "mine")
    cells = [CELLS[0], f"from workbench.panels import WhatItKnows\nWhatItKnows({str(run.path)!r})"]
    write_notebook(tmp_path / "know.ipynb", cells)
    with lab(tmp_path) as address:
        run_all(lab_page, address, "know.ipynb", seconds=180)
        eventually(lambda: lab_page.locator(".sample").count() == 32 and lab_page.locator(".blank").count() == 0, 180)
        before = samples(lab_page, "right")
        lab_page.locator(".thumb").nth(3).click()
        eventually(lambda: len(samples(lab_page, "right")) == 16 and not set(samples(lab_page, "right")) & set(before), 120)


def test_the_start_notebook_in_jupyterlab(lab_page, tmp_path):
    notebook = json.loads((HOME / "notebooks" / "00_start.ipynb").read_text())
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "".join(cell["source"]) + f"\nscale, out = 'smoke', {str(tmp_path / 'runs')!r}"
    (tmp_path / "start.ipynb").write_text(json.dumps(notebook))
    with lab(tmp_path) as address:
        run_all(lab_page, address, "start.ipynb", seconds=400)
        assert lab_page.locator(".jupyter-widgets .progress-bar").count() >= 1
        eventually(lambda: len(figure(lab_page, "Loss")["lines"]) > 0, 90)
        slider = lab_page.get_by_role("slider", name=re.compile("")).last
        words = lab_page.get_by_text(re.compile(r"^Step \d+, projector")).last
        words.wait_for()
        before = curve(lab_page, "Spectrum", layer="projector")
        slider.focus()
        slider.press("Home")
        lab_page.get_by_text(re.compile(r"^Step 0, projector")).last.wait_for()
        eventually(lambda: not np.allclose(curve(lab_page, "Spectrum", layer="projector"), before))
