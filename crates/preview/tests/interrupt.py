"""Runs a command in a terminal of its own, interrupts it by Ctrl-C once it has printed a text, prints what the command
printed after that, and ends with its exit status.

Usage: interrupt.py TEXT COMMAND...
"""

import os
import pty
import sys

text, command = sys.argv[1].encode(), sys.argv[2:]
process, terminal = pty.fork()
if process == 0:
    os.execvp(command[0], command)
output, interrupted = b"", None
while True:
    try:
        chunk = os.read(terminal, 4096)
    except OSError:  # How Linux reports the end of a terminal.
        break
    if not chunk:
        break
    output += chunk
    if interrupted is None and text in output:
        interrupted = output.index(text) + len(text)
        os.write(terminal, b"\x03")
_, status = os.waitpid(process, 0)
if interrupted is None:
    sys.exit(f"the command ended without {sys.argv[1]!r}: {output.decode(errors='replace')}")
print(output[interrupted:].decode(errors="replace").strip())
sys.exit(os.waitstatus_to_exitcode(status))
