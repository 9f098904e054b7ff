"""Prints a preview link, and makes a token if the environment has none."""

import argparse
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from failure import Failure
from launchdarkly import setting
from shell_secrets import TOKEN_VARIABLE, preview_token

ROOT = Path(__file__).resolve().parents[1]
PARAMETER = "redirect-preview"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="just preview-link",
        description="Prints a link that shows beta to anyone who opens it, and a link that ends the preview.",
        epilog=f"The token is read from {TOKEN_VARIABLE}; without one, a new token is made and printed.",
    )
    parser.add_argument(
        "page", nargs="?", default="https://YOUR-SITE/", help="the address of a page (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        token = preview_token()
        page = entrance(options.page, setting(ROOT, "current_path"), setting(ROOT, "beta_path"))
    except Failure as error:
        print(f"No link: {error}", file=sys.stderr)
        return 1
    if not token:
        token = secrets.token_urlsafe(24)
        print(f"This is a new token. Keep it secret, set it, and deploy:\n\n  export {TOKEN_VARIABLE}={token}\n")
    print(f"Shows beta:       {link(page, token)}")
    print(f"Ends the preview: {link(page, 'off')}")
    return 0


def entrance(page: str, current: str, beta: str) -> str:
    """The address that enters the site at that page: below the current site's prefix, no function reads the link."""
    parts = urlsplit(page)
    below = f"{parts.path}/".startswith
    if current == "/" or below(f"{beta}/") or not below(f"{current}/"):
        return page
    return parts._replace(path=parts.path.removeprefix(current)).geturl()


def link(page: str, value: str) -> str:
    parts = urlsplit(page)
    query = "&".join(filter(None, (parts.query, f"{PARAMETER}={value}")))
    return parts._replace(path=parts.path or "/", query=query).geturl()


if __name__ == "__main__":
    sys.exit(main())
