# make setup | train | test | slow | lint | types | format | bench | gpu | crash | contention | endurance | architecture | pages | docs | docs-serve | docs-run | fuzz | audit | clean
# Needs Python 3.11 or later with pip, and nothing else. Everything runs setup first if that has not been done.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# The packages are installed inside `spectra` (pyproject.toml); a type checker needs to see them laid out like that.
TYPES := build/types/spectra

.PHONY: setup train test slow lint types format bench gpu crash contention endurance architecture pages docs docs-serve docs-run fuzz audit clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'spectra needs Python 3.11 or later; try make PYTHON=python3.11')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench,dev,docs,optimizers,quantised,serve,studio]"
	touch $@

train: $(READY)
	$(BIN)/spectra train --force
	@echo "To use spectra yourself:  . $(BIN)/activate"

test: $(READY)
	$(BIN)/pytest --numprocesses auto --dist loadfile

slow: $(READY)
	$(BIN)/pytest -m slow

lint: $(READY) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	@mkdir -p $(TYPES) && ln -sfn $(CURDIR)/spectra/* $(CURDIR)/kernels $(CURDIR)/cli $(CURDIR)/benchmarks $(TYPES)/
	@find -L $(TYPES) -maxdepth 1 -type l -delete
	$(BIN)/mypy -p spectra

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/spectra bench

gpu: $(READY)
	$(BIN)/spectra bench gpu --resume

# Inputs a reader, and its name, if not all: make fuzz INPUTS=1000 READER=shift
INPUTS ?= 200000
fuzz: $(READY)
	$(BIN)/python tests/helpers/fuzz.py --inputs $(INPUTS) $(if $(READER),--reader $(READER))

# Known vulnerabilities of what is installed (asks PyPI), and licences.
audit: $(READY)
	$(BIN)/python tests/helpers/dependencies.py
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; }
	build/audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

crash: $(READY)
	$(BIN)/python tests/helpers/killed_commands.py --kills 300

contention: $(READY)
	$(BIN)/python tests/helpers/cache_under_damage.py --processes 16 --seconds 60

endurance: $(READY)
	$(BIN)/python tests/helpers/long_runs.py --generations 10000 --steps 2000

architecture: $(READY)
	$(BIN)/python tests/helpers/architecture.py

# What of the documents is made from the code and the records: commands, settings, Python names, figures.
pages: $(READY)
	$(BIN)/python docs/scripts/commands_page.py
	$(BIN)/python docs/scripts/settings_page.py
	$(BIN)/python docs/scripts/python_page.py
	$(BIN)/python docs/scripts/figures.py

docs: $(READY)
	$(BIN)/zensical build --clean --strict

docs-serve: $(READY)
	$(BIN)/zensical serve

# Runs the commands of the documents, those that take minutes too, page after page: make docs-run PAGES="training mixing"
docs-run: $(READY)
	$(BIN)/python tests/helpers/docs_run.py $(PAGES)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
