"""The private bucket through which a stack's packages reach Lambda."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from aws import AwsError, DeployError, aws, json_file, say
from stack import Stack


class Package(NamedTuple):
    file: Path
    size: int
    sha256: bytes

    @classmethod
    def of(cls, file: Path) -> Package:
        data = file.read_bytes()
        return cls(file, len(data), hashlib.sha256(data).digest())

    @property
    def key(self) -> str:
        """Named by its content, so that another package never overwrites the one that a stack refers to."""
        return f"packages/{self.sha256.hex()}.zip"


class PackageBucket:
    """One for each stack, so that none is deleted while another stack may roll back to a package in it.

    The edge function's package holds the SDK key. The owner is named in every call, so that a bucket of that name which
    someone else made never receives it:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """

    def __init__(self, stack: Stack, account: str) -> None:
        self.name = f"{stack.name}-packages-{account}"
        self._account = account
        self._owned = ("--bucket", self.name, "--expected-bucket-owner", account)

    def secure(self) -> None:
        """Makes it, and sets it right on every run: the one before may have been interrupted half-way."""
        say(f"Package bucket {self.name}")
        if not self._exists():
            aws("s3api", "create-bucket", "--bucket", self.name)
            say("  created")
        block = {
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        }
        encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        arn = f"arn:aws:s3:::{self.name}"
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [arn, f"{arn}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
        for operation, option, value in (
            ("put-public-access-block", "--public-access-block-configuration", block),
            ("put-bucket-encryption", "--server-side-encryption-configuration", encryption),
            ("put-bucket-ownership-controls", "--ownership-controls", ownership),
            ("put-bucket-policy", "--policy", policy),
        ):
            with json_file(value) as file:
                aws("s3api", operation, *self._owned, option, file)

    def _exists(self) -> bool:
        try:
            aws("s3api", "head-bucket", *self._owned)
        except AwsError as error:
            if error.code == "403":
                raise DeployError(
                    f"The bucket {self.name} is not yours, or these credentials may not use it. Ask for access to it, "
                    "or take another environment's name."
                ) from None
            if error.code != "404":
                raise
            return False
        return True

    def upload(self, package: Package) -> None:
        place = (*self._owned, "--key", package.key)
        try:
            aws("s3api", "head-object", *place)
            say(f"  {package.key} is there already")
        except AwsError as error:
            if error.code != "404":
                raise
            # S3 compares the checksum with what arrives: an interrupted upload leaves no object.
            checksum = base64.b64encode(package.sha256).decode()
            aws("s3api", "put-object", *place, "--body", str(package.file), "--checksum-sha256", checksum)
            say(f"  uploaded {package.key} ({package.size:,} bytes)")

    def delete(self) -> None:
        if self._exists():
            say(f"Deleting the package bucket {self.name}")
            empty(self.name)
            aws("s3api", "delete-bucket", *self._owned)


def plan(stack: Stack, shown: Path | None, package: Package | None) -> str:
    """What `secure` and `upload` would do with the package of that path, for a dry run."""
    bucket = PackageBucket(stack, "ACCOUNT").name
    text = f"Make or secure the private bucket {bucket} (encrypted, no public access, TLS only)"
    if not shown:
        return text
    size_and_key = f" ({package.size:,} bytes) as {package.key}" if package else ", once it is built and packed"
    return f"{text}\n   and upload {shown}{size_and_key}"


def empty(bucket: str) -> None:
    try:
        aws("s3", "rm", f"s3://{bucket}", "--recursive", "--only-show-errors")
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
