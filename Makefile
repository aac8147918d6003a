# make demo         a model is diagnosed, post-trained in stages, and the report says what each stage did
# make test         the tests; ARGS="tests/cli -k help" selects
# make test-fast    layers, maths, parts, one path through each mechanism: under two minutes on one core
# make faults       every numbered fault, provoked: docs/faults.md
# make resume       every row of the catalogue killed and resumed, bit for bit: about 25 minutes on one core; ARGS="grpo" selects
# make fuzz         10,000 inputs for every form that is read, about half an hour on one core: a result or an error in words
# make test-oldest  the tests with the oldest transformers admitted
# make parity       rows against TRL's losses on equal inputs: docs/parity.md
# make learning     each mechanism on the bottleneck it is meant for: docs/learning.md; ARGS="grpo raft" selects
# make validate     instruments and diagnosis against known truth: docs/validation.md; ARGS="exactness events" selects
# make lint         style
# make audit        known weaknesses of the packages in constraints.txt (asks a public database)
# make secrets      whatever looks like a secret in the files that git tracks; what is none carries "# pragma: allowlist secret"
# make clean        remove the environments
#
# Each sets up what it needs. Needed before: Python 3.11 or later with pip (make PYTHON=python3.12 chooses one), and for
# the tests of reasoning-gym tasks a C compiler and Python's headers.

PYTHON ?= python3
ARGS ?=
comma := ,
VENV := .venv
OLDEST := .venv-oldest
PARITY := .venv-parity
AUDIT := .venv-audit

.PHONY: demo test test-fast faults resume fuzz test-oldest parity learning validate lint audit secrets clean

demo: $(VENV)/.installed-demo
	$(VENV)/bin/offon demo --overwrite

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest $(ARGS)

test-fast: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -m "not slow" $(ARGS)

faults: $(VENV)/.installed-test
	$(VENV)/bin/python -m tests.faults.page $(ARGS)

resume: $(VENV)/.installed-test
	$(VENV)/bin/python -m tests.resume.matrix $(ARGS)

fuzz: $(VENV)/.installed-test
	OFFON_FUZZ=10000 $(VENV)/bin/python -m pytest tests/fuzz $(ARGS)

test-oldest: $(OLDEST)/.installed-test
	$(OLDEST)/bin/python -m pytest $(ARGS)

parity: $(PARITY)/.installed-test
	$(PARITY)/bin/python -m pytest -p no:cacheprovider tests/parity $(ARGS)
	$(PARITY)/bin/python -m tests.parity.table

learning: $(VENV)/.installed-test
	$(VENV)/bin/python -m benchmarks.learning --write $(ARGS)

validate: $(VENV)/.installed-test
	$(VENV)/bin/python -m studies.validation $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

audit: $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off $(ARGS)

secrets: $(AUDIT)/.installed
	git ls-files -z | xargs -0 $(AUDIT)/bin/detect-secrets-hook --exclude-lines 'def test_|canary-' $(ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) $(PARITY) $(AUDIT)

$(VENV)/.installed-demo: pyproject.toml constraints.txt
	@$(call install,$(VENV),constraints.txt,.)
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	@$(call install,$(VENV),constraints.txt,$(TESTED))
	@touch $(VENV)/.installed-demo $@

$(OLDEST)/.installed-test: pyproject.toml constraints-oldest.txt
	@$(call install,$(OLDEST),constraints-oldest.txt,$(TESTED))
	@touch $@

$(PARITY)/.installed-test: pyproject.toml constraints.txt
	@$(call install,$(PARITY),constraints.txt,.[dev$(comma)parity])
	@touch $@

$(AUDIT)/.installed:
	$(PYTHON) -m venv --without-pip $(AUDIT)
	$(PYTHON) -m pip --python $(AUDIT)/bin/python install "pip-audit>=2.9" "detect-secrets>=1.5"
	@touch $@

# The environment is filled by the pip that is there: python3 -m venv alone would want ensurepip, which some lack.
define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "offon needs Python 3.11 or later; choose one with make PYTHON=..." >&2; exit 1; }; \
$(PYTHON) -m venv --without-pip $(1) && \
$(PYTHON) -m pip --python $(1)/bin/python install -c $(2) pip -e "$(3)"
endef

# reasoning-gym brings a C extension; without a compiler its tests are skipped, and pytest says so.
COMPILES = command -v cc >/dev/null && $(PYTHON) -c 'import os, sys, sysconfig; \
	sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
TESTED = .[dev$(shell $(COMPILES) && echo ,gym || echo "no C compiler or Python headers: without reasoning-gym" >&2)]
