"""Shared fixtures: a small project, a local AWS, and a record of all calls and output."""

import http.server
import logging
import os
import shutil
import threading
import time
from typing import ClassVar
from urllib.request import Request, urlopen

import pytest
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.server import ThreadedMotoServer

import edge
import permissions
import recipe
import status
import store
from harness import CANARY, ROOT, TOKEN, Cloud
from standin import Standin

# ---- AWS on this machine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def moto():
    # moto ignores Condition, so a policy that denies everything without TLS would deny everything. A test checks the
    # policy itself.
    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def standin(moto):
    server = Standin(moto)
    yield server
    server.stop()


@pytest.fixture
def launchdarkly():
    """LaunchDarkly's per-item endpoints: `answers` by path, and the requests in `asked`."""

    class Server(http.server.ThreadingHTTPServer):
        answers: ClassVar[dict[str, tuple[int, str]]] = {}
        asked: ClassVar[list[tuple[str, str]]] = []

        @property
        def address(self):
            return f"http://127.0.0.1:{self.server_port}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append((self.path, self.headers["Authorization"]))
            status, body = server.answers.get(self.path, (404, ""))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


# ---- A project and its environment -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """The project's own templates and settings, and a site with one file of each kind."""
    for name in ("cloudformation/edge.yaml", "cloudformation/flag-store.yaml", "redirect.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("index.html", "404.html", "style.css", "app.0a1b2c3d.js", "docs/index.html", "beta/index.html"):
        page = tmp_path / "site" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{name}, first")
    (tmp_path / "site" / ".DS_Store").write_text("a system's own")
    return tmp_path


@pytest.fixture
def cloud(project, moto, standin, monkeypatch, capsys):
    urlopen(Request(f"{moto}/moto-api/reset", method="POST")).close()
    standin.reset()
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAUNCHDARKLY_", "REDIRECT_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": moto,
        "AWS_ENDPOINT_URL_CLOUDFORMATION": standin.url,
        "AWS_ENDPOINT_URL_CLOUDFRONT": standin.url,
        "AWS_ENDPOINT_URL_LAMBDA": standin.url,
        "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": standin.url,
        "AWS_ENDPOINT_URL_SSM": standin.url,
        "LAUNCHDARKLY_SDK_KEY": CANARY,
    }.items():
        monkeypatch.setenv(name, value)
    made = Cloud(project, moto, standin, capsys)
    made.package()
    made.flag_sync_package()
    monkeypatch.setattr(edge, "ROOT", project)
    monkeypatch.setattr(edge, "TEMPLATE", project / "cloudformation/edge.yaml")
    monkeypatch.setattr(edge, "PACKAGE", project / "target/edge/redirect.zip")
    monkeypatch.setattr(edge, "SITE", project / "site")
    monkeypatch.setattr(store, "ROOT", project)
    monkeypatch.setattr(store, "TEMPLATE", project / "cloudformation/flag-store.yaml")
    monkeypatch.setattr(store, "PACKAGE", project / "target/lambda/flag-sync/bootstrap.zip")
    monkeypatch.setattr(store, "BINARY", project / "target/release/flag-sync")
    monkeypatch.setattr(status, "ROOT", project)
    monkeypatch.setattr(recipe, "run", made.run_recipe)
    monkeypatch.setattr(time, "sleep", made.sleep)
    yield made
    monkeypatch.undo()
    denied = sorted((policy, *call) for policy, call in made.permissions if not permissions.grants(policy, call))
    assert denied == [], "a policy of docs/ lacks these permissions"
    everything = "\n".join(made.record + standin.requests)
    assert CANARY not in everything, "the SDK key was shown"
    assert TOKEN not in everything, "the preview token was shown"
    assert not any(put["Value"] in everything for put in standin.put_parameters), "a secret was shown"


@pytest.fixture
def moments(monkeypatch):
    """Each deployment gets a different time."""
    numbers = iter(range(60))
    for module in ("edge", "rollback"):
        monkeypatch.setattr(f"{module}.now", lambda: f"2026-01-31T12:{next(numbers):02}:00Z")
