# make demo: reconstruct the sample. make test: lint, types and all tests. make env: only what both need.
PYTHON ?= python3
BIN := .venv/bin
# What the wheels of Open3D and PyTorch leave to the system, as Debian and Ubuntu name it.
LIBRARIES := libusb-1.0-0 libgl1 libgomp1 libx11-6

.PHONY: demo test env libraries

demo: env
	$(BIN)/recon run data/sample/images --out out/demo --overwrite

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

env: libraries $(BIN)/recon

$(BIN)/recon: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Installs nothing where all are there, there is no apt-get, or the user is not root; recon doctor tells what is missing.
libraries:
	@if ! command -v apt-get >/dev/null || dpkg -s $(LIBRARIES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
		{ apt-get -qq update; apt-get -qq install -y --no-install-recommends $(LIBRARIES); } >/dev/null \
			|| echo "apt-get failed; going on without it"; \
	else echo "If Open3D does not load: sudo apt-get install $(LIBRARIES)"; fi
