"""The pages: site/ on this machine, site/ in the bucket, and what differs."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from aws import AwsError, DeployError, aws, json_file, say

# Not the machine's table: it would give another type on another machine.
CONTENT_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
    ".zip": "application/zip",
}

# A page is asked for anew on every visit, or a browser would show a version that the flag has taken back. CloudFront
# keeps it for a day, as every change is invalidated. An asset may be five minutes old in a browser; one whose name
# holds a hash of its content never changes.
PAGE_CACHE = "public, max-age=0, s-maxage=86400, must-revalidate"
ASSET_CACHE = "public, max-age=300, s-maxage=86400"
HASHED_CACHE = "public, max-age=31536000, immutable"
HASHED_NAME = re.compile(r"[.-][0-9a-f]{8,64}\.\w+$")

# The first 1,000 paths of a month are free; a wildcard counts as one path.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/PayingForInvalidation.html
MOST_PATHS = 100

# Where a run notes what it is about to change, so that the next one invalidates it should this one be interrupted.
# In the package bucket: the site's bucket is public through CloudFront.
PENDING = "pending-invalidation.json"


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
    # Keys of which CloudFront may hold an older copy.
    stale: list[str]


def pages(folder: Path) -> list[Page]:
    """The files to publish. Names that start with a dot are editors' and systems' own, save .well-known."""
    if not folder.is_dir():
        raise DeployError(f"{folder} is not there. Put the site's pages in it: index.html and beta/index.html.")
    found = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") and part != ".well-known" for part in parts)
        if file.is_file() and not hidden:
            content_type = CONTENT_TYPES.get(file.suffix.lower(), "application/octet-stream")
            found.append(Page(file, "/".join(("site", *parts)), content_type, cache_control(file.name, content_type)))
    for needed in ("site/index.html", "site/beta/index.html", "site/404.html"):
        if needed not in [page.key for page in found]:
            raise DeployError(
                f"{folder.name}/ lacks {needed.removeprefix('site/')}, to which viewers are sent. Add it."
            )
    return found


def cache_control(name: str, content_type: str) -> str:
    if content_type.startswith("text/html"):
        return PAGE_CACHE
    return HASHED_CACHE if HASHED_NAME.search(name) else ASSET_CACHE


def plan(local: list[Page], bucket: str) -> Plan:
    """Compares by MD5, which is the ETag of an object that was uploaded in one part with SSE-S3. The CLI uploads more
    than 8 MB in several parts; such a file is uploaded every time.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    listing = aws("s3api", "list-objects-v2", "--bucket", bucket, "--prefix", "site/") or {}
    remote = {entry["Key"]: entry["ETag"].strip('"') for entry in listing.get("Contents", [])}
    upload = [page for page in local if remote.get(page.key) != md5(page.file)]
    delete = sorted(set(remote) - {page.key for page in local})
    stale = [page.key for page in upload if page.key in remote] + delete
    return Plan(upload, delete, len(local) - len(upload), stale)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def publish(changes: Plan, bucket: str) -> None:
    """Assets first, then the pages that use them, then what no page uses any more."""
    for chosen in (
        [page for page in changes.upload if not page.is_page],
        [page for page in changes.upload if page.is_page],
    ):
        upload(chosen, bucket)
    for start in range(0, len(changes.delete), 1000):  # the most that S3 takes at once
        keys = changes.delete[start : start + 1000]
        with json_file({"Objects": [{"Key": key} for key in keys], "Quiet": True}) as file:
            failed = aws("s3api", "delete-objects", "--bucket", bucket, "--delete", file) or {}
        for error in failed.get("Errors", []):
            raise DeployError(
                f"{error['Key']} in {bucket} cannot be deleted: {error.get('Message')} ({error.get('Code')})"
            )
        for key in keys:
            say(f"  deleted   {key}")


def upload(chosen: list[Page], bucket: str) -> None:
    """One run of the CLI for each pair of headers: it uploads in parallel, and a run costs a third of a second."""
    groups: dict[tuple[str, str], list[Page]] = {}
    for page in chosen:
        groups.setdefault((page.content_type, page.cache_control), []).append(page)
    for (content_type, cache), members in groups.items():
        with tempfile.TemporaryDirectory() as folder:
            for page in members:
                link = Path(folder, page.key)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(page.file.resolve())
            aws(
                "s3", "cp", folder, f"s3://{bucket}", "--recursive", "--only-show-errors",
                "--content-type", content_type, "--cache-control", cache,
            )  # fmt: skip
        for page in members:
            say(f"  uploaded  {page.key}  ({content_type}; {cache})")


def paths_of(keys: list[str]) -> list[str]:
    """The paths to invalidate: of an index page also the directory, which viewers ask for.

    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/invalidation-specifying-objects.html
    """
    paths = []
    for key in sorted(set(keys)):
        path = "/" + urllib.parse.quote(key)
        paths.append(path)
        if path.endswith("/index.html"):
            paths.append(path[: -len("index.html")])
    return paths if len(paths) <= MOST_PATHS else ["/site/*"]


class Pending:
    """The keys that an interrupted run changed in the site's bucket and did not invalidate."""

    def __init__(self, package_bucket: str) -> None:
        self._bucket = package_bucket

    def read(self) -> list[str]:
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            try:
                aws("s3api", "get-object", "--bucket", self._bucket, "--key", PENDING, file.name)
            except AwsError as error:
                if error.code == "NoSuchKey":
                    return []
                raise
            return json.load(file)

    def write(self, keys: list[str]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(keys, file)
            file.flush()
            aws("s3api", "put-object", "--bucket", self._bucket, "--key", PENDING, "--body", file.name)

    def clear(self) -> None:
        aws("s3api", "delete-object", "--bucket", self._bucket, "--key", PENDING)
