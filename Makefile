# The commands of the house. The first that needs it makes .venv; it is made anew only when pyproject.toml or constraints.txt change.
.DEFAULT_GOAL := help
.PHONY: help demo test reproduce lab apps notebooks bench check constraints

VENV ?= .venv
BIN := $(VENV)/bin
SCALE ?= cpu
ALL := notebooks/*.ipynb notebooks/papers/*.ipynb
NAME ?= $(ALL)
SERVE ?= 1
PYTHON ?= $(shell for p in python3 python python3.11 python3.12 python3.13 python3.14; do $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

demo test: export OMP_NUM_THREADS = 1  # small networks: no slower on two cores, ten times faster where other work runs beside

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 18

demo: $(VENV)/apps.installed  ## train on real garments (at most 2 minutes on a CPU), run the start notebook on it, serve the apps (SERVE=0: do not)
	$(BIN)/workbench train --data garments --objective simclr --backbone convnet --projector 256-128 --views rerender --set objective.temperature=0.2 --lr 2e-3 --epochs 10 --minutes 2 --out runs/demo --resume
	$(BIN)/workbench replay runs/demo
	$(BIN)/workbench reproduce 00_start -p scale smoke -p run runs/demo
	@[ "$(SERVE)" = 0 ] || $(BIN)/workbench apps runs/demo

test: $(VENV)/dev.installed  ## the tests, at most 15 minutes on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 15

reproduce: $(VENV)/apps.installed  ## every notebook by papermill at full size, the tables into out/ (NAME=dimensional_collapse SCALE=gpu)
	$(BIN)/workbench reproduce $(NAME) -p scale $(SCALE)
	@[ "$(NAME)" != "$(ALL)" ] || $(BIN)/workbench reproduce dimensional_collapse -p scale $(SCALE) -p views redrawn --out out/dimensional_collapse_redrawn

lab: $(VENV)/apps.installed  ## JupyterLab on the notebooks
	$(BIN)/workbench lab

apps: $(VENV)/apps.installed  ## the apps, on the runs in runs/
	$(BIN)/workbench apps

notebooks: $(VENV)/apps.installed  ## every notebook at smoke scale, rendered with its outputs into out/
	$(BIN)/workbench reproduce $(ALL) --html -p scale smoke

bench: $(VENV)/bench.installed  ## speed beside the peers
	for f in benchmarks/*.py; do $(BIN)/python $$f || exit 1; done

check: $(VENV)/dev.installed  ## style, import rules, spelling, notebooks without outputs
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/codespell *.md workbench apps benchmarks notebooks tests && $(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb notebooks/papers/*.ipynb

constraints: $(VENV)/dev.installed  ## write constraints.txt from what is installed
	( head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -v @ | sed 's/+.*//' | tr A-Z_ a-z- | sort ) > constraints.new && mv constraints.new constraints.txt

$(VENV)/%.installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed, with venv (Debian: apt-get install python3-venv); or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time, about 7 GB"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@
