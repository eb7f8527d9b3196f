"""The rules of the house: who imports whom, what the files promise each other, what the documents say."""

import ast
import doctest
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import workbench
from workbench.notebooks import parameters_of
from workbench.spec import names

HOUSE = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
MODULES = sorted(m.name for m in pkgutil.walk_packages(workbench.__path__, "workbench.") if not m.name.endswith("__main__"))
NOTEBOOKS = sorted((HOUSE / "notebooks").rglob("[!.]*.ipynb"))
DOCUMENTS = [HOUSE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")]


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# --- imports ---------------------------------------------------------------------------------------------------------------


def test_who_may_import_whom():
    linter = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(linter, capture_output=True, text=True, cwd=HOUSE, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def test_nothing_heavy_is_imported_before_it_is_needed():
    large = {"torch", "timm", "pandas", "numpy", "panel", "holoviews", "sklearn", "scipy", "papermill", "diffusers"}
    heavy = f"{large} & set(sys.modules)"
    code = f"import sys, workbench; dir(workbench); import workbench.cli; workbench.cli.main(['--help']); print({heavy})"
    assert python(code).splitlines()[-1] == "set()"


def test_finished_runs_and_figures_need_no_torch():
    figures = [m for m in MODULES if m.startswith("workbench.figures")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {[*figures, 'workbench.run', 'workbench.notebooks']}]"
    assert python(code + "; print('torch' in sys.modules)").splitlines()[-1] == "False"


# --- names -----------------------------------------------------------------------------------------------------------------


def public(module):
    """Returns the list that a module calls ``__all__``, read without importing it."""
    source = Path(importlib.util.find_spec(module).origin).read_text()
    for line in ast.parse(source).body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if any(getattr(t, "id", "") == "__all__" for t in targets):
            return ast.literal_eval(line.value)
    return None


def test_every_file_lists_its_public_names_and_has_them():
    for module in MODULES:
        listed, loaded = public(module), importlib.import_module(module)
        if hasattr(loaded, "__path__") or module.startswith("workbench.cli"):
            continue
        assert listed is not None, f"{module} has no literal __all__"
        assert [n for n in listed if not hasattr(loaded, n)] == [], module
        assert sorted(listed) == sorted(set(listed)), f"{module} names something twice"


def test_every_public_name_can_be_had_from_the_top_and_from_its_folder():
    found = names("workbench")  # raises where two files make the same name public
    assert {"garments", "Encoder", "SimCLR", "Trainer", "Run", "Features", "rankme", "spectra"} <= set(found)
    for name, module in found.items():
        thing = getattr(importlib.import_module(module), name)
        assert getattr(workbench, name) is thing
        folder = module.rpartition(".")[0]
        assert getattr(importlib.import_module(folder), name) is thing
    with pytest.raises(AttributeError, match="workbench has no name 'simclr'; it has .*SimCLR"):
        workbench.simclr  # noqa: B018


def test_a_file_never_bears_the_name_of_something_public():
    found = names("workbench")
    files = {
        module.rpartition(".")[2]: module for module in MODULES if not module.startswith(("workbench.papers.", "workbench.cli"))
    }
    assert {name: (found[name], files[name]) for name in set(found) & set(files)} == {}


def test_no_file_is_named_by_what_says_nothing():
    assert {
        m for m in MODULES if m.rpartition(".")[2] in {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    } == set()


def test_every_file_and_every_public_thing_says_what_it_is():
    silent = []
    for module in MODULES:
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
        if not ast.get_docstring(tree):
            silent.append(module)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{module}:{node.name}")
    assert silent == ["workbench.panels"] * ("workbench.panels" in silent)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_are_true(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    at_hand = {"wb": workbench, "torch": torch, "np": np, "pd": pd}
    for example in finder.find(importlib.import_module(module), module, extraglobs=at_hand):
        if example.examples:
            runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


# --- the environment's files -----------------------------------------------------------------------------------------------


def pinned():
    lines = [line for line in (HOUSE / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def requirements(*extras):
    listed = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            listed += requirements(*requirement.extras) if requirement.name == "workbench" else [requirement]
    return listed


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_tested_versions_are_names_and_versions_and_cover_every_requirement():
    versions = pinned()
    for line in (HOUSE / "constraints.txt").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
    for requirement in requirements("apps", "dev", "diffusion"):
        version = versions.get(plain(requirement.name))
        assert version, f"constraints.txt has no {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}"


def test_what_is_imported_is_required():
    """Every third-party package that the library, the apps and the tests import is in the extra that they are installed with."""
    provided = importlib.metadata.packages_distributions()
    for folder, extras in (("workbench", ("apps", "dev")), ("apps", ("apps",)), ("tests", ("dev",))):
        allowed = {plain(r.name) for r in requirements(*extras)} | {"workbench"}
        for path in (HOUSE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                roots = []
                if isinstance(node, ast.Import):
                    roots = [a.name.partition(".")[0] for a in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    roots = [node.module.partition(".")[0]]
                for root in roots:
                    if root in sys.stdlib_module_names or root not in provided or (path.parent / f"{root}.py").exists():
                        continue
                    assert {plain(d) for d in provided[root]} & allowed, f"{path.relative_to(HOUSE)} imports {root}"


def test_the_conda_environment_agrees_with_the_project():
    environment = yaml.safe_load((HOUSE / "environment.yml").read_text())
    conda = {d.partition("=")[0]: d.partition("=")[2] for d in environment["dependencies"] if isinstance(d, str)}
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert set(conda) == {"python", "pip"}
    assert SpecifierSet(PROJECT["requires-python"]).contains(conda["python"])
    assert pip == ["--constraint constraints.txt", "--editable .[apps]"]
    assert set(PROJECT["optional-dependencies"]) >= {"apps", "diffusion", "dev"}


def test_the_commands_are_there():
    text = (HOUSE / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):.*##", text, flags=re.MULTILINE)
    assert {"demo", "test", "reproduce", "lab", "apps", "notebooks", "bench", "check"} <= set(targets)
    assert set(re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE).group(1).split()) == set(targets)
    recipes = subprocess.run(["make", "-n", *sorted(targets)], capture_output=True, text=True, cwd=HOUSE, check=False)
    assert recipes.returncode == 0, recipes.stderr
    from workbench.cli import _parser

    for line in recipes.stdout.replace(" || .venv/bin", "\n.venv/bin").splitlines():
        if line.startswith(".venv/bin/workbench "):
            _parser(words := line.split()[1:]).parse_args(words)
    ci = HOUSE / ".ci/run"
    assert ci.stat().st_mode & 0o111
    assert "make check test" in ci.read_text()


def test_the_hooks_call_what_make_check_calls():
    hooks = yaml.safe_load((HOUSE / ".pre-commit-config.yaml").read_text())["repos"]
    assert [r["repo"] for r in hooks] == ["local"]
    tools = {hook["entry"].split()[0].rpartition("/")[2] for hook in hooks[0]["hooks"]}
    check = re.search(r"^check:.*\n\t(.*)$", (HOUSE / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    assert tools == set(re.findall(r"\$\(BIN\)/([a-z-]+)", check))


# --- notebooks -------------------------------------------------------------------------------------------------------------


def test_there_are_notebooks():
    assert {"00_start", "01_collapse", "02_projector", "dimensional_collapse"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_carry_no_outputs_and_say_what_can_be_set(path):
    book = json.loads(path.read_text())
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert [c for c in code if c["outputs"] or c["execution_count"] is not None] == []
    assert {"scale", "out"} <= set(parameters_of(path))
    assert {"seed", "seeds"} & set(parameters_of(path))
    assert parameters_of(path)["scale"] in ("smoke", "cpu", "gpu")
    assert "papermill" not in book["metadata"]
    for cell in code:
        for node in ast.walk(ast.parse("".join(cell["source"]).replace("%", "#"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 8, f"{node.name} is longer than eight lines: it belongs in the library"


# --- documents -------------------------------------------------------------------------------------------------------------


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_what_a_document_links_to_exists(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (HOUSE / target).exists(), f"{path.name} links to {target}"


def test_the_five_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(HOUSE / "README.md", "python")
    lines = [line for line in example.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 5
    scope = {}
    exec(compile(example.replace("epochs=5", "epochs=1").replace("garments()", "garments(512)"), "README.md", "exec"), scope)
    table = scope["table"]
    assert set(table["measure"]) == {"rankme"}
    assert len(table) == table["layer"].nunique() >= 3
    assert (table["value"] >= 1).all()


def test_the_map_of_the_house_names_what_stands_there():
    tree = next(b for b in blocks(HOUSE / "README.md", "text") if "workbench/" in b)
    stack, mapped = [], set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first = line.split("  ")[0] if depth == 0 else line.strip().split("  ")[0]
        for name in first.split():
            stack[depth:] = [name]
            path = "/".join(part.rstrip("/") for part in stack)
            assert (HOUSE / path).exists(), f"README's map names {path}"
            assert name.endswith("/") == (HOUSE / path).is_dir(), path
            mapped.add(path)
    own = {p for p in (HOUSE / "workbench").iterdir() if not p.name.startswith("_") and p.name != "py.typed"}
    assert {str(p.relative_to(HOUSE)) for p in own} <= mapped
    assert {"apps", "notebooks", "benchmarks", "tests"} <= mapped


def test_the_objective_of_contributing_keeps_the_contract(tmp_path):
    source = next(b for b in blocks(HOUSE / "CONTRIBUTING.md", "python") if "(Objective)" in b)
    path = tmp_path / "spread.py"
    path.write_text(source)
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("spread", path))
    spec.loader.exec_module(module)
    (name,) = module.__all__
    objective, model = getattr(module, name)(), workbench.build_encoder("convnet", "16-8", width=4)
    from workbench.objectives.base import sample_embedding

    objective.begin(model, sample_embedding(model, 3, 32, 32))
    views = workbench.Views([torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)], torch.arange(8))
    terms = objective(model, views)
    terms["loss"].backward()
    assert all(torch.isfinite(t) and t.ndim == 0 for t in terms.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    arguments = inspect.signature(type(objective)).parameters
    assert {k: getattr(objective, k) for k in arguments} == {k: p.default for k, p in arguments.items()}
    assert workbench.describe(objective) == {"is": f"spread:{name}", **{k: p.default for k, p in arguments.items()}}


def test_the_log_is_dated_and_the_changelog_has_this_version():
    log = (HOUSE / "LOG.md").read_text()
    dates = re.findall(r"^## (\d{4}-\d{2}-\d{2}) ", log, flags=re.MULTILINE)
    assert dates == sorted(dates, reverse=True)
    assert re.search(rf"^## .*{re.escape(workbench.__version__)}", (HOUSE / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert workbench.__version__ == PROJECT["version"]
