"""The private bucket through which a stack's packages reach Lambda."""

import base64
import hashlib
import json
from pathlib import Path
from typing import NamedTuple, Self

from botocore.exceptions import ClientError

from aws import CONFIG, Tolerating, client, code_of, session
from failure import Failure
from stack import Stack
from terminal import say

# Where a deployment notes the keys of the site that it is about to change, so that the next one invalidates them
# should this one be interrupted. Not in the site's bucket, which is public through CloudFront.
PENDING = "pending-invalidation.json"


class Package(NamedTuple):
    file: Path
    size: int
    sha256: bytes

    @classmethod
    def of(cls, file: Path) -> Self:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise Failure(f"{file} cannot be read ({error.strerror}), though it was built. Build it again.") from None
        return cls(file, len(data), hashlib.sha256(data).digest())

    @property
    def key(self) -> str:
        """Named by its content, so that another package never overwrites the one that a stack refers to."""
        return f"packages/{self.sha256.hex()}.zip"

    @property
    def checksum(self) -> str:
        """As Lambda and S3 write it."""
        return base64.b64encode(self.sha256).decode()


class PackageBucket:
    """One for each stack, so that none is deleted while another stack may roll back to a package in it.

    The edge function's package holds the SDK key. The owner is named in every call, so that a bucket of that name which
    someone else made never receives it:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """

    def __init__(self, stack: Stack, account: str) -> None:
        self.name = f"{stack.name}-packages-{account}"
        self._owned = owned(self.name, account)

    def secure(self) -> None:
        """Makes it, and sets it right on every run: the one before may have been interrupted half-way."""
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
        policy = json.dumps({"Version": "2012-10-17", "Statement": [tls_only]})
        ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        s3.put_public_access_block(**self._owned, PublicAccessBlockConfiguration=dict.fromkeys(blocks, True))
        s3.put_bucket_encryption(**self._owned, ServerSideEncryptionConfiguration=encryption)
        s3.put_bucket_ownership_controls(**self._owned, OwnershipControls=ownership)
        s3.put_bucket_policy(**self._owned, Policy=policy)

    def _exists(self) -> bool:
        try:
            client("s3").head_bucket(**self._owned)
        except ClientError as error:
            if code_of(error) == "403":
                raise Failure(
                    f"The bucket {self.name} is not yours, or these credentials may not use it. Ask for access to it, "
                    "or choose another environment's name."
                ) from None
            if code_of(error) != "404":
                raise
            return False
        return True

    def upload(self, package: Package) -> None:
        place = {**self._owned, "Key": package.key}
        with Tolerating("404"):
            client("s3").head_object(**place)
            say(f"  {package.key} is there already")
            return
        # S3 compares the checksum with what arrives: an interrupted upload leaves no object.
        with package.file.open("rb") as body:
            client("s3").put_object(**place, Body=body, ChecksumSHA256=package.checksum)
        say(f"  uploaded {package.key} ({package.size:,} bytes)")

    def delete(self) -> None:
        if self._exists():
            say(f"Deleting the package bucket {self.name}")
            empty(self._owned)
            client("s3").delete_bucket(**self._owned)

    def pending(self) -> list[str]:
        with Tolerating("NoSuchKey"):
            return json.load(client("s3").get_object(**self._owned, Key=PENDING)["Body"])
        return []

    def set_pending(self, keys: list[str]) -> None:
        if keys:
            client("s3").put_object(**self._owned, Key=PENDING, Body=json.dumps(keys))
        else:
            client("s3").delete_object(**self._owned, Key=PENDING)


def plan(stack: Stack, shown: Path | None, package: Package | None) -> str:
    """What `secure` and `upload` would do with the package of that path, for a dry run."""
    name = PackageBucket(stack, "ACCOUNT").name
    text = f"Make or secure the private bucket {name} (encrypted, no public access, TLS only)"
    if not shown:
        return text
    size_and_key = f" ({package.size:,} bytes) as {package.key}" if package else ", once it is built and packed"
    return f"{text}\n   and upload {shown}{size_and_key}"


def owned(bucket: str, account: str) -> dict[str, str]:
    return {"Bucket": bucket, "ExpectedBucketOwner": account}


def empty(owned: dict[str, str]) -> None:
    owner = {"ExpectedBucketOwner": owned["ExpectedBucketOwner"]}
    with Tolerating("NoSuchBucket"):
        objects = session().resource("s3", config=CONFIG).Bucket(owned["Bucket"]).objects
        objects.filter(**owner).delete(**owner)
