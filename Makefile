# make demo   install into .venv, edit the bundled pictures, say where the results are
# make serve  install into .venv, serve the web page and the HTTP APIs
# make test   install into .venv, run the tests but for the few that take longest (pytest -m slow)
# make lint   install into .venv, check style and types
#
# Needs Python 3.10 to 3.13 and make. Packages are installed once; later runs need no network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export HF_HUB_OFFLINE := 1

.PHONY: demo serve test test-unit test-whole lint clean

demo: $(INSTALLED)
	$(BIN)/sfumato demo --out demo-out --force

serve: $(INSTALLED)
	$(BIN)/sfumato serve

# In two halves at once, a thread each: small networks hardly gain from a second one.
test: $(INSTALLED)
	$(MAKE) --jobs 2 test-unit test-whole

test-unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" tests/unit

test-whole: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" --ignore tests/unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else \
		'sfumato needs Python 3.10 to 3.13; choose one with: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)

# The stamp is written last, so an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build demo-out src/*.egg-info
