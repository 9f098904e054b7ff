"""LaunchDarkly's flag data, item by item, as the edge function asks for it."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

KEY_VARIABLE = "LAUNCHDARKLY_SDK_KEY"

# An SDK key of LaunchDarkly; the Relay Proxy knows no other shape either.
# https://launchdarkly.com/docs/sdk/concepts/client-side-server-side#keys
KEY_SHAPE = re.compile(r"sdk-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Far above any flag; keeps a wrong address from filling the memory.
MOST_BYTES = 16_000_000
TIMEOUT_SECONDS = 10


class LaunchDarklyError(Exception):
    """Something about LaunchDarkly or the SDK key, told without the key."""


def sdk_key() -> str:
    """The SDK key from the environment, its only source. Errors never show what was found there."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise LaunchDarklyError(
            f"{KEY_VARIABLE} is not set. Export the SDK key of the environment whose flag is to decide "
            "(LaunchDarkly: Settings, Projects, Environments, SDK key)."
        )
    if key.startswith("mob-"):
        raise LaunchDarklyError(
            f"{KEY_VARIABLE} holds a mobile key. Use the environment's SDK key; it starts with sdk-."
        )
    if key.startswith("api-"):
        raise LaunchDarklyError(
            f"{KEY_VARIABLE} holds an API access token. Use the environment's SDK key; it starts with sdk-."
        )
    # Also keeps line breaks out of the header.
    if not re.fullmatch(r"[!-~]+", key):
        raise LaunchDarklyError(
            f"{KEY_VARIABLE} has characters that no key has (a space or a line break, perhaps). Copy the SDK key anew."
        )
    return key


def setting(root: Path, name: str) -> str:
    """A text field of redirect.toml, as it is compiled in; LaunchDarkly's addresses may come from the environment."""
    if name.startswith("launchdarkly_") and os.environ.get(name.upper()):
        return os.environ[name.upper()]
    found = re.search(rf'^{name} *= *"([^"]*)"', (root / "redirect.toml").read_text(), re.MULTILINE)
    if not found:
        raise LaunchDarklyError(f'redirect.toml has no {name}. Give it: {name} = "...".')
    return found.group(1)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the SDK key on to wherever a redirect points."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def item(base_uri: str, key: str, kind: str, name: str) -> str | None:
    """The JSON text of one item, verbatim; None if the environment has none of that name.

    `kind` is "flags" or "segments". The endpoints are those of LaunchDarkly's PHP SDK; the Relay Proxy has them too:
    https://github.com/launchdarkly/ld-relay/blob/v8/docs/endpoints.md
    """
    what = f"{kind[:-1]} {name}"
    url = f"{base_uri.rstrip('/')}/sdk/{kind}/{urllib.parse.quote(name, safe='')}"
    request = urllib.request.Request(url, headers={"Authorization": key})
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
            body = response.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if error.code in (401, 403):
            raise LaunchDarklyError(
                f"LaunchDarkly refuses the SDK key ({error.code} from {base_uri}). It was rotated, or it belongs to "
                f"another instance: check {KEY_VARIABLE} and launchdarkly_base_uri in redirect.toml."
            ) from None
        raise LaunchDarklyError(
            f"LaunchDarkly answers {error.code} for the {what} ({base_uri}). Try again later, or see its status page."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise LaunchDarklyError(
            f"LaunchDarkly cannot be reached at {base_uri}: {reason}. Check the network and launchdarkly_base_uri."
        ) from None
    if len(body) > MOST_BYTES:
        raise LaunchDarklyError(f"The {what} at {base_uri} is larger than {MOST_BYTES:,} bytes. Is the address right?")
    try:
        text = body.decode("utf-8")
        if not isinstance(json.loads(text), dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise LaunchDarklyError(
            f"What {base_uri} gives as the {what} is no flag data: {error}. Is launchdarkly_base_uri right?"
        ) from None
    return text
