"""Checks before a build, the environment of a build, and --help."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import command_line
import recipe
import status
from failure import Failure
from harness import CANARY, ROOT, TOKEN

COMMANDS = (
    "deploy",
    "status",
    "publish",
    "rollback",
    "detach",
    "destroy",
    "url",
    "logs",
    "retention",
    "doctor",
    "store-deploy",
    "store-destroy",
    "sync",
)


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_recipe_and_describes_each_argument(cloud, command):
    with pytest.raises(SystemExit) as ended:
        cloud(command, "--help")
    assert ended.value.code == 0
    text = cloud.capsys.readouterr().out
    assert text.startswith(f"usage: just {command} [-h]")
    assert "ENV" in text
    assert cloud.recipes == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_argument_fails_before_anything_is_built(cloud, command):
    with pytest.raises(SystemExit) as ended:
        cloud(command, "production", *(["30"] if command == "retention" else []), "--bogus")
    assert ended.value.code == 2
    err = cloud.capsys.readouterr().err
    assert f"usage: just {command} " in err
    assert "--bogus" in err
    assert (cloud.recipes, cloud.calls) == ([], [])


@pytest.mark.parametrize("command", ["deploy", "store-deploy", "sync"])
def test_nothing_is_built_without_credentials(cloud, monkeypatch, command):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    status, _, err = cloud(command)
    assert status in (1, 2)
    assert "Sign in with aws login, aws sso login or aws configure" in err
    assert cloud.recipes == []


@pytest.mark.parametrize("key", ["", "mob-1", "two words"])
def test_nothing_is_built_without_an_sdk_key(cloud, monkeypatch, key):
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", key)
    assert "LAUNCHDARKLY_SDK_KEY" in cloud.fails("deploy")
    assert (cloud.recipes, cloud.calls) == ([], [])


def test_nothing_is_built_for_a_stack_that_cannot_be_changed(cloud):
    cloud.does("deploy")
    cloud.does("store-deploy")
    cloud.recipes.clear()
    for command, stack in (("deploy", "redirect-production"), ("store-deploy", "redirect-production-flags")):
        cloud.stack(stack).state = "UPDATE_ROLLBACK_FAILED"
        assert "continue-update-rollback" in cloud.fails(command)
    assert cloud.recipes == []


def test_each_command_builds_what_it_needs(cloud):
    cloud.does("deploy")
    cloud.does("deploy", "staging", "--without-function")
    cloud.does("store-deploy")
    assert cloud.recipes == [("package", CANARY), ("_flag-sync", "")]


def test_the_preview_token_is_only_compiled_in(cloud, monkeypatch):
    monkeypatch.setenv("REDIRECT_PREVIEW_TOKEN", TOKEN)
    cloud.does("deploy")
    cloud.does("store-deploy")
    assert cloud.tokens == [TOKEN, ""]


def test_nothing_is_built_with_an_invalid_preview_token(cloud, monkeypatch):
    monkeypatch.setenv("REDIRECT_PREVIEW_TOKEN", "too short")
    err = cloud.fails("deploy")
    assert "REDIRECT_PREVIEW_TOKEN is not a valid preview token" in err and "too short" not in err
    assert (cloud.recipes, cloud.calls) == ([], [])


@pytest.mark.parametrize(("key", "token"), [("", ""), (CANARY, ""), (CANARY, TOKEN)])
def test_a_build_sees_no_credentials_and_secrets_only_if_they_are_passed(tmp_path, monkeypatch, key, token):
    seen = tmp_path / "seen.json"
    just = tmp_path / "just"
    dump = f"json.dump([sys.argv[1:], dict(os.environ)], open({str(seen)!r}, 'w'))"
    just.write_text(f"#!{sys.executable}\nimport json, os, sys\n{dump}\n")
    just.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-another")
    monkeypatch.setenv("REDIRECT_PREVIEW_TOKEN", "another-token-0123")
    recipe.run("build", key, token)
    arguments, environment = json.loads(seen.read_text())
    assert arguments == ["--justfile", str(ROOT / "justfile"), "build"]
    assert environment.get("LAUNCHDARKLY_SDK_KEY", "") == key
    assert environment.get("REDIRECT_PREVIEW_TOKEN", "") == token
    assert [name for name in environment if name.startswith("AWS_")] == []


def test_a_failed_build_ends_the_command(tmp_path, monkeypatch):
    just = tmp_path / "just"
    just.write_text("#!/bin/sh\nexit 3\n")
    just.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Failure, match="just package failed"):
        recipe.run("package")


def test_a_profiles_credential_process_does_not_see_the_secrets(cloud, monkeypatch, tmp_path):
    """botocore runs a profile's credential_process with the environment of the command."""
    program = tmp_path / "credentials"
    program.write_text(
        '#!/bin/sh\nenv > "$0.seen"\n'
        'echo \'{"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "example"}\'\n'
    )
    program.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile mine]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIRECT_PREVIEW_TOKEN", TOKEN)
    cloud.does("deploy")
    seen = (tmp_path / "credentials.seen").read_text()
    assert "AWS_PROFILE=mine" in seen
    assert CANARY not in seen and TOKEN not in seen
    assert (cloud.recipes, cloud.tokens) == ([("package", CANARY)], [TOKEN])


def test_package_rejects_an_unknown_argument():
    done = run(ROOT / "tools/package.py", "--bogus")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: just package [-h]")


# ---- The recipes and their output ------------------------------------------------------------------------------------


def listed():
    """The recipes that `just` lists."""
    dump = ["just", "--justfile", str(ROOT / "justfile"), "--dump", "--dump-format", "json"]
    recipes = json.loads(subprocess.run(dump, env=with_just(), check=True, capture_output=True).stdout)["recipes"]
    return {name: found for name, found in recipes.items() if not found["private"]}


def with_just():
    return {**os.environ, "PATH": f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}"}


def test_every_recipe_has_a_group_and_a_description():
    for name, found in listed().items():
        (group,) = [entry["group"] for entry in found["attributes"] if "group" in entry]
        assert group in ("use", "deploy", "operate", "develop"), name
        assert found["doc"], name


def test_every_recipe_supports_help():
    """Before it builds anything. The commands are tested above; test-tools has pytest's help."""
    asked = {}
    for name, found in listed().items():
        if any("tools/command_line.py" in str(line) for line in found["body"]):
            assert name in COMMANDS
        elif name != "test-tools":
            asked[name] = subprocess.Popen([ROOT / "tools/just", name, "--help"], stdout=subprocess.PIPE, text=True)
    assert len(asked) > 20
    for name, process in asked.items():
        out, _ = process.communicate()
        assert process.returncode == 0, name
        assert out.lower().startswith(f"usage: just {name}"), out


@pytest.mark.parametrize(
    ("command", "reported"),
    [
        ("preview --bogus", "`preview` does not have option `--bogus`"),
        ("preview --port x", "does not match pattern"),
        ("fleet 1 0", "does not match pattern"),
        ("soak seven", "does not match pattern"),
    ],
)
def test_an_invalid_argument_ends_a_recipe(command, reported):
    done = subprocess.run(["just", *command.split()], cwd=ROOT, env=with_just(), capture_output=True, text=True)
    assert done.returncode == 1 and reported in done.stderr


def on_a_terminal(*command, **environment):
    """A program's output on a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", **environment}
    ):
        os.close(slave)
        read = b""
        # On Linux, reading a terminal fails when no process writes to it any more.
        with contextlib.suppress(OSError):
            while part := os.read(master, 65536):
                read += part
    os.close(master)
    return read.decode()


@pytest.fixture
def without_wishes(monkeypatch):
    """Without the color settings of the user who runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CARGO_TERM_COLOR"):
        monkeypatch.delenv(name, raising=False)


COLOR = re.compile(r"\x1b\[[\d;]*3\d")


def test_only_terminals_get_colors(without_wishes):
    """Unless NO_COLOR is set: https://no-color.org"""
    program = (sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import terminal; "
               "terminal.say('wrong', 'red')", str(ROOT / "tools"))  # fmt: skip
    assert COLOR.search(on_a_terminal(*program))
    assert on_a_terminal(*program, NO_COLOR="1").strip() == "wrong"
    assert run(*program[1:]).stdout == "wrong\n"


COMPILER = """
for crate in one two three; do echo "   Compiling $crate v1.0.0"; done
echo "colors: ${CARGO_TERM_COLOR:-auto}"
"""


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_compiling_prints_one_line_of_progress(without_wishes, environment):
    build = (sys.executable, str(ROOT / "tools/build.py"), "the function", "sh", "-c")
    assert on_a_terminal(*build, COMPILER).split("\r\n")[0].startswith("Building the function (the first time")
    assert "\r3 crates compiled\r\x1b[K" in on_a_terminal(*build, COMPILER)
    colors = "auto" if environment else "always"
    failed = on_a_terminal(*build, COMPILER + "exit 7", **environment)
    assert f"colors: {colors}" in failed and "Compiling two" in failed

    done = run(*build[1:], COMPILER)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    failed = run(*build[1:], COMPILER + "echo 'error: E0001'; exit 7")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[1:3] == ["Building the function failed:", "   Compiling one v1.0.0"]
    assert failed.stderr.endswith("colors: auto\nerror: E0001\n")
    assert "warning: odd" in run(*build[1:], "echo warning: odd").stderr
    wrong = run(*build[1:], COMPILER + "echo 'error: redirect@0.1.0: redirect.toml: log is odd'; exit 101")
    assert wrong.stderr.splitlines()[1:] == ["redirect.toml: log is odd"]


# ---- Setup -----------------------------------------------------------------------------------------------------------


def test_the_readme_has_the_oldest_python_of_pyproject_toml():
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()
    assert sys.version_info >= tuple(map(int, oldest.split(".")))


def test_the_readme_lists_the_packages_that_sudo_installs():
    readme = (ROOT / "README.md").read_text()
    packages = re.findall(r'"\w[\w-]*:([\w-]+)"', (ROOT / "justfile").read_text())
    assert set(packages) >= {"chromium", "valgrind"}
    # Every Debian has util-linux.
    missing = [name for name in {*packages, "python3-venv"} - {"util-linux"} if f"`{name}`" not in readme]
    assert missing == []


@pytest.mark.parametrize("lock", sorted(ROOT.glob("tools/requirements/*.txt")), ids=lambda path: path.stem)
def test_every_tool_is_locked_by_a_hash(lock):
    text = lock.read_text()
    named = re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==\S+", text, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\S", text, re.MULTILINE)), "a line is not pinned"
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE) if entry)
    assert "://" not in text, "a lock file must not contain the address of a registry"
    wanted = re.findall(r"^([a-z][a-z0-9._-]+)", lock.with_suffix(".in").read_text(), re.MULTILINE)
    assert set(wanted) <= set(named)


@pytest.mark.parametrize(
    ("recipe", "program", "installs"),
    [("_python build", "python", "--require-hashes --only-binary :all:"), ("_npm crates/preview/tests", "npm", "ci")],
)
def test_installers_do_not_see_secrets(tmp_path, recipe, program, installs):
    """Runs the recipes that install with another program instead of the installer."""
    seen = tmp_path / "seen.json"
    tools = tmp_path / ".tools/bin"
    tools.mkdir(parents=True)
    dump = f"json.dump([sys.argv[1:], dict(os.environ)], open({str(seen)!r}, 'w'))"
    (tools / program).write_text(f"#!{sys.executable}\nimport json, os, sys\n{dump}\n")
    (tools / program).chmod(0o755)
    shutil.copy(ROOT / "justfile", tmp_path)
    shutil.copytree(ROOT / "tools/requirements", tmp_path / "tools/requirements")
    (tmp_path / "crates/preview/tests/node_modules").mkdir(parents=True)
    (tmp_path / "crates/preview/tests/package-lock.json").write_text("{}")
    secrets = {"AWS_SESSION_TOKEN": "example", "AWS_PROFILE": "mine", "LAUNCHDARKLY_SDK_KEY": CANARY}
    path = f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}"
    command = ["just", "--justfile", tmp_path / "justfile", *recipe.split()]
    subprocess.run(command, env={**os.environ, **secrets, "PATH": path}, check=True, capture_output=True)
    arguments, environment = json.loads(seen.read_text())
    assert installs in " ".join(arguments)
    assert not set(secrets) & set(environment)
    assert "HOME" in environment, "an installer needs it"


def test_commands_and_messages_on_the_page_of_symptoms_exist():
    """Commands with their arguments, the output of status, and the function's log messages."""
    text = (ROOT / "docs/when-something-is-wrong.md").read_text()
    commands = set(re.findall(r"just ([a-z-]+)((?: ENV)?(?: [a-z-]+)*)", text))
    assert len(commands) >= 9
    for command, rest in commands:
        arguments = ["production" if word == "ENV" else word for word in rest.split()]
        command_line.parser().parse_args([command, *arguments])
    sources = "".join(path.read_text() for path in (ROOT / "tools/status.py", ROOT / "src/flags/refresh.rs"))
    for shown in ("NOT what the stack has", "NOT READ", "last made it equal", "flag data not fetched: "):
        assert shown in sources
    assert all(f"*{name}*" in text for name, _, _ in status.SECTIONS if name != "stack")
    templates = "".join(path.read_text() for path in ROOT.glob("cloudformation/*.yaml"))
    assert set(re.findall(r"`(\w+Alarm)`", text)) == set(re.findall(r"^  (\w+Alarm):$", templates, re.MULTILINE))
