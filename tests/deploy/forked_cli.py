"""The AWS CLI, loaded once and forked for each command.

Most of a short run of the CLI is the start of Python, the import of the CLI and the reading of its service models. Here
a server does all that once; each command is the same CLI in a process of its own, in a fraction of the time. One test
of test_deploy.py runs `aws` as users do.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from awscli.clidriver import create_clidriver

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])

DRIVER = create_clidriver()
# The CLI's own data: importing it set that.
OWN = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}

# All that each command would find and read anew, which is more than half of its time.
_DATA = DRIVER.session.get_component("data_loader")
DRIVER.session.get_available_services()
for _kind in ("paginators-1", "waiters-2"):
    _DATA.list_available_services(_kind)
for _name in ("endpoints", "partitions", "sdk-default-configuration", "_retry", "cli"):
    _DATA.load_data(_name)
for _service in ("cloudformation", "cloudfront", "iam", "lambda", "logs", "s3", "ssm", "sts"):
    for _kind in ("service-2", "endpoint-rule-set-1"):
        _DATA.load_service_model(_service, _kind)


def _main(arguments, environment, out, err):
    os.environ.clear()
    os.environ.update({**environment, **OWN})
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    code = DRIVER.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(command, env, **_):
    """In place of subprocess.run."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = FORKS.Process(target=_main, args=(command[1:], env, str(out), str(err)))
        process.start()
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())
