# Brings up its own environment: uv by pip, everything else by uv from the lock files under requirements/.
SHELL := /bin/bash
PYTHON ?= python3
UV := .venv/uv/bin/uv
RUN := .venv/bin
# The tests start hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

PEERS := tests/interop/node_modules/.package-lock.json
SERVERS := tests/interop/servers/node_modules/.package-lock.json
DEBIAN := ca-certificates chromium curl glewlwyd haproxy libio-string-perl liblemonldap-ng-portal-perl \
	libplack-perl libstring-random-perl nginx-light redis-server squid-openssl strace systemd tinyproxy-bin
NEEDS := .venv/ready .venv/langchain/ready .venv/servers/ready $(PEERS) $(SERVERS) debian
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: debian test stable interop test-all simulate operations mutants lint demo chaos scale soak bench bench-bridge pictures docs dist sbom conformance servers fuzz format lock clean

# Four at once on two cores: most of them wait for a server. Each run has another order, by the seed that it prints.
test: $(NEEDS)
	$(RUN)/pytest -n 4 --dist worksteal

# Ten runs in a row, with every core busy beside them.
stable: $(NEEDS)
	$(RUN)/python -m tests.stable

# Each client of MCP at each server, directly and through each door of the bridge: `make test` tries a sample.
interop: $(NEEDS)
	$(RUN)/pytest -n 4 --dist worksteal -m "" tests/interop/both_doors

# On each Python that is installed, and with the lowest and the highest version of each dependency.
test-all: $(NEEDS)
	$(RUN)/python -m tests.everywhere

# A hundred thousand simulated fleets among faults, and each rule of their protocol broken on purpose.
simulate: .venv/ready
	$(RUN)/python -m tests.simulation

# What operations do to a fleet and its store, on real servers; writes docs/fleet-report.md.
operations: .venv/ready debian
	command -v cc >/dev/null || $(SUDO) apt-get install -y -qq --no-install-recommends gcc libc6-dev
	$(RUN)/python -m tests.operations

# Changes the code in small ways, and names each change that no test notices.
mutants: .venv/ready .venv/mutants/ready
	$(RUN)/python -m tests.mutants $(MODULES)

lint: .venv/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	PYRIGHT_PYTHON_GLOBAL_NODE=off $(RUN)/pyright
	$(RUN)/lint-imports
	$(RUN)/codespell
	$(RUN)/python -m tests.docs.prose

demo: .venv/ready
	$(RUN)/conduit-oauth demo

scale: .venv/bench/ready
	.venv/bench/bin/python bench/scale.py

bench: .venv/bench/ready .venv/ready debian
	.venv/bench/bin/python bench/run.py
	$(RUN)/python bench/fleet.py
	$(RUN)/python bench/command.py

soak: .venv/ready
	$(RUN)/python bench/agent.py

bench-bridge: .venv/ready .venv/mcp-proxy/ready debian
	command -v wrk >/dev/null || $(SUDO) apt-get install -y -qq --no-install-recommends wrk
	$(RUN)/python bench/bridge.py

chaos: .venv/ready debian
	$(RUN)/python -m tests.chaos

conformance: .venv/ready $(PEERS)
	$(RUN)/python -m tests.interop.conformance

# Tries every capability at every authorization server, and writes docs/servers.md.
servers: .venv/ready .venv/servers/ready $(PEERS) $(SERVERS) debian
	$(RUN)/python -m tests.interop.servers.page
	$(RUN)/pytest -q tests/interop/servers

fuzz: .venv/fuzz/ready
	set -e; for target in challenge metadata token_response; do .venv/fuzz/bin/python -m tests.fuzz.run $$target 60; done

format: .venv/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# A lock names versions and hashes only, no index: whoever installs says where from.
COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml
lock: $(UV)
	$(UV) $(COMPILE) --upgrade --all-extras -o requirements/runtime.lock
	$(UV) $(COMPILE) --upgrade --all-extras --group test -o requirements/test.lock
	$(UV) $(COMPILE) --upgrade --all-extras --group bench -o requirements/bench.lock
	$(UV) $(COMPILE) --upgrade --all-extras --group fuzz -o requirements/fuzz.lock
	$(UV) $(COMPILE) --upgrade --group langchain -o requirements/langchain.lock
	$(UV) $(COMPILE) --upgrade --group servers -o requirements/servers.lock
	$(UV) $(COMPILE) --upgrade --group mcp-proxy -o requirements/mcp-proxy.lock
	$(UV) $(COMPILE) --upgrade --group mutants -o requirements/mutants.lock
	$(UV) $(COMPILE) --upgrade --group sbom -o requirements/sbom.lock

$(UV):
	$(PYTHON) -m pip install --quiet --target .venv/uv uv==0.13.9

# What is released, the same bytes from the same sources, and a run of it as a user has it.
dist: .venv/ready
	rm -rf dist
	$(RUN)/hatchling build -d dist
	cd dist && sha256sum * | tee SHA256SUMS
	$(UV) tool run --isolated --constraints <(sed -n 's/^\([a-z0-9._-]*==[^ ;]*\).*/\1/p' requirements/runtime.lock) \
		--from "conduit-oauth[cli] @ file://$$(ls $(CURDIR)/dist/*.whl)" conduit-oauth --help >/dev/null

sbom: .venv/sbom/ready
	.venv/sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
		-o packaging/sbom.cdx.json requirements/runtime.lock

pictures: .venv/ready $(PEERS) debian
	CONDUIT_OAUTH_PICTURES=docs/pictures $(RUN)/pytest -q tests/agent/test_status_page.py tests/docs/test_pictures.py

docs: .venv/ready
	$(RUN)/python -m tests.docs.reference
	$(RUN)/mkdocs build --strict

.venv/ready: pyproject.toml requirements/test.lock | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(RUN)/python --require-hashes requirements/test.lock
	$(UV) pip install --quiet --python $(RUN)/python --no-deps -e .
	touch $@

# Debian's own servers, Chromium and systemd, which the release of the system pins; an index is asked for only where none
# is at hand.
debian:
	dpkg --status $(DEBIAN) >/dev/null 2>&1 || { \
		export DEBIAN_FRONTEND=noninteractive; \
		install="$(SUDO) apt-get install -y -qq --no-install-recommends $(DEBIAN)"; \
		$$install || { $(SUDO) apt-get update -qq && $$install; }; }

# The peers of the interop tests run on the Node that the virtual environment brought.
$(PEERS): tests/interop/package-lock.json .venv/ready
	cd tests/interop && PATH="$(CURDIR)/$(RUN):$$PATH" npm ci --silent --no-audit --no-fund
	touch $@

$(SERVERS): tests/interop/servers/package-lock.json .venv/ready
	cd tests/interop/servers && PATH="$(CURDIR)/$(RUN):$$PATH" npm ci --silent --no-audit --no-fund
	touch $@

# Environments of their own, for what does not go together with the rest.
.venv/%/ready: pyproject.toml requirements/%.lock | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/$*
	$(UV) pip sync --quiet --python .venv/$*/bin/python --require-hashes requirements/$*.lock
	$(UV) pip install --quiet --python .venv/$*/bin/python --no-deps -e .
	touch $@

clean:
	rm -rf .venv dist
