"""deploy, detach and destroy end to end: boto3 against moto and the stand-in, with injected faults."""

import base64
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import zipfile

import pytest
from botocore.exceptions import ClientError

import package as package_module
import pages
import recipe
from failure import Failure
from harness import CANARY, ROOT
from launchdarkly import fingerprint
from standin import attached, behaviors_of
from test_package import elf

FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:redirect-production"
STAND_IN = "arn:aws:cloudfront::123456789012:function/redirect-production-current-site"
ASSETS = ("/site/beta/*.*", "/site/*")  # assets, without a function
PACKAGES = "redirect-production-packages-123456789012"


def uploads(cloud):
    """The keys of the site that the last command uploaded, in order."""
    puts = [params for operation, params in cloud.calls[cloud.begun :] if operation == "PutObject"]
    return [params["Key"] for params in puts if params["Bucket"] != PACKAGES]


# ---- deploy ----------------------------------------------------------------------------------------------------------


def test_the_first_deploy_creates_everything(cloud):
    package = cloud.package()
    out = cloud.does("deploy")
    assert out[-1] == f"https://{next(iter(cloud.aws.distributions)).lower()}.cloudfront.net/"

    # The package: named by content hash, in a separate private bucket.
    sha256 = hashlib.sha256(package)
    key = f"packages/{sha256.hexdigest()}.zip"
    assert cloud.keys(PACKAGES) == ["history.json", key]
    assert cloud.s3.head_object(Bucket=PACKAGES, Key=key)["Metadata"] == {"redirect-sdk-key": fingerprint(CANARY)}
    assert cloud.s3.get_object(Bucket=PACKAGES, Key=key)["Body"].read() == package
    block = cloud.s3.get_public_access_block(Bucket=PACKAGES)["PublicAccessBlockConfiguration"]
    assert block == dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    encryption = cloud.s3.get_bucket_encryption(Bucket=PACKAGES)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    ownership = cloud.s3.get_bucket_ownership_controls(Bucket=PACKAGES)["OwnershipControls"]["Rules"]
    assert ownership == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    tls, readers = json.loads(cloud.s3.get_bucket_policy(Bucket=PACKAGES)["Policy"])["Statement"]
    assert (tls["Effect"], readers["Effect"]) == ("Deny", "Deny")
    assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert readers["Resource"] == f"arn:aws:s3:::{PACKAGES}/packages/*"
    assert readers["Condition"] == {
        "ArnNotLike": {"aws:PrincipalArn": ["arn:aws:sts::123456789012:user/moto"]},
        "Bool": {"aws:PrincipalIsAWSService": "false"},
    }

    # The function: as Lambda@Edge requires, with the package's bytes.
    function = cloud.lambda_.get_function(FunctionName="redirect-production")["Configuration"]
    expected = {
        "Runtime": "python3.13",
        "Handler": "carrier.handler",
        "MemorySize": 128,
        "Timeout": 5,
        "Architectures": ["x86_64"],
    }
    assert {name: function[name] for name in expected} == expected
    assert function["CodeSha256"] == base64.b64encode(sha256.digest()).decode()
    assert "Environment" not in function
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}

    # The site: in its own bucket, with its headers, and no other files.
    site = cloud.bucket("sitebucket")
    headers = {}
    for name in cloud.keys(site):
        found = cloud.s3.head_object(Bucket=site, Key=name)
        headers[name] = (found["ContentType"], found["CacheControl"])
    page = ("text/html; charset=utf-8", "public, max-age=0, s-maxage=86400, must-revalidate")
    assert headers == {
        "site/404.html": page,
        "site/app.0a1b2c3d.js": ("text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        "site/beta/index.html": page,
        "site/docs/index.html": page,
        "site/index.html": page,
        "site/style.css": ("text/css; charset=utf-8", "public, max-age=300, s-maxage=86400"),
    }
    assert uploads(cloud).index("site/style.css") < uploads(cloud).index("site/index.html"), "assets come before pages"
    assert cloud.aws.invalidations == [], "nothing was cached before"


def test_a_tag_of_the_stack_has_the_sdk_keys_fingerprint(cloud, monkeypatch):
    cloud.does("deploy")
    first = cloud.stack().tags
    assert first == {"redirect-sdk-key": fingerprint(CANARY)}
    assert len(fingerprint(CANARY)) == 8 and fingerprint(CANARY) not in CANARY
    cloud.stack().tags["team"] = "web"
    cloud.does("detach")
    cloud.does("deploy")
    assert cloud.stack().tags == {**first, "team": "web"}, "other tags are kept"
    other = "sdk-c0ffee00-0000-4000-8000-00000000beef"
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", other)
    cloud.does("deploy", "--new-key")
    assert cloud.stack().tags["redirect-sdk-key"] == fingerprint(other) != fingerprint(CANARY)


def test_progress_is_shown_while_the_stack_is_created(cloud):
    cloud.aws.steps = 2
    out = cloud.does("deploy")
    assert any("CREATE_COMPLETE" in line and "AWS::CloudFront::Distribution" in line for line in out)
    assert cloud.pauses > 1


def test_a_second_deploy_changes_nothing(cloud):
    cloud.does("deploy")
    cloud.calls.clear()
    out = cloud.does("deploy")
    assert "  nothing to change" in out
    assert "  6 files unchanged" in out
    assert uploads(cloud) == []
    assert cloud.aws.calls["ExecuteChangeSet"] == 1
    assert cloud.aws.invalidations == []
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


def test_only_changed_files_are_uploaded_and_invalidated(cloud):
    cloud.does("deploy")
    (cloud.project / "site/docs/index.html").write_text("second")
    (cloud.project / "site/style.css").unlink()
    (cloud.project / "site/né w.html").write_text("new")
    cloud.does("deploy")
    assert sorted(uploads(cloud)) == ["site/docs/index.html", "site/né w.html"]
    assert "site/style.css" not in cloud.keys(cloud.bucket("sitebucket"))
    assert cloud.aws.invalidations == [["/site/docs/index.html", "/site/docs/", "/site/style.css"]]


def test_many_changes_become_one_invalidation_path(cloud):
    for number in range(101):
        (cloud.project / f"site/{number}.txt").write_text("first")
    cloud.does("deploy")
    for number in range(101):
        (cloud.project / f"site/{number}.txt").write_text("second")
    cloud.does("deploy")
    assert cloud.aws.invalidations == [["/*"]]


def test_up_to_fifteen_paths_are_invalidated_separately():
    keys = [f"site/{number}.txt" for number in range(16)]
    assert pages.paths_of(keys[:15]) == sorted(f"/{key}" for key in keys[:15])
    assert pages.paths_of(keys) == ["/*"]
    assert pages.paths_of(["site/index.html"]) == ["/site/index.html", "/site/"]


def test_pages_are_not_uploaded_if_an_asset_fails(cloud):
    cloud.does("deploy")
    for name in ("style.css", "index.html"):
        (cloud.project / "site" / name).write_text("second")

    def denied(operation):
        if operation == "PutObject" and cloud.calls[-1][1]["Bucket"] != PACKAGES:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, operation)

    cloud.after_call = denied
    assert "PutObject failed: Access Denied (AccessDenied)" in cloud.fails("deploy")
    assert uploads(cloud) == ["site/style.css"]
    cloud.after_call = lambda operation: None
    cloud.does("deploy")
    assert cloud.aws.invalidations == [["/site/index.html", "/site/", "/site/style.css"]]


def test_a_new_package_makes_a_new_version_and_the_old_one_is_kept(cloud):
    cloud.does("deploy")
    second = cloud.package(b"second")
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}
    versions = cloud.lambda_.list_versions_by_function(FunctionName="redirect-production")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]
    assert versions[2]["CodeSha256"] == base64.b64encode(hashlib.sha256(second).digest()).decode()
    assert len(cloud.keys(PACKAGES)) == 3, "a rollback of the stack needs the package before"


def test_the_site_can_come_first_and_the_function_later(cloud):
    (cloud.project / "target/edge/redirect.zip").unlink()
    out = cloud.does("deploy", "--without-function")
    assert "Everyone gets the current site. just deploy production attaches the function." in out
    assert attached(cloud.config()) == set()
    for behavior in behaviors_of(cloud.config()):
        functions = [entry["FunctionARN"] for entry in behavior["FunctionAssociations"].get("Items", [])]
        assert functions == ([] if behavior.get("PathPattern") in ASSETS else [STAND_IN])
    assert "Function" not in cloud.stack().resources

    cloud.package()
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}
    assert "detach" in cloud.fails("deploy", "--without-function")


def test_one_account_can_have_several_environments(cloud):
    cloud.does("deploy", "staging")
    cloud.does("deploy", "production", "--without-function")
    assert set(cloud.aws.stacks) == {"redirect-staging", "redirect-production"}
    cloud.does("destroy", "staging", "--yes", "staging")
    assert set(cloud.aws.stacks) == {"redirect-production"}
    assert [name for name in cloud.buckets() if "staging" in name] == []
    assert len([name for name in cloud.buckets() if "production" in name]) == 2


def test_later_deployments_keep_settings(cloud):
    certificate = "arn:aws:acm:us-east-1:123456789012:certificate/0a1b2c3d"
    out = cloud.does("deploy", "--set", "DomainName=www.example.com", "--set", f"CertificateArn={certificate}")
    assert out[-1] == "https://www.example.com/"
    cloud.package(b"second")
    cloud.does("deploy")
    assert cloud.stack().parameters["DomainName"] == "www.example.com"


def test_an_existing_distribution_is_not_changed(cloud):
    out = cloud.does("deploy", "--set", "ExistingDistributionId=E1EXAMPLE")
    text = "\n".join(out)
    assert f"{FUNCTION}:1" in text and STAND_IN in text and "/site/beta/*.htm*" in text
    assert cloud.aws.distributions == {}
    assert cloud.buckets() == [PACKAGES]
    assert "has no distribution" in cloud.fails("url")


def test_an_existing_bucket_is_not_changed(cloud):
    cloud.s3.create_bucket(Bucket="mine")
    out = cloud.does("deploy", "--set", "ExistingBucketName=mine", "--set", "ExistingBucketRegion=eu-west-1")
    statement = next(json.loads(line) for line in out if line.startswith('  {"Effect"'))
    assert statement["Resource"] == ["arn:aws:s3:::mine/site/*", "arn:aws:s3:::mine/site/beta/*"]
    assert cloud.keys("mine") == []
    (origin,) = cloud.config()["Origins"]["Items"]
    assert origin["DomainName"] == "mine.s3.eu-west-1.amazonaws.com"


def test_a_site_that_keeps_its_addresses_is_deployed_at_the_root(cloud):
    cloud.set_paths("/", "/next")
    cloud.does("deploy")
    runs = what_runs(cloud)
    new = [("viewer-request", f"{FUNCTION}:1")]
    assert {pattern for pattern, who in runs.items() if who == new} == {
        None, "/next", "/next/*.htm*", "/next/*.*/*", "/next/*", "/*.htm*", "/*.*/*",
    }  # fmt: skip
    assert {pattern for pattern, who in runs.items() if not who} == {"/next/*.*", "/.well-known/*", "/*.*"}
    site = cloud.bucket("sitebucket")
    assert cloud.keys(site) == [
        "404.html", "app.0a1b2c3d.js", "docs/", "docs/index.html", "index.html", "next/index.html", "style.css",
    ]  # fmt: skip
    # The directory itself is uploaded as its index page too: no function adds the name.
    page = cloud.s3.get_object(Bucket=site, Key="docs/")
    assert (page["Body"].read(), page["ContentType"]) == (b"docs/index.html, first", "text/html; charset=utf-8")

    (cloud.project / "site/docs/index.html").write_text("second")
    (cloud.project / "site/index.html").write_text("second")
    cloud.does("publish")
    assert sorted(uploads(cloud)) == ["docs/", "docs/index.html", "index.html"]
    assert cloud.aws.invalidations == [["/docs/", "/docs/index.html", "/index.html", "/"]]
    cloud.does("detach")
    assert {pattern for pattern, who in what_runs(cloud).items() if who == [("viewer-request", STAND_IN)]} == {
        None, "/next", "/next/*.htm*", "/next/*.*/*", "/next/*", "/*.htm*", "/*.*/*",
    }  # fmt: skip


def test_beta_may_be_beside_the_current_site(cloud):
    cloud.set_paths("/site", "/new")
    cloud.does("deploy")
    assert "/new/*.htm*" in what_runs(cloud)
    keys = cloud.keys(cloud.bucket("sitebucket"))
    assert "new/index.html" in keys and "site/docs/index.html" in keys
    assert [key for key in keys if not key.startswith(("site/", "new/"))] == []


def test_a_page_of_the_current_site_cannot_be_at_an_address_of_beta(cloud):
    cloud.set_paths("/", "/docs")
    assert "site/docs/index.html would be a page of beta, which is at /docs" in cloud.fails("deploy")
    assert cloud.recipes == []


def test_new_paths_move_the_function_and_the_pages_and_delete_the_old_pages(cloud):
    cloud.does("deploy")
    cloud.set_paths("/", "/beta")
    err = cloud.fails("publish")
    assert "was deployed with current_path /site, but redirect.toml has /." in err and "just deploy" in err
    cloud.package(b"with other paths")
    cloud.does("deploy")
    keys = cloud.keys(cloud.bucket("sitebucket"))
    assert "beta/index.html" in keys and [key for key in keys if key.startswith("site/")] == []
    cloud.package(b"third")
    cloud.does("deploy", "--set", "MemorySize=256")
    assert cloud.stack().parameters["CurrentPath"] == "/"


@pytest.mark.parametrize(("name", "field"), [("CurrentPath", "current_path"), ("BetaPath", "beta_path")])
def test_the_paths_can_only_be_set_in_redirect_toml(cloud, name, field):
    for more in ([], ["--dry-run"]):
        assert f"Set {field} there" in cloud.fails("deploy", "--set", f"{name}=/other", *more)
    assert (cloud.recipes, cloud.calls) == ([], [])


@pytest.mark.parametrize(("field", "reported"), [("current_path", "a path such as /site"), ("beta_path", "/site/beta")])
def test_an_invalid_path_is_rejected_before_the_build(cloud, field, reported):
    cloud.set_paths(*("/site/" if field == name else "/x" for name in ("current_path", "beta_path")))
    err = cloud.fails("deploy")
    assert reported in err and f"{field} in redirect.toml" in err
    assert cloud.recipes == []


def test_an_existing_distribution_at_the_root(cloud):
    cloud.set_paths("/", "/beta")
    for more in (["--dry-run"], []):
        text = "\n".join(cloud.does("deploy", "--set", "ExistingDistributionId=E1EXAMPLE", *more))
        assert "no function: /.well-known/*; redirect function: /*.htm*, /*.*/*; no function: /*.*" in text
        assert "/site" not in text
    existing(cloud, {None: [], "/*.*": [], "/*.htm*": [], "/beta/*": [], "/api/*": [("viewer-request", OTHER)]})
    text = "\n".join(cloud.does("deploy", "--attach"))
    new = [("viewer-request", f"{FUNCTION}:1")]
    assert what_runs(cloud) == {
        None: new, "/*.*": [], "/*.htm*": new, "/beta/*": new, "/api/*": [("viewer-request", OTHER)],
    }  # fmt: skip
    assert "/*.*/*               is not one of its behaviors" in text and "/site" not in text
    # Nobody stays on beta: the CloudFront Function redirects them to the current site.
    cloud.does("detach")
    assert what_runs(cloud)["/beta/*"] == what_runs(cloud)[None] == [("viewer-request", STAND_IN)]


def test_a_dry_run_at_the_root(cloud):
    cloud.set_paths("/", "/beta")
    text = "\n".join(cloud.does("deploy", "--dry-run"))
    assert "parameter CurrentPath = /\n" in text and "parameter BetaPath = /beta" in text
    assert "\n   docs/index.html " in text and "\n   beta/index.html " in text and "   site/" not in text


def test_a_dry_run_does_not_call_aws(cloud, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    text = "\n".join(cloud.does("deploy", "staging", "--dry-run", "--set", "AccessLogs=yes"))
    assert cloud.calls == []
    for reported in (
        "redirect-staging-packages-ACCOUNT",
        "AWS::CloudFront::Distribution",
        "parameter AccessLogs = yes",
    ):
        assert reported in text
    assert "site/index.html" in text and ".DS_Store" not in text
    (cloud.project / "target/edge/redirect.zip").unlink()
    assert "after it is built and packed" in "\n".join(cloud.does("deploy", "--dry-run"))


def test_deploy_in_a_separate_process(cloud):
    """As `just deploy` starts it, with real modules and clock; only the builds are replaced."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import edge, recipe, command_line\n"
        "edge.ROOT = Path(sys.argv[2]); edge.TEMPLATE = edge.ROOT / 'cloudformation/edge.yaml'\n"
        "edge.PACKAGE = edge.ROOT / 'target/edge/redirect.zip'; edge.SITE = edge.ROOT / 'site'\n"
        "recipe.run = lambda *_: None\n"
        "sys.exit(command_line.main(['deploy']))"
    )
    command = [sys.executable, "-c", script, ROOT / "tools", cloud.project]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cloud.record += [done.stdout, done.stderr]
    assert (done.returncode, done.stderr) == (0, "")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}
    assert "  nothing to change" in cloud.does("deploy"), "both ways of running it have the same result"


# ---- Guards ----------------------------------------------------------------------------------------------------------

OTHER_KEY = "sdk-0ddba115-0000-4000-8000-00000000beef"


def test_another_key_must_be_confirmed(cloud, monkeypatch):
    cloud.does("deploy")
    before = cloud.stack().tags["redirect-sdk-key"]
    assert re.fullmatch("[0-9a-f]{8}", before) and before not in CANARY
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", OTHER_KEY)
    cloud.recipes.clear()
    err = cloud.fails("deploy")
    assert before in err and "pass --new-key" in err and OTHER_KEY not in err
    assert cloud.recipes == []
    cloud.package(b"with the other key")
    cloud.does("deploy", "--new-key")
    assert cloud.stack().tags["redirect-sdk-key"] != before
    cloud.does("deploy")
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", CANARY)
    assert "pass --new-key" in cloud.fails("deploy")


def test_a_failed_deployment_keeps_the_fingerprint_of_the_live_key(cloud, monkeypatch):
    cloud.does("deploy")
    before = cloud.stack().tags
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", OTHER_KEY)
    cloud.package(b"with the other key")
    cloud.aws.resource_faults["Distribution"] = "Rate exceeded"
    cloud.fails("deploy", "--new-key")
    assert cloud.stack().tags == before


def test_later_deployments_keep_tags(cloud):
    cloud.does("deploy", "--tag", "team=web", "--tag", "cost=a=b")
    cloud.does("deploy", "--tag", "team=shop")
    tags = dict(cloud.stack().tags)
    assert len(tags.pop("redirect-sdk-key")) == 8
    assert tags == {"team": "shop", "cost": "a=b"}
    for wrong in ("team", "=x", "aws:x=y", "redirect-sdk-key=0"):
        assert "expected NAME=VALUE" in cloud.fails("deploy", "--tag", wrong)


def test_the_stack_is_protected_until_destroy(cloud):
    cloud.does("deploy")
    assert cloud.stack().is_protected
    cloud.stack().is_protected = False
    cloud.does("deploy")
    assert cloud.stack().is_protected, "even if an earlier run was interrupted before it set this"
    cloud.does("destroy", "--yes", "production")
    assert cloud.aws.stacks == {}


def test_a_script_must_confirm_the_deletion(cloud):
    cloud.does("deploy")
    before = cloud.config()
    for arguments, reported in (([], "--yes production"), (["--yes", "staging"], "Not confirmed")):
        assert reported in cloud.fails("destroy", *arguments)
        assert cloud.config() == before


def test_changes_are_shown_and_need_confirmation(cloud, monkeypatch):
    cloud.does("deploy", "--set", "AccessLogs=yes")
    cloud.package(b"second")
    change = ("deploy", "--set", "AccessLogs=no", "--confirm")
    assert "There is no terminal to confirm this" in cloud.fails(*change)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    _, out, err = cloud(*change)
    assert "Not confirmed" in err
    assert "  modify  FunctionVersion  AWS::Lambda::Version  is REPLACED" in out
    assert "  remove  LogDelivery  AWS::Logs::Delivery" in out
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}
    assert cloud.aws.change_sets == {}, "no change set is left"

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert cloud(*change)[0] == 130
    assert cloud.aws.change_sets == {}
    monkeypatch.setattr("builtins.input", lambda _: "production")
    cloud.does(*change)
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}
    assert "LogDelivery" not in cloud.stack().resources


def test_more_memory_makes_a_new_version_of_the_same_package(cloud):
    cloud.does("deploy")
    cloud.does("deploy", "--set", "MemorySize=256", "--set", "SystemLogLevel=WARN")
    (arn,) = attached(cloud.config())
    assert arn == f"{FUNCTION}:2"
    assert cloud.lambda_.get_function_configuration(FunctionName=arn)["MemorySize"] == 256
    assert cloud.stack().resources["Function"].properties["LoggingConfig"]["SystemLogLevel"] == "WARN"


def test_a_new_runtime_makes_a_new_version_of_the_same_package(cloud):
    cloud.does("deploy")
    template = cloud.project / "cloudformation/edge.yaml"
    template.write_text(template.read_text().replace("python3.13", "python3.14"))
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}
    assert cloud.lambda_.get_function(FunctionName=f"{FUNCTION}:2")["Configuration"]["Runtime"] == "python3.14"
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}


def test_a_package_whose_deployment_failed_can_be_deployed_again(cloud, moments):
    """Lambda does not publish a copy of the previous version, which the failed deployment has left."""
    cloud.does("deploy")
    cloud.package(b"second")
    cloud.aws.resource_faults["Distribution"] = "Rate exceeded"
    cloud.fails("deploy")
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:3"}


# ---- Bundled flag data -----------------------------------------------------------------------------------------------

FLAGS = "target/edge/flags-" + fingerprint(CANARY) + ".json"


@pytest.fixture
def packing(cloud, launchdarkly, monkeypatch):
    """Really packs, with a binary that has only headers; flag data is fetched at another time for each package."""
    for name in ("src/carrier/carrier.py", "target/lambda/redirect/bootstrap"):
        (cloud.project / name).parent.mkdir(parents=True, exist_ok=True)
        (cloud.project / name).write_bytes(elf())
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, '{"key":"rebrand","version":1,"share":0.50}')
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    monkeypatch.setattr(package_module, "ROOT", cloud.project)
    minutes = itertools.count()
    monkeypatch.setattr(package_module, "now", lambda: f"2026-01-31T12:{next(minutes):02}:00Z")

    def run_recipe(name, key="", token=""):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LAUNCHDARKLY_SDK_KEY", key)
            environment.setenv("REDIRECT_PREVIEW_TOKEN", token)
            if name == "package" and package_module.main([]):
                raise Failure("just package failed; its output is above.")

    monkeypatch.setattr(recipe, "run", run_recipe)
    cloud.launchdarkly = launchdarkly
    return cloud


def bundled(cloud):
    """The date and the flag in the live package."""
    key = cloud.stack().parameters["PackageKey"]
    with zipfile.ZipFile(io.BytesIO(cloud.s3.get_object(Bucket=PACKAGES, Key=key)["Body"].read())) as package:
        if "flags.json" not in package.namelist():
            return None
        flags = json.loads(package.read("flags.json"))
        return flags["fetched_at"][11:16], flags["flags"]["rebrand"]["version"]


def another_machine(cloud):
    (cloud.project / FLAGS).unlink(missing_ok=True)


def test_unchanged_flag_data_makes_no_new_version(packing):
    packing.does("deploy")
    assert bundled(packing) == ("12:00", 1)
    for _ in range(2):
        assert "  nothing to change" in packing.does("deploy")
        another_machine(packing)
    packing.launchdarkly.answers["/sdk/flags/rebrand"] = (200, '{"key":"rebrand","version":2}')
    packing.does("deploy")
    assert bundled(packing) == ("12:03", 2)
    assert attached(packing.config()) == {f"{FUNCTION}:2"}


@pytest.mark.parametrize("status", [503, 429])
def test_without_launchdarkly_a_deploy_bundles_the_last_flags(packing, status):
    packing.does("deploy")
    another_machine(packing)
    (packing.project / "src/carrier/carrier.py").write_text("changed")
    packing.launchdarkly.answers["/sdk/flags/rebrand"] = (status, "")
    _, _, err = packing("deploy")
    assert f"LaunchDarkly answered {status}" in err
    assert "The package gets the last package's data of 2026-01-31T12:00:00Z" in err
    assert bundled(packing) == ("12:00", 1)
    assert attached(packing.config()) == {f"{FUNCTION}:2"}


def test_without_launchdarkly_a_first_deploy_bundles_no_flags(packing, monkeypatch):
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", "http://127.0.0.1:9")
    status, _, err = packing("deploy")
    assert status == 0 and "The package gets no flag data." in err
    assert bundled(packing) is None


def test_another_keys_flags_are_never_bundled(packing, monkeypatch):
    packing.does("deploy")
    other = "sdk-c0ffee00-0000-4000-8000-00000000beef"
    (packing.project / "target/lambda/redirect/bootstrap").write_bytes(elf(key=other))
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", other)
    packing.launchdarkly.answers["/sdk/flags/rebrand"] = (503, "")
    packing.does("deploy", "--new-key")
    assert bundled(packing) is None


def test_a_rejected_key_still_stops_a_deploy(packing):
    packing.launchdarkly.answers["/sdk/flags/rebrand"] = (401, "")
    assert "rejected the SDK key" in packing.fails("deploy")
    assert packing.aws.stacks == {}


# ---- publish ---------------------------------------------------------------------------------------------------------


def test_publish_changes_only_the_pages(cloud, monkeypatch):
    cloud.does("deploy")
    cloud.recipes.clear()
    (cloud.project / "target/edge/redirect.zip").unlink()
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    (cloud.project / "site/index.html").write_text("second")
    out = cloud.does("publish")
    assert uploads(cloud) == ["site/index.html"]
    assert cloud.aws.invalidations == [["/site/index.html", "/site/"]]
    assert out[-1].startswith("https://")
    assert cloud.recipes == [] and cloud.aws.calls["ExecuteChangeSet"] == 1
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


def test_an_interrupted_publish_resumes(cloud):
    cloud.does("deploy")
    (cloud.project / "site/index.html").write_text("second")

    def interrupt(operation):
        if operation == "CreateInvalidation":
            raise KeyboardInterrupt

    cloud.after_call = interrupt
    status, _, err = cloud("publish")
    assert status == 130 and "To resume: just publish production" in err
    cloud.after_call = lambda _: None
    cloud.does("publish")
    assert cloud.aws.invalidations[-1] == ["/site/index.html", "/site/"]


def test_a_denied_publish_resumes_too(cloud):
    cloud.does("deploy")
    (cloud.project / "site/index.html").write_text("second")
    cloud.aws.faults["CreateInvalidation"] = [403]
    assert "CreateInvalidation failed: " in cloud.fails("publish")
    cloud.aws.faults["CreateInvalidation"] = [400, 400]
    out = cloud.does("publish")
    assert sum("retrying" in line for line in out) == 2
    assert cloud.aws.invalidations == [["/site/index.html", "/site/"]]


def test_publish_waits_for_an_operation_in_flight(cloud):
    cloud.does("deploy")
    cloud.package(b"second")
    cloud.aws.steps = 1
    first = cloud.pauses + 1
    cloud.on_pause = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == first else None
    assert cloud("deploy")[0] == 130
    assert any("is in flight" in line for line in cloud.does("publish"))
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}


def test_publish_needs_a_bucket_of_the_stack(cloud):
    assert "There is no stack" in cloud.fails("publish")
    cloud.does("deploy", "--set", "ExistingDistributionId=E1EXAMPLE")
    assert "Upload the site to your own bucket" in cloud.fails("publish")


# ---- deploy, with faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["deploy", "Production"], "lower-case"),
        (["deploy", "a" * 21], "up to 20"),
        (["deploy", "production-flags"], "The flag store of production"),
        (["url", "store"], "The environment comes first: production store"),
        (["deploy", "--set", "Color=red"], "expected NAME=VALUE with NAME one of"),
        (["deploy", "--set", "PackageKey=x"], "expected NAME=VALUE"),
        (["deploy", "--set", "AccessLogs"], "expected NAME=VALUE"),
        (["deploy", "--set", "DomainName=www.example.com"], "DomainName and CertificateArn belong together"),
        (["deploy", "--set", "CertificateArn=arn:aws:acm:eu-west-1:123456789012:certificate/0a"], "in us-east-1"),
        (["detach"], "There is no stack redirect-production"),
        (["url"], "There is no stack redirect-production"),
        (["logs"], "There is no stack redirect-production"),
    ],
)
def test_an_invalid_command_reports_how_to_correct_it(cloud, arguments, reported):
    assert reported in cloud.fails(*arguments)
    assert cloud.aws.distributions == {}


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda project: (project / "site/404.html").unlink(), "lacks 404.html"),
        (lambda project: (project / "site").rename(project / "gone"), "does not exist"),
    ],
)
def test_missing_files_are_reported_before_anything_is_done(cloud, spoil, reported):
    spoil(cloud.project)
    assert reported in cloud.fails("deploy")
    assert cloud.calls == [] and cloud.recipes == []


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda package: package.unlink(), "just package"),
        (lambda package: package.write_bytes(b"half"), "not a zip file"),
    ],
)
def test_an_unreadable_package_changes_nothing(cloud, spoil, reported):
    spoil(cloud.project / "target/edge/redirect.zip")
    assert reported in cloud.fails("deploy")
    assert set(cloud.operations()) <= {"GetCallerIdentity", "DescribeStacks"}


def test_missing_credentials_are_reported(cloud, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Sign in" in cloud.fails("deploy")
    assert cloud.buckets() == []


def test_an_unknown_profile_is_reported(cloud, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in cloud.fails("deploy")


def test_a_network_failure_is_reported(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Check the network" in cloud.fails("deploy")


def test_denied_permissions_are_reported(cloud):
    cloud.aws.faults["CreateChangeSet"] = [403]
    err = cloud.fails("deploy")
    assert "CreateChangeSet failed: " in err
    assert "docs/deploy.md" in err


def test_another_configured_region_is_ignored(cloud, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    cloud.does("deploy")
    assert cloud.aws.regions == {"us-east-1"}


def test_another_accounts_bucket_gets_no_package(cloud):
    """Another account may own the bucket's name. moto ignores ExpectedBucketOwner, so the test answers as S3 does."""

    def denied(operation):
        if operation == "HeadBucket":
            assert "ExpectedBucketOwner" in cloud.calls[-1][1]
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, operation)

    cloud.after_call = denied
    assert "belongs to another account" in cloud.fails("deploy")
    assert "PutObject" not in cloud.operations()


def test_every_call_about_a_bucket_names_its_owner(cloud):
    """Also about the site's bucket, whose name another account may take after it is deleted."""
    cloud.does("deploy")
    (cloud.project / "site/style.css").unlink()
    cloud.does("deploy")
    cloud.does("destroy", "--yes", "production")
    uses = [(name, params) for name, params in cloud.calls if "Bucket" in params and name != "CreateBucket"]
    assert len({params["Bucket"] for _, params in uses}) == 2
    assert {"PutObject", "ListObjectsV2", "DeleteObjects", "ListObjects", "DeleteBucket"} <= {name for name, _ in uses}
    assert [name for name, params in uses if params.get("ExpectedBucketOwner") != "123456789012"] == []


def test_a_lost_connection_does_not_end_a_wait(cloud):
    cloud.aws.faults["DescribeStackEvents"] = [None, "reset", 400, None]
    out = cloud.does("deploy")
    assert sum("retrying" in line for line in out) == 2


def test_a_service_that_stays_unreachable_ends_a_wait(cloud):
    cloud.aws.faults["DescribeStackEvents"] = [None] + [400] * 8
    assert "Throttling" in cloud.fails("deploy")
    cloud.does("deploy")


@pytest.mark.parametrize("when", range(1, 4))
def test_an_interrupted_deploy_resumes(cloud, when):
    def interrupt(number):
        if number == when:
            raise KeyboardInterrupt

    cloud.aws.steps = 2
    cloud.on_pause = interrupt
    status, _, err = cloud("deploy")
    assert status == 130
    assert "To resume: just deploy production" in err
    out = cloud.does("deploy")
    assert out[-1].startswith("https://")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}
    assert cloud.aws.calls["ExecuteChangeSet"] == 1, "it waits for the operation in flight instead of repeating it"
    assert len(cloud.keys(cloud.bucket("sitebucket"))) == 6


def test_uploads_of_an_interrupted_run_are_still_invalidated(cloud):
    cloud.does("deploy")
    (cloud.project / "site/index.html").write_text("second")
    cloud.aws.faults["CreateInvalidation"] = [403]
    cloud.fails("deploy")
    out = cloud.does("deploy")
    assert "  6 files unchanged" in out
    assert cloud.aws.invalidations == [["/site/index.html", "/site/"]]
    cloud.does("deploy")
    assert len(cloud.aws.invalidations) == 1


def test_a_failed_creation_is_reported_with_its_cause_and_the_next_step(cloud):
    cloud.aws.resource_faults["Distribution"] = "The maximum size of the function is 1048576 bytes"
    err = cloud.fails("deploy")
    assert "ROLLBACK_COMPLETE" in err
    assert "CREATE_FAILED" in err and "maximum size of the function is 1048576" in err
    assert "just destroy" in cloud.fails("deploy")
    cloud.does("destroy", "--yes", "production")
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


def test_the_state_before_an_operation_does_not_count_as_its_end(cloud):
    cloud.does("deploy")
    cloud.package(b"second")
    cloud.aws.sluggish, cloud.aws.steps = True, 1
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:2"}


def test_a_failed_update_does_not_change_the_site(cloud):
    cloud.does("deploy")
    before = cloud.config()
    cloud.package(b"second")
    cloud.aws.resource_faults["Distribution"] = "Rate exceeded"
    err = cloud.fails("deploy")
    assert "UPDATE_ROLLBACK_COMPLETE" in err and "Rate exceeded" in err and "Everything runs as before" in err
    assert behaviors_of(cloud.config())[1:] == behaviors_of(before)[1:]
    cloud.package(b"third")
    cloud.does("deploy")


def test_a_stack_that_needs_repair_is_reported_with_the_command(cloud):
    cloud.does("deploy")
    cloud.stack().state = "UPDATE_ROLLBACK_FAILED"
    assert "continue-update-rollback" in cloud.fails("deploy")


# ---- detach ----------------------------------------------------------------------------------------------------------


def test_detach_sends_everyone_to_the_current_site(cloud):
    cloud.does("deploy")
    with_function = [part.get("PathPattern") for part in behaviors_of(cloud.config()) if attached_to(part)]
    assert with_function == [None, "/site/", "/site/beta", "/site/beta/*.htm*", "/site/beta/*.*/*", "/site/beta/*"]
    cloud.aws.slow_distribution = 2
    out = cloud.does("detach")
    assert any("CloudFront is deploying the change" in line for line in out)
    assert attached(cloud.config()) == set()
    for behavior in behaviors_of(cloud.config()):
        if behavior.get("PathPattern") not in ASSETS:
            assert [entry["FunctionARN"] for entry in behavior["FunctionAssociations"]["Items"]] == [STAND_IN]
    assert cloud.stack().parameters["AttachFunction"] == "no", "otherwise the stack's next update would attach it"
    assert "The function is not attached to any behavior." in cloud.does("detach")
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


def attached_to(behavior):
    return behavior["LambdaFunctionAssociations"]["Quantity"] > 0


def test_detach_makes_one_call_before_it_takes_effect(cloud):
    """In an emergency, nothing slow may come before the update of the distribution."""
    cloud.does("deploy")
    cloud.calls.clear()
    cloud.does("detach")
    before = cloud.operations()[: cloud.operations().index("UpdateDistribution")]
    assert set(before) <= {"DescribeStacks", "DescribeStackResources", "GetDistributionConfig"}


def test_detach_works_in_every_state_of_the_stack(cloud):
    cloud.does("deploy")
    cloud.stack().state = "UPDATE_ROLLBACK_FAILED"
    err = cloud.fails("detach")
    assert "Viewers no longer run the function" in err
    assert attached(cloud.config()) == set()
    (stand_in,) = cloud.config()["DefaultCacheBehavior"]["FunctionAssociations"]["Items"]
    assert stand_in["FunctionARN"] == STAND_IN, "without it, there is no page at /"


def test_detach_retries_if_someone_else_changes_the_distribution(cloud):
    cloud.does("deploy")
    cloud.aws.faults["UpdateDistribution"] = [412]
    out = cloud.does("detach")
    assert any("someone else changed the distribution" in line for line in out)
    assert attached(cloud.config()) == set()


def test_an_interrupted_detach_resumes(cloud):
    cloud.does("deploy")
    cloud.aws.slow_distribution = 2
    first = cloud.pauses + 1
    cloud.on_pause = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == first else None
    assert cloud("detach")[0] == 130
    assert attached(cloud.config()) == set()
    assert cloud.stack().parameters["AttachFunction"] == "yes"
    cloud.does("detach")
    assert cloud.stack().parameters["AttachFunction"] == "no"


def test_deploy_reattaches_a_function_that_was_detached_outside_the_stack(cloud):
    cloud.does("deploy")
    cloud.stack().state = "UPDATE_ROLLBACK_FAILED"
    cloud.fails("detach")
    cloud.stack().state = "UPDATE_COMPLETE"
    out = cloud.does("deploy")
    assert any("attaching it again" in line for line in out)
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


# ---- An existing distribution ----------------------------------------------------------------------------------------

OTHER = "arn:aws:lambda:us-east-1:123456789012:function:other:3"
OTHER_SCRIPT = "arn:aws:cloudfront::123456789012:function/other"
EXISTING = ("deploy", "--set", "ExistingDistributionId=E1EXAMPLE")


def existing(cloud, behaviors):
    """Creates a distribution: for each path pattern, what its events run. None is the default behavior."""

    def behavior(pattern, runs):
        lambdas, scripts = [], []
        for event, arn in runs:
            if ":lambda:" in arn:
                lambdas.append({"EventType": event, "LambdaFunctionARN": arn, "IncludeBody": False})
            else:
                scripts.append({"EventType": event, "FunctionARN": arn})
        return {
            **({"PathPattern": pattern} if pattern else {}),
            "TargetOriginId": "mine",
            "ViewerProtocolPolicy": "https-only",
            "LambdaFunctionAssociations": {"Quantity": len(lambdas), "Items": lambdas},
            "FunctionAssociations": {"Quantity": len(scripts), "Items": scripts},
        }

    others = [behavior(pattern, runs) for pattern, runs in behaviors.items() if pattern]
    header = {"HeaderName": "x-origin-secret", "HeaderValue": "for the origin alone"}
    origin = {"Id": "mine", "DomainName": "example.com", "CustomHeaders": {"Quantity": 1, "Items": [header]}}
    config = {
        "CallerReference": "mine",
        "Comment": "",
        "Enabled": True,
        "Origins": {"Quantity": 1, "Items": [origin]},
        "DefaultCacheBehavior": behavior(None, behaviors[None]),
        "CacheBehaviors": {"Quantity": len(others), "Items": others},
    }
    cloud.aws.put_distribution("E1EXAMPLE", config)


def what_runs(cloud):
    found = {}
    for behavior in behaviors_of(cloud.config()):
        lambdas = behavior["LambdaFunctionAssociations"].get("Items", [])
        scripts = behavior["FunctionAssociations"].get("Items", [])
        found[behavior.get("PathPattern")] = [
            (entry["EventType"], entry.get("LambdaFunctionARN") or entry["FunctionARN"]) for entry in lambdas + scripts
        ]
    return found


def saved(cloud):
    return sorted((cloud.project / "target/edge").glob("E1EXAMPLE-*.json"))


def test_a_release_to_an_existing_distribution_is_one_command(cloud):
    runs = {
        None: [("viewer-request", f"{FUNCTION}:1"), ("origin-request", OTHER)],
        # CloudFront accepts a pattern without the slash too.
        "site/beta": [],
        "/site/beta/*": [("viewer-request", STAND_IN)],
        "/site/beta/*.*": [],
        "/site/*/": [],
        "/de/*": [("viewer-request", f"{FUNCTION}:1")],
        "/api/*": [("viewer-request", OTHER)],
    }
    cloud.does(*EXISTING)
    existing(cloud, runs)
    cloud.package(b"second")
    cloud.aws.slow_distribution = 2
    text = "\n".join(cloud.does("deploy", "--attach"))
    new = ("viewer-request", f"{FUNCTION}:2")
    assert what_runs(cloud) == {
        None: [("origin-request", OTHER), new],
        "site/beta": [new],
        "/site/beta/*": [new],
        "/site/beta/*.*": [],
        "/site/*/": [("viewer-request", STAND_IN)],
        "/de/*": [new],
        "/api/*": [("viewer-request", OTHER)],
    }
    assert cloud.aws.calls["UpdateDistribution"] == 1, "in one update"
    # Changes are printed. The previous configuration is kept, readable only by the owner: it has an origin's secret
    # header.
    assert "function:redirect-production:1 -> function:redirect-production:2" in text
    assert "/site/beta/*.htm*    is not one of its behaviors" in text
    assert "CloudFront is deploying the change" in text
    (file,) = saved(cloud)
    assert f"the previous configuration is in {file}" in text
    assert json.loads(file.read_text())["DefaultCacheBehavior"]["LambdaFunctionAssociations"]["Quantity"] == 2
    assert (file.stat().st_mode & 0o777, "for the origin alone" in text) == (0o600, False)

    assert "  no behavior to change" in cloud.does("deploy", "--attach")
    assert cloud.aws.calls["UpdateDistribution"] == 1


@pytest.mark.parametrize(
    "runs",
    [
        {None: [("viewer-request", OTHER)], "/site/beta": []},
        {None: [], "/site/beta": [("viewer-request", OTHER_SCRIPT)]},
        # A CloudFront Function on responses and Lambda@Edge on requests exclude each other too.
        {None: [], "/site/beta": [("viewer-response", OTHER_SCRIPT)]},
    ],
)
def test_nothing_is_attached_where_another_function_runs(cloud, runs):
    cloud.does(*EXISTING)
    existing(cloud, runs)
    cloud.recipes.clear()
    cloud.package(b"second")
    err = cloud.fails("deploy", "--attach")
    assert "Nothing was attached" in err
    assert ("*" if runs[None] else "/site/beta") + "  " + (OTHER if runs[None] else OTHER_SCRIPT) in err
    assert what_runs(cloud) == runs
    assert cloud.recipes == [], "reported before anything is built"


def test_the_users_own_function_may_add_the_index_pages(cloud):
    own = [("viewer-request", OTHER_SCRIPT)]
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/*/": own})
    cloud.does("deploy", "--attach")
    assert what_runs(cloud) == {None: [("viewer-request", f"{FUNCTION}:1")], "/site/*/": own}


@pytest.mark.parametrize(("faults", "tries"), [([412], 2), ([412, 412], 3)])
def test_attach_retries_if_someone_else_changes_the_distribution(cloud, faults, tries):
    cloud.does(*EXISTING)
    existing(cloud, {None: []})
    cloud.aws.faults["UpdateDistribution"] = faults
    cloud.does("deploy", "--attach")
    assert what_runs(cloud) == {None: [("viewer-request", f"{FUNCTION}:1")]}
    assert cloud.aws.calls["UpdateDistribution"] == tries


def test_a_rejected_attachment_is_reported_and_a_later_run_attaches(cloud):
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/beta": []})
    cloud.aws.faults["UpdateDistribution"] = [403]
    assert "UpdateDistribution failed: " in cloud.fails("deploy", "--attach")
    assert what_runs(cloud) == {None: [], "/site/beta": []}
    cloud.aws.slow_distribution = 2
    first = cloud.pauses + 1
    cloud.on_pause = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == first else None
    assert cloud("deploy", "--attach")[0] == 130
    assert "  no behavior to change" in cloud.does("deploy", "--attach")


@pytest.mark.parametrize("arguments", [["--attach"], [*EXISTING[1:], "--attach", "--without-function"]])
def test_attach_needs_a_function_and_an_existing_distribution(cloud, arguments):
    for more in ([], ["--dry-run"]):
        assert "ExistingDistributionId" in cloud.fails("deploy", *arguments, *more)
    assert cloud.recipes == []


def test_detach_keeps_other_functions_and_removes_partial_and_old_associations(cloud):
    cloud.does(*EXISTING)
    existing(
        cloud,
        {
            None: [("viewer-request", f"{FUNCTION}:1"), ("origin-request", OTHER)],
            "/site/beta": [("viewer-request", f"{FUNCTION}:7")],
            # CloudFront allows no CloudFront Function together with it.
            "/de/*": [("viewer-request", f"{FUNCTION}:1"), ("viewer-response", OTHER)],
            "/site/beta/*": [],
        },
    )
    cloud.does("detach")
    assert what_runs(cloud) == {
        None: [("origin-request", OTHER), ("viewer-request", STAND_IN)],
        "/site/beta": [("viewer-request", STAND_IN)],
        "/de/*": [("viewer-response", OTHER)],
        "/site/beta/*": [],
    }


def test_after_detach_everyone_gets_the_current_site(cloud):
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/*/": []})
    cloud.does("deploy", "--attach")
    cloud.does("detach")
    current = [("viewer-request", STAND_IN)]
    assert what_runs(cloud) == {None: current, "/site/*/": current}
    cloud.does("deploy", "--attach")
    assert what_runs(cloud) == {None: [("viewer-request", f"{FUNCTION}:1")], "/site/*/": current}


def test_rollback_updates_an_existing_distribution(cloud):
    """Also one that was released to by hand: behaviors with the function get the other version."""
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/beta": [], "/api/*": [("viewer-request", OTHER)]})
    cloud.does("deploy", "--attach")
    cloud.package(b"second")
    cloud.does("deploy", "--attach")
    cloud.does("rollback")
    (version,) = {arn for event, arn in what_runs(cloud)[None] + what_runs(cloud)["/site/beta"]}
    assert version == cloud.stack().resources["FunctionVersion"].physical == f"{FUNCTION}:3"
    assert what_runs(cloud)["/api/*"] == [("viewer-request", OTHER)]


def test_rollback_prints_what_to_attach_if_nothing_runs_the_function(cloud):
    cloud.does(*EXISTING)
    existing(cloud, {None: []})
    cloud.package(b"second")
    cloud.does("deploy")
    assert f"  redirect function    {FUNCTION}:3" in cloud.does("rollback")
    assert what_runs(cloud) == {None: []}


def test_destroy_removes_our_functions_from_an_existing_distribution(cloud):
    """CloudFront does not delete a CloudFront Function that a distribution runs."""
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/*/": [], "/api/*": [("viewer-request", OTHER_SCRIPT)]})
    cloud.does("deploy", "--attach")
    cloud.does("destroy", "--yes", "production")
    assert what_runs(cloud) == {None: [], "/site/*/": [], "/api/*": [("viewer-request", OTHER_SCRIPT)]}
    assert cloud.aws.stacks == {}


# ---- destroy ---------------------------------------------------------------------------------------------------------


def test_destroy_waits_for_the_replicas_and_leaves_nothing(cloud):
    cloud.does("deploy")
    cloud.package(b"second")
    cloud.does("deploy")
    cloud.aws.replicas_live_for = 3
    out = cloud.does("destroy", "--yes", "production")
    assert sum("waiting for the replicas" in line for line in out) == 3
    assert any("You can interrupt this" in line for line in out)
    assert cloud.buckets() == []
    assert cloud.aws.stacks == {} and cloud.aws.distributions == {}
    assert cloud.lambda_.list_functions()["Functions"] == []
    out = cloud.does("destroy", "--yes", "production")
    assert "There is no stack redirect-production." in out


@pytest.mark.parametrize("when", range(1, 7))
def test_an_interrupted_destroy_resumes(cloud, when):
    cloud.does("deploy")
    cloud.aws.slow_distribution = 2
    cloud.aws.steps = 3
    first = cloud.pauses

    def interrupt(number):
        if number == first + when:
            raise KeyboardInterrupt

    cloud.on_pause = interrupt
    status, _, err = cloud("destroy", "--yes", "production")
    assert status == 130
    assert "To resume: just destroy production" in err
    cloud.does("destroy", "--yes", "production")
    assert cloud.buckets() == [] and cloud.aws.stacks == {} and cloud.aws.distributions == {}
    assert cloud.lambda_.list_functions()["Functions"] == []


def test_a_deploy_after_an_interrupted_destroy_restores_the_site(cloud):
    cloud.does("deploy")
    first = cloud.pauses + 1
    cloud.on_pause = lambda number: (_ for _ in ()).throw(KeyboardInterrupt) if number == first else None
    assert cloud("destroy", "--yes", "production")[0] == 130
    assert attached(cloud.config()) == set()
    cloud.does("deploy")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}


def test_a_failed_deletion_is_reported_with_its_cause(cloud):
    cloud.does("deploy")
    real = cloud.aws.unmake

    def refuse(resource):
        if resource.kind == "AWS::S3::Bucket":
            cloud.s3.put_object(Bucket=resource.physical, Key="site/late.html", Body=b"uploaded meanwhile")
        return real(resource)

    cloud.aws.unmake = refuse
    try:
        err = cloud.fails("destroy", "--yes", "production")
    finally:
        cloud.aws.unmake = real
    assert "DELETE_FAILED" in err and "not empty" in err
    cloud.does("destroy", "--yes", "production")
    assert cloud.buckets() == []


def test_the_access_logs_outlive_the_site(cloud):
    cloud.does("deploy", "--set", "AccessLogs=yes")
    kept = cloud.bucket("logbucket")
    out = cloud.does("destroy", "--yes", "production")
    assert f"The bucket of the access logs is kept: {kept}" in out
    assert cloud.buckets() == [kept]


def test_destroy_needs_confirmation(cloud, monkeypatch):
    cloud.does("deploy")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "staging")
    assert "nothing was changed" in cloud.fails("destroy")

    def end_of_input(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", end_of_input)
    assert "nothing was changed" in cloud.fails("destroy")
    assert attached(cloud.config()) == {f"{FUNCTION}:1"}
    monkeypatch.setattr("builtins.input", lambda _: "production")
    cloud.does("destroy")
    assert cloud.aws.stacks == {}


# ---- url and secrets -------------------------------------------------------------------------------------------------


def test_url_prints_only_the_address(cloud):
    cloud.does("deploy")
    (line,) = cloud.does("url")
    assert line == f"https://{next(iter(cloud.aws.distributions)).lower()}.cloudfront.net/"


def test_the_record_would_contain_a_key_that_is_shown(cloud):
    """The fixture looks for the key in the record. This shows that the record has everything that matters."""
    cloud.does("deploy")
    recorded = "\n".join(cloud.record + cloud.aws.requests)
    for trace in (
        '"ChangeSetName"',  # calls
        '"AttachFunction"',  # with their parameters
        "uploaded packages/",  # output
        "TemplateBody=",  # requests to CloudFormation, with parameters
    ):
        assert trace in recorded
