"""The templates: linters, and tests of what they promise."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import template as templates
from harness import ROOT

TEMPLATES = sorted((ROOT / "cloudformation").glob("*.yaml"))
EDGE = ROOT / "cloudformation/edge.yaml"
FLAG_STORE = ROOT / "cloudformation/flag-store.yaml"
PACKAGE = {"PackageBucket": "bucket", "PackageKey": "packages/1.zip", "PackageSha256": "A" * 43 + "="}
ACCOUNT = "123456789012"
ROOT_PATHS = {"CurrentPath": "/", "BetaPath": "/beta"}
FUNCTION, CURRENT_SITE = "arn:function:1", "arn:current-site"


def each_template(test):
    return pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)(test)


def edge(**values):
    resolved = templates.Resolved(templates.load(EDGE.read_text()), values, "redirect-test", ACCOUNT)
    resolved.physical = {name: name for name in resolved.template["Resources"]} | {"FunctionVersion": FUNCTION}
    known = {
        "FunctionARN": CURRENT_SITE,
        "Arn": "arn",
        "Id": "id",
        "DomainName": "d.example",
        "RegionalDomainName": "r.example",
    }
    resolved.attributes = dict.fromkeys(resolved.template["Resources"], known)
    return resolved


def flag_store(**values):
    names = {"PackageBucket": "bucket", "PackageKey": "packages/1.zip"}
    names |= {"SdkKeyParameter": "/test/sdk-key", "WebhookSecretParameter": "/test/webhook-secret"}
    resolved = templates.Resolved(
        templates.load(FLAG_STORE.read_text()), names | values, "redirect-test-flags", ACCOUNT
    )
    resolved.physical = {name: name for name in resolved.template["Resources"]}
    known = {"Arn": "arn", "ApiEndpoint": "https://api.example"}
    resolved.attributes = dict.fromkeys(resolved.template["Resources"], known)
    return resolved


def properties(resolved, name):
    return resolved.value(resolved.template["Resources"][name]["Properties"])


# ---- Linters ---------------------------------------------------------------------------------------------------------


def lint(program, *arguments):
    command = [Path(sys.executable).with_name(program), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


# Each linter reads all templates in one run: starting it takes longer than reading them.


@pytest.fixture(scope="module")
def findings():
    return lint("cfn-lint", "--format", "json", *TEMPLATES)


@pytest.fixture(scope="module")
def security():
    files = [word for path in TEMPLATES for word in ("-f", path)]
    return lint("checkov", *files, "--framework", "cloudformation", "-o", "json", "--skip-download")["results"]


@pytest.mark.xdist_group("cfn-lint")
@each_template
def test_cfn_lint_reports_nothing(findings, path):
    assert [finding for finding in findings if Path(finding["Filename"]) == path] == []


@pytest.mark.xdist_group("checkov")
@each_template
def test_the_security_linter_reports_only_explained_findings(security, path):
    """Every accepted finding is listed at its resource, with the reason; obsolete ones must be removed."""
    assert path in {Path(check["file_abs_path"]) for check in security["passed_checks"]}
    of_path = {
        kind: [check for check in security[kind] if Path(check["file_abs_path"]) == path]
        for kind in ("failed_checks", "skipped_checks")
    }
    assert [(check["check_id"], check["resource"]) for check in of_path["failed_checks"]] == []
    skipped = {(check["check_id"], check["resource"].split(".")[1]) for check in of_path["skipped_checks"]}
    explained = set()
    for name, resource in templates.load(path.read_text())["Resources"].items():
        for entry in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(entry["comment"]) > 10
            explained.add((entry["id"], name))
    assert explained == skipped


@each_template
def test_every_parameter_and_output_is_described(path):
    template = templates.load(path.read_text())
    for part in ("Parameters", "Outputs"):
        for name, entry in template.get(part, {}).items():
            assert len(entry.get("Description", "")) > 10, f"{part} {name}"


@each_template
def test_a_template_fits_cloudformations_size_limit(path):
    """CloudFormation accepts 51,200 bytes in a call; a larger template needs a bucket."""
    assert path.stat().st_size <= 51_200


# ---- Which behavior a path gets -------------------------------------------------------------------------------------


def behavior_of(config, path):
    """The first pattern that matches, like CloudFront: "*" matches any characters, "?" matches one."""
    for behavior in config["CacheBehaviors"]:
        wild = {"*": ".*", "?": "."}
        pattern = "".join(wild.get(character) or re.escape(character) for character in behavior["PathPattern"])
        if re.fullmatch(pattern, path, re.DOTALL):
            return behavior
    return config["DefaultCacheBehavior"]


def who_answers(path, config):
    behavior = behavior_of(config, path)
    lambdas = [entry["LambdaFunctionARN"] for entry in behavior.get("LambdaFunctionAssociations", [])]
    functions = [entry["FunctionARN"] for entry in behavior.get("FunctionAssociations", [])]
    (answer,) = (lambdas + functions) or ["nobody"]
    return {FUNCTION: "function", CURRENT_SITE: "current site"}.get(answer, answer)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "function"),
        ("/about.html", "function"),
        ("/a/b/c.css", "function"),
        ("/site", "function"),
        ("/site/", "function"),
        ("/sitemap.xml", "function"),
        ("/site-map", "function"),
        ("/sitebeta/x", "function"),
        ("/site/index.html", "nobody"),
        ("/site/style.css", "nobody"),
        ("/site/docs/", "current site"),
        ("/site/a.b/c/", "current site"),
        ("/site/betamax/", "current site"),
        ("/site/betamax/x.html", "nobody"),
        ("/site/beta.html", "nobody"),
        ("/site/beta", "function"),
        ("/site/beta/", "function"),
        ("/site/beta/index.html", "function"),
        ("/site/beta/old.htm", "function"),
        ("/site/beta/a/b.html", "function"),
        ("/site/beta/about", "function"),
        ("/site/beta/docs/", "function"),
        ("/site/beta/v1.2/docs", "function"),
        ("/site/beta/v1.2/", "function"),
        ("/site/beta/style.css", "nobody"),
        ("/site/beta/a/b/logo.svg", "nobody"),
        ("/site/beta/.well-known", "nobody"),
    ],
)
def test_the_right_function_answers_each_path(path, expected):
    assert who_answers(path, properties(edge(**PACKAGE), "Distribution")["DistributionConfig"]) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ROOT_PATHS,
            {
                "/": "function",
                "/index.html": "function",
                "/about": "function",
                "/about.htm": "function",
                "/docs/": "function",
                "/v1.2/docs": "function",
                "/v1.2/logo.svg": "function",
                "/logo.svg": "nobody",
                "/docs/style.css": "nobody",
                "/.well-known/acme-challenge/a": "nobody",
                "/.well-known/index.html": "nobody",
                "/.well-known": "nobody",
                "/beta": "function",
                "/beta/": "function",
                "/beta/a/b.html": "function",
                "/beta/v1.2/docs": "function",
                "/beta/docs/logo.svg": "nobody",
                "/betamax/x.css": "nobody",
                "/betamax/x": "function",
            },
        ),
        (
            {"CurrentPath": "/", "BetaPath": "/v2.0"},
            {"/v2.0": "function", "/v2.0/": "function", "/v2.0/a.css": "nobody"},
        ),
        (
            {"CurrentPath": "/site", "BetaPath": "/new"},
            {
                "/": "function",
                "/site/": "function",
                "/site/new/x": "nobody",
                "/site/x/": "current site",
                "/new": "function",
                "/new/x.html": "function",
                "/new/x.css": "nobody",
                "/beta/x": "function",
            },
        ),
        (
            {"CurrentPath": "/a/b", "BetaPath": "/a/b/c/d"},
            {
                "/a": "function",
                "/a/b": "function",
                "/a/b/c/x": "nobody",
                "/a/b/c/d/x": "function",
                "/a/b/x/": "current site",
            },
        ),
    ],
)
def test_the_right_function_answers_each_path_of_other_sites(paths, expected):
    config = properties(edge(**PACKAGE, **paths), "Distribution")["DistributionConfig"]
    assert {path: who_answers(path, config) for path in expected} == expected
    assert len(config["CacheBehaviors"]) <= 24, "CloudFront's quota is 25 with the default behavior"


@pytest.mark.parametrize(
    ("paths", "prefix"),
    [
        ({}, "/site/beta/"),
        ({"CurrentPath": "/site", "BetaPath": "/new"}, "/new/"),
        (ROOT_PATHS, "/beta/"),
        (ROOT_PATHS, "/"),
    ],
)
def test_every_page_that_needs_a_decision_runs_the_function(paths, prefix):
    """All short paths over these segments, by the rule of src/redirect.rs. Only a page may cost an invocation, unless a
    directory's name has a dot."""
    config = properties(edge(**PACKAGE, **paths), "Distribution")["DistributionConfig"]
    names = ["a", "a.b", "x.html", "x.htm", "x.css", "beta", "site", ".", "..b", "v1.2", ""]
    count = 0
    for length in (1, 2, 3):
        for segments in itertools.product(names, repeat=length):
            path = prefix + "/".join(segments)
            last = segments[-1]
            is_page = "." not in last or last.rsplit(".", 1)[1] in ("html", "htm")
            answer = who_answers(path, config)
            count += 1
            if is_page:
                assert answer == "function", path
            elif not any("." in segment for segment in segments[:-1]):
                assert answer == "nobody", path
    assert count == 11 + 11**2 + 11**3


def test_without_the_function_the_current_site_answers_everywhere():
    for values in ({}, {**PACKAGE, "AttachFunction": "no"}):
        config = properties(edge(**values), "Distribution")["DistributionConfig"]
        for path in ("/", "/a/b", "/site", "/site/", "/site/beta", "/site/beta/", "/site/beta/x.html", "/site/x/"):
            assert who_answers(path, config) == "current site", path
        assert who_answers("/site/beta/x.css", config) == who_answers("/site/x", config) == "nobody"
        config = properties(edge(**values, **ROOT_PATHS), "Distribution")["DistributionConfig"]
        for path in ("/", "/a/b", "/beta", "/beta/", "/beta/x.html", "/x.html", "/x/"):
            assert who_answers(path, config) == "current site", path
        assert who_answers("/beta/x.css", config) == who_answers("/x.css", config) == "nobody"


def test_all_methods_reach_the_function_where_it_redirects():
    """It answers POST with 307; CloudFront would reject the POST if the behavior did not allow it."""
    config = properties(edge(**PACKAGE), "Distribution")["DistributionConfig"]
    for path in ("/", "/site", "/site/", "/site/beta", "/site/beta/"):
        assert "POST" in behavior_of(config, path)["AllowedMethods"]
    config = properties(edge(**PACKAGE, **ROOT_PATHS), "Distribution")["DistributionConfig"]
    for path in ("/beta", "/beta/", "/beta/x"):
        assert "POST" in behavior_of(config, path)["AllowedMethods"]


# ---- The site --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [{}, ROOT_PATHS])
def test_every_behavior_is_https_compressed_cached_and_has_security_headers(paths):
    config = properties(edge(**PACKAGE, **paths), "Distribution")["DistributionConfig"]
    for behavior in [config["DefaultCacheBehavior"], *config["CacheBehaviors"]]:
        assert behavior["ViewerProtocolPolicy"] == "redirect-to-https"
        assert behavior["Compress"] is True
        assert behavior["CachePolicyId"] == "658327ea-f89d-4fab-a63d-7e88639e58f6"
        assert behavior["ResponseHeadersPolicyId"] == "67f7725c-6f97-4210-82d7-5512b31e9d03"
        assert "ForwardedValues" not in behavior
        both = behavior.get("LambdaFunctionAssociations", []) + behavior.get("FunctionAssociations", [])
        assert len(both) <= 1, "CloudFront allows one kind of function on viewer requests"
        assert all(entry["EventType"] == "viewer-request" for entry in both)


def test_the_distribution_uses_current_protocols_and_an_error_page():
    config = properties(edge(**PACKAGE), "Distribution")["DistributionConfig"]
    assert config["HttpVersion"] == "http2and3"
    assert "DefaultRootObject" not in config, "it would rewrite / before the function sees it"
    errors = {
        error["ErrorCode"]: (error["ResponseCode"], error["ResponsePagePath"])
        for error in config["CustomErrorResponses"]
    }
    assert errors == {403: (404, "/site/404.html"), 404: (404, "/site/404.html")}
    assert config["ViewerCertificate"] == {"CloudFrontDefaultCertificate": True}
    assert "Aliases" not in config


@pytest.mark.parametrize(
    ("paths", "page", "readable"),
    [
        ({}, "/site/404.html", ["/site/*", "/site/beta/*"]),
        ({"CurrentPath": "/a/b", "BetaPath": "/new"}, "/a/b/404.html", ["/a/b/*", "/new/*"]),
        (ROOT_PATHS, "/404.html", ["/*", "/beta/*"]),
    ],
)
def test_error_page_and_permissions_follow_the_paths(paths, page, readable):
    resolved = edge(**PACKAGE, **paths)
    config = properties(resolved, "Distribution")["DistributionConfig"]
    assert {error["ResponsePagePath"] for error in config["CustomErrorResponses"]} == {page}
    # "/" is a page of the current site only at the root.
    assert config.get("DefaultRootObject") == ("index.html" if paths == ROOT_PATHS else None)
    statement = properties(resolved, "SiteBucketPolicy")["PolicyDocument"]["Statement"][0]
    assert statement["Resource"] == [f"arn{keys}" for keys in readable]
    mine = json.loads(edge(ExistingBucketName="mine", **paths).outputs()["ExistingBucketStatement"])
    assert mine["Resource"] == [f"arn:aws:s3:::mine{keys}" for keys in readable]


def test_a_custom_domain_has_tls_1_2():
    certificate = "arn:aws:acm:us-east-1:123456789012:certificate/0a1b"
    config = properties(edge(DomainName="www.example.com", CertificateArn=certificate), "Distribution")[
        "DistributionConfig"
    ]
    assert config["Aliases"] == ["www.example.com"]
    assert config["ViewerCertificate"]["MinimumProtocolVersion"] == "TLSv1.2_2021"
    assert config["ViewerCertificate"]["AcmCertificateArn"] == certificate


@pytest.mark.parametrize(
    ("names", "aliases", "address"),
    [
        ("www.example.com", ["www.example.com"], "https://www.example.com/"),
        (
            "www.example.com,example.com,*.example.org",
            ["www.example.com", "example.com", "*.example.org"],
            "https://www.example.com/",
        ),
        # Nobody can open an address with an asterisk.
        ("*.example.com", ["*.example.com"], "https://d.example/"),
    ],
)
def test_the_address_works_with_every_kind_of_domain(names, aliases, address):
    first, _, more = names.partition(",")
    certificate = "arn:aws:acm:us-east-1:123456789012:certificate/0a1b"
    resolved = edge(DomainName=first, MoreDomainNames=more, CertificateArn=certificate)
    assert properties(resolved, "Distribution")["DistributionConfig"]["Aliases"] == aliases
    assert resolved.outputs()["Url"] == address


def test_the_usual_requirements_of_a_platform_team_can_be_set():
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    acl = "arn:aws:wafv2:us-east-1:123456789012:global/webacl/redirect/0a1b"
    resolved = edge(**PACKAGE, PermissionsBoundary=boundary, WebACLArn=acl, PriceClass="PriceClass_100")
    config = properties(resolved, "Distribution")["DistributionConfig"]
    assert (config["WebACLId"], config["PriceClass"]) == (acl, "PriceClass_100")
    assert properties(resolved, "FunctionRole")["PermissionsBoundary"] == boundary
    assert properties(flag_store(PermissionsBoundary=boundary), "SyncRole")["PermissionsBoundary"] == boundary
    assert "PermissionsBoundary" not in properties(flag_store(), "SyncRole")
    assert "WebACLId" not in properties(edge(**PACKAGE), "Distribution")["DistributionConfig"]
    assert "PermissionsBoundary" not in properties(edge(**PACKAGE), "FunctionRole")


@pytest.mark.parametrize(("logs", "addresses"), [("yes", {"c-ip", "x-forwarded-for"}), ("without-ip", set())])
def test_access_logs_have_no_query_or_cookie_and_addresses_only_if_enabled(logs, addresses):
    fields = set(properties(edge(**PACKAGE, AccessLogs=logs), "LogDelivery")["RecordFields"])
    assert not {"cs-uri-query", "cs(Cookie)", "cs(Referer)"} & fields
    assert {"c-ip", "x-forwarded-for"} & fields == addresses
    assert {"date", "time", "cs-uri-stem", "sc-status"} <= fields


# ---- Monitoring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "distribution"), [(PACKAGE, "Distribution"), (PACKAGE | {"ExistingDistributionId": "E1"}, "E1")]
)
def test_alarm_and_dashboard_watch_the_distribution(values, distribution):
    topic = "arn:aws:sns:us-east-1:123456789012:alarms"
    alarm = properties(edge(**values, AlarmTopicArn=topic), "ErrorAlarm")
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/CloudFront", "5xxErrorRate")
    dimensions = {"DistributionId": distribution, "Region": "Global"}
    assert {entry["Name"]: entry["Value"] for entry in alarm["Dimensions"]} == dimensions
    assert alarm["AlarmActions"] == alarm["OKActions"] == [topic]
    assert "AlarmActions" not in properties(edge(**values), "ErrorAlarm")

    body = json.loads(properties(edge(**values), "Dashboard")["DashboardBody"])
    metrics = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]
    assert [metric[1] for metric in metrics] == ["Requests", "5xxErrorRate", "4xxErrorRate"]
    for metric in metrics:
        assert metric[2:] == ["DistributionId", distribution, "Region", "Global"]


def test_the_dashboard_shows_the_logs_of_one_region_at_a_time():
    body = json.loads(properties(edge(**PACKAGE), "Dashboard")["DashboardBody"])
    (variable,) = body["variables"]
    regions = [entry["value"] for entry in variable["values"]]
    assert variable["defaultValue"] in regions
    assert variable["pattern"] not in json.dumps([widget for widget in body["widgets"] if widget["type"] != "log"])
    (line,) = re.findall(r'^    (\{"level".*\})$', (ROOT / "docs/logs.md").read_text(), re.MULTILINE)
    logs = [widget["properties"] for widget in body["widgets"] if widget["type"] == "log"]
    for widget in logs:
        assert widget["region"] == variable["pattern"]
        source, filtered, stats = widget["query"].split(" | ")
        assert source == "SOURCE '/aws/lambda/us-east-1.redirect-test'"
        fields = re.findall(r"ispresent\((\w+)\)", filtered) + re.findall(r"(?:avg|max)\((\w+)\)", stats)
        assert set(fields) <= set(json.loads(line)), "the function logs no such field"
    assert len(logs) == 3


def test_only_cloudfront_reads_the_bucket_and_only_the_site():
    policy = properties(edge(), "SiteBucketPolicy")["PolicyDocument"]
    allow, deny = policy["Statement"]
    assert (allow["Effect"], allow["Principal"]) == ("Allow", {"Service": "cloudfront.amazonaws.com"})
    assert (allow["Action"], allow["Resource"]) == ("s3:GetObject", ["arn/site/*", "arn/site/beta/*"])
    assert allow["Condition"]["StringEquals"]["AWS:SourceArn"].endswith(":distribution/Distribution")
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


@pytest.mark.parametrize("name", ["SiteBucket", "LogBucket"])
def test_buckets_are_private_and_encrypted(name):
    bucket = properties(edge(AccessLogs="yes"), name)
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]


# ---- The function ----------------------------------------------------------------------------------------------------


def test_the_function_meets_lambda_at_edges_restrictions():
    function = properties(edge(**PACKAGE), "Function")
    (timeout,) = re.findall(r"^function_timeout_seconds = (\d+)", (ROOT / "redirect.toml").read_text(), re.MULTILINE)
    assert function["Timeout"] == int(timeout) <= 5
    assert (function["Runtime"], function["Handler"]) == ("python3.13", "carrier.handler")
    assert (int(function["MemorySize"]), function["Architectures"]) == (128, ["x86_64"])
    assert function["LoggingConfig"] == {"LogFormat": "JSON", "SystemLogLevel": "INFO"}
    for refused in (
        "Environment",
        "Layers",
        "VpcConfig",
        "TracingConfig",
        "DeadLetterConfig",
        "KmsKeyArn",
        "EphemeralStorage",
    ):
        assert refused not in function


def test_the_version_is_replaced_with_package_and_configuration_and_kept():
    version = templates.load(EDGE.read_text())["Resources"]["FunctionVersion"]
    assert (version["DeletionPolicy"], version["UpdateReplacePolicy"]) == ("Retain", "Retain")
    first = properties(edge(**PACKAGE), "FunctionVersion")
    for other in ({"PackageSha256": "B" * 43 + "="}, {"MemorySize": "256"}, {"SystemLogLevel": "WARN"}):
        assert properties(edge(**PACKAGE | other), "FunctionVersion") != first, other


def test_the_versions_description_has_everything_that_makes_a_new_version():
    """CloudFormation publishes a version when one of its properties changes, not when the function changes."""
    resolved = edge(**PACKAGE, Release="2026-01-31T12:00:00Z")
    function, version = properties(resolved, "Function"), properties(resolved, "FunctionVersion")
    for part in (
        function["Code"]["S3Key"],
        function["Runtime"],
        f"{function['MemorySize']} MB",
        f"{function['Timeout']} s",
        "2026-01-31T12:00:00Z",
    ):
        assert part in version["Description"]
    assert "2026-01-31T12:00:00Z" in function["Description"], "Lambda does not publish a copy of the previous version"
    longest = version["Description"].replace(function["Code"]["S3Key"], "packages/" + "0" * 64 + ".zip")
    assert len(longest) <= 256, "Lambda's limit"


def test_the_role_may_only_write_its_logs():
    role = properties(edge(**PACKAGE), "FunctionRole")
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert sorted(trust["Principal"]["Service"]) == ["edgelambda.amazonaws.com", "lambda.amazonaws.com"]
    (policy,) = role["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert all(action.startswith("logs:") for action in statement["Action"])
    assert all(
        ":log-group:/aws/lambda/" in resource and "redirect-test:" in resource for resource in statement["Resource"]
    )
    assert "ManagedPolicyArns" not in role
    arn = "arn:aws:iam::123456789012:policy/flag-store-read"
    assert properties(edge(**PACKAGE, FlagStorePolicyArn=arn), "FunctionRole")["ManagedPolicyArns"] == [arn]


# ---- Resources by parameters -----------------------------------------------------------------------------------------

ALWAYS = {"CurrentSite", "ErrorAlarm"}
SITE = {"SiteBucket", "SiteBucketPolicy", "OriginAccessControl", "Distribution"} | ALWAYS
REDIRECT = {"FunctionRole", "Function", "FunctionVersion", "Dashboard"}
LOGS = {"LogBucket", "LogBucketPolicy", "LogSource", "LogDestination", "LogDelivery"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, SITE),
        (PACKAGE, SITE | REDIRECT),
        (PACKAGE | {"AttachFunction": "no"}, SITE | REDIRECT),
        (PACKAGE | {"AccessLogs": "yes"}, SITE | REDIRECT | LOGS),
        (PACKAGE | {"ExistingBucketName": "mine"}, (SITE | REDIRECT) - {"SiteBucket", "SiteBucketPolicy"}),
        (PACKAGE | {"ExistingDistributionId": "E1"}, ALWAYS | REDIRECT),
        (PACKAGE | {"ExistingDistributionId": "E1", "AccessLogs": "yes"}, ALWAYS | REDIRECT),
    ],
)
def test_each_set_of_parameters_makes_its_resources(values, expected):
    resolved = edge(**values)
    assert set(resolved.resources()) == expected
    assert all(resolved.outputs().values()), "every existing output has a value"


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        ({"PackageKey": "x"}, "belong together"),
        ({"PackageBucket": "x", "PackageKey": "y"}, "belong together"),
        (PACKAGE | {"PackageSha256": "0" * 64}, "base64"),
        ({"DomainName": "www.example.com"}, "belong together"),
        ({"ExistingDistributionId": "E1", "ExistingBucketName": "mine"}, "Leave ExistingBucketName empty"),
        ({"FlagStorePolicyArn": "flag-store"}, "ARN of a customer managed policy"),
        ({"MoreDomainNames": "example.com"}, "MoreDomainNames needs DomainName"),
        ({"MoreDomainNames": "example.com, example.org"}, "without spaces"),
        ({"MemorySize": "64"}, "between 128 and 10240"),
        ({"CurrentPath": ""}, "current_path in redirect.toml"),
        ({"CurrentPath": "/site/"}, "current_path in redirect.toml"),
        ({"CurrentPath": "/.well-known"}, "current_path in redirect.toml"),
        ({"BetaPath": "/"}, "beta_path in redirect.toml"),
        ({"BetaPath": "/it's"}, "beta_path in redirect.toml"),
        ({"AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:alarms"}, "in us-east-1"),
    ],
)
def test_invalid_parameters_are_rejected(values, reported):
    with pytest.raises(templates.Refused, match=reported):
        edge(**values)


def test_the_template_is_rejected_outside_us_east_1():
    with pytest.raises(templates.Refused, match="us-east-1"):
        templates.Resolved(templates.load(EDGE.read_text()), {}, "redirect-test", region="eu-west-1")


@pytest.mark.parametrize("paths", [{}, {"CurrentPath": "/site", "BetaPath": "/new"}, ROOT_PATHS])
def test_an_existing_distribution_needs_the_same_behaviors_as_our_own(paths):
    text = edge(ExistingDistributionId="E1", **paths).outputs()["Behaviors"]
    reported = [
        (pattern.strip(), who.strip())
        for group in text.split(";")
        for who, _, patterns in [group.partition(":")]
        for pattern in patterns.split(",")
    ]
    names = {"function": "redirect function", "current site": "CloudFront Function", "nobody": "no function"}
    config = properties(edge(**PACKAGE, **paths), "Distribution")["DistributionConfig"]
    ours = [
        (behavior["PathPattern"], names[who_answers(behavior["PathPattern"].replace("*", "x"), config)])
        for behavior in config["CacheBehaviors"]
    ]
    assert reported == [*ours, ("default (*)", "redirect function")]


# ---- The flag store --------------------------------------------------------------------------------------------------

SSM = "arn:aws:ssm:us-east-1:123456789012:parameter/test/"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:launchdarkly/key-AbC123"
OWN_KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {("ssm:GetParameter", SSM + "sdk-key"), ("ssm:GetParameter", SSM + "webhook-secret")}),
        (
            {"SdkKeyParameter": SECRET},
            {("secretsmanager:GetSecretValue", SECRET), ("ssm:GetParameter", SSM + "webhook-secret")},
        ),
        (
            {"WebhookSecretParameter": SECRET},
            {("ssm:GetParameter", SSM + "sdk-key"), ("secretsmanager:GetSecretValue", SECRET)},
        ),
        (
            {"SdkKeyParameter": SECRET, "WebhookSecretParameter": SECRET, "SecretsKeyArn": OWN_KEY},
            {("secretsmanager:GetSecretValue", SECRET), ("kms:Decrypt", OWN_KEY)},
        ),
    ],
)
def test_flag_sync_may_only_read_its_own_secrets(values, expected):
    resolved = flag_store(**values)
    (policy,) = properties(resolved, "SyncRole")["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    others = [statement for statement in statements if isinstance(statement["Action"], str)]
    assert {(statement["Action"], statement["Resource"]) for statement in others} == expected
    variables = properties(resolved, "Sync")["Environment"]["Variables"]
    assert variables["FLAG_SYNC_SDK_KEY_PARAMETER"] == values.get("SdkKeyParameter", "/test/sdk-key")
    assert variables["FLAG_SYNC_WEBHOOK_SECRET_PARAMETER"] == values.get(
        "WebhookSecretParameter", "/test/webhook-secret"
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sdk-c0ffee00-0000-4000-8000-00000000cafe",
        "no-slash",
        SECRET.removesuffix("-AbC123"),
        SECRET.replace("secretsmanager", "ssm"),
    ],
)
@pytest.mark.parametrize("name", ["SdkKeyParameter", "WebhookSecretParameter"])
def test_an_invalid_place_of_a_secret_is_rejected(name, value):
    with pytest.raises(templates.Refused, match="whole ARN of a secret"):
        flag_store(**{name: value})


def test_alarms_and_replicas_follow_the_parameters():
    topic = "arn:aws:sns:us-east-1:123456789012:alarms"
    for values, regions, actions in (
        ({}, ["us-east-1"], None),
        ({"ReplicaRegion2": "eu-west-1", "AlarmTopicArn": topic}, ["us-east-1", "eu-west-1"], [topic]),
    ):
        resolved = flag_store(**values)
        replicas = properties(resolved, "Table")["Replicas"]
        assert [replica["Region"] for replica in replicas] == regions
        for alarm in ("FailingAlarm", "OldDataAlarm"):
            assert properties(resolved, alarm).get("AlarmActions") == actions


def test_the_alarm_on_old_data_waits_for_15_minutes_or_three_runs():
    for minutes in templates.load(FLAG_STORE.read_text())["Parameters"]["ScheduleMinutes"]["AllowedValues"]:
        resolved = flag_store(ScheduleMinutes=minutes)
        alarm = properties(resolved, "OldDataAlarm")
        assert alarm["Period"] * alarm["EvaluationPeriods"] == 60 * max(15, 3 * minutes)
        # A function that does not run at all logs nothing.
        assert (alarm["TreatMissingData"], alarm["ComparisonOperator"]) == ("breaching", "LessThanThreshold")
        unit = "minute" if minutes == 1 else "minutes"
        assert properties(resolved, "Schedule")["ScheduleExpression"] == f"rate({minutes} {unit})"
    (counted,) = properties(flag_store(), "SyncedCount")["MetricTransformations"]
    assert (counted["MetricName"], counted["DefaultValue"]) == (alarm["MetricName"], 0)
    with pytest.raises(templates.Refused):
        flag_store(ScheduleMinutes=7)


# ---- The Relay Proxy -------------------------------------------------------------------------------------------------


def test_the_documented_relay_proxy_command_sets_every_required_parameter():
    text = (ROOT / "docs/relay-proxy.md").read_text()
    ((file, overrides),) = re.findall(r"--template-file (\S+) .*?--parameter-overrides (.*?)```", text, re.DOTALL)
    parameters = templates.load((ROOT / file).read_text())["Parameters"]
    given = re.findall(r"(\w+)=", overrides)
    assert sorted(given) == sorted(name for name, parameter in parameters.items() if "Default" not in parameter)
