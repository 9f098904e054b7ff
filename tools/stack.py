"""A CloudFormation stack: change sets, and waits that print its events."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, WaiterError

from aws import POLL_SECONDS, REGION, client, code_of
from failure import Failure
from launchdarkly import KEY_TAG, fingerprint
from template import Resolved, load
from terminal import say, waiting

# States in which an update can start.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
SETTLED = {
    "CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE",
}  # fmt: skip
# States in which the stack was never complete: it can only be deleted.
NEVER_MADE = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"}


class Stack:
    def __init__(self, name: str, destroy: str) -> None:
        self.name = name
        # The command that deletes it, for messages about failures.
        self._destroy = destroy

    # ---- Reading it --------------------------------------------------------------------------------------------------

    def describe(self, by: str = "") -> dict[str, Any] | None:
        """CloudFormation's description of the stack, or None. A deleted stack is found only by its ID."""
        try:
            return client("cloudformation").describe_stacks(StackName=by or self.name)["Stacks"][0]
        except ClientError as error:
            if code_of(error) == "ValidationError" and "does not exist" in str(error):
                return None
            raise

    def outputs(self) -> dict[str, str]:
        found = self.describe() or {}
        return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}

    def parameters(self, template: Path | None = None) -> dict[str, str]:
        """The stack's parameters; with a template, only those that the template has too."""
        found = (self.describe() or {}).get("Parameters", [])
        values = {entry["ParameterKey"]: entry.get("ParameterValue", "") for entry in found}
        known = load(template.read_text())["Parameters"] if template else values
        return {name: value for name, value in values.items() if name in known}

    def tags(self) -> dict[str, str]:
        found = self.describe() or {}
        return {entry["Key"]: entry["Value"] for entry in found.get("Tags", [])}

    def was_rolled_back(self) -> bool:
        return (self.describe() or {}).get("StackStatus") == "UPDATE_ROLLBACK_COMPLETE"

    def resources(self) -> dict[str, str]:
        """Physical IDs of the stack's resources, by logical ID. Unlike outputs, a failed stack has them too."""
        found = client("cloudformation").describe_stack_resources(StackName=self.name)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in found["StackResources"]
            if resource.get("PhysicalResourceId") and resource["ResourceStatus"] != "DELETE_COMPLETE"
        }

    # ---- Waiting -----------------------------------------------------------------------------------------------------

    def settle(self) -> str:
        """The stack's state, or "" if there is no stack. Waits for an operation that an interrupted run started."""
        found = self.describe()
        state = found["StackStatus"] if found else ""
        if found and is_busy(state):
            say(f"An operation on the stack {self.name} is in flight ({state}); waiting for it")
            state = self.follow(found["StackId"], event_ids(found["StackId"]))
        return "" if state == "DELETE_COMPLETE" else state

    def follow(self, stack_id: str, seen: set[str], token: str = "") -> str:
        """Prints events until no operation is in flight; returns the state.

        Right after an operation starts, the stack may still have its previous state. So with a `token`, an event of
        that operation must be seen first; all of its events have the token:
        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_StackEvent.html
        """
        began = not token
        with waiting(f"CloudFormation is working on {self.name}"):
            while True:
                # In this order, or the state from before the operation could be combined with its first event.
                began = print_events(stack_id, seen, token) or began
                found = self.describe(by=stack_id)
                state = found["StackStatus"] if found else "DELETE_COMPLETE"
                if began and not is_busy(state):
                    print_events(stack_id, seen, token)
                    return state
                time.sleep(POLL_SECONDS)

    # ---- Changing it -------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Waits until the stack can be created or changed. True if it exists."""
        state = self.settle()
        if state in NEVER_MADE:
            raise Failure(
                f"The stack {self.name} is in the state {state}. Delete its remains with {self._destroy}, then deploy "
                "again."
            )
        if state in ("", "REVIEW_IN_PROGRESS"):
            return False
        if state not in SETTLED:
            raise Failure(f"The stack {self.name} is in the state {state}. Repair it first:\n{self._repair()}")
        return True

    def _repair(self) -> str:
        return f"aws cloudformation continue-update-rollback --region {REGION} --stack-name {self.name}"

    def refuse_another_key(self, key: str, is_meant: bool) -> None:
        """With a wrong key in the shell, another environment's flags would decide."""
        before, now = self.tags().get(KEY_TAG), fingerprint(key)
        if before not in (None, fingerprint(""), now) and not is_meant:
            raise Failure(
                f"The SDK key is not the one that the stack {self.name} was deployed with: its fingerprint is {now}, "
                f"not {before}. Export the right key, or pass --new-key if it was rotated or replaced on purpose."
            )

    def apply(
        self,
        template: Path | None,
        values: dict[str, str],
        tags: dict[str, str] | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> bool:
        """Creates or updates the stack and waits for it; False if there was nothing to change.

        Other parameters and tags keep their values. Without a template, the stack keeps its own. `confirm` is called
        after the changes are printed; if it raises a Failure, the stack stays unchanged.
        """
        changed = self._change(template, values, tags or {}, confirm)
        if not (self.describe() or {}).get("EnableTerminationProtection"):
            self._protect(True)
        return changed

    def _protect(self, on: bool) -> None:
        client("cloudformation").update_termination_protection(StackName=self.name, EnableTerminationProtection=on)

    def _change(
        self, template: Path | None, values: dict[str, str], tags: dict[str, str], confirm: Callable[[], None]
    ) -> bool:
        new = not self.ready()
        before = {} if new else self.parameters(template)
        kept = [name for name in before if name not in values]
        token = f"redirect-{uuid.uuid4()}"
        made = client("cloudformation").create_change_set(
            StackName=self.name,
            ChangeSetName=token,
            ChangeSetType="CREATE" if new else "UPDATE",
            **({"TemplateBody": template.read_text()} if template else {"UsePreviousTemplate": True}),
            Parameters=[
                *({"ParameterKey": name, "ParameterValue": value} for name, value in values.items()),
                *({"ParameterKey": name, "UsePreviousValue": True} for name in kept),
            ],
            Tags=[{"Key": name, "Value": value} for name, value in {**self.tags(), **tags}.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        change_set, stack_id = made["Id"], made["StackId"]
        if not self._is_ready(change_set):
            return False
        try:
            confirm()
        except (Failure, KeyboardInterrupt):
            client("cloudformation").delete_change_set(ChangeSetName=change_set)
            raise
        seen = event_ids(stack_id)
        client("cloudformation").execute_change_set(ChangeSetName=change_set, ClientRequestToken=token)
        state = self.follow(stack_id, seen, token)
        if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise Failure(self.failure(stack_id, state, token))
        return True

    def _is_ready(self, change_set: str) -> bool:
        """Waits for the change set and prints it; False if it changes nothing."""
        api = client("cloudformation")
        try:
            api.get_waiter("change_set_create_complete").wait(
                ChangeSetName=change_set, WaiterConfig={"Delay": POLL_SECONDS, "MaxAttempts": 720}
            )
        except WaiterError as error:
            if error.last_response.get("Status") != "FAILED":
                raise
            reason = error.last_response.get("StatusReason", "")
            api.delete_change_set(ChangeSetName=change_set)
            # CloudFormation has no error code for this, only these sentences.
            if "didn't contain changes" in reason or "No updates are to be performed" in reason:
                return False
            raise Failure(f"CloudFormation rejects the change of {self.name}: {reason}") from None
        for page in api.get_paginator("describe_change_set").paginate(ChangeSetName=change_set):
            for change in (entry["ResourceChange"] for entry in page.get("Changes", [])):
                is_lost = change["Action"] == "Remove" or change.get("Replacement") in ("True", "Conditional")
                replaced = {"True": "  is REPLACED", "Conditional": "  may be REPLACED"}
                note = replaced.get(change.get("Replacement", ""), "")
                say(
                    f"  {change['Action'].lower():<7} {change['LogicalResourceId']}  {change['ResourceType']}{note}",
                    "yellow" if is_lost else "",
                )
        return True

    def failure(self, stack_id: str, state: str, token: str) -> str:
        """A message with the first failed events, which are the cause; later events belong to the rollback."""
        events = [event for event in newest_events(stack_id) if event.get("ClientRequestToken") == token]
        failed = [event for event in reversed(events) if event["ResourceStatus"].endswith("_FAILED")]
        text = "\n".join([f"The stack {self.name} ended in {state}.", *(f"  {line(event)}" for event in failed[:3])])
        if state in NEVER_MADE:
            return f"{text}\nCorrect the cause, delete the remains with {self._destroy}, then deploy again."
        if state == "UPDATE_ROLLBACK_COMPLETE":
            return f"{text}\nEverything runs as before. Correct the cause, then deploy again."
        if state == "UPDATE_ROLLBACK_FAILED":
            return f"{text}\nThe rollback failed too. Correct the cause, then repair the stack:\n{self._repair()}"
        return text

    def delete(self) -> None:
        found = self.describe()
        if not found:
            return
        if found.get("EnableTerminationProtection"):
            self._protect(False)
        token = f"redirect-{uuid.uuid4()}"
        seen = event_ids(found["StackId"])
        client("cloudformation").delete_stack(StackName=self.name, ClientRequestToken=token)
        state = self.follow(found["StackId"], seen, token)
        if state != "DELETE_COMPLETE":
            raise Failure(self.failure(found["StackId"], state, token))


def is_busy(state: str) -> bool:
    return state.endswith("_IN_PROGRESS") and state != "REVIEW_IN_PROGRESS"


def newest_events(stack_id: str) -> list[dict[str, Any]]:
    """Newest first. One page has more events than an operation on these stacks."""
    return client("cloudformation").describe_stack_events(StackName=stack_id)["StackEvents"]


def event_ids(stack_id: str) -> set[str]:
    return {event["EventId"] for event in newest_events(stack_id)}


def print_events(stack_id: str, seen: set[str], token: str) -> bool:
    """Prints new events; True if one belongs to the operation with that token."""
    events = newest_events(stack_id)
    for event in reversed(events):
        if event["EventId"] not in seen:
            seen.add(event["EventId"])
            style = "red" if event["ResourceStatus"].endswith("_FAILED") else ""
            say(f"  {event['Timestamp']:%H:%M:%S} {line(event)}", style)
    return any(event.get("ClientRequestToken") == token for event in events)


def line(event: dict[str, Any]) -> str:
    reason = event.get("ResourceStatusReason", "")
    text = f"{event['ResourceStatus']:<20} {event['ResourceType']}  {event['LogicalResourceId']}"
    return f"{text}: {reason}" if reason else text


# ---- Templates -------------------------------------------------------------------------------------------------------


def chosen_parameters(template: Path, managed: set[str], settings: list[str]) -> dict[str, str]:
    """The template's parameters from --set; users cannot set the managed ones."""
    known = [name for name in load(template.read_text())["Parameters"] if name not in managed]
    chosen = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            # The value is not shown, because it may be a secret.
            given = f"--set {name}=..." if equals else "--set"
            raise Failure(f"{given}: expected NAME=VALUE with NAME one of {', '.join(known)}.")
        chosen[name] = value
    return chosen


def given_tags(tags: list[str]) -> dict[str, str]:
    """The tags from --tag."""
    for tag in tags:
        name, equals, _ = tag.partition("=")
        if not name or not equals or name == KEY_TAG or name.startswith("aws:"):
            raise Failure(f"--tag {tag}: expected NAME=VALUE. NAME must not be {KEY_TAG} or begin with aws:")
    return {name: value for name, _, value in (tag.partition("=") for tag in tags)}


def plan(resolved: Resolved, shown: Path, values: dict[str, str]) -> str:
    """What `apply` would create with these values if there were no stack."""
    lines = [f"Create or update the stack {resolved.stack_name} from {shown}"]
    lines += [f"   parameter {name} = {value}" for name, value in values.items()]
    lines += [f"   {name:<20} {part['Type']}" for name, part in resolved.resources().items()]
    return "\n".join(lines)
