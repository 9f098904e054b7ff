"""Draws docs/invoke.svg: the output of `just invoke` in a terminal."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "invoke.svg"
COMMAND = "tools/just invoke"
COLUMNS = 122

# Rich's own picture, without the fonts, which it would load from another server.
FORMAT = re.sub(r"@font-face {{.*?}}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> int:
    # Without a key, the repository's sample flag decides.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LAUNCHDARKLY", "REDIRECT"))
    }
    done = subprocess.run(COMMAND.split(), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        PICTURE.write_text(drawn(done.stdout))
        print(PICTURE.relative_to(ROOT))
    return done.returncode


def drawn(output: str) -> str:
    """Cuts long lines."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, highlight=False, markup=False)
    header, *lines = output.rstrip().splitlines()
    styles = [("bold green", f"$ {COMMAND}"), ("bold", header)]
    styles += [("cyan" if "/site/beta" in line else "", line) for line in lines]
    for style, line in styles:
        console.print(line, style=style, no_wrap=True, overflow="ellipsis")
    return console.export_svg(title=COMMAND, code_format=FORMAT, unique_id="invoke")


if __name__ == "__main__":
    sys.exit(main())
