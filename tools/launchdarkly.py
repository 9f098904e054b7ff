"""LaunchDarkly's flag data, item by item, as the edge function fetches it."""

import hashlib
import json
import os
import re
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from failure import Failure
from shell_secrets import KEY_VARIABLE, secret

# The tag of stacks, and the metadata of packages, with the fingerprint of their SDK key.
KEY_TAG = "redirect-sdk-key"

# The form of LaunchDarkly's SDK keys, which the Relay Proxy uses too.
# https://launchdarkly.com/docs/sdk/concepts/client-side-server-side#keys
KEY_SHAPE = re.compile(r"sdk-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Far larger than any flag; keeps a wrong address from filling the memory.
MAX_BYTES = 16_000_000
TIMEOUT_SECONDS = 10


class Unavailable(Failure):
    """LaunchDarkly is down or unreachable. Key and flag may be fine."""


def has_key() -> bool:
    return bool(secret(KEY_VARIABLE))


def sdk_key() -> str:
    """The SDK key from the environment, its only source."""
    key = secret(KEY_VARIABLE)
    if not key:
        raise Failure(
            f"{KEY_VARIABLE} is not set. Export the SDK key of the flag's environment "
            "(LaunchDarkly: Settings, Projects, Environments, SDK key)."
        )
    for prefix, kind in (("mob-", "a mobile key"), ("api-", "an API access token")):
        if key.startswith(prefix):
            raise Failure(f"{KEY_VARIABLE} is {kind}. Use the environment's SDK key; it starts with sdk-.")
    # This also keeps line breaks out of the header.
    if not re.fullmatch(r"[!-~]+", key):
        raise Failure(
            f"{KEY_VARIABLE} has invalid characters (perhaps a space or a line break). Copy the SDK key again."
        )
    return key


def fingerprint(key: str) -> str:
    """Identifies a key without revealing it: 32 bits of a hash exclude too few of 2**122 keys to help with guessing."""
    return hashlib.sha256(f"redirect: {key}".encode()).hexdigest()[:8] if key else "none"


def needed_key(root: Path) -> str:
    """The SDK key, or "" if the settings need none: with a store, only events need the key."""
    has_store = setting(root, "source") != "launchdarkly"
    return "" if has_store and setting(root, "events") == "off" else sdk_key()


def setting(root: Path, name: str) -> str:
    """A text field of redirect.toml, as it is compiled in; the environment may override LaunchDarkly's addresses."""
    if name.startswith("launchdarkly_") and os.environ.get(name.upper()):
        return os.environ[name.upper()]
    try:
        return str(tomllib.loads((root / "redirect.toml").read_text())[name])
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise Failure(f'redirect.toml: {name} cannot be read ({error}). Set it: {name} = "...".') from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """By default, urllib would send the SDK key to the target of a redirect."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def item(base_uri: str, key: str, kind: str, name: str) -> str | None:
    """The JSON text of one item, verbatim; None if the environment has no item of that name.

    `kind` is "flags" or "segments". The endpoints are those of LaunchDarkly's PHP SDK; the Relay Proxy has them too:
    https://github.com/launchdarkly/ld-relay/blob/v8/docs/endpoints.md
    """
    what = f"{kind[:-1]} {name}"
    url = f"{base_uri.rstrip('/')}/sdk/{kind}/{urllib.parse.quote(name, safe='')}"
    request = urllib.request.Request(url, headers={"Authorization": key})
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
            body = response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if error.code in (401, 403):
            raise Failure(
                f"LaunchDarkly rejected the SDK key ({error.code} from {base_uri}). It was rotated, or it belongs to "
                f"another instance. Check {KEY_VARIABLE} and launchdarkly_base_uri in redirect.toml."
            ) from None
        failed = Unavailable if error.code == 429 or error.code >= 500 else Failure
        raise failed(
            f"LaunchDarkly answered {error.code} for the {what} ({base_uri}). Try again later, or see its status page."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(
            f"LaunchDarkly cannot be reached at {base_uri}: {reason}. Check the network and launchdarkly_base_uri."
        ) from None
    if len(body) > MAX_BYTES:
        raise Failure(f"The {what} at {base_uri} is larger than {MAX_BYTES:,} bytes. Check launchdarkly_base_uri.")
    try:
        text = body.decode("utf-8")
        if not isinstance(json.loads(text), dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise Failure(
            f"The answer of {base_uri} for the {what} is not flag data: {error}. Check launchdarkly_base_uri."
        ) from None
    return text
