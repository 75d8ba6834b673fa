# make quickstart   set everything up and run the main job: report in runs/quickstart/report.html
# make test         set everything up and run all checks and tests
# make audit        look for known vulnerabilities of the pinned packages
#
# Set-up is done once, and again when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
OUT ?= runs/quickstart
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2

# Tests and checks ask nothing of the network.
export HF_HUB_OFFLINE ?= 1
export LITELLM_LOCAL_MODEL_COST_MAP ?= True

.PHONY: quickstart test lint docs wheel audit clean
.DELETE_ON_ERROR:

quickstart: .venv/.run
	$(BIN)/dsd quickstart --out $(OUT)

# One thread a process, since JOBS of them share the cores: small networks are slower with two.
test: export OMP_NUM_THREADS ?= 1
test: lint docs wheel
	$(BIN)/python -m pytest -n $(JOBS)

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.dev
	$(BIN)/mkdocs build --strict --quiet

wheel: .venv/.dev
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

# Known vulnerabilities of the pinned packages; says so where their list cannot be reached.
audit:
	PYTHON=$(PYTHON) .ci/audit

clean:
	rm -rf .venv build dist site

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "constraints.txt is for Python 3.11 or newer: try make PYTHON=python3.11, or on 3.10: pip install -e ." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "Python has no ensurepip. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --quiet --constraint constraints.txt torch torchvision
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --quiet --constraint constraints.txt torch torchvision
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/.run $@
