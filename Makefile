# Everything a newcomer types. `make help` lists it.
#
# Set-up is pinned (requirements.txt with hashes, Cargo.lock) and stays inside the checkout: .venv for
# Python, .cache for ONNX Runtime's library and Helm, target for what cargo builds.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CARGO ?= cargo
MIZZEN := target/release/mizzen
PORT_BASE ?=
KEEP ?=

# Torch is pinned for one platform; elsewhere everything but its plug-in is built and tested. The plug-in's crate
# is empty without this feature, which needs libtorch.
LIBTORCH := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),.cache/torch/stamp)
TORCH = $(if $(shell test -e .cache/torch/stamp && echo there),--features mizzen-runtime-torch/testing)

# Tests that run in the environment of Katib's SDK.
KATIB_TESTS := test_katib_sdk.py test_operator.py test_suggest.py

.PHONY: help setup build torch test lint unit doc e2e fuzz demo bench requirements bless clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(VENV)/.ready .cache/katib/.ready $(LIBTORCH) ## Install what is missing: Python packages, ONNX Runtime's library, libtorch (in .venv and .cache)

# The stamp is newer than the pins exactly when the environment matches them.
$(VENV)/.ready: requirements.txt scripts/setup.sh scripts/helm.txt scripts/models.txt
	@PYTHON=$(PYTHON) scripts/setup.sh
	@touch $@

# Katib's SDK wants an older protobuf than everything else, and so an environment of its own.
.cache/katib/.ready: scripts/katib.txt
	$(PYTHON) -m venv .cache/katib
	.cache/katib/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r scripts/katib.txt
	@touch $@

.cache/torch/stamp: scripts/torch.txt
	@PYTHON=$(PYTHON) scripts/torch.sh download
	@touch $@

torch: ## Build the plug-in that serves TorchScript; PROFILE=release for production (libtorch is downloaded once, 550 MB)
	@PYTHON=$(PYTHON) CARGO=$(CARGO) PROFILE=$(or $(PROFILE),dev) scripts/torch.sh

build: ## Build the release binary: target/release/mizzen
	$(CARGO) build --release --locked --bin mizzen

test: setup lint unit doc e2e ## Everything CI runs

lint: ## Formatting, and clippy with warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked $(TORCH) -- -D warnings

unit: setup ## Unit, property and in-process tests
	MIZZEN_TEST_PYTHON=$(CURDIR)/$(BIN)/python MIZZEN_TEST_MINILM=$(CURDIR)/.cache/models/minilm \
	MIZZEN_TEST_SMOLLM2=$(CURDIR)/.cache/models/smollm2/model.gguf \
	  $(CARGO) nextest run --workspace --locked --no-fail-fast $(TORCH)

doc: ## Examples in the documentation
	$(CARGO) test --workspace --doc --locked

e2e: setup $(if $(LIBTORCH),torch) ## The built binary against real clients
	$(CARGO) build --locked --bin mizzen
	MIZZEN=$(CURDIR)/target/debug/mizzen $(BIN)/python -m pytest tests -q $(addprefix --ignore=tests/,test_kserve_sdk.py $(KATIB_TESTS))
	# KServe's client and Triton's register the same protobuf names, so that one process holds only one.
	MIZZEN=$(CURDIR)/target/debug/mizzen $(BIN)/python -m pytest tests/test_kserve_sdk.py -q
	MIZZEN=$(CURDIR)/target/debug/mizzen .cache/katib/bin/python -m pytest $(addprefix tests/,$(KATIB_TESTS)) -q

fuzz: ## Fuzz each reader of bytes from outside; SECONDS=60 each, TARGET=name for one (nightly, cargo-fuzz)
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

demo: setup build ## The whole journey on real data, with figures; KEEP=1 leaves it up, PORT_BASE=9000 moves its ports
	@$(BIN)/python examples/digits/demo.py --mizzen $(MIZZEN) $(if $(PORT_BASE),--port-base $(PORT_BASE)) $(if $(KEEP),--keep)

bench: setup build ## The benchmarks; results go to benches/results
	@$(BIN)/python benches/run.py --mizzen $(MIZZEN)

requirements: ## Renew requirements.txt from requirements.in
	$(PYTHON) -m venv .cache/pip-tools && .cache/pip-tools/bin/pip install -q pip-tools
	.cache/pip-tools/bin/pip-compile -q --upgrade --generate-hashes --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-header -o requirements.txt requirements.in
	.cache/pip-tools/bin/pip-compile -q --upgrade --generate-hashes --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-header -o scripts/katib.txt scripts/katib.in

bless: setup ## Renew generated files: the compiled pipeline, the chart's CRDs, the reference pages
	$(BIN)/python examples/digits/pipeline.py
	MIZZEN_BLESS=1 $(CARGO) nextest run --locked -p mizzen-crds
	MIZZEN_BLESS=1 $(CARGO) nextest run --locked -p mizzen --test bounds

clean: ## Remove everything that was built or installed
	rm -rf target $(VENV) .cache data
