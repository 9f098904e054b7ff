"""Runs the AWS CLI, the real one, as a subprocess; turns its errors into ones that say what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launchdarkly import KEY_VARIABLE

# Lambda@Edge functions, their packages, CloudFront's certificates and its log deliveries all live here.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-at-edge-function-restrictions.html
REGION = "us-east-1"

# How often a wait asks AWS again, and how many failed questions in a row it bears: a wait may last hours, a network
# hiccup must not end it.
POLL_SECONDS = 5
MOST_FAILED_POLLS = 5


PASSING = {"NoConnection", "Throttling", "ThrottlingException", "TooManyRequestsException", "ServiceUnavailable", "503"}


class DeployError(Exception):
    """What went wrong, where, and what to do."""


class AwsError(DeployError):
    """An error that AWS, or the CLI before it, gave."""

    def __init__(self, message: str, code: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


# What the user can do about the errors that are about him and not about the call.
ADVICE = {
    "NoCredentials": "Sign in: aws sso login, or aws configure, or export AWS_PROFILE.",
    "ExpiredToken": "The session has expired. Sign in again, then run the same command again.",
    "ExpiredTokenException": "The session has expired. Sign in again, then run the same command again.",
    "RequestExpired": "The session has expired, or this machine's clock is wrong.",
    "InvalidClientTokenId": "AWS does not know this access key. Check AWS_PROFILE and AWS_ACCESS_KEY_ID.",
    "UnrecognizedClientException": "AWS does not know this access key. Check AWS_PROFILE and AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "The secret access key does not fit the access key. Configure them anew.",
    "AccessDenied": "These credentials may not do that. docs/deploy.md lists the permissions that are needed.",
    "AccessDeniedException": "These credentials may not do that. docs/deploy.md lists the permissions that are needed.",
    "NoConnection": "Check the network, a proxy, and AWS_ENDPOINT_URL if it is set.",
}


def say(line: str = "") -> None:
    print(line, flush=True)


def program() -> str:
    """The CLI beside this Python (the project's own), or the one on the path."""
    own = Path(sys.executable).with_name("aws")
    found = str(own) if own.exists() else shutil.which("aws")
    if not found:
        raise DeployError("The AWS CLI is not installed. Run this through just, which installs it in .tools.")
    return found


def without_key() -> dict[str, str]:
    """The environment of what is started. Nothing there needs the SDK key, so nothing there sees it."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}


def aws(*arguments: str, region: str = REGION) -> Any:
    """Runs one command of the CLI and returns what it prints as data; None if it prints nothing."""
    command = [program(), *arguments, "--region", region, "--output", "json"]
    environment = {**without_key(), "AWS_PAGER": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise error_of(arguments, done.stderr)
    return json.loads(done.stdout) if done.stdout.strip() else None


def error_of(arguments: tuple[str, ...], text: str) -> AwsError:
    found = re.search(
        r"An error occurred \(([\w.]+)\) when calling the \w+ operation(?: \(reached max retries: \d+\))?: (.*)",
        text,
        re.DOTALL,
    )
    if found:
        code, detail = found.group(1), " ".join(found.group(2).split())
    elif "Unable to locate credentials" in text or "config profile" in text:
        code, detail = "NoCredentials", " ".join(text.split())
    elif "Could not connect" in text or "Connect timeout" in text or "Connection was closed" in text:
        code, detail = "NoConnection", " ".join(text.split())
    else:
        code, detail = "", " ".join(text.split())
    message = f"aws {' '.join(arguments[:2])} failed: {detail} ({code or 'no code'})"
    advice = ADVICE.get(code, "")
    return AwsError(f"{message}\n{advice}" if advice else message, code, detail)


def account_id() -> str:
    return aws("sts", "get-caller-identity")["Account"]


@contextmanager
def json_file(data: Any) -> Iterator[str]:
    """Data as a file:// argument: command lines are short, and visible to everyone on the machine."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data, file)
        file.flush()
        yield f"file://{file.name}"


def pause(seconds: float) -> None:
    time.sleep(seconds)


class Wait:
    """A wait that lasts: repeats a question, bears short failures, and says how long it has been."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._failures = 0

    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"[{hours}:{minutes:02}:{seconds % 60:02}]" if hours else f"[{minutes:02}:{seconds % 60:02}]"

    def ask(self, *arguments: str) -> Any:
        """Like `aws`, but a connection that fails or a throttled call is tried again."""
        while True:
            try:
                answer = aws(*arguments)
                self._failures = 0
                return answer
            except AwsError as error:
                self._failures += 1
                if error.code not in PASSING or self._failures > MOST_FAILED_POLLS:
                    raise
                say(f"  {self.elapsed()} AWS did not answer ({error.code}); asking again")
                pause(POLL_SECONDS)
