"""AWS through boto3: clients, and error messages with advice."""

from functools import cache
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from failure import Failure
from terminal import say

# Lambda@Edge functions, their packages, CloudFront's certificates and its log deliveries must all be here.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-at-edge-function-restrictions.html
REGION = "us-east-1"

# The pause between two calls of a wait.
POLL_SECONDS = 5

# A wait may take hours, and a network failure of half a minute must not end it: 8 attempts with botocore's backoff.
CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 8})


CREDENTIALS = (
    exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound, exceptions.SSOError, exceptions.LoginError, exceptions.TokenRetrievalError,
)  # fmt: skip
# Errors that a command reports to the user; any other is a bug.
REPORTED = (Failure, ClientError, BotoCoreError)
NETWORK = (exceptions.ConnectionError, exceptions.HTTPClientError)
SIGN_IN = "Sign in with aws login, aws sso login or aws configure; AWS_PROFILE names the profile to use."
EXPIRED = "The session has expired. Sign in again, then run the same command again."
UNKNOWN_KEY = "Unknown access key. Check AWS_PROFILE and AWS_ACCESS_KEY_ID."
THROTTLED = "AWS is rate limiting this account. Run the same command again in a minute."
DENIED = "These credentials do not have that permission. docs/deploy.md lists the permissions that are needed."
ADVICE = {
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "RequestExpired": "The session has expired, or this machine's clock is wrong.",
    "InvalidClientTokenId": UNKNOWN_KEY,
    "UnrecognizedClientException": UNKNOWN_KEY,
    "SignatureDoesNotMatch": "The secret access key does not match the access key. Configure both again.",
    "403": DENIED,  # of a HEAD, whose answer has no body
    "AccessDenied": DENIED,
    "AccessDeniedException": DENIED,
    "UnauthorizedOperation": DENIED,
    "RequestLimitExceeded": THROTTLED,
    "SlowDown": THROTTLED,
    "Throttling": THROTTLED,
    "ThrottlingException": THROTTLED,
    "TooManyRequestsException": THROTTLED,
}


@cache
def session() -> boto3.Session:
    made = boto3.Session(region_name=REGION)
    made.events.register("before-send", report_retry)
    return made


@cache
def client(service: str, region: str = REGION) -> Any:
    return session().client(service, region_name=region, config=CONFIG)


def report_retry(request: Any, event_name: str, **_: object) -> None:
    header = request.headers.get("amz-sdk-request", "")
    attempt = header.decode() if isinstance(header, bytes) else header
    if attempt and "attempt=1" not in attempt.split("; "):
        say(f"  {event_name.rpartition('.')[2]} failed; retrying")


def account_id() -> str:
    return client("sts").get_caller_identity()["Account"]


def code_of(error: ClientError) -> str:
    return error.response["Error"].get("Code", "")


class Tolerating:
    """Leaves the block without an error when AWS answers a call in it with one of the codes."""

    def __init__(self, *codes: str) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: object, _trace: object) -> bool:
        return isinstance(error, ClientError) and code_of(error) in self._codes


def explained(error: Exception) -> str:
    if isinstance(error, ClientError):
        code, detail = code_of(error), error.response["Error"].get("Message", "")
        text, advice = f"{error.operation_name} failed: {detail} ({code or 'no code'})", ADVICE.get(code, "")
    elif isinstance(error, exceptions.WaiterError):
        text, advice = str(error), ADVICE.get(error.last_response.get("Error", {}).get("Code"), "")
    elif isinstance(error, CREDENTIALS):
        text, advice = f"No AWS credentials: {error}", SIGN_IN
    elif isinstance(error, NETWORK):
        text, advice = f"AWS not reached: {error}", "Check the network, a proxy, and AWS_ENDPOINT_URL if it is set."
    else:
        text, advice = str(error), ""
    return f"{text}\n{advice}" if advice else text
