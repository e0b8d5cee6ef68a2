# make demo | test | test-all | check | lint | lpips | inception: each does all set-up by itself.
# lpips and inception fetch the weights of LPIPS, and of FID and KID. PYTHON= names another Python
# 3.11. make clean removes what all of them made.

PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,$(shell $(p) -c \
	"import sys; print('$(p)') if sys.version_info[:2] == (3, 11) else None" 2>/dev/null)))
GPU ?=
ENV := .venv/$(if $(GPU),gpu,dev).installed
RUN := .venv/bin/python

# Where an environment forbids to write byte code, every process would compile TensorFlow anew: ten
# seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all check lint lpips inception clean

# XLA looks for libdevice where the CUDA wheels put it.
demo: $(ENV)
	$(if $(GPU),XLA_FLAGS=--xla_gpu_cuda_data_dir=$$(echo .venv/lib/python*/site-packages/nvidia/cuda_nvcc)) $(RUN) demo.py

# Two processes with one thread each: one process alone does not use two cores fully, and more
# threads would compete. Each takes up to 6 GB of memory.
PYTEST := TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal --durations 25

test: $(ENV)
	$(PYTEST) -m "not slow"

# With the slow ones, which share models with the others.
test-all: $(ENV)
	$(PYTEST)

# Lint, types, and the tests of what changed since main, in under a minute.
check: lint
	$(RUN) -m tests.changed

lint: $(ENV)
	.venv/bin/ruff check .
	.venv/bin/mypy .

lpips inception: $(ENV)
	$(RUN) -m common.metric_weights $@

# The pip of Python 3.11 takes twice as long to find out what to install.
.venv/%.installed: requirements.txt requirements-dev.txt requirements-gpu.txt
	@$(if $(PYTHON),,echo "error: no Python 3.11 found (TensorFlow 2.14 supports no later one); \
	install it, e.g. 'apt install python3.11 python3.11-venv', or name it: make PYTHON=..." >&2; exit 2)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
	{ echo "error: '$(PYTHON)' is not Python 3.11, which the pinned TensorFlow 2.14 needs" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check pip==26.3
	.venv/bin/pip install --quiet --no-compile --disable-pip-version-check -r requirements-$*.txt
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache demo
