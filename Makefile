# The README's two commands are `make demo` and `make test`. Everything lands in .venv; nothing else is needed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# torch comes first, by exact version and through pip: a CPU build offered through pip's find-links is taken.
TORCH := $(shell grep -m1 '^torch==' constraints.txt)
empty :=
space := $(empty) $(empty)
comma := ,
UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
ifneq ($(strip $(UV_FIND_LINKS)),)
export UV_FIND_LINKS
endif
TEST_WORKERS ?= auto
EMODB ?= ../shared/emodb
FERPLUS ?= ../shared/ferplus

.PHONY: help demo test lint types wheel light docs docs-serve starter bench pins clean artefacts
help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mien needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)" uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

artefacts: .venv/ready  ## the small networks that the starter reads with (10 s, cached)
	$(BIN)/mien hub pull blazeface blazeface-full-range facemesh silero-vad smart-turn

demo: artefacts  ## render a clip, predict it, write the report
	$(BIN)/mien demo demo

test: artefacts  ## the whole suite
	$(BIN)/mien hub pull openwakeword-melspectrogram openwakeword-embedding
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

lint: .venv/ready  ## ruff: style and format
	$(BIN)/ruff check src tests bench experiments
	$(BIN)/ruff format --check src tests bench experiments

types: .venv/ready  ## mypy
	$(BIN)/mypy

wheel: .venv/ready  ## build the wheel
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

LIGHT := build/light
light: wheel artefacts  ## install the wheel alone into a fresh environment, and predict a rendered clip there (2 minutes)
	rm -rf $(LIGHT)
	$(PYTHON) -m venv $(LIGHT)/venv
	$(LIGHT)/venv/bin/python -m pip install --quiet dist/mien-*.whl
	$(BIN)/mien demo $(LIGHT)/demo --seconds 4
	$(LIGHT)/venv/bin/mien predict $(LIGHT)/demo/clip.mp4 --report --overlay --out $(LIGHT)/out
	$(LIGHT)/venv/bin/mien doctor
	du -sm $(LIGHT)/venv/lib/python*/site-packages

docs: .venv/ready  ## build the documentation site into site/; a broken link or anchor is an error
	$(BIN)/zensical build --clean --strict

docs-serve: .venv/ready  ## serve the documentation on http://127.0.0.1:8000 and rebuild it on change
	$(BIN)/zensical serve --dev-addr 127.0.0.1:8000

starter: artefacts  ## train the shipped starter again (an hour; an interrupted run goes on)
	$(BIN)/python -m experiments.train_starter --ferplus $(FERPLUS) --emodb $(EMODB)

bench: artefacts  ## speed and memory (an hour, 30 GB of disk); prints the sections of docs/BENCHMARKS.md
	for one in predict extraction store; do $(BIN)/python bench/$$one.py; done

pins:  ## write constraints.txt from this environment
	(echo "# Exact versions mien is built and tested with. Regenerate with: make pins"; \
	 $(BIN)/uv pip freeze --python $(BIN)/python | grep -v -E '^(-e|mien|uv==)' | sed -E 's/\+[a-z0-9]+$$//') > constraints.txt

clean:  ## remove what make made, the environment included
	rm -rf .venv .cache dist build demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
