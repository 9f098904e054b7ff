"""The permissions that a call to AWS needs, and whether a policy such as docs/deployer-policy.json grants them.

https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

import fnmatch
import json
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "123456789012"
# Calls whose permission has another name.
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "PutBucketEncryption": "PutEncryptionConfiguration",
}
# Calls that are not about a resource.
WITHOUT_RESOURCE = {
    "DescribeLogGroups", "DescribeRegions", "GetAccountSettings", "GetCallerIdentity", "GetQueryResults", "ListStacks",
    "StopQuery",
}  # fmt: skip


class Needed(NamedTuple):
    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


def needed(service, operation, params, region, verb, stack):
    """The permissions of a call. `stack` is the stack of the last call; `verb` is the HTTP method."""
    if operation in WITHOUT_RESOURCE:
        yield Needed(f"{service}:{operation}", "*")
        return
    if service in ("sso", "signin"):  # a sign-in, which needs no permission
        return
    place = f"arn:aws:{service}:{region}:{ACCOUNT}:"
    context: tuple[tuple[str, str], ...] = ()
    if service == "s3":
        keys = [entry["Key"] for entry in params.get("Delete", {}).get("Objects", [])] or [params.get("Key", "")]
        for key in keys:
            resource = f"arn:aws:s3:::{params['Bucket']}" + (f"/{key}" if key else "")
            yield Needed(f"s3:{S3_ACTIONS.get(operation, operation)}", resource)
        return
    if service == "apigatewayv2":
        service, operation, resource = "apigateway", verb, f"arn:aws:apigateway:{region}::/apis"
    elif service == "cloudformation":
        resource = f"{place}stack/{stack}/0a1b"
    elif service == "cloudfront":
        resource = f"arn:aws:cloudfront::{ACCOUNT}:distribution/{params.get('DistributionId') or params['Id']}"
    elif service == "lambda":
        resource = f"{place}function:{params['FunctionName'].split(':function:')[-1]}"
        if operation == "CreateFunction":
            yield Needed("iam:PassRole", params["Role"], (("iam:PassedToService", "lambda.amazonaws.com"),))
    elif service == "iam":
        role, policy = params.get("RoleName"), params.get("PolicyArn")
        own = f"role/{role}" if role else f"policy/{params.get('PolicyName')}"
        resource = policy if policy and not role else f"arn:aws:iam::{ACCOUNT}:{own}"
        context = (("iam:PolicyARN", policy),) if policy and role else ()
    elif service == "logs":
        resource = f"{place}log-group:{params['logGroupName']}:"
    elif service == "dynamodb":
        resource = f"{place}table/{params['TableName']}"
    elif service == "ssm":
        resource = f"{place}parameter{params['Name']}"
    elif service == "secretsmanager":
        resource = params["SecretId"]
    elif service == "events":
        resource = f"{place}rule/{params.get('Name') or params['Rule']}"
    elif service == "cloudwatch":
        alarm = params.get("AlarmName") or next(iter(params.get("AlarmNames", [])), "")
        board = params.get("DashboardName") or next(iter(params.get("DashboardNames", [])), "")
        resource = f"{place}alarm:{alarm}" if alarm else f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{board}"
    else:
        raise AssertionError(f"which permission does {service} {operation} need?")
    yield Needed(f"{service}:{operation}", resource, context)


def statements(policy):
    return json.loads((ROOT / "docs" / policy).read_text())["Statement"]


def grants(policy, call):
    return any(_grants(statement, call) for statement in statements(policy))


def _grants(statement, call):
    def has(part, value):
        patterns = statement[part] if isinstance(statement[part], list) else [statement[part]]
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)

    context = dict(call.context)
    for conditions in statement.get("Condition", {}).values():
        for key, wanted in conditions.items():
            patterns = wanted if isinstance(wanted, list) else [wanted]
            if not any(fnmatch.fnmatchcase(context.get(key, ""), pattern) for pattern in patterns):
                return False
    assert statement["Effect"] == "Allow"
    return has("Action", call.action) and has("Resource", call.resource)
