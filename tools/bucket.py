"""The private bucket through which a stack's packages reach Lambda."""

import base64
import datetime
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, Self

from botocore.exceptions import ClientError

from aws import CONFIG, Tolerating, client, code_of, session
from failure import Failure
from launchdarkly import KEY_TAG
from stack import Stack
from terminal import say

# A deployment writes here which keys of the site it is about to change, so that the next one invalidates them if this
# one is interrupted. Not in the site's bucket, which is public through CloudFront.
PENDING = "pending-invalidation.json"

# The packages that were live, oldest first, for rollbacks.
HISTORY = "history.json"
KEPT = 10


class Package(NamedTuple):
    file: Path
    size: int
    sha256: bytes

    @classmethod
    def of(cls, file: Path) -> Self:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise Failure(f"{file} cannot be read ({error.strerror}) after the build. Build it again.") from None
        return cls(file, len(data), hashlib.sha256(data).digest())

    @property
    def key(self) -> str:
        """Contains a hash of the content, so that another package never overwrites the one that a stack refers to."""
        return f"packages/{self.sha256.hex()}.zip"

    @property
    def checksum(self) -> str:
        return checksum(self.sha256)


def checksum(sha256: bytes) -> str:
    """In the form that Lambda and S3 use."""
    return base64.b64encode(sha256).decode()


class Live(NamedTuple):
    """A package that is or was live: its key, when it became live, its SDK key's fingerprint, and the sites' paths."""

    key: str
    since: str
    sdk_key: str
    paths: str = "/site and /site/beta"  # For entries that were written without paths.

    @property
    def hash(self) -> str:
        return self.key.removeprefix("packages/").removesuffix(".zip")

    @property
    def checksum(self) -> str:
        return checksum(bytes.fromhex(self.hash))

    def __str__(self) -> str:
        return f"{self.hash[:12]}  live since {self.since or '(unknown)'}  SDK key {self.sdk_key or '(unknown)'}"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PackageBucket:
    """One for each stack, so that none is deleted while another stack may roll back to a package in it.

    The edge function's package contains the SDK key. Every call names the expected owner, so that another account's
    bucket of the same name never receives it:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """

    def __init__(self, stack: Stack, account: str) -> None:
        self.name = f"{stack.name}-packages-{account}"
        self._stack = stack
        self._owned = owned(self.name, account)

    def secure(self) -> None:
        """Creates and configures it, on every run: the previous run may have been interrupted."""
        s3 = client("s3")
        say(f"Package bucket {self.name}")
        if not self._exists():
            s3.create_bucket(Bucket=self.name)
            say("  created")
        blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        arn = f"arn:aws:s3:::{self.name}"
        tls_only = {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [tls_only, self._readers(arn)]})
        ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        s3.put_public_access_block(**self._owned, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True))
        s3.put_bucket_encryption(**self._owned, ServerSideEncryptionConfiguration=encryption)
        s3.put_bucket_ownership_controls(**self._owned, OwnershipControls=ownership)
        s3.put_bucket_policy(**self._owned, Policy=policy)

    def _readers(self, arn: str) -> dict[str, Any]:
        """The identities that have run a command that calls `secure`. Lambda reads the package with the caller's.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-principalarn
        """
        readers = {*principals(client("sts").get_caller_identity()["Arn"])}
        with Tolerating("NoSuchBucketPolicy"):
            for statement in json.loads(client("s3").get_bucket_policy(**self._owned)["Policy"])["Statement"]:
                readers.update(statement.get("Condition", {}).get("ArnNotLike", {}).get("aws:PrincipalArn", []))
        return {
            "Sid": "DeployersOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": f"{arn}/packages/*",
            "Condition": {
                "ArnNotLike": {"aws:PrincipalArn": sorted(readers)},
                "Bool": {"aws:PrincipalIsAWSService": "false"},
            },
        }

    def _exists(self) -> bool:
        try:
            client("s3").head_bucket(**self._owned)
        except ClientError as error:
            if code_of(error) == "403":
                raise Failure(
                    f"The bucket {self.name} belongs to another account, or these credentials may not use it. Ask for "
                    "access to it, or choose another environment's name."
                ) from None
            if code_of(error) != "404":
                raise
            return False
        return True

    def upload(self, package: Package, sdk_key: str = "") -> None:
        place = {**self._owned, "Key": package.key}
        with Tolerating("404"):
            client("s3").head_object(**place)
            say(f"  {package.key} already exists")
            return
        # S3 checks the uploaded bytes against the checksum: an interrupted upload leaves no object.
        with package.file.open("rb") as body:
            metadata = {KEY_TAG: sdk_key} if sdk_key else {}
            client("s3").put_object(**place, Body=body, ChecksumSHA256=package.checksum, Metadata=metadata)
        say(f"  uploaded {package.key} ({package.size:,} bytes)")

    def history(self) -> list[Live]:
        """The packages that were live, oldest first. The last one is live now, even if the stored history lacks it."""
        found = [Live(*entry) for entry in json.loads(self._read(HISTORY) or "[]")]
        described = self._stack.parameters()
        key = described.get("PackageKey")
        if key and (not found or found[-1].key != key):
            sdk_key = self._stack.tags().get(KEY_TAG, "")
            # A stack of an older template has no such parameters.
            paths = [f"{described['CurrentPath']} and {described['BetaPath']}"] if "CurrentPath" in described else []
            found.append(Live(key, described.get("Release", ""), sdk_key, *paths))
        return found

    def note_live(self) -> None:
        """Adds the live package to the history, and deletes all packages but the last ones."""
        # Each package once, at the last time that it became live.
        latest = {entry.key: entry for entry in self.history()}
        kept = sorted(latest.values(), key=lambda entry: entry.since)[-KEPT:]
        client("s3").put_object(**self._owned, Key=HISTORY, Body=json.dumps(kept))
        uploaded = sorted(self.uploaded().items(), key=lambda one: one[1])
        keep = {entry.key for entry in kept} | {key for key, _ in uploaded[-KEPT:]}
        for key in [key for key, _ in uploaded if key not in keep]:
            client("s3").delete_object(**self._owned, Key=key)
            say(f"  deleted {key}: the last {KEPT} packages are kept")

    def uploaded(self) -> dict[str, datetime.datetime]:
        """The packages in the bucket, each with the time of its upload."""
        pages = client("s3").get_paginator("list_objects_v2").paginate(**self._owned, Prefix="packages/")
        return {entry["Key"]: entry["LastModified"] for page in pages for entry in page.get("Contents", [])}

    def sdk_key(self, key: str) -> str:
        """The fingerprint of the SDK key in a package."""
        return client("s3").head_object(**self._owned, Key=key)["Metadata"].get(KEY_TAG, "")

    def flags(self, key: str) -> bytes | None:
        """The flag data of a package, if the package exists and has flag data."""
        if data := self._read(key):
            with zipfile.ZipFile(io.BytesIO(data)) as package:
                return package.read("flags.json") if "flags.json" in package.namelist() else None
        return None

    def _read(self, key: str) -> bytes | None:
        with Tolerating("NoSuchKey", "NoSuchBucket"):
            return client("s3").get_object(**self._owned, Key=key)["Body"].read()
        return None

    def delete(self) -> None:
        if self._exists():
            say(f"Deleting the package bucket {self.name}")
            empty(self._owned)
            client("s3").delete_bucket(**self._owned)

    def pending(self) -> list[str]:
        return json.loads(self._read(PENDING) or "[]")

    def set_pending(self, keys: list[str]) -> None:
        if keys:
            client("s3").put_object(**self._owned, Key=PENDING, Body=json.dumps(keys))
        else:
            client("s3").delete_object(**self._owned, Key=PENDING)


def principals(arn: str) -> list[str]:
    """The ARNs of a caller for a bucket policy. For a session, those of its role, whose path STS omits."""
    role = re.sub(r":sts::(\d+):assumed-role/([^/]+)/.*", r":iam::\1:role/{}\2", arn)
    return [arn] if role == arn else [role.format(""), role.format("*/")]


def plan(stack: Stack, shown: Path | None, package: Package | None) -> str:
    """What `secure` and `upload` would do with the package at that path, for a dry run."""
    name = PackageBucket(stack, "ACCOUNT").name
    text = f"Create or secure the private bucket {name} (encrypted, no public access, TLS only)"
    if not shown:
        return text
    size_and_key = f" ({package.size:,} bytes) as {package.key}" if package else " after it is built and packed"
    return f"{text}\n   and upload {shown}{size_and_key}"


def owned(bucket: str, account: str) -> dict[str, str]:
    return {"Bucket": bucket, "ExpectedBucketOwner": account}


def empty(owned: dict[str, str]) -> None:
    owner = {"ExpectedBucketOwner": owned["ExpectedBucketOwner"]}
    with Tolerating("NoSuchBucket"):
        objects = session().resource("s3", config=CONFIG).Bucket(owned["Bucket"]).objects
        objects.filter(**owner).delete(**owner)
