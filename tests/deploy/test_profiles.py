"""Profiles of `aws login` and `aws sso login`, with their token files and a stand-in for AWS's sign-in.

The sign-in in the browser is not tested.
"""

import datetime
import hashlib
import http.server
import json
import threading

import botocore.credentials
import botocore.tokens
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

LOGIN_SESSION = "arn:aws:iam::123456789012:user/ada"
START_URL = "https://example.awsapps.com/start"


def in_hours(hours):
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def signin(monkeypatch):
    """The portal of IAM Identity Center and the token endpoint of `aws login`; `asked` has their requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path.split("?")[0], dict(self.headers), body))
            expires = (datetime.datetime.now() + datetime.timedelta(hours=1)).timestamp() * 1000
            keys = {"accessKeyId": "AKIAFRESH", "secretAccessKey": "example", "sessionToken": "token"}
            answer: dict[str, object]
            if self.path.startswith("/federation/credentials"):
                answer = {"roleCredentials": {**keys, "expiration": int(expires)}}
            else:
                answer = {"accessToken": keys, "tokenType": "aws_sigv4", "expiresIn": 900, "refreshToken": "next"}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    asked: list[tuple[str, dict[str, str], bytes]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for service in ("SSO", "SIGNIN"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def profile(cloud, monkeypatch, tmp_path):
    """A shell that has signed in with a profile and has no access key."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # botocore reads these when it is imported.
    for provider in (botocore.tokens.SSOTokenProvider, botocore.credentials.SSOProvider):
        monkeypatch.setattr(provider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path / ".aws/sso/cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")

    def write(config, cache, name, token):
        (tmp_path / "config").write_text(config)
        file = tmp_path / ".aws" / cache / "cache" / f"{name}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(token))
        return file

    return write


def credentials(cloud):
    """Doctor's line about the credentials."""
    _, out, _ = cloud("doctor")
    (number,) = (number for number, line in enumerate(out) if line[7:].startswith("Credentials"))
    return "\n".join(out[number : number + 2])


def sso(profile, hours):
    config = (
        "[profile mine]\nsso_session = work\nsso_account_id = 123456789012\nsso_role_name = Deployer\n"
        f"[sso-session work]\nsso_region = us-east-1\nsso_start_url = {START_URL}\n"
    )
    token = {"accessToken": "bearer", "expiresAt": in_hours(hours), "startUrl": START_URL, "region": "us-east-1"}
    profile(config, "sso", hashlib.sha1(b"work").hexdigest(), token)


def test_a_profile_of_aws_sso_login_is_accepted(cloud, profile, signin):
    sso(profile, 1)
    assert credentials(cloud).startswith("ok     Credentials  account 123456789012")
    assert "(by sso)" in credentials(cloud)
    path, headers, _ = signin[0]
    assert path == "/federation/credentials"
    assert headers["x-amz-sso_bearer_token"] == "bearer"


def test_an_expired_sso_session_is_reported_with_the_next_step(cloud, profile, signin):
    sso(profile, -1)
    assert credentials(cloud).startswith("WRONG  Credentials")
    assert "Sign in with aws login, aws sso login" in credentials(cloud)


def login(profile, hours):
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    token = {
        "accessToken": {
            "accessKeyId": "AKIALOGIN",
            "secretAccessKey": "example",
            "sessionToken": "token",
            "accountId": "123456789012",
            "expiresAt": in_hours(hours),
        },
        "tokenType": "aws_sigv4",
        "clientId": "arn:aws:signin:::devtools/same-device",
        "refreshToken": "refresh",
        "dpopKey": key.decode(),
    }
    config = f"[profile mine]\nlogin_session = {LOGIN_SESSION}\n"
    return profile(config, "login", hashlib.sha256(LOGIN_SESSION.encode()).hexdigest(), token)


def test_a_profile_of_aws_login_is_accepted(cloud, profile, signin):
    login(profile, 1)
    assert credentials(cloud).startswith("ok     Credentials  account 123456789012")
    assert "(by login)" in credentials(cloud)
    assert signin == []


def test_a_profile_of_aws_login_is_refreshed_after_15_minutes(cloud, profile, signin):
    file = login(profile, -1)
    assert credentials(cloud).startswith("ok     Credentials  account 123456789012")
    (asked,) = signin
    assert asked[1]["DPoP"], "signed with the key of the login, for which botocore needs awscrt"
    assert json.loads(asked[2])["refreshToken"] == "refresh"
    assert json.loads(file.read_text())["refreshToken"] == "next"


def test_a_missing_login_is_reported_with_the_next_step(cloud, profile, signin):
    login(profile, 1).unlink()
    assert credentials(cloud).startswith("WRONG  Credentials")
    assert "Sign in with aws login" in credentials(cloud)
