"""Prints a preview link; makes its token where the environment has none."""

import argparse
import os
import re
import secrets
import sys
from urllib.parse import urlsplit

from failure import Failure

TOKEN_VARIABLE = "REDIRECT_PREVIEW_TOKEN"
PARAMETER = "redirect-preview"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="just preview-link",
        description="Prints a link that shows beta to whoever opens it, and one that ends that.",
        epilog=f"The token comes from {TOKEN_VARIABLE}; without one, a new token is made and printed.",
    )
    parser.add_argument(
        "page", nargs="?", default="https://YOUR-SITE/", help="the address of a page (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        token = checked(os.environ.get(TOKEN_VARIABLE, "").strip())
    except Failure as error:
        print(f"No link: {error}", file=sys.stderr)
        return 1
    if not token:
        token = secrets.token_urlsafe(24)
        print(f"A new token, a secret. Keep it, set it, and deploy:\n\n  export {TOKEN_VARIABLE}={token}\n")
    print(f"Shows beta: {link(options.page, token)}")
    print(f"Ends that:  {link(options.page, 'off')}")
    return 0


def checked(token: str) -> str:
    if token and not re.fullmatch(r"[A-Za-z0-9._-]{16,128}", token):
        raise Failure(
            f"{TOKEN_VARIABLE} is not a preview token. Set 16 to 128 letters, digits, '.', '_' and '-', or unset it to "
            "have one made."
        )
    return token


def link(page: str, value: str) -> str:
    parts = urlsplit(page)
    query = "&".join(filter(None, (parts.query, f"{PARAMETER}={value}")))
    return parts._replace(path=parts.path or "/", query=query).geturl()


if __name__ == "__main__":
    sys.exit(main())
