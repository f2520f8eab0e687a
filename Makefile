# Two commands on a fresh machine with Python 3.11+ and make:
#   make demo   install, and run the main job on synthetic data
#   make test   install, lint, type-check, test
# `make slow` runs the long proofs as well, `make docs` builds the site of the documentation into build/docs,
# `make bench` compares with the authors' way and with Lightning, and `make dist` builds the distributions and
# tries them. PYTHON=python3.12 chooses another Python. On Windows: in Git's bash.

VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
DEMO ?= demo

.PHONY: demo test lint style types tests slow docs bench dist clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hydrakit needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[xlsx,codecs,get,monai,onnx,hub,slurm,dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/hydrakit phantom $(DEMO)/data --patients 100
	$(BIN)/hydrakit run --strategy hydra --datasets prostatex,brain,lung,prostatex \
		--data $(DEMO)/data --out $(DEMO)/run --cache $(DEMO)/cache

lint: style types

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# The tests of a file go to one process, so that what they share is trained once.
tests: $(VENV)/installed
	$(BIN)/pytest -q -n 2 --dist loadfile

test: style
	@$(MAKE) --no-print-directory --jobs=2 types tests

slow: $(VENV)/installed
	$(BIN)/pytest -q -m slow

# Warnings are errors. Then: links within the site, nothing loaded from elsewhere, and every example of
# the pages. `make docs EXTERNAL=1` follows the links to other sites as well.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --doctree-dir build/doctrees docs build/docs
	$(if $(EXTERNAL),$(BIN)/sphinx-build --quiet -b linkcheck --doctree-dir build/doctrees docs build/linkcheck)
	$(BIN)/pytest -q -m "slow or not slow" tests/test_docs.py tests/test_links.py tests/test_plugin_docs.py tests/test_site.py

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

dist: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python tests/try_release.py dist --python $(PYTHON)

clean:
	rm -rf $(VENV) $(DEMO) build dist
