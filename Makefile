# The front door. Everything that is ordered or cached lives in the Snakefile.
#
#   make figures                 all exhibits of the miniatures, then where the reports are
#   make test                    the whole test suite
#   make figures PRESET=smol     those of the real language model (first make stamps)
#   make figures PRESET=limber   those of any other preset
#   make figures PRESET="a b"    those of several presets, side by side
#   make figures PRESET=my.yaml  a preset of one's own, by the path of its file
#   make figures PROFILE=slurm SHARDS=8    by the scheduler of a cluster (profiles/)
#   make test ARGS='-k cache'    some tests

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(shell command -v python3.11 || command -v python3 || echo python3))
VENV   ?= .venv
PRESET ?= miniature miniature-llava miniature-instructblip miniature-mplug_owl2
# How the notebooks are scheduled (profiles/), in how many shards their heavy stages; with another
# profile than local, CORES is the profile's own.
PROFILE ?= local
SHARDS ?= 1
CORES  ?= $(if $(filter local,$(PROFILE)),all)
ARGS   ?=

BIN := $(VENV)/bin
# The environment is as good as the lock that it was made from: its name carries the hash.
STAMP := $(VENV)/.installed-$(shell cksum < requirements.lock | cut -d ' ' -f 1)
RUN := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m mmn_utils.running.environment

SNAKEMAKE = $(RUN) $(BIN)/snakemake --workflow-profile profiles/$(PROFILE) \
	$(if $(CORES),--cores $(CORES))
RUNS = $(basename $(notdir $(PRESET)))  # a preset may be given by the path of its file

.PHONY: help env plan figures atlas page browser report golden site test bench lab lint miniature \
	smol variants stamps switches court lock readme clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

env: $(STAMP)  ## make or refresh the environment in .venv

# An environment that is already there is kept; pip only adds or changes what differs. The lock is
# complete, so nothing is resolved (of one package only the file inside is wanted, not what its
# code asks for), but a CUDA build of torch brings libraries of its own, which no lock can name.
$(STAMP): requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing requirements.lock into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"$$(grep '^torch==' requirements.lock)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	@$(BIN)/python -m mmn_utils.running.environment > /dev/null
	@rm -f $(VENV)/.installed-*
	@touch $@

plan: $(STAMP)  ## say what PRESET needs of this machine: operations, memory, disk, time
	@$(RUN) $(BIN)/python -m mmn_utils.running plan $(PRESET) $(ARGS)

figures: $(STAMP)  ## run the notebooks that changed, then build the report
	@$(SNAKEMAKE) --config preset="$(PRESET)" shards=$(SHARDS)
	@printf 'Report: %s\n' $(RUNS:%="$(CURDIR)/figures/%/report.html")

atlas: $(STAMP)  ## write data/atlas/PRESET: every neuron of the preset's system, to be asked
	@$(SNAKEMAKE) atlas --config preset="$(PRESET)"

page: atlas  ## write the browser's page of PRESET; STANDALONE=1: another, with its pictures inside
	@$(RUN) $(BIN)/python -m mmn_utils.browser page $(PRESET) $(if $(STANDALONE),--standalone)

browser: $(STAMP)  ## explore the neurons of a preset's system, without a notebook
	@$(RUN) $(BIN)/python -m mmn_utils.running.serve $(firstword $(PRESET)) $(ARGS)

report: $(STAMP)  ## build the reports again; STANDALONE=1: and pages that are one file each
	@$(BIN)/python -m mmn_utils.exhibits report $(RUNS) $(if $(STANDALONE),--standalone)

golden: $(STAMP)  ## say which reading of decode and of BERTScore gives back PRESET's paper's lists
	@$(RUN) $(BIN)/python -m mmn_utils.studies.golden --preset $(firstword $(PRESET)) $(ARGS)

site: $(STAMP)  ## build the static site in build/site from what is there
	@$(RUN) $(BIN)/python docs/build.py

# Without ARGS in two halves side by side, which take as long as each other, a core each.
HALF := tests/browser tests/exhibits tests/running
test: $(STAMP)  ## run the test suite; ARGS='-k cache' some of it
ifeq ($(strip $(ARGS)),)
	@mkdir -p build
	@export OMP_NUM_THREADS=1; failed=0; \
	$(RUN) $(BIN)/python -m pytest $(HALF) > build/tests.log 2>&1 & other=$$!; \
	$(RUN) $(BIN)/python -m pytest $(HALF:%=--ignore=%) || failed=1; \
	wait $$other || failed=1; cat build/tests.log; exit $$failed
else
	@$(RUN) $(BIN)/python -m pytest $(ARGS)
endif

lab: $(STAMP)  ## read and edit the notebooks in JupyterLab
	@$(RUN) $(BIN)/jupyter lab notebooks --ServerApp.ip=127.0.0.1

bench: $(STAMP)  ## run all benchmarks (half an hour): tests/benchmarks/RESULTS.md; ARGS='--only atlas'
	@OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m tests.benchmarks.results $(ARGS)

lint: $(STAMP)  ## check style with ruff
	@$(BIN)/ruff check .

miniature: $(STAMP)  ## train the miniature again from nothing (hours; resumable)
	@$(RUN) $(BIN)/python -m mmn_utils.miniature

smol: $(STAMP)  ## train the projection of smol on PHOTOGRAPHS, a folder; ARGS='--coco FOLDER' to judge
	@$(RUN) $(BIN)/python -m mmn_utils.smol "$(PHOTOGRAPHS)" $(ARGS)

variants: $(STAMP)  ## train what was tried before the miniature again (an hour of one core)
	@$(RUN) $(BIN)/python -m mmn_utils.miniature.variants
	@$(RUN) $(BIN)/python -m mmn_utils.miniature.clip --towers

# SOURCE="FOLDER or .deb" where the package is already at hand.
stamps: $(STAMP)  ## make the data set of photographed cut-outs (fetches a package of 161 MB)
	@$(RUN) $(BIN)/python -m mmn_utils.datasets.stamps $(SOURCE) $(ARGS)

# Resumable: what has been run lies in data/cache/switches.
switches: PRESET := miniature miniature-llava
switches: $(STAMP)  ## judge every claim again under every open choice (an hour of one core)
	@$(RUN) $(BIN)/python -m mmn_utils.running switches $(PRESET) $(ARGS)

# Resumable: each picture is computed once, and kept in data/cache/results. Fewer pairs shipped than
# notebook 09 asks of a preset are a trial, beside what ships (mmn_utils/running/court.py).
MODELS ?= $(PRESET)
PAIRS ?= 100
SHIP ?= 20
court: SHARDS := $(shell nproc 2> /dev/null || echo 1)
court: $(STAMP)  ## the truth of every unit, what ships of it, and notebook 09; PAIRS=, SHIP=, MODELS=
	@$(RUN) $(BIN)/python -m mmn_utils.running court $(MODELS) \
		--pairs $(PAIRS) --ship $(SHIP) --shards $(SHARDS)

lock: $(STAMP)  ## resolve the dependencies afresh and pin them
	@$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report - \
		'.[test,lab,site,smol]' torch==2.13.0 torchvision==0.28.0 timm==1.0.31 \
		transformers==5.23.0 bert-score==0.3.13 \
		| $(BIN)/python .ci/lock.py > requirements.lock.new
	@mv requirements.lock.new requirements.lock

readme: $(STAMP)  ## rewrite the README's tables
	@$(BIN)/python -m mmn_utils.exhibits readme

clean:  ## remove executed notebooks, cached results and tool caches; figures and .venv stay
	@rm -rf build data/cache/results .snakemake .pytest_cache .ruff_cache .hypothesis
