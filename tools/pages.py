"""The pages: site/ on this machine, the site's bucket, and their differences."""

import hashlib
import mimetypes
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from boto3.s3.transfer import TransferConfig, create_transfer_manager

from aws import client
from failure import Failure
from terminal import counted, say

# Python's own table, because the machine's may have other types; plus types that Python's table lacks or has changed
# between versions.
TYPES = mimetypes.MimeTypes()
for _extension, _type in {
    ".avif": "image/avif", ".ico": "image/x-icon", ".js": "text/javascript", ".map": "application/json",
    ".md": "text/markdown", ".mjs": "text/javascript", ".otf": "font/otf", ".ttf": "font/ttf",
    ".webp": "image/webp", ".webmanifest": "application/manifest+json", ".woff": "font/woff", ".woff2": "font/woff2",
    ".xml": "application/xml",
}.items():  # fmt: skip
    TYPES.add_type(_type, _extension)

# A browser revalidates a page on every visit, or it would show a version that the flag has taken back. CloudFront keeps
# it for a day, because every change is invalidated. An asset may be five minutes old in a browser; an asset whose name
# contains a hash of its content never changes.
PAGE_CACHE = "public, max-age=0, s-maxage=86400, must-revalidate"
ASSET_CACHE = "public, max-age=300, s-maxage=86400"
HASHED_CACHE = "public, max-age=31536000, immutable"
HASHED_NAME = re.compile(r"[.-][0-9a-f]{8,64}\.\w+$")

# CloudFront processes at most 15 wildcards at a time, and bills a wildcard as one path.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html
MAX_PATHS = 15

# In one part each, so that the ETag is the content's MD5. S3 accepts 5 GB in one part.
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
ONE_PART = TransferConfig(multipart_threshold=5_000_000_000, preferred_transfer_client="classic")


class Page(NamedTuple):
    file: Path
    key: str
    content_type: str
    cache_control: str

    @property
    def is_page(self) -> bool:
        return self.content_type.startswith("text/html")


class Plan(NamedTuple):
    upload: list[Page]
    delete: list[str]
    same: int
    # Keys of which CloudFront may have an older copy.
    stale: list[str]


def pages(folder: Path, current: str, beta: str) -> list[Page]:
    """The files to publish under the paths of the two sites, assets before pages. Files of editors and systems, whose
    names start with a dot, are left out; .well-known is kept."""
    if not folder.is_dir():
        raise Failure(f"{folder} does not exist. Put the site's pages into it: index.html and beta/index.html.")
    found = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and all(part[0] != "." or part == ".well-known" for part in parts):
            content_type = type_of(file.name)
            is_beta = len(parts) > 1 and parts[0] == "beta"
            site, names = (beta, parts[1:]) if is_beta else (current, parts)
            key = "/".join((site, *names)).lstrip("/")
            if not is_beta and f"/{key}".startswith(f"{beta}/"):
                raise Failure(f"{folder.name}/{'/'.join(parts)} would be a page of beta, which is at {beta}. Move it.")
            page = Page(file, key, content_type, cache_control(file.name, content_type))
            found.append(page)
            # At the root, no function adds the index page's name, so the page is also uploaded as the directory.
            if current == "/" and not is_beta and key.endswith("/index.html"):
                found.append(page._replace(key=key.removesuffix("index.html")))
    for needed in ("index.html", "beta/index.html", "404.html"):
        if not (folder / needed).is_file():
            raise Failure(f"{folder.name}/ lacks {needed}, which viewers are sent to. Add it.")
    return sorted(found, key=lambda page: (page.is_page, page.key))


def type_of(name: str) -> str:
    found = TYPES.guess_type(name.lower())[0] or "application/octet-stream"
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


def cache_control(name: str, content_type: str) -> str:
    if content_type.startswith("text/html"):
        return PAGE_CACHE
    return HASHED_CACHE if HASHED_NAME.search(name) else ASSET_CACHE


def plan(local: list[Page], owned: dict[str, str]) -> Plan:
    """`owned` has the bucket and its expected owner: a bucket of that name may belong to another account.

    All other keys are deleted: the bucket is a copy of site/, and the paths may have changed.
    """
    listing = client("s3").get_paginator("list_objects_v2").paginate(**owned)
    remote = {entry["Key"]: entry["ETag"].strip('"') for answer in listing for entry in answer.get("Contents", [])}
    upload = [page for page in local if remote.get(page.key) != md5(page.file)]
    delete = sorted(set(remote) - {page.key for page in local})
    stale = [page.key for page in upload if page.key in remote] + delete
    return Plan(upload, delete, len(local) - len(upload), stale)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def publish(changes: Plan, owned: dict[str, str]) -> None:
    """Uploads assets first, then the pages that use them; then deletes files that no page uses any more."""
    for is_page in (False, True):
        upload([page for page in changes.upload if page.is_page == is_page], owned)
    for start in range(0, len(changes.delete), 1000):  # S3's limit for one request
        keys = changes.delete[start : start + 1000]
        listed = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        for error in client("s3").delete_objects(**owned, Delete=listed).get("Errors", []):
            raise Failure(
                f"{error['Key']} in {owned['Bucket']} not deleted: {error.get('Message')} ({error.get('Code')})"
            )
        for key in keys:
            say(f"  deleted   {key}")


def upload(chosen: list[Page], owned: dict[str, str]) -> None:
    bucket, owner = owned["Bucket"], owned["ExpectedBucketOwner"]
    with create_transfer_manager(client("s3"), ONE_PART) as manager:
        begun = []
        for page in chosen:
            more = {"ContentType": page.content_type, "CacheControl": page.cache_control, "ExpectedBucketOwner": owner}
            begun.append((page, manager.upload(str(page.file), bucket, page.key, more)))
        for page, future in counted(begun, f"Uploading to {bucket}"):
            future.result()
            say(f"  uploaded  {page.key}  ({page.content_type}; {page.cache_control})")


def paths_of(keys: list[str]) -> list[str]:
    """The paths to invalidate: for an index page also the directory, which viewers may request.

    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/invalidation-specifying-objects.html
    """
    paths = []
    for key in sorted(set(keys)):
        path = "/" + urllib.parse.quote(key)
        paths.append(path)
        if path.endswith("/index.html"):
            paths.append(path.removesuffix("index.html"))
    paths = list(dict.fromkeys(paths))
    return paths if len(paths) <= MAX_PATHS else ["/*"]
