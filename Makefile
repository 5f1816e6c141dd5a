# Each target sets up what it needs: only python3 (3.12 or newer) and make are taken for granted.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check format lint layers types drift notebooks tests lab peers bench report lock docs readme export notebook install system clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
# One environment for every process: see nbs/foundation/04_settings.ipynb.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export OTEL_SDK_DISABLED := true
export AWS_EC2_METADATA_DISABLED := true
export NO_GCE_CHECK := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PANEL_NOTEBOOK_RESOURCES := jupyter
export JUPYTER_CONFIG_PATH := $(CURDIR)/environments/jupyter
export UV_SYSTEM_CERTS := true
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export JUPYTER_PLATFORM_DIRS := 1
ifeq ($(shell uname -m),x86_64)
export OPENBLAS_CORETYPE := Haswell
endif

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r a b; do printf '  make %-18s %s\n' "$$a" "$$b"; done

# --- the environment ---------------------------------------------------------------------------

$(UV): environments/uv.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "researchkit needs python3 3.12 or newer, found $$(python3 --version)"; exit 1; }
	@echo "fetching uv into .uv"; python3 -m venv .uv
	@.uv/bin/pip --disable-pip-version-check install -q --require-hashes -r environments/uv.lock 2>&1 | grep -v '^WARNING: Location' || test -x $(UV)
	@touch $(UV)

$(VENV)/.core: $(UV) environments/core.lock settings.ini setup.py
	@test -x $(BIN)/python || $(UV) venv -q --python "$$(python3 -c 'import sys; print(sys.executable)')" $(VENV)
	@echo "installing the locked environment into $(VENV): 1.6 GB, a minute or two, silent"
	@VIRTUAL_ENV=$(VENV) $(UV) pip install -q --require-hashes --compile-bytecode -r environments/core.lock
	@VIRTUAL_ENV=$(VENV) $(UV) pip install -q --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core environments/dev.lock
	@echo "adding what development needs"
	@VIRTUAL_ENV=$(VENV) $(UV) pip install -q --require-hashes --compile-bytecode -r environments/dev.lock
	@touch $@

install: $(VENV)/.dev ## build .venv from the locks

system: ## install the Debian packages that the tests need: browser, PostgreSQL, Ceph
	@missing=""; for p in $$(grep -v '^#' environments/debian-packages.txt); do dpkg -s "$$p" >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	else echo "these Debian packages are missing; run: sudo apt-get install -y --no-install-recommends$$missing"; exit 1; fi

# --- what people type --------------------------------------------------------------------------

demo: $(VENV)/.core ## watch real prices travel from vendor bytes to a verdict (3 minutes)
	@$(BIN)/researchkit demo $(DEMO)

lab: $(VENV)/.core ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=.

test: check system tests ## everything that must always hold (CI runs this)

check: format lint layers types drift ## format, lint, layers, types, drift

format: $(VENV)/.dev
	@$(BIN)/ruff format --check -q nbs papermill_jobs tests environments setup.py && echo "format: clean"
lint: $(VENV)/.dev
	@$(BIN)/ruff check -q researchkit nbs papermill_jobs tests environments setup.py && echo "lint: clean"
layers: $(VENV)/.dev
	@$(BIN)/pytest tests/house/test_layers.py
types: $(VENV)/.dev
	@$(BIN)/mypy
drift: $(VENV)/.dev
	@$(BIN)/pytest tests/house/test_drift.py

notebooks: $(VENV)/.dev ## every page as it stands; `make test` runs them against the package and compares what they show
	@$(BIN)/nbdev-test --n-workers 2

tests: $(VENV)/.dev
	@$(BIN)/pytest -n 2 --dist loadgroup --durations 10 tests --ignore tests/house/test_drift.py --ignore tests/house/test_layers.py
	@$(BIN)/python tests/house/report.py

.peers/%/.done: environments/peer-%.lock $(UV)
	@echo "building the environment of $* for the benchmarks"
	@$(UV) venv -q --clear --python "$$(python3 -c 'import sys; print(sys.executable)')" $(@D)
	@VIRTUAL_ENV=$(@D) $(UV) pip install -q --require-hashes -r $<
	@touch $@
.PRECIOUS: .peers/%/.done
peers: .peers/vectorbt/.done .peers/raptorbt/.done ## the environments of what is measured against

bench: $(VENV)/.dev ## speed against a peer or a limit in the same run; DATE=2026-11-22 also writes nbs/results/
	@$(MAKE) --no-print-directory peers || echo "without peers: what is measured against them is left out and said"
	@$(BIN)/python tests/bench/measuring.py $(if $(DATE),--date $(DATE))

study-%: $(VENV)/.dev ## long proofs, a page each: demo-kills, kills, large-object, fuzz, vendor-faults, quality, inference, calibration
	@$(BIN)/python tests/studies/$(subst -,_,$*).py

# --- authoring ---------------------------------------------------------------------------------

export: $(VENV)/.dev ## notebooks to package
	@$(BIN)/python environments/notebook.py --no-run

report: $(VENV)/.dev ## exported lines and words of prose, page by page
	@$(BIN)/python tests/house/report.py

notebook: $(VENV)/.dev ## run one notebook, keep its outputs, clean, export: make notebook NB=nbs/…
	@$(BIN)/python environments/notebook.py $(NB)

readme: $(VENV)/.dev ## README.md from nbs/index.ipynb
	@$(BIN)/python environments/docs.py readme

docs: $(VENV)/.dev ## HTML pages of every notebook into _docs, without Quarto
	@$(BIN)/python environments/docs.py html

lock: $(UV) ## solve the locks again from settings.ini
	@python3 environments/lock.py $(UV)

clean: ## remove what can be rebuilt
	@rm -rf .venv .uv .peers _docs .mypy_cache .ruff_cache .pytest_cache build *.egg-info
