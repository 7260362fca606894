# `make demo` and `make test` are each meant to be the first command on a fresh machine.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests that run at a time: most of them wait, for processes and the kernel. ARGS="-n 0" for a debugger.
WORKERS ?= 3
# As root, tests run directly (each in a network namespace of its own); as a user, inside a user namespace.
RUN    := $(if $(filter 0,$(shell id -u)),,unshare --user --map-root-user --net)

.PHONY: demo test soak check coverage matrix format bench bench-quick clean

demo: $(READY)
	$(BIN)/tuncer demo

test: $(READY)
	@sh .ci/packages ping:iputils-ping ip:iproute2 iperf3:iperf3 tcpdump:tcpdump unshare:util-linux sysctl:procps ethtool:ethtool udhcpc:udhcpc ab:apache2-utils escript:erlang-base tshark:tshark systemd-tmpfiles:systemd-standalone-tmpfiles
	-@sh .ci/packages runsc:runsc  # not in every Debian
	-@sh .ci/packages /usr/include/zmq.h:libzmq3-dev gcc:gcc gcc:libc6-dev && sh .ci/node $(NODE)
	$(RUN) $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

# What tests use of node: examples in JavaScript, and pyright. They are left out where it cannot be had.
NODE := .node

# Trials that take minutes: hundreds of kills and callers.
soak: $(READY)
	$(RUN) $(BIN)/pytest tests/*/soak_*.py $(ARGS)

# Of the processes that the tests start, too: each writes a file of its own.
coverage: $(READY)
	$(BIN)/coverage erase
	$(RUN) $(BIN)/coverage run -m pytest -n 0 $(ARGS)
	$(BIN)/coverage combine
	$(BIN)/coverage report

# The source distribution's `make test` on other releases of Debian: other Pythons, other Erlangs.
matrix: $(READY)
	@sh .ci/packages debootstrap:debootstrap bwrap:bubblewrap
	@sh .ci/matrix $(SUITES)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# supervisord's package has the name of ours: the peers have an environment of their own.
PEERS := .venv-peers/bin/python

bench: $(READY) $(PEERS)
	@sh .ci/packages erlc:erlang-base gcc:gcc gcc:libc6-dev iperf3:iperf3
	$(BIN)/python tests/benchmarks $(PEERS) $(ROUNDS)

bench-quick: $(READY)
	@sh .ci/packages gcc:gcc gcc:libc6-dev iperf3:iperf3
	$(BIN)/python tests/benchmarks

$(PEERS): Makefile
	@sh .ci/packages gcc:gcc gcc:libc6-dev python3-config:python3-dev  # python-pytun is C
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet pykka supervisor circus setuptools python-pytun pyzmq

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml
	@sh .ci/packages ip:iproute2 ping:iputils-ping unshare:util-linux
	@PYTHON=$(PYTHON) sh .ci/venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers .matrix $(NODE) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
