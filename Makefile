# SPDX-License-Identifier: GPL-2.0-only
# The habits of this project. `make run` and `make test` bring a bare Debian host all the way.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

# Debian's packages of an architecture's file: QEMU, and on a host of another architecture compiler and C library
ARCH_FILES := $(wildcard orchestrator/core/arch/*.toml)
OPTIONAL := $(shell grep -l '^optional = true' $(ARCH_FILES))
HOST_FILE := $(shell grep -l '^debian = "'"$$(dpkg --print-architecture 2>/dev/null)"'"' $(ARCH_FILES))
packages = $(shell sed -n '/^.packages.$$/,/^$$/s/^$(1) = "\(.*\)"$$/\1/p' $(2) /dev/null)
of_arches = $(call packages,qemu,$(1)) $(foreach what,gcc libc,$(call packages,$(what),$(filter-out $(HOST_FILE),$(1))))
# what a bare Debian 12 or 13 lacks: QEMU, the compilers, the kernel's build tools, Python's venv
PACKAGES := $(call of_arches,$(filter-out $(filter-out $(HOST_FILE),$(OPTIONAL)),$(ARCH_FILES))) gcc make libc6-dev \
	bc bison flex libelf-dev libssl-dev perl rsync xz-utils ccache bubblewrap git \
	python3 python3-venv ca-certificates

.DEFAULT_GOAL := help
.PHONY: help deps venv run build list lint check test test-long bench picture docs lock clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install what the host lacks (Debian, asks for root)
	@command -v dpkg-query >/dev/null || { echo 'not Debian; these must be there: $(PACKAGES)'; exit 0; }; \
	missing=; for package in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; echo "installing:$$missing"; \
	root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	echo 'some minutes, in which nothing is printed'; $$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null

venv: $(STAMP) ## what the host lacks, and the Python environment

$(STAMP): requirements.lock pyproject.toml | deps
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo 'now: . $(VENV)/bin/activate'

run: deps $(STAMP) ## the main job; ARGS='--arch arm64' for more
	$(BIN)/orchestrate run $(ARGS)

build: deps $(STAMP) ## build the kernels only
	$(BIN)/orchestrate build $(ARGS)

list: $(STAMP) ## architectures, variants, suites
	$(BIN)/orchestrate list

lint: $(STAMP) ## ruff, mypy, and the order of the rooms
	$(BIN)/ruff check orchestrator tests docs
	$(BIN)/ruff format --check orchestrator tests docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# what some tests need besides: a debugger for both architectures, ssh as the script of a cell calls it, what
# others read our output with, what draws the picture of the docs, a database server for the history
check: PACKAGES += gdb-multiarch openssh-client cpio fish zsh graphviz postgresql

check: deps $(STAMP) lint ## fast tests, a good minute on two cores
	$(BIN)/pytest -q -n auto -m 'not slow and not guest and not long'

test: check ## all that lands a change: real kernels and guests
	$(BIN)/pytest -q -n auto -m 'slow and not guest and not long'
	$(BIN)/pytest -v -m 'guest and not long' --durations=15 -o faulthandler_timeout=3000

test-long: PACKAGES += $(call of_arches,$(OPTIONAL))

test-long: $(if $(TARGET),check,test) ## repeats, broken kernels, trees of other ages: hours; TARGET=broken for these only
	$(BIN)/pytest -q -m long $(if $(TARGET),tests/*/test_$(TARGET).py)

bench: deps $(STAMP) ## speed of the tool itself, medians, side by side; alone on the machine
	$(BIN)/python tests/bench.py $(ARGS)

picture: deps $(STAMP) ## draw docs/terminal.svg anew; ARGS='run --suite maps'
	$(BIN)/python tests/picture.py $(ARGS)

docs: PACKAGES += graphviz

docs: deps $(STAMP) ## the site in build/docs, and the man pages in docs/man
	$(BIN)/sphinx-build -q -W --keep-going -c docs -d build/doctrees -b html . build/docs
	$(BIN)/sphinx-build -q -W --keep-going -c docs -d build/doctrees -b man . docs/man

lock: $(STAMP) ## renew the lock file
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--extra dev --extra docs --output-file requirements.lock pyproject.toml

clean: ## remove the environment; caches and runs stay
	rm -rf $(VENV) build dist *.egg-info
