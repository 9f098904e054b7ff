"""Replaces the managed Python runtime by the Rust binary, before the runtime asks for its first event.

Lambda@Edge runs only the managed Node.js and Python runtimes. Lambda imports this module as the handler's; the
process that it runs in becomes the binary, with the same environment, and receives the events itself.
https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-at-edge-function-restrictions.html
"""

import os

BINARY = os.path.join(os.environ.get("LAMBDA_TASK_ROOT") or os.path.dirname(os.path.abspath(__file__)), "redirect")

try:
    os.execv(BINARY, [BINARY])
except OSError as error:
    # The runtime reports this as an init error, which is how it gets into the log.
    raise RuntimeError(
        f"{BINARY} cannot be run: {error.strerror} (errno {error.errno}). The package must hold the binary `redirect`, "
        "for x86-64 and executable: make it with `just package`"
    ) from error


def handler(event, context):
    """Lambda wants a handler that exists; it is never called."""
    raise RuntimeError("the process was to become the binary before any event")
