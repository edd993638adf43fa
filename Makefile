# stella: one file, no packages. Everything here needs Python 3.9 or newer, make, and for the tests pip.
# PYTHON=... picks another Python; each one gets an environment of its own under .venv/.
# `make test` runs on the oldest and the newest Python that tests/pythons.sh finds here, with PYTHONS=all on every one,
# with PYTHONS='python3.9 python3.12' on these, with PYTHON=... on that one alone.

ifndef PYTHONS
PYTHONS := $(if $(filter undefined,$(origin PYTHON)),ends,$(PYTHON))
endif
PYTHON ?= python3
PYVER  := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
TEST_ENV  = .venv/test-$(PYVER)
AUDIT_ENV = .venv/audit-$(PYVER)
BENCH_ENV = .venv/bench-$(PYVER)

# After what the machine has: on one without zstd, `make vendor` puts one there.
export PATH := $(PATH):$(CURDIR)/vendor/bin
# In CI the recipes must not wait for an answer, and pip need not say that there is a newer pip.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

# Checked by mypy --strict and ruff; vendor/fetch is Python without the ending.
SCRIPTS = .ci/run install.sh tests/demo.sh tests/pythons.sh
TYPED   = stella.py tests/gateway.py vendor/fetch vendor/kit

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-one audit bench kit release vendor clean tools

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the guide's CI recipe against a local gateway, then tamper with it
	@$(check-tools)
	@PYTHON='$(PYTHON)' sh tests/demo.sh

# Two Pythons at a time; the output of each comes in one piece, when it has ended. The oldest and the newest take what
# depends on them and a share of the rest (tests/conftest.py, SHARES): both have to be done in five minutes.
test: tools ## run the tests with the real cosign, zstd and openssl (ARGS='-k resume' picks some; PYTHONS=all)
	@pythons='$(PYTHONS)'; case $$pythons in all | ends) pythons=$$(sh tests/pythons.sh "$$pythons") || exit 1 ;; esac; \
	set -- $$pythons; [ $$# -gt 1 ] || exec $(MAKE) --no-print-directory test-one PYTHON="$$1"; \
	oldest=$$([ '$(PYTHONS)' != ends ] || echo "$$1"); logs=$$(mktemp -d); trap 'rm -rf "$$logs"' EXIT; \
	export ARGS='$(ARGS)' oldest logs MAKE='$(MAKE)'; \
	printf '%s\n' "$$@" | xargs -P 2 -I '{}' sh -c 'log=$$logs/$$$$; echo "make: the suite on {}"; status=0; \
	  case $$oldest in "") more= ;; "{}") more="--share oldest" ;; *) more="--share newest" ;; esac; \
	  $$MAKE --no-print-directory test-one PYTHON="{}" MORE="$$more" >"$$log" 2>&1 || status=1; cat "$$log"; exit $$status'

test-one: $(TEST_ENV)/installed
	$(TEST_ENV)/bin/python -m pytest -c tests/pytest.ini --rootdir=. $(MORE) $(ARGS)

audit: $(AUDIT_ENV)/installed vendor tools ## types, style, shell scripts, figures, slow tests, coverage and mutants (ARGS='-k yaml': the slow tests)
	PYTHON='$(PYTHON)' AUDIT_ENV='$(AUDIT_ENV)' SCRIPTS='$(SCRIPTS)' TYPED='$(TYPED)' sh tests/audit/run $(ARGS)

bench: $(BENCH_ENV)/installed vendor tools ## measure beside curl, openssl and others, as ratios (ARGS='watch' picks one)
	$(BENCH_ENV)/bin/python tests/bench/run.py $(ARGS)

kit: vendor ## pack dist/stella-offline-kit-VERSION.tar.gz, the same bytes each time (KEY=release.pem signs it)
	@$(PYTHON) vendor/fetch --zstd
	@$(PYTHON) vendor/kit $(if $(KEY),--key '$(KEY)')

release: vendor ## build dist/ for a server: stella.py, install.sh, the kit, SHA256SUMS; the same bytes each time (KEY=)
	@$(PYTHON) vendor/fetch --zstd
	@rm -rf dist
	@$(PYTHON) vendor/kit --release $(if $(KEY),--key '$(KEY)')

vendor: ## put the real cosign 2 and 3 into vendor/bin (what came from where: vendor/bin/COSIGN.txt)
	@$(PYTHON) vendor/fetch

clean: ## remove everything that make made
	rm -rf .venv vendor/bin dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A missing program fails here with a word on what to install; no test is skipped for it. The demo asks for no
# more than these, so that it needs no network: cosign does the work where there is one.
tools: vendor
	@$(check-tools)

define check-tools
missing=; for tool in openssl zstd; do \
  command -v "$$tool" >/dev/null || missing="$$missing $$tool"; done; \
if [ -n "$$missing" ]; then \
  echo "make: missing:$$missing; install with your package manager, for example: apt-get install$$missing" >&2; \
  exit 1; fi
endef

# An environment is made once and again only when its pins change.
$(TEST_ENV)/installed: tests/requirements.txt
	$(call make-env,$(TEST_ENV),tests/requirements.txt)

$(AUDIT_ENV)/installed: tests/requirements.txt tests/audit/requirements.txt
	$(call make-env,$(AUDIT_ENV),tests/audit/requirements.txt)

$(BENCH_ENV)/installed: tests/bench/requirements.txt
	$(call make-bench-env,$(BENCH_ENV),$<)

# What httpx pulls in is not pinned: it is measured against, not built upon.
define make-bench-env
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --requirement $(2)
	touch $(1)/installed
endef

define make-env
	rm -rf $(1)
	@$(PYTHON) -m venv $(1) || { rm -rf $(1); \
	  echo "make: $(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(1)/bin/python -m pip install --quiet --no-deps --requirement $(2)
	$(1)/bin/python -m pip check
	touch $(1)/installed
endef
