# A recipe installs the tools that it needs into .tools (npm packages into node_modules).

set ignore-comments := true
set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / ".tools/bin" + ":" + env("PATH")
export PYTHONDONTWRITEBYTECODE := "1"
# The tests mostly wait for processes and timeouts.
export RUST_TEST_THREADS := "12"

# A function for Lambda is linked at a fixed address, which saves 12,000 relocations at each cold start.
static := "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=-Crelocation-model=static"

without_secrets := "env -u LAUNCHDARKLY_SDK_KEY -u REDIRECT_PREVIEW_TOKEN"

# A store as the source of the flag data needs a cargo feature.
store := '''$(sed -nE 's/^source = "(dynamodb|redis)".*/--features \1/p' redirect.toml)'''

# All optional parts together, so that nothing is compiled twice.
all := "--workspace --all-features --all-targets"

usage := quote(just_executable()) + " --usage"

python_code := "tools tests benches src crates"

_default:
    @just --list --unsorted

# Send the events of events/, or the named ones, to the function in a local Lambda
[no-exit-message]
[positional-arguments]
[group('use')]
invoke *EVENTS: (_python "build")
    @python tools/invoke.py "$@"

# Run CloudFront on this machine: both sites, and a page to try the flag
[no-exit-message]
[arg("port", long="port", pattern='\d+', help="port on 127.0.0.1; 0 for any free port")]
[arg("no_open", long="no-open", value="--no-open", help="do not open the control page in a browser")]
[arg("freeze", long="freeze", value="--freeze", help="freeze the function between requests, as Lambda does")]
[arg("live", long="live", value="--live", help="use the LaunchDarkly environment of LAUNCHDARKLY_SDK_KEY, read only")]
[arg("help", long="help", short="h", value="yes", help="print this")]
[group('use')]
preview port="8080" no_open="" freeze="" live="" help="":
    #!/usr/bin/env bash
    set -euo pipefail
    [ -z "{{help}}" ] || { {{usage}} preview; echo; exit; }
    python3 tools/build.py "the function and the preview" cargo build --locked {{store}} --package redirect --package preview
    # A separate job in the terminal: Ctrl-C reaches the preview but not just, which would exit with an error.
    set -m
    target/debug/preview --port {{port}} {{no_open}} {{freeze}} {{live}} || exit

# Build the function for Lambda: target/lambda/redirect/bootstrap
[group('deploy')]
build: (_python "build")
    @{{static}} python tools/build.py "the function for Lambda" cargo lambda build --locked --release {{store}}

# Build and pack the function for Lambda@Edge: target/edge/redirect.zip (--flags FILE, --no-flags)
[no-exit-message]
[positional-arguments]
[group('deploy')]
package *OPTIONS: (_python "build")
    @python tools/package.py "$@"

# Examine key, flag, credentials, Region and quotas, and show what to do about problems
[no-exit-message]
[positional-arguments]
[group('operate')]
doctor *OPTIONS: (_python "deploy")
    @python tools/command_line.py doctor "$@"

# Show what runs, what the flag says, and what viewers got in the last minutes (an environment's name, --json)
[no-exit-message]
[positional-arguments]
[group('operate')]
status *OPTIONS: (_python "deploy")
    @python tools/command_line.py status "$@"

# Deploy site and function to AWS (an environment's name, --dry-run, --without-function, --attach, --set NAME=VALUE)
[no-exit-message]
[positional-arguments]
[group('deploy')]
deploy *OPTIONS: (_python "deploy")
    @python tools/command_line.py deploy "$@"

# Publish site/ alone, without a change of the function
[no-exit-message]
[positional-arguments]
[group('deploy')]
publish *OPTIONS: (_python "deploy")
    @python tools/command_line.py publish "$@"

# Make the previous package live again, or the one with a given hash (--list shows them)
[no-exit-message]
[positional-arguments]
[group('operate')]
rollback *OPTIONS: (_python "deploy")
    @python tools/command_line.py rollback "$@"

# Detach the function from the distribution immediately: everyone gets the current site
[no-exit-message]
[positional-arguments]
[group('operate')]
detach *OPTIONS: (_python "deploy")
    @python tools/command_line.py detach "$@"

# Delete everything that deploy created; may be interrupted and run again
[no-exit-message]
[positional-arguments]
[group('deploy')]
destroy *OPTIONS: (_python "deploy")
    @python tools/command_line.py destroy "$@"

# Print the site's address (url ENV store: the address of the flag store's webhook)
[no-exit-message]
[positional-arguments]
[group('operate')]
url *OPTIONS: (_python "deploy")
    @python tools/command_line.py url "$@"

# Print a link that shows beta to anyone who opens it, and make a token if there is none (a page's address)
[no-exit-message]
[positional-arguments]
[group('use')]
preview-link *OPTIONS: (_python "build")
    @python tools/preview_link.py "$@"

# Follow the function's log in every Region that has one (logs ENV store: flag-sync's log)
[no-exit-message]
[positional-arguments]
[group('operate')]
logs *OPTIONS: (_python "deploy")
    @python tools/command_line.py logs "$@"

# Keep the function's logs for DAYS days, in every Region that has some (retention ENV DAYS)
[no-exit-message]
[positional-arguments]
[group('operate')]
retention *OPTIONS: (_python "deploy")
    @python tools/command_line.py retention "$@"

# Deploy the flag store: table, flag-sync and its webhook (an environment's name, --dry-run, --set PARAMETER=VALUE)
[no-exit-message]
[positional-arguments]
[group('deploy')]
store-deploy *OPTIONS: (_python "deploy")
    @python tools/command_line.py store-deploy "$@"

_flag-sync: (_python "build")
    # It reads the SDK key from the place that the stack configures; none is compiled in.
    @{{without_secrets}} python tools/build.py "flag-sync for Lambda" \
        cargo lambda build --locked --release --package flag-sync --bin flag-sync --output-format zip

_flag-sync-here:
    @{{without_secrets}} python3 tools/build.py "flag-sync" cargo build --locked --release --package flag-sync

# Make the deployed table equal to LaunchDarkly now (an environment's name, `check` to compare only, --json)
[no-exit-message]
[positional-arguments]
[group('deploy')]
sync *OPTIONS: (_python "deploy")
    @python tools/command_line.py sync "$@"

# Delete everything that store-deploy created; may be interrupted and run again
[no-exit-message]
[positional-arguments]
[group('deploy')]
store-destroy *OPTIONS: (_python "deploy")
    @python tools/command_line.py store-destroy "$@"

# Run all tests in phases, as CI does, with a table of their times at the end
[no-exit-message]
[group('develop')]
test:
    @JUST_EXECUTABLE="{{just_executable()}}" python3 tests/phases.py

# Check format, clippy and the tests of the function alone, while you edit src/
[group('develop')]
check: (_python "build") (_python "test")
    cargo fmt --all --check
    cargo clippy --locked --package redirect --features regional --tests --bins -- -D warnings
    cargo test --locked --package redirect --features regional -- --skip the_package_answers_every_event

_test-setup: (_debian "redis-server:redis-server" "chromium:chromium" "npm:npm" "node:nodejs" "valgrind:valgrind") (_python "build") (_python "test") (_python "lint") (_npm "tests/stores/node") (_npm "crates/preview/tests")

# Build the package twice, in two folders, and compare the bytes
[group('develop')]
test-package: (_python "build")
    @.tools/bin/python tests/package/twice.py

# Run the tests of every crate
[group('develop')]
test-rust: (_python "test") (_npm "tests/stores/node")
    cargo test --locked --workspace --all-features

# Compile flag-sync with a deployment's optimization, which once hit a limit of the compiler
[group('develop')]
test-flag-sync:
    cargo rustc --locked --package flag-sync --bin flag-sync -- -Copt-level=2

# Count the instructions of a start and of an invocation, with the existing build
[group('develop')]
test-guard: _noop
    @[ -x target/lambda/redirect/bootstrap ] || just build
    @just _count

# Test the preview, the pictures and the pages of docs/ in a real browser
[group('develop')]
test-browser: (_npm "crates/preview/tests")
    cargo build --locked --package redirect --package preview
    node --test crates/preview/tests/*.test.mjs

# Test the decision with random requests, for half a minute
[group('develop')]
test-fuzz:
    @python3 tests/fuzz/run.py --seconds 30

# Run the tests of tools/: package, deployment and templates (arguments go to pytest)
[no-exit-message]
[positional-arguments]
[group('develop')]
test-tools *OPTIONS: (_python "test")
    @.tools/test/bin/python -m pytest -q -n auto --dist loadgroup "$@"

# Run the tests with LaunchDarkly's own Relay Proxy (needs Go); not part of `test`
[group('develop')]
test-relay: (_debian "redis-server:redis-server" "npm:npm" "node:nodejs") (_npm "tests/stores/node")
    @command -v go >/dev/null || { echo "go is missing: install Go 1.25 or newer, see https://go.dev/dl" >&2; exit 1; }
    CGO_ENABLED=0 GOBIN="$PWD/.tools/bin" go -C tests/relay install tool
    cargo build --locked --features dynamodb,redis
    cargo test --locked --package flag-sync relay:: -- --include-ignored

# Count the instructions of a cold start and of an invocation, compared with a function that does nothing
[group('develop')]
guard: (_debian "valgrind:valgrind") build _count

_noop: (_python "build")
    {{static}} cargo lambda build --locked --release --features floor --bin noop

_count: _noop
    cargo bench --locked --profile dev --bench instructions

# Compare the function with the floor and the guide in Node: start, warm, memory, size; by default all, and the stores
[arg("SETS", pattern='start|warm|memory|size|--smoke', help="start, warm, memory or size: tables, target/bench/*.json")]
[group('develop')]
bench *SETS: (_debian "npm:npm" "node:nodejs" "cmake:cmake" "taskset:util-linux" "ip:iproute2") build _noop (_python "test") (_npm "benches/guide" "")
    @python benches/packages.py
    cargo bench --locked --bench process -- {{SETS}}
    @[ -n "{{SETS}}" ] || "{{just_executable()}}" bench-stores

# Make `bench warm` and `bench memory` also compare with the function of an earlier commit
[group('develop')]
bench-before COMMIT: (_python "build")
    @python benches/packages.py {{COMMIT}}

# Put the results of the last runs of bench and fleet into docs/: tables and pictures
[group('develop')]
figures: (_python "build")
    @python benches/figures.py

# Measure the flag stores with 5,000 flags: time and requests of each step
[group('develop')]
bench-stores: (_debian "npm:npm" "node:nodejs" "redis-server:redis-server") (_npm "tests/stores/node")
    cargo bench --locked --package flag-sync --bench stores

# Measure the steps of a decision, in-process
[group('develop')]
bench-steps:
    cargo bench --locked --bench steps

# Run 100,000 invocations with random faults: no answer lost, memory flat (SEED repeats a run)
[arg("SEED", pattern='\d+', help="repeats the random faults of a run")]
[arg("help", long="help", short="h", value="yes", help="print this")]
[group('develop')]
soak SEED="1" help="": (_python "build")
    #!/usr/bin/env bash
    set -euo pipefail
    [ -z "{{help}}" ] || { {{usage}} soak; echo; exit; }
    SOAK=100000 SOAK_SEED={{SEED}} cargo test --locked --features regional --test it soak -- --nocapture

# Run a fleet of environments while the flag flips and LaunchDarkly fails: no decision too old (SEED repeats a run)
[arg("SEED", pattern='\d+', help="repeats the random faults of a run")]
[arg("RATE", pattern='[1-9]\d*', help="requests a second")]
[arg("SECONDS", pattern='[1-9]\d*', help="how long viewers send requests")]
[arg("STALENESS", pattern='[1-9]\d*', help="max_staleness_seconds of the fleet")]
[arg("help", long="help", short="h", value="yes", help="print this")]
[group('develop')]
fleet SEED="1" RATE="50" SECONDS="100" STALENESS="4" help="":
    #!/usr/bin/env bash
    set -euo pipefail
    [ -z "{{help}}" ] || { {{usage}} fleet; echo; exit; }
    bench="cargo bench --locked --profile dev --bench fleet"
    python3 tools/build.py "the fleet" $bench --no-run
    $bench --quiet -- {{SEED}} {{RATE}} {{SECONDS}} {{STALENESS}}

# Run the fleet at 1, 10 and 100 requests a second: target/fleet/curve.json, for docs/scale.md
[group('develop')]
fleet-curve:
    @cargo bench --locked --bench fleet -- curve

# Format the code
[group('develop')]
fmt: (_python "lint")
    cargo fmt --all
    @.tools/lint/bin/ruff format --quiet {{python_code}}

# Check format, clippy, ruff and mypy
[group('develop')]
lint: fmt-check lint-python
    cargo clippy --locked {{all}} -- -D warnings

[private]
fmt-check:
    cargo fmt --all --check

# Check format, lints and types of the Python code alone
[group('develop')]
lint-python: (_python "lint")
    @.tools/lint/bin/ruff format --check --quiet {{python_code}}
    @.tools/lint/bin/ruff check --quiet {{python_code}}
    @.tools/lint/bin/mypy

# Update the lock files of the Python tools (tools/requirements/*.txt, from the *.in beside them)
[group('develop')]
lock: (_python "lint")
    for list in tools/requirements/*.in; do \
        .tools/lint/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
            --python-version "$(sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)" "$list" -o "${list%.in}.txt"; \
    done

# Draw docs/invoke.svg from the output of `just invoke`
[group('develop')]
picture: (_python "build") (_python "deploy")
    @python tools/picture.py

# Build the documentation of the crates, in target/doc
[group('develop')]
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features

# Installs Debian packages whose command is missing. Each argument is command:package.
_debian +PAIRS:
    #!/usr/bin/env bash
    set -euo pipefail
    missing=()
    for pair in {{PAIRS}}; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || exit 0
    unset ${!AWS_*} ${!LAUNCHDARKLY_*} ${!REDIRECT_*} ${!FLAG_SYNC_*}
    echo "Installing Debian's ${missing[*]} ..." >&2
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq >/dev/null
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

# Installs the npm packages of a folder once, and again when its lock file changes.
_npm FOLDER SCRIPTS="--ignore-scripts":
    #!/usr/bin/env bash
    set -euo pipefail
    unset ${!AWS_*} ${!LAUNCHDARKLY_*} ${!REDIRECT_*} ${!FLAG_SYNC_*}
    cd {{FOLDER}}
    if ! cmp -s package-lock.json node_modules/.installed; then
        echo "Installing the packages of {{FOLDER}}/package-lock.json ..." >&2
        npm ci {{SCRIPTS}} --no-audit --no-fund --loglevel=error
        cp package-lock.json node_modules/.installed
    fi

# Installs a set of Python tools once, and again when its lock file changes: the tools of `just` and AWS into .tools,
# those that check the code into separate environments, which never see credentials. Only packages that the lock file
# pins by hash, only wheels, which run no code when they are installed, and without the secrets of this shell.
_python SET:
    #!/usr/bin/env bash
    set -euo pipefail
    unset ${!AWS_*} ${!LAUNCHDARKLY_*} ${!REDIRECT_*} ${!FLAG_SYNC_*}
    lock=tools/requirements/{{SET}}.txt
    case {{SET}} in test | lint) venv=.tools/{{SET}} ;; *) venv=.tools ;; esac
    mark=$venv/{{SET}}.installed
    if ! cmp -s "$lock" "$mark"; then
        echo "Installing the tools of $lock into $venv ..." >&2
        [ -x $venv/bin/python ] || python3 -m venv $venv
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock"
        cp "$lock" "$mark"
    fi
