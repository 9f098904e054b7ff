"""A stand-in for what moto does not support: CloudFormation with CloudFront's types, CloudFront, replicated functions.

It evaluates the project's real templates, creates resources in moto where moto supports them, and keeps distributions
itself. It forwards requests for SSM and CloudWatch Logs to moto. CloudFormation's operations advance with every request
for the stack's events, so that a test needs no clock. It records every request, and fails where a test wants it to.
"""

import itertools
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import boto3
import botocore.parsers
import botocore.serialize
import botocore.session

import template as templates

ACCOUNT = "123456789012"
REGION = "us-east-1"
CLOUDFRONT = botocore.session.get_session().get_service_model("cloudfront")
RETAINED = {"Retain", "RetainExceptOnCreate"}


class AwsFault(Exception):
    def __init__(self, code, message, status=400):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Stack:
    def __init__(self, name, number):
        self.name = name
        self.id = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/{number}"
        self.state = "REVIEW_IN_PROGRESS"
        self.body = ""
        self.parameters = {}
        self.tags = {}
        self.is_protected = False
        self.outputs = {}
        self.resources = {}  # logical ID -> Resource
        self.events = []  # newest first
        self.work = None  # the operation in flight, one step per next()


class Resource:
    def __init__(self, kind, properties, physical, attributes, retained):
        self.kind, self.properties, self.physical = kind, properties, physical
        self.attributes, self.retained = attributes, retained


class Standin:
    def __init__(self, moto_url):
        def client(service):
            made = boto3.client(
                service, endpoint_url=moto_url, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
            )
            made.meta.events.register("provide-client-params", lambda **call: self.on_call(**call))
            return made

        self.moto_url = moto_url
        self.s3, self.iam, self.lambda_ = client("s3"), client("iam"), client("lambda")
        self.dynamodb, self.logs, self.events = client("dynamodb"), client("logs"), client("events")
        self.gateway, self.cloudwatch = client("apigatewayv2"), client("cloudwatch")
        self.on_call = lambda **_: None  # receives each call that CloudFormation makes for the deployer
        self._lock = threading.RLock()
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes; the second would wait 40 ms for the client's delayed acknowledgment.
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                with standin._lock:
                    standin.handle(self, body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.reset()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def reset(self):
        # A new account's concurrency, and AWS's default code storage.
        limit = {"ConcurrentExecutions": 10, "CodeSizeUnzipped": 262_144_000, "TotalCodeSize": 80_530_636_800}
        self.account_settings = {"AccountLimit": limit, "AccountUsage": {"TotalCodeSize": 9_426}}
        self.query_results = {}  # Region -> rows of Logs Insights, whose queries are not run here
        self.query_state = "Complete"  # a query's final state, after one request that finds it running
        self.queries = {}  # ID -> Region, text, whether it was read before
        self.requests = []  # as text, without the secrets for SSM
        self.put_parameters = []  # the secrets for SSM
        self.regions = set()  # the Regions in the requests' signatures
        self.calls: Counter[str] = Counter()  # the number of calls of each operation
        self.stacks = {}
        self.deleted_stacks = {}
        self.change_sets = {}
        self.distributions = {}
        self.invalidations = []
        self.replicas: Counter[str] = Counter()  # function -> the number of requests until its replicas are gone
        self.replicas_live_for = 2
        self.steps = 100  # steps of CloudFormation between two requests
        self.sluggish = False  # whether a stack still has its old state just after an operation starts
        self.slow_distribution = 0  # the number of requests for which a changed distribution stays InProgress
        self.resource_faults = {}  # logical ID -> why CloudFormation cannot create or change it
        self.faults = {}  # operation -> outcomes of its next calls: a status, "reset", or None
        self._numbers = itertools.count(1)

    # ---- HTTP --------------------------------------------------------------------------------------------------------

    def handle(self, http, body):
        form = {name: values[0] for name, values in urllib.parse.parse_qs(body, keep_blank_values=True).items()}
        path = urllib.parse.unquote(http.path.split("?")[0])
        operation, run = self.route(http.command, path, form, body, http.headers)
        shown = urllib.parse.unquote_plus(body)
        if operation == "PutParameter":
            self.put_parameters.append(json.loads(body))
            shown = ""
        self.requests.append(f"{operation} {http.command} {http.path} {shown}")
        self.calls[operation] += 1
        self.regions.update(re.findall(r"Credential=\w+/\d+/([\w-]+)/", http.headers["Authorization"]))
        fault = self.faults[operation].pop(0) if self.faults.get(operation) else None
        if fault == "reset":
            http.close_connection = True
            http.connection.close()
            return
        try:
            if fault:
                raise AwsFault(
                    {412: "PreconditionFailed", 400: "Throttling", 403: "AccessDenied"}.get(fault, "Fault"),
                    "injected",
                    fault,
                )
            status, headers, text = run()
        except AwsFault as error:
            status, headers = error.status, {"x-amzn-ErrorType": error.code}
            text = (
                json.dumps({"__type": error.code, "Message": error.message, "Type": "User"})
                if "/functions/" in path or "/account-settings" in path or "X-Amz-Target" in http.headers
                else f"<ErrorResponse><Error><Type>Sender</Type><Code>{error.code}</Code>"
                f"<Message>{escape(error.message)}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            )
        data = text.encode()
        http.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(data)

    def route(self, method, path, form, body, headers):
        service, _, operation = headers.get("X-Amz-Target", "").partition(".")
        if operation in ("StartQuery", "GetQueryResults"):
            region = re.findall(r"/\d{8}/([\w-]+)/", headers["Authorization"])[0]
            handler = self.start_query if operation == "StartQuery" else self.get_query_results
            return operation, lambda: (200, {}, json.dumps(handler(region, json.loads(body))))
        if service in ("AmazonSSM", "Logs_20140328"):
            return operation, lambda: self.pass_on(body, headers)
        if "Action" in form:
            action = form["Action"]
            handler = getattr(self, "cfn_" + re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower())
            return action, lambda: (
                200,
                {},
                f"<{action}Response><{action}Result>{handler(form)}</{action}Result></{action}Response>",
            )
        distribution = re.fullmatch(r"/2020-05-31/distribution/(\w+)(/config|/invalidation|/invalidation/\w+)?", path)
        if distribution:
            name, part = distribution.groups()
            if method == "PUT":
                return "UpdateDistribution", lambda: self.update_distribution(name, headers["If-Match"], body)
            if part == "/config":
                return "GetDistributionConfig", lambda: self.get_distribution_config(name)
            if part == "/invalidation":
                return "CreateInvalidation", lambda: self.create_invalidation(name, body)
            if part:
                return "GetInvalidation", lambda: self.invalidation_answer(200, "Completed")
            return "GetDistribution", lambda: self.get_distribution(name)
        function = re.fullmatch(r"/2015-03-31/functions/([\w-]+)", path)
        if function and method == "DELETE":
            return "DeleteFunction", lambda: self.delete_function(function.group(1))
        if path.rstrip("/") == "/2016-08-19/account-settings":
            return "GetAccountSettings", lambda: (200, {}, json.dumps(self.account_settings))
        raise AssertionError(f"the stand-in does not know {method} {path} {body[:200]}")

    def pass_on(self, body, headers):
        wanted = ("Authorization", "Content-Type", "X-Amz-Target", "X-Amz-Date")
        headers = {name: headers[name] for name in wanted}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.moto_url, body.encode(), headers)) as answer:
                return answer.status, {}, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, {}, error.read().decode()

    # ---- CloudFormation's API ----------------------------------------------------------------------------------------

    def stack(self, name):
        found = self.stacks.get(name) or next((one for one in self.stacks.values() if one.id == name), None)
        found = found or self.deleted_stacks.get(name)
        if not found:
            raise AwsFault("ValidationError", f"Stack with id {name} does not exist")
        return found

    def cfn_describe_stacks(self, form):
        stack = self.stack(form["StackName"])
        parameters = members(
            {"ParameterKey": name, "ParameterValue": value} for name, value in stack.parameters.items()
        )
        outputs = members({"OutputKey": name, "OutputValue": value} for name, value in stack.outputs.items())
        tags = members({"Key": name, "Value": value} for name, value in stack.tags.items())
        return (
            f"<Stacks><member><StackName>{stack.name}</StackName><StackId>{stack.id}</StackId>"
            f"<StackStatus>{stack.state}</StackStatus><CreationTime>2026-01-01T00:00:00Z</CreationTime>"
            f"<EnableTerminationProtection>{str(stack.is_protected).lower()}</EnableTerminationProtection>"
            f"<Parameters>{parameters}</Parameters><Outputs>{outputs}</Outputs>"
            f"<Tags>{tags}</Tags></member></Stacks>"
        )

    def cfn_update_termination_protection(self, form):
        stack = self.stack(form["StackName"])
        stack.is_protected = form["EnableTerminationProtection"] == "true"
        return f"<StackId>{stack.id}</StackId>"

    def cfn_list_stacks(self, _):
        return "<StackSummaries></StackSummaries>"

    def cfn_describe_stack_resources(self, form):
        stack = self.stack(form["StackName"])
        found = members(
            {
                "LogicalResourceId": name,
                "PhysicalResourceId": resource.physical,
                "ResourceType": resource.kind,
                "ResourceStatus": "CREATE_COMPLETE",
                "Timestamp": "2026-01-01T00:00:00Z",
            }
            for name, resource in stack.resources.items()
        )
        return f"<StackResources>{found}</StackResources>"

    def cfn_describe_stack_events(self, form):
        stack = self.stack(form["StackName"])
        for _ in range(self.steps):
            if stack.work and next(stack.work, "done") == "done":
                stack.work = None
        return f"<StackEvents>{members(stack.events)}</StackEvents>"

    def cfn_create_change_set(self, form):
        name = form["StackName"]
        new = form["ChangeSetType"] == "CREATE"
        stack = self.stacks.get(name)
        if new == bool(stack and stack.state != "REVIEW_IN_PROGRESS"):
            raise AwsFault("ValidationError", f"Stack [{name}] exists or not, other than {form['ChangeSetType']} says")
        if len(form.get("TemplateBody", "").encode()) > 51_200:
            raise AwsFault("ValidationError", "Member must have length less than or equal to 51200")
        assert form["Capabilities.member.1"] == "CAPABILITY_IAM", "the role needs the capability"
        stack = stack or Stack(name, next(self._numbers))
        body = stack.body if form.get("UsePreviousTemplate") == "true" else form["TemplateBody"]
        values = {}
        for number in itertools.count(1):
            prefix = f"Parameters.member.{number}."
            key = form.get(prefix + "ParameterKey")
            if key is None:
                break
            previous = form.get(prefix + "UsePreviousValue") == "true"
            values[key] = stack.parameters[key] if previous else form[prefix + "ParameterValue"]
        tags = {}
        for number in itertools.count(1):
            prefix = f"Tags.member.{number}."
            if prefix + "Key" not in form:
                break
            tags[form[prefix + "Key"]] = form[prefix + "Value"]
        change_set = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:changeSet/{form['ChangeSetName']}"
        status, reason = "CREATE_COMPLETE", ""
        try:
            resolve(body, values, name)
        except templates.Refused as error:
            raise AwsFault("ValidationError", f"Template error: {error}") from None
        self.stacks[name] = stack
        if not new and (body, values, tags) == (stack.body, stack.parameters, stack.tags):
            status = "FAILED"
            reason = (
                "The submitted information didn't contain changes. Submit different information to create a change set."
            )
        self.change_sets[change_set] = (stack, body, values, tags, status, reason)
        return f"<Id>{change_set}</Id><StackId>{stack.id}</StackId>"

    def cfn_describe_change_set(self, form):
        stack, body, values, _, status, reason = self.change_sets[form["ChangeSetName"]]
        changes = ""
        if status == "CREATE_COMPLETE":
            names = resolve(body, values, stack.name).resources()
            kinds = {name: part["Type"] for name, part in names.items()}
            kinds |= {name: part.kind for name, part in stack.resources.items() if name not in names}
            for name, kind in kinds.items():
                action = "Add" if name not in stack.resources else "Modify" if name in names else "Remove"
                # All its properties are for one version only.
                replaced = "True" if (action, kind) == ("Modify", "AWS::Lambda::Version") else "False"
                changes += (
                    f"<member><Type>Resource</Type><ResourceChange><Action>{action}</Action>"
                    f"<LogicalResourceId>{name}</LogicalResourceId><ResourceType>{kind}</ResourceType>"
                    f"<Replacement>{replaced}</Replacement></ResourceChange></member>"
                )
        return f"<Status>{status}</Status><StatusReason>{escape(reason)}</StatusReason><Changes>{changes}</Changes>"

    def cfn_delete_change_set(self, form):
        del self.change_sets[form["ChangeSetName"]]
        return ""

    def cfn_execute_change_set(self, form):
        stack, body, values, tags, _, _ = self.change_sets.pop(form["ChangeSetName"])
        verb = "CREATE" if stack.state == "REVIEW_IN_PROGRESS" else "UPDATE"
        stack.work = self.deploying(stack, body, values, tags, verb, form["ClientRequestToken"])
        if not self.sluggish:
            stack.state = f"{verb}_IN_PROGRESS"
        return ""

    def cfn_delete_stack(self, form):
        stack = self.stack(form["StackName"])
        if stack.is_protected:
            raise AwsFault(
                "ValidationError", f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled"
            )
        stack.work = self.deleting(stack, form.get("ClientRequestToken", ""))
        stack.state = "DELETE_IN_PROGRESS"
        return ""

    # ---- CloudFormation's work, step by step -------------------------------------------------------------------------

    def event(self, stack, token, name, kind, status, reason=""):
        stack.events.insert(
            0,
            {
                "EventId": f"event-{next(self._numbers)}",
                "StackId": stack.id,
                "StackName": stack.name,
                "LogicalResourceId": name,
                "ResourceType": kind,
                "ResourceStatus": status,
                "ResourceStatusReason": reason,
                "ClientRequestToken": token,
                "Timestamp": "2026-01-01T00:00:00Z",
            },
        )

    def deploying(self, stack, body, values, tags, verb, token):
        own = "AWS::CloudFormation::Stack"
        yield  # the first request is answered before anything has happened
        stack.state = f"{verb}_IN_PROGRESS"
        self.event(stack, token, stack.name, own, stack.state)
        before = (stack.body, dict(stack.parameters))
        versions = {name: one for name, one in stack.resources.items() if one.kind == "AWS::Lambda::Version"}
        try:
            yield from self.bring_to(stack, body, values, verb, token)
            stack.tags = tags
            stack.state = f"{verb}_COMPLETE"
        except AwsFault:
            self.resource_faults = {}
            stack.state = "ROLLBACK_IN_PROGRESS" if verb == "CREATE" else "UPDATE_ROLLBACK_IN_PROGRESS"
            self.event(stack, token, stack.name, own, stack.state)
            yield
            if verb == "CREATE":
                kept = yield from self.remove(stack, list(stack.resources), token)
                stack.state = "ROLLBACK_FAILED" if kept else "ROLLBACK_COMPLETE"
            else:
                stack.resources.update(versions)  # a rollback restores replaced versions instead of making new ones
                yield from self.bring_to(stack, *before, "UPDATE", token)
                stack.state = "UPDATE_ROLLBACK_COMPLETE"
        self.event(stack, token, stack.name, own, stack.state)

    def bring_to(self, stack, body, values, verb, token):
        resolved = resolve(body, values, stack.name)
        wanted = resolved.resources()
        for name, part in wanted.items():
            old = stack.resources.get(name)
            properties = resolved.value(part.get("Properties", {}))
            if not old or old.properties != properties:
                doing = "UPDATE" if old else "CREATE"
                try:
                    if name in self.resource_faults:
                        raise AwsFault("Fault", self.resource_faults[name])
                    made = self.make(stack, name, part, properties, old)
                except AwsFault as error:
                    self.event(stack, token, name, part["Type"], f"{doing}_FAILED", error.message)
                    raise
                stack.resources[name] = made
                self.event(stack, token, name, part["Type"], f"{doing}_COMPLETE")
                yield
            resolved.physical[name] = stack.resources[name].physical
            resolved.attributes[name] = stack.resources[name].attributes
        yield from self.remove(stack, [name for name in stack.resources if name not in wanted], token)
        stack.body, stack.parameters, stack.outputs = body, resolved.parameters, resolved.outputs()

    def remove(self, stack, names, token):
        """Returns the names that could not be removed."""
        kept = []
        for name in reversed(names):
            resource = stack.resources[name]
            try:
                if not resource.retained:
                    self.unmake(resource)
            except AwsFault as error:
                kept.append(name)
                self.event(stack, token, name, resource.kind, "DELETE_FAILED", error.message)
                continue
            del stack.resources[name]
            self.event(stack, token, name, resource.kind, "DELETE_SKIPPED" if resource.retained else "DELETE_COMPLETE")
            yield
        return kept

    def deleting(self, stack, token):
        own = "AWS::CloudFormation::Stack"
        yield
        self.event(stack, token, stack.name, own, "DELETE_IN_PROGRESS")
        kept = yield from self.remove(stack, list(stack.resources), token)
        stack.state = "DELETE_FAILED" if kept else "DELETE_COMPLETE"
        self.event(stack, token, stack.name, own, stack.state)
        if not kept:
            self.deleted_stacks[stack.id] = self.stacks.pop(stack.name)

    # ---- The resources -----------------------------------------------------------------------------------------------

    def make(self, stack, name, part, properties, old):
        kind = part["Type"]
        handler = getattr(self, "make_" + kind.removeprefix("AWS::").replace("::", "_").lower(), None)
        physical, attributes = f"{stack.name}-{name.lower()}", {}
        if handler:
            physical, attributes = handler(physical, properties, old)
        return Resource(kind, properties, physical, attributes, part.get("DeletionPolicy") in RETAINED)

    def make_s3_bucket(self, physical, properties, old):
        if not old:
            physical = f"{physical}-{next(self._numbers)}"
            self.s3.create_bucket(Bucket=physical)
            self.s3.put_public_access_block(
                Bucket=physical, PublicAccessBlockConfiguration=properties["PublicAccessBlockConfiguration"]
            )
        physical = old.physical if old else physical
        arn, domain = f"arn:aws:s3:::{physical}", f"{physical}.s3.{REGION}.amazonaws.com"
        return physical, {"Arn": arn, "RegionalDomainName": domain}

    def make_s3_bucketpolicy(self, physical, properties, _):
        self.s3.put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
        return physical, {}

    def make_iam_role(self, physical, properties, old):
        if not old:
            document = json.dumps(properties["AssumeRolePolicyDocument"])
            self.iam.create_role(RoleName=physical, AssumeRolePolicyDocument=document)
        wanted = set(properties.get("ManagedPolicyArns", []))
        attached_now = self.attached_policies(physical)
        for arn in wanted - attached_now:
            self.iam.attach_role_policy(RoleName=physical, PolicyArn=arn)
        for arn in attached_now - wanted:
            self.iam.detach_role_policy(RoleName=physical, PolicyArn=arn)
        for policy in properties["Policies"]:
            self.iam.put_role_policy(
                RoleName=physical, PolicyName=policy["PolicyName"], PolicyDocument=json.dumps(policy["PolicyDocument"])
            )
        return physical, {"Arn": f"arn:aws:iam::{ACCOUNT}:role/{physical}"}

    def attached_policies(self, role):
        return {found["PolicyArn"] for found in self.iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]}

    def make_iam_managedpolicy(self, physical, properties, old):
        if old:
            return old.physical, {}
        document = json.dumps(properties["PolicyDocument"])
        return self.iam.create_policy(PolicyName=physical, PolicyDocument=document)["Policy"]["Arn"], {}

    def make_dynamodb_globaltable(self, _, properties, old):
        name = properties["TableName"]
        if not old:
            same = ("AttributeDefinitions", "KeySchema", "BillingMode")
            stream = {"StreamEnabled": True, **properties["StreamSpecification"]}
            schema = {key: properties[key] for key in same}
            self.dynamodb.create_table(TableName=name, StreamSpecification=stream, **schema)
        return name, {"Arn": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"}

    def make_logs_loggroup(self, _, properties, old):
        name = properties["LogGroupName"]
        if not old:
            self.logs.create_log_group(logGroupName=name)
        self.logs.put_retention_policy(logGroupName=name, retentionInDays=properties["RetentionInDays"])
        return name, {"Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"}

    def make_logs_metricfilter(self, physical, properties, _):
        transformations = [
            {camel(name): value for name, value in one.items()} for one in properties["MetricTransformations"]
        ]
        self.logs.put_metric_filter(
            logGroupName=properties["LogGroupName"],
            filterName=physical,
            filterPattern=properties["FilterPattern"],
            metricTransformations=transformations,
        )
        return physical, {}

    def make_cloudwatch_alarm(self, physical, properties, _):
        self.cloudwatch.put_metric_alarm(AlarmName=physical, **properties)
        return physical, {}

    def make_cloudwatch_dashboard(self, _, properties, __):
        name = properties["DashboardName"]
        self.cloudwatch.put_dashboard(DashboardName=name, DashboardBody=properties["DashboardBody"])
        return name, {}

    def make_apigatewayv2_api(self, _, properties, old):
        name = old.physical if old else self.gateway.create_api(**properties)["ApiId"]
        return name, {"ApiEndpoint": f"https://{name}.execute-api.{REGION}.amazonaws.com"}

    def make_apigatewayv2_integration(self, _, properties, old):
        return old.physical if old else self.gateway.create_integration(**properties)["IntegrationId"], {}

    def make_apigatewayv2_route(self, _, properties, old):
        return old.physical if old else self.gateway.create_route(**properties)["RouteId"], {}

    def make_apigatewayv2_stage(self, _, properties, old):
        return old.physical if old else self.gateway.create_stage(**properties)["StageName"], {}

    def make_events_rule(self, physical, properties, _):
        arn = self.events.put_rule(Name=physical, ScheduleExpression=properties["ScheduleExpression"])["RuleArn"]
        self.events.put_targets(Rule=physical, Targets=properties["Targets"])
        return physical, {"Arn": arn}

    def make_lambda_permission(self, physical, properties, old):
        if not old:
            self.lambda_.add_permission(StatementId=physical, **properties)
        return physical, {}

    def make_lambda_function(self, _, properties, old):
        name = properties["FunctionName"]
        # A parameter's value is text.
        properties = {**properties, "MemorySize": int(properties["MemorySize"])}
        if old:
            self.lambda_.update_function_code(FunctionName=name, **properties["Code"])
            settings = ("Environment", "Description", "Runtime", "MemorySize", "Timeout", "LoggingConfig")
            changed = {setting: properties[setting] for setting in settings if setting in properties}
            self.lambda_.update_function_configuration(FunctionName=name, **changed)
        else:
            self.lambda_.create_function(**properties)
        return name, {"Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"}

    def make_lambda_version(self, _, properties, old):
        name = properties["FunctionName"]
        actual = self.lambda_.get_function(FunctionName=name)["Configuration"]["CodeSha256"]
        if actual != properties["CodeSha256"]:
            raise AwsFault("InvalidRequest", f"CodeSHA256 {properties['CodeSha256']} is different from {actual}")
        # Lambda does not publish a copy of the previous version, which CloudFormation reports as a failure.
        same = ("CodeSha256", "Description", "Runtime", "MemorySize", "Timeout")
        latest, *versions = self.lambda_.list_versions_by_function(FunctionName=name)["Versions"]
        if versions and all(latest[setting] == versions[-1][setting] for setting in same):
            raise AwsFault("AlreadyExists", "A version for this Lambda function exists ( 1 ). Modify the function.")
        return self.lambda_.publish_version(FunctionName=name)["FunctionArn"], {}

    def make_cloudfront_originaccesscontrol(self, physical, properties, _):
        return physical, {"Id": "E2OAC"}

    def make_cloudfront_function(self, _, properties, __):
        arn = f"arn:aws:cloudfront::{ACCOUNT}:function/{properties['Name']}"
        return arn, {"FunctionARN": arn}

    def make_logs_deliverydestination(self, physical, properties, _):
        return physical, {"Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:delivery-destination:{properties['Name']}"}

    def make_cloudfront_distribution(self, _, properties, old):
        name = old.physical if old else f"E{next(self._numbers):06}"
        self.put_distribution(name, api_form(properties["DistributionConfig"]))
        return name, {"DomainName": f"{name.lower()}.cloudfront.net"}

    def unmake(self, resource):
        if resource.kind == "AWS::S3::Bucket":
            if self.s3.list_objects_v2(Bucket=resource.physical)["KeyCount"]:
                raise AwsFault("BucketNotEmpty", "The bucket you tried to delete is not empty")
            self.s3.delete_bucket(Bucket=resource.physical)
        elif resource.kind == "AWS::IAM::Role":
            for arn in self.attached_policies(resource.physical):
                self.iam.detach_role_policy(RoleName=resource.physical, PolicyArn=arn)
            for policy in self.iam.list_role_policies(RoleName=resource.physical)["PolicyNames"]:
                self.iam.delete_role_policy(RoleName=resource.physical, PolicyName=policy)
            self.iam.delete_role(RoleName=resource.physical)
        elif resource.kind == "AWS::Lambda::Function":
            try:
                self.delete_function(resource.physical)
            except AwsFault as error:
                if error.status != 404:
                    raise
        elif resource.kind == "AWS::CloudFront::Distribution":
            self.put_distribution(resource.physical, None)
        elif resource.kind == "AWS::CloudFront::Function":
            for found in self.distributions.values():
                if resource.physical in scripts_of(found["config"]):
                    raise AwsFault("FunctionInUse", "Cannot delete function, it is associated with a distribution.")
        elif resource.kind == "AWS::IAM::ManagedPolicy":
            if self.iam.list_entities_for_policy(PolicyArn=resource.physical)["PolicyRoles"]:
                raise AwsFault("DeleteConflict", "Cannot delete a policy attached to entities.")
            self.iam.delete_policy(PolicyArn=resource.physical)
        elif resource.kind == "AWS::DynamoDB::GlobalTable":
            self.dynamodb.delete_table(TableName=resource.physical)
        elif resource.kind == "AWS::Logs::LogGroup":
            self.logs.delete_log_group(logGroupName=resource.physical)
        elif resource.kind == "AWS::ApiGatewayV2::Api":
            self.gateway.delete_api(ApiId=resource.physical)
        elif resource.kind == "AWS::Events::Rule":
            self.events.remove_targets(Rule=resource.physical, Ids=["flag-sync"])
            self.events.delete_rule(Name=resource.physical)
        elif resource.kind == "AWS::CloudWatch::Alarm":
            self.cloudwatch.delete_alarms(AlarmNames=[resource.physical])
        elif resource.kind == "AWS::CloudWatch::Dashboard":
            self.cloudwatch.delete_dashboards(DashboardNames=[resource.physical])

    # ---- CloudFront --------------------------------------------------------------------------------------------------

    def put_distribution(self, name, config):
        """Makes CloudFront's checks, and counts replicas."""
        before = attached(self.distributions.get(name, {}).get("config"))
        after = attached(config)
        for arn in after:
            if not re.fullmatch(rf"arn:aws:lambda:us-east-1:{ACCOUNT}:function:[\w-]+:\d+", arn):
                raise AwsFault("InvalidLambdaFunctionAssociation", f"{arn} is not a numbered version in us-east-1")
        for function in {arn.split(":")[6] for arn in before - after}:
            self.replicas[function] = self.replicas_live_for
        if config is None:
            self.distributions.pop(name, None)
            return
        for behavior in behaviors_of(config):
            # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html
            lambdas = [entry["EventType"] for entry in behavior["LambdaFunctionAssociations"].get("Items", [])]
            is_for_viewers = any(event.startswith("viewer-") for event in lambdas)
            if is_for_viewers and behavior["FunctionAssociations"]["Quantity"]:
                raise AwsFault("InvalidLambdaFunctionAssociation", "both kinds of function on viewer events")
        tag = f"ETAG{next(self._numbers)}"
        self.distributions[name] = {"config": config, "etag": tag, "busy": self.slow_distribution}

    def distribution(self, name):
        if name not in self.distributions:
            raise AwsFault("NoSuchDistribution", f"The specified distribution {name} does not exist", 404)
        return self.distributions[name]

    def get_distribution_config(self, name):
        found = self.distribution(name)
        return 200, {"ETag": found["etag"]}, config_to_xml(found["config"])

    def get_distribution(self, name):
        found = self.distribution(name)
        found["busy"] = max(0, found["busy"] - 1)
        return self.distribution_answer(name)

    def distribution_answer(self, name):
        found = self.distribution(name)
        status = "InProgress" if found["busy"] else "Deployed"
        inner = config_to_xml(found["config"])
        return (
            200,
            {"ETag": found["etag"]},
            f"<Distribution><Id>{name}</Id><Status>{status}</Status>{inner}</Distribution>",
        )

    def update_distribution(self, name, etag, body):
        found = self.distribution(name)
        if etag != found["etag"]:
            raise AwsFault("PreconditionFailed", "The request failed because it did not meet the preconditions", 412)
        self.put_distribution(name, config_from_xml(body))
        return self.distribution_answer(name)

    def create_invalidation(self, name, body):
        self.distribution(name)
        self.invalidations.append(re.findall(r"<Path>([^<]+)</Path>", body))
        return self.invalidation_answer(201, "InProgress")

    def invalidation_answer(self, status, state):
        return (
            status,
            {},
            (
                f"<Invalidation><Id>I1</Id><Status>{state}</Status><CreateTime>2026-01-01T00:00:00Z</CreateTime>"
                "<InvalidationBatch><Paths><Quantity>0</Quantity></Paths><CallerReference>1</CallerReference>"
                "</InvalidationBatch></Invalidation>"
            ),
        )

    # ---- Logs Insights -----------------------------------------------------------------------------------------------

    def start_query(self, region, request):
        name = f"query-{next(self._numbers)}"
        self.queries[name] = [region, request, False]
        return {"queryId": name}

    def get_query_results(self, region, request):
        asked = self.queries[request["queryId"]]
        assert asked[0] == region, "a query is known in its own Region alone"
        asked[2], again = True, asked[2]
        rows = [
            [{"field": name, "value": value} for name, value in row.items()]
            for row in self.query_results.get(region, [])
        ]
        return {"status": self.query_state if again else "Running", "results": rows if again else []}

    # ---- Lambda ------------------------------------------------------------------------------------------------------

    def delete_function(self, name):
        for found in self.distributions.values():
            for arn in attached(found["config"]):
                if f":function:{name}:" in arn:
                    raise replicated(arn)
        if self.replicas[name] > 0:
            self.replicas[name] -= 1
            raise replicated(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}:1")
        try:
            self.lambda_.delete_function(FunctionName=name)
        except self.lambda_.exceptions.ResourceNotFoundException:
            raise AwsFault("ResourceNotFoundException", f"Function not found: {name}", 404) from None
        return 204, {}, ""


def resolve(body, values, name):
    return templates.Resolved(templates.load(body), values, name, ACCOUNT)


def replicated(arn):
    return AwsFault(
        "InvalidParameterValueException",
        f"Lambda was unable to delete {arn} because it is a replicated function. Please see our documentation for "
        "Deleting Lambda@Edge Functions and Replicas.",
    )


def camel(name):
    return name[0].lower() + name[1:]


def members(entries):
    """A list in the format of CloudFormation's answers."""
    return "".join(
        "<member>" + "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in entry.items()) + "</member>"
        for entry in entries
    )


def behaviors_of(config):
    return [config["DefaultCacheBehavior"], *config["CacheBehaviors"].get("Items", [])]


def attached(config):
    """The ARNs of the functions that a distribution runs."""
    if config is None:
        return set()
    return {
        entry["LambdaFunctionARN"]
        for behavior in behaviors_of(config)
        for entry in behavior["LambdaFunctionAssociations"].get("Items", [])
    }


def scripts_of(config):
    """The ARNs of the CloudFront Functions that a distribution runs."""
    parts = behaviors_of(config)
    return {entry["FunctionARN"] for part in parts for entry in part["FunctionAssociations"].get("Items", [])}


def api_form(config):
    """Converts a distribution from CloudFormation's format to that of CloudFront's API, where lists have a length."""

    def listed(items):
        return {"Quantity": len(items), "Items": items} if items else {"Quantity": 0}

    def behavior(part):
        lists = ("LambdaFunctionAssociations", "FunctionAssociations", "AllowedMethods")
        return {**part, **{name: listed(part.get(name, [])) for name in lists}}

    return {
        "CallerReference": "stack",
        "Comment": config["Comment"],
        "Enabled": config["Enabled"],
        "HttpVersion": config["HttpVersion"],
        "IsIPV6Enabled": config["IPV6Enabled"],
        "Origins": listed(config["Origins"]),
        "DefaultCacheBehavior": behavior(config["DefaultCacheBehavior"]),
        "CacheBehaviors": listed([behavior(part) for part in config["CacheBehaviors"]]),
    }


def config_to_xml(config):
    serializer = botocore.serialize.create_serializer("rest-xml", include_validation=False)
    request = serializer.serialize_to_request(
        {"Id": "x", "DistributionConfig": config}, CLOUDFRONT.operation_model("UpdateDistribution")
    )
    return request["body"].decode()


def config_from_xml(body):
    parser = botocore.parsers.create_parser("rest-xml")
    shape = CLOUDFRONT.operation_model("GetDistributionConfig").output_shape
    answer = {"headers": {}, "status_code": 200, "body": body.encode()}
    return parser.parse(answer, shape)["DistributionConfig"]
