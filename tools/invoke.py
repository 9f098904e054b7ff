"""Sends events to the function in cargo-lambda's local Lambda, and shows the answers.

The expected outcome of an event is in a file of the same name that ends in .expected: `302 {site}/a`, `307 {site}/a`,
`pass-through`, or `error: ..`. `{site}` is the site that the flag chose, and ` | ` separates alternatives. Outcomes are
for the default paths in redirect.toml; with other paths, nothing is expected. The exit status is 0 when every event had
its expected outcome and the flag was evaluated.
"""

import argparse
import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import build
from failure import Failure
from launchdarkly import setting

ROOT = Path(__file__).resolve().parents[1]
FUNCTION = "redirect"
ANSWER_SECONDS = 60
# The paths in the expected outcomes.
CURRENT, BETA = "/site", "/site/beta"
COLUMNS = ("event", "viewer", "variation", "reason", "status", "Location")


class Outcome(NamedTuple):
    """The function's answer to an event."""

    summary: str
    status: str
    location: str
    line: dict


class LocalLambda:
    """`cargo lambda watch`, and the log of the function that it runs."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.lines: queue.Queue[dict | None] = queue.Queue()
        self.output: list[str] = []
        self.log: list[str] = []
        self.notes: list[str] = []
        self.process = subprocess.Popen(
            f"cargo lambda watch --invoke-address 127.0.0.1 --invoke-port {self.port} --ignore-changes".split()
            + features(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # This script reads the decisions from the log.
            env={**os.environ, "REDIRECT_LOG": "all"},
            # A separate process group, so that `stop` ends the function too.
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for text in self.process.stdout or ():
            self.output.append(text)
            with contextlib.suppress(ValueError):  # a line of cargo
                start = text.index("{")
                line = json.loads(text[start:])
                self.log.append(text[start:].rstrip())
                self.lines.put(line)
        self.lines.put(None)

    def wait_until_it_listens(self) -> None:
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failure(
                    f"cargo lambda watch ended with status {self.process.returncode}:\n{''.join(self.output)}"
                )
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise Failure(f"cargo lambda watch does not listen on port {self.port} after {ANSWER_SECONDS} s")

    def post(self, path: Path) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", f"/2015-03-31/functions/{FUNCTION}/invocations", path.read_bytes())
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{path.name}: no answer from the local Lambda: {error}\n{''.join(self.output)}") from None
        finally:
            connection.close()

    def decision(self) -> dict:
        """The next log line with a decision."""
        while True:
            try:
                line = self.lines.get(timeout=ANSWER_SECONDS)
            except queue.Empty:
                raise Failure(f"the function logged no decision:\n{''.join(self.output)}") from None
            if line is None:
                raise Failure(f"the function ended:\n{''.join(self.output)}")
            if "outcome" in line:
                return line
            if "did not start" in line["message"]:
                raise Failure(line["message"])
            # The runtime repeats the error of a decision. Other messages are printed below the table.
            if not line["message"].startswith("Diagnostic"):
                level = "" if line["level"] == "info" else f"{line['level']}: "
                self.notes.append(level + line["message"])

    def stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        # Ends what is left in the group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def invoke(local: LocalLambda, path: Path) -> Outcome:
    status, text = local.post(path)
    line = local.decision()
    if line["outcome"] == "error":
        if status == HTTPStatus.OK:
            raise Failure(f"{path.name}: the function logged an error, but Lambda got an answer:\n{text}")
        return Outcome(f"error: {line['message']}", "error", line["message"], line)
    if status != HTTPStatus.OK:
        raise Failure(f"{path.name}: the local Lambda answered {status}:\n{text}")
    answer = json.loads(text)
    if line["outcome"] == "pass-through":
        cf = json.loads(path.read_text())["Records"][0]["cf"]
        if answer not in (cf.get("request"), cf.get("response")):
            raise Failure(f"{path.name}: the function changed an event that passes through:\n{text}")
        return Outcome("pass-through", "pass", "", line)
    location = answer["headers"]["location"][0]["value"]
    return Outcome(f"{answer['status']} {location}", answer["status"], location, line)


def viewer(path: Path) -> str:
    try:
        return json.loads(path.read_text())["Records"][0]["cf"]["request"]["clientIp"]
    except (KeyError, TypeError, ValueError):
        return "-"


def is_expected(path: Path, outcome: Outcome) -> bool | None:
    """None if the event has no expected outcome, or the paths are not the default ones."""
    noted = path.with_suffix(".expected")
    if not noted.exists() or sites() != (CURRENT, BETA):
        return None
    site = BETA if outcome.line.get("variation") else CURRENT
    choices = noted.read_text().strip().split(" | ")
    return outcome.summary in [choice.replace("{site}", site) for choice in choices]


def features() -> list[str]:
    """A store as the source of the flag data needs a cargo feature."""
    source = setting(ROOT, "source")
    return [] if source == "launchdarkly" else ["--features", source]


def sites() -> tuple[str, str]:
    return setting(ROOT, "current_path"), setting(ROOT, "beta_path")


def row(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def report(local: LocalLambda, paths: list[Path]) -> int:
    widths = [max(len(path.stem) for path in paths), max(len(viewer(path)) for path in paths), 9, 19, 6, 0]
    widths = [max(width, len(title)) for width, title in zip(widths, COLUMNS, strict=True)]
    print(row(COLUMNS, widths))
    wrong, lines = 0, []
    for path in paths:
        outcome = invoke(local, path)
        line = outcome.line
        lines.append(line)
        variation = {True: "true", False: "false", None: "-"}[line.get("variation")]
        reason = line.get("error_kind") or line.get("reason") or "-"
        fits = is_expected(path, outcome)
        shown = ascii(outcome.location)[1:-1]
        mark = f"   EXPECTED {path.with_suffix('.expected').read_text().strip()}" if fits is False else ""
        print(row((path.stem, viewer(path), variation, reason, outcome.status, shown), widths) + mark, flush=True)
        wrong += fits is False
    print()
    for note in dict.fromkeys(local.notes):
        print(note)
    if sites() == (CURRENT, BETA):
        print(f"{len(paths) - wrong} of {len(paths)} events had their expected outcome.")
    else:
        current, beta = sites()
        print(
            f"Outcomes were not compared: those in events/ are for {CURRENT} and {BETA}, not for {current} and {beta}."
        )
    text, is_evaluated = evaluated(lines)
    print(text)
    return 0 if is_evaluated and not wrong else 1


def evaluated(lines: list[dict]) -> tuple[str, bool]:
    """A sentence about the flag data of the decisions, and False if the flag should have been evaluated but was not."""
    decided = [line for line in lines if "reason" in line]
    good = [line for line in decided if line["reason"] != "ERROR"]
    if good:
        version = f" in version {good[-1]['flag_version']}" if "flag_version" in good[-1] else ""
        place = {"launchdarkly": "LaunchDarkly", "bundled": "the repository"}.get(
            good[-1]["source"], good[-1]["source"]
        )
        return f"The flag was evaluated{version}, from {place} ({good[-1]['data']} data).", True
    if decided:
        return f"The flag was not evaluated: {decided[-1]['message'].split(': ', 1)[-1]}.", False
    return "No event needed the flag.", True


def found(name: str) -> Path:
    """An event by its path, its file name, or the name alone."""
    folder = ROOT / "events"
    for path in (Path(name), folder / name, folder / f"{name}.json"):
        if path.is_file():
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                raise Failure(f"{name}: not an event, because it is not JSON: {error}") from None
            return path
    known = ", ".join(sorted(event.stem for event in folder.glob("*.json")))
    raise Failure(f"{name}: no such event. Available: {known}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="just invoke",
        description="Sends events to the function in a local Lambda, and shows the answers.",
        epilog="With LAUNCHDARKLY_SDK_KEY, your flag decides; without it, the repository's sample flag.",
    )
    parser.add_argument("events", nargs="*", metavar="EVENT", help="for example ipv4 (default: all of events/)")
    parser.add_argument("--log", action="store_true", help="print the function's log lines too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    local = None
    try:
        paths = [found(name) for name in options.events] or sorted((ROOT / "events").glob("*.json"))
        build.run("the function", ["cargo", "build", "--locked", "--bin", FUNCTION, *features()])
        local = LocalLambda()
        local.wait_until_it_listens()
        status = report(local, paths)
        if options.log:
            print("\n" + "\n".join(local.log))
        return status
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if local:
            local.stop()


if __name__ == "__main__":
    sys.exit(main())
