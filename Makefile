# The developers' and the users' interface. `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
export MPLBACKEND := Agg

# What `make coverage` counts: recording, teleoperation, motion and deployment, without ROS and in its nodes.
WITHOUT_ROS := $(addprefix src/diwa_data/diwa_data/,$(addsuffix .py,clock interpolator motion pose ticks \
	dataset/align recording/* teleop/*)) src/diwa_deploy/diwa_deploy/*.py
WITH_ROS := src/diwa_data/diwa_data/ros/*.py src/diwa_deploy/diwa_deploy/ros/*.py

.PHONY: help setup demo test coverage check docs verify bench fuzz lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed  ## create .venv with everything in it

$(VENV)/.installed: pyproject.toml requirements.lock requirements-torch.txt .ci/setup
	@PYTHON=$(PYTHON) .ci/setup $(VENV)
	@touch $@

demo: setup  ## from recorded bags to a fine-tuned skill and its report, in runs/demo
	$(BIN)/diwa demo --out $(DEMO)

test: setup  ## all tests
	$(BIN)/python -m pytest -n 2

coverage: setup  ## lines that the tests of recording and deployment run; fails below 95 %, of the nodes below 85 %
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 src/diwa_data/test src/diwa_deploy/test
	$(BIN)/coverage combine --quiet
	@report() { $(BIN)/coverage report -m --precision=1 --fail-under=$$1 --include="$$(echo $$2 | tr ' ' ,)"; }; \
	echo "without ROS:"; report 95 "$(WITHOUT_ROS)"; status=$$?; \
	if ! $(BIN)/python -c "import rclpy" 2>/dev/null; then echo "nodes: left out, there is no rclpy"; exit $$status; fi; \
	echo "nodes:"; report 85 "$(WITH_ROS)" && exit $$status

check: setup  ## ruff, mypy and the import test
	$(BIN)/ruff check src benchmarks fuzz launch examples
	$(BIN)/ruff format --check src benchmarks fuzz launch examples
	$(BIN)/mypy
	$(BIN)/python -m pytest src/diwa_cli/test/test_project.py

docs: setup  ## the pages as a site, in build/site; a dead link or anchor fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

verify: setup  ## the long checks, on the files that `make demo` left
	DIWA_DEMO=$(abspath $(DEMO)) $(BIN)/python -m pytest -m verify -rs

bench: setup  ## measure; writes docs/results/bench_cpu.json
	$(BIN)/python benchmarks/run.py --out docs/results/bench_cpu.json

fuzz: setup  ## damage files, goals and poses at random (minutes); writes docs/results/fuzz.json and motion_fuzz.json
	$(BIN)/python fuzz/run.py --out docs/results/fuzz.json
	$(BIN)/python fuzz/motion.py --out docs/results/motion_fuzz.json

lock:  ## choose the versions of requirements.lock anew (needs uv; a version stays where it still fits)
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate --no-emit-package torch \
		$(addprefix --extra ,sim view lerobot hub ros vive webxr dev) --constraints requirements-torch.txt \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

clean:  ## remove the environment and caches, keep recordings and runs
	rm -rf $(VENV) build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
