PYTHON ?= python3
BIN := .venv/bin

.PHONY: env test demo
env: $(BIN)/recon

$(BIN)/recon: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

demo: env
	$(BIN)/recon run data/sample/images --out out/demo --overwrite
