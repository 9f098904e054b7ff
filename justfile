# Tools that a recipe needs are installed into .tools (and node_modules, for what comes from npm).

set ignore-comments := true
set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / ".tools/bin" + ":" + env("PATH")
export PYTHONDONTWRITEBYTECODE := "1"
# The tests wait for processes and time-outs more than they compute.
export RUST_TEST_THREADS := "8"

# How a function for Lambda is built: at a fixed address, which saves 12,000 relocations at each cold start.
static := "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=-Crelocation-model=static"

# Every optional part at once, so that nothing is compiled twice.
all := "--workspace --all-features --all-targets"

_default:
    @just --list --unsorted

# Send every event of events/, or the named ones, to the function in a local Lambda
invoke *EVENTS: (_python "build")
    @python src/tools/invoke.py {{EVENTS}}

# CloudFront on this machine: both sites and a page to play with the flag (--freeze, --live, --port N, --no-open)
preview *OPTIONS:
    cargo build --package redirect --package preview
    @exec target/debug/preview {{OPTIONS}}

# Run all tests, as CI does
test: (_debian "redis-server:redis-server" "chromium:chromium" "npm:npm" "node:nodejs" "valgrind:valgrind") (_python "build") (_python "test") (_python "stores") (_npm "tests/stores/node") (_npm "crates/preview/tests") fmt-check lint doc
    @.tools/bin/python tests/package/twice.py
    cargo test --workspace --all-features
    # As a deployment optimises: it met a limit of the compiler that no other build here does.
    cargo rustc --package flag-sync --bin flag-sync -- -Copt-level=2
    @just _count
    node --test crates/preview/tests/*.test.mjs
    @.tools/bin/python -m pytest -q -n 4 tests/deploy
    @.tools/bin/python tests/fuzz/run.py --seconds 30

# Run the tests with LaunchDarkly's own Relay Proxy, which Go builds; not part of `test`
test-relay: (_debian "redis-server:redis-server" "npm:npm" "node:nodejs") (_npm "tests/stores/node")
    @command -v go >/dev/null || { echo "go is missing: install Go 1.25 or newer, see https://go.dev/dl" >&2; exit 1; }
    CGO_ENABLED=0 GOBIN="$PWD/.tools/bin" go -C tests/relay install tool
    cargo build --features dynamodb,redis
    cargo test --package flag-sync relay:: -- --include-ignored

# Count the instructions of a cold start and of an invocation, beside those of a function that does nothing
guard: (_debian "valgrind:valgrind") build _count

_noop: (_python "build")
    {{static}} cargo lambda build --release --features floor --bin noop

_count: _noop
    cargo bench --profile dev --bench instructions

# The function beside the floor and the guide's handler in Node, and the stores with 5,000 flags: tables, docs/bench.svg
bench: (_debian "npm:npm" "node:nodejs" "cmake:cmake" "taskset:util-linux") build _noop (_python "test") (_npm "benches/guide" "") && bench-stores
    @python benches/packages.py
    cargo bench --bench process

# The flag stores with 5,000 flags: time and requests of each step
bench-stores: (_debian "npm:npm" "node:nodejs" "redis-server:redis-server") (_npm "tests/stores/node")
    cargo bench --package flag-sync --bench stores

# The steps of a decision, in-process
bench-steps:
    cargo bench --bench steps

# 100,000 invocations with faults at random: no answer lost, memory flat (SEED repeats a run)
soak SEED="1": (_python "build")
    SOAK=100000 SOAK_SEED={{SEED}} cargo test --features regional --test it soak -- --nocapture

# A fleet of environments while the flag flips and LaunchDarkly fails: no decision too old (SEED repeats a run). Draws target/fleet/curve.svg
fleet SEED="1" RATE="50" SECONDS="100" STALENESS="4":
    @cargo bench --profile dev --bench fleet -- {{SEED}} {{RATE}} {{SECONDS}} {{STALENESS}}

# Build the function for Lambda: target/lambda/redirect/bootstrap
build: (_python "build")
    # A store as the source of the flag data is a feature of its own.
    {{static}} cargo lambda build --release \
        $(sed -nE 's/^source = "(dynamodb|redis)".*/--features \1/p' redirect.toml)

# Build and pack the function for Lambda@Edge: target/edge/redirect.zip (--flags FILE, --no-flags)
package *OPTIONS: build
    @python src/tools/package.py {{OPTIONS}}

# Key, flag, credentials, Region and quotas: what is wrong, and what to do about it
doctor ENV="production": (_python "deploy")
    @python src/tools/command_line.py doctor {{ENV}}

# Put site and function on AWS (an environment's name, --dry-run, --without-function, --set PARAMETER=VALUE)
deploy *OPTIONS: (_python "deploy")
    @[[ " {{OPTIONS}} " =~ " --dry-run " || " {{OPTIONS}} " =~ " --without-function " ]] || just package
    @python src/tools/command_line.py deploy {{OPTIONS}}

# Take the function off the distribution at once: everyone gets the current site
detach ENV="production": (_python "deploy")
    @python src/tools/command_line.py detach {{ENV}}

# Delete everything that deploy made; may be interrupted and run again
destroy ENV="production": (_python "deploy")
    @python src/tools/command_line.py destroy {{ENV}}

# Print the site's address (url ENV store: that of the flag store's webhook)
url ENV="production" PART="edge": (_python "deploy")
    @python src/tools/command_line.py url {{ENV}} {{PART}}

# Follow the function's log in every Region where viewers were (logs ENV store: flag-sync's log)
logs ENV="production" PART="edge": (_python "deploy")
    @python src/tools/command_line.py logs {{ENV}} {{PART}}

# Put the flag store on AWS: table, flag-sync and its webhook (an environment's name, --dry-run, --set PARAMETER=VALUE)
store-deploy *OPTIONS: (_python "deploy")
    @[[ " {{OPTIONS}} " =~ " --dry-run " ]] || just _flag-sync
    @python src/tools/command_line.py store-deploy {{OPTIONS}}

_flag-sync: (_python "build")
    # It reads the SDK key where the stack says; none is compiled in.
    env -u LAUNCHDARKLY_SDK_KEY cargo lambda build --release --package flag-sync --bin flag-sync --output-format zip

# Make the deployed table equal to LaunchDarkly now (an environment's name, check to compare only, --json)
sync *OPTIONS: (_python "deploy")
    @env -u LAUNCHDARKLY_SDK_KEY cargo build --release --package flag-sync
    @python src/tools/command_line.py sync {{OPTIONS}}

# Delete everything that store-deploy made; may be interrupted and run again
store-destroy ENV="production": (_python "deploy")
    @python src/tools/command_line.py store-destroy {{ENV}}

# Format the code
fmt:
    cargo fmt --all

# Clippy without a warning
lint:
    cargo clippy {{all}} -- -D warnings

[private]
fmt-check:
    cargo fmt --all --check

# The documentation of the crate, in target/doc
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# Installs Debian packages whose command is missing; each is given as command:package.
_debian +PAIRS:
    #!/usr/bin/env bash
    set -euo pipefail
    missing=()
    for pair in {{PAIRS}}; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || exit 0
    echo "Installing Debian's ${missing[*]} ..." >&2
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq >/dev/null
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

# Installs the npm packages of a folder once, and again when its lock file changes.
_npm FOLDER SCRIPTS="--ignore-scripts":
    #!/usr/bin/env bash
    set -euo pipefail
    cd {{FOLDER}}
    if ! cmp -s package-lock.json node_modules/.installed; then
        echo "Installing the packages of {{FOLDER}}/package-lock.json ..." >&2
        npm ci {{SCRIPTS}} --no-audit --no-fund --loglevel=error
        cp package-lock.json node_modules/.installed
    fi

# Installs a set of Python tools once, and again when its list changes.
_python SET:
    #!/usr/bin/env bash
    set -euo pipefail
    list=src/tools/requirements-{{SET}}.txt
    mark=.tools/{{SET}}.installed
    if ! cmp -s "$list" "$mark"; then
        echo "Installing the tools of $list into .tools ..." >&2
        [ -x .tools/bin/python ] || python3 -m venv .tools
        .tools/bin/python -m pip install --quiet --disable-pip-version-check -r "$list"
        cp "$list" "$mark"
    fi
