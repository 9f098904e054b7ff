"""docs/deployer-policy.json and docs/store-deployer-policy.json grant enough, and no more.

The fixture `cloud` checks every call of every test against them. The further calls of AWS's own resource handlers are
not visible here.
"""

import pytest

from permissions import WITHOUT_RESOURCE, Needed, grants, statements

POLICIES = ("deployer-policy.json", "store-deployer-policy.json")
EDGE, STORE = POLICIES


def each_policy(test):
    return pytest.mark.parametrize("policy", POLICIES)(test)


def test_the_calls_of_the_commands_are_recorded(cloud):
    cloud.does("deploy", "--set", "AccessLogs=yes")
    cloud.does("store-deploy")
    cloud.does("destroy", "--yes", "production")
    cloud.does("store-destroy", "--yes", "production")
    of = {policy: {call.action for name, call in cloud.permissions if name == policy} for policy in POLICIES}
    assert of[EDGE] >= {
        "s3:PutObject", "cloudformation:ExecuteChangeSet", "cloudformation:UpdateTerminationProtection",
        "lambda:CreateFunction", "lambda:PublishVersion", "iam:PassRole", "iam:PutRolePolicy",
        "cloudfront:GetDistributionConfig", "cloudwatch:PutMetricAlarm", "cloudwatch:PutDashboard",
        "sts:GetCallerIdentity",
    }  # fmt: skip
    assert of[STORE] >= {
        "ssm:PutParameter", "dynamodb:CreateTable", "iam:CreatePolicy", "iam:ListEntitiesForPolicy", "events:PutRule",
        "apigateway:POST", "lambda:AddPermission", "logs:PutMetricFilter",
    }  # fmt: skip


@each_policy
def test_a_policy_fits_iams_size_limit(policy):
    """6,144 characters without white space."""
    text = "".join(str(statements(policy)).split())
    assert len(text) < 6_100


@each_policy
def test_only_actions_without_a_resource_are_granted_on_all_resources(policy):
    for statement in statements(policy):
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        wild = [action for action in actions if "*" in action]
        assert set(wild) <= {"lambda:EnableReplication*", "lambda:DisableReplication*"}, "AWS writes these with a star"
        if statement["Resource"] == "*":
            assert {action.partition(":")[2] for action in actions} <= WITHOUT_RESOURCE


LAMBDA = (("iam:PassedToService", "lambda.amazonaws.com"),)
AWS_POLICY = "arn:aws:iam::aws:policy"
ROLE = "arn:aws:iam::123456789012:role/"


@pytest.mark.parametrize(
    ("policy", "call"),
    [
        (EDGE, Needed("s3:GetObject", "arn:aws:s3:::another-bucket/key")),
        (EDGE, Needed("lambda:UpdateFunctionCode", "arn:aws:lambda:us-east-1:123456789012:function:another")),
        (EDGE, Needed("cloudformation:DeleteStack", "arn:aws:cloudformation:us-east-1:123456789012:stack/another/1")),
        (EDGE, Needed("iam:PassRole", f"{ROLE}another", LAMBDA)),
        (EDGE, Needed("iam:PassRole", f"{ROLE}redirect-x", (("iam:PassedToService", "ec2.amazonaws.com"),))),
        (EDGE, Needed("iam:AttachRolePolicy", f"{ROLE}redirect-x", (("iam:PolicyARN", f"{AWS_POLICY}/Admin"),))),
        (EDGE, Needed("iam:CreateServiceLinkedRole", f"{ROLE}aws-service-role/x", (("iam:AWSServiceName", "x"),))),
        (EDGE, Needed("ssm:GetParameter", "arn:aws:ssm:us-east-1:123456789012:parameter/redirect/production/sdk-key")),
        (STORE, Needed("s3:GetObject", "arn:aws:s3:::redirect-production-packages-123456789012/key")),
        (STORE, Needed("ssm:GetParameter", "arn:aws:ssm:us-east-1:123456789012:parameter/another")),
        (STORE, Needed("cloudfront:UpdateDistribution", "arn:aws:cloudfront::123456789012:distribution/E1")),
    ],
)  # fmt: skip
def test_calls_about_other_resources_are_not_granted(policy, call):
    assert not grants(policy, call)


def test_permissions_that_only_aws_can_check_are_granted():
    version = "arn:aws:lambda:us-east-1:123456789012:function:redirect-production:7"
    for action in ("lambda:GetFunction", "lambda:EnableReplication", "lambda:DisableReplication"):
        assert grants(EDGE, Needed(action, version))
    assert grants(EDGE, Needed("iam:PassRole", f"{ROLE}redirect-x", LAMBDA))
    for service in ("replicator.lambda", "logger.cloudfront"):
        name = f"{service}.amazonaws.com"
        needed = Needed(
            "iam:CreateServiceLinkedRole",
            f"{ROLE}aws-service-role/{name}/AWSServiceRole",
            (("iam:AWSServiceName", name),),
        )
        assert grants(EDGE, needed)
