"""A CloudFormation stack: changed by a change set, followed event by event."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

from aws import POLL_SECONDS, REGION, AwsError, DeployError, Wait, aws, json_file, pause, say

# States in which an update can start.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
SETTLED = {
    "CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE",
}  # fmt: skip
# States in which the stack was never made: only deleting it leads on.
NEVER_MADE = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"}


class Stack:
    def __init__(self, name: str, destroy: str) -> None:
        self.name = name
        # The command that deletes it, for what is told about failures.
        self._destroy = destroy

    # ---- What is there -----------------------------------------------------------------------------------------------

    def describe(self, wait: Wait | None = None, by: str = "") -> dict[str, Any] | None:
        """The stack as CloudFormation describes it, or None. A deleted one is found only by its ID."""
        try:
            ask = wait.ask if wait else aws
            return ask("cloudformation", "describe-stacks", "--stack-name", by or self.name)["Stacks"][0]
        except AwsError as error:
            if error.code == "ValidationError" and "does not exist" in error.detail:
                return None
            raise

    def outputs(self) -> dict[str, str]:
        found = self.describe()
        return {output["OutputKey"]: output["OutputValue"] for output in (found or {}).get("Outputs", [])}

    def parameters(self) -> dict[str, str]:
        found = self.describe()
        return {entry["ParameterKey"]: entry.get("ParameterValue", "") for entry in (found or {}).get("Parameters", [])}

    def resources(self) -> dict[str, str]:
        """Physical IDs of what the stack has, by logical ID. Unlike the outputs, also of a stack that failed."""
        found = aws("cloudformation", "describe-stack-resources", "--stack-name", self.name)
        return {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in found["StackResources"]
            if resource.get("PhysicalResourceId") and resource["ResourceStatus"] != "DELETE_COMPLETE"
        }

    # ---- Waiting -----------------------------------------------------------------------------------------------------

    def settle(self) -> str:
        """The stack's state, "" if there is none. Waits for an operation that is under way: an interrupted run's."""
        found = self.describe()
        state = found["StackStatus"] if found else ""
        if found and is_busy(state):
            say(f"An operation on the stack {self.name} is under way ({state}); waiting for it")
            state = self.follow(found["StackId"], self.event_ids(found["StackId"]))
        return "" if state == "DELETE_COMPLETE" else state

    def event_ids(self, stack_id: str) -> set[str]:
        return {event["EventId"] for event in newest_events(Wait(), stack_id)}

    def follow(self, stack_id: str, seen: set[str], token: str = "") -> str:
        """Prints events until the stack rests; returns its state.

        Right after an operation is asked for, the stack may still show its state from before. So with a `token`, an
        event of that operation must have been seen first; all of them carry it:
        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_StackEvent.html
        """
        wait = Wait()
        began = not token
        while True:
            # In this order, or a state from before the operation could stand beside its first event.
            tokens = self._tell_events(wait, stack_id, seen)
            began = began or token in tokens
            found = self.describe(wait, by=stack_id)
            state = found["StackStatus"] if found else "DELETE_COMPLETE"
            if began and not is_busy(state):
                self._tell_events(wait, stack_id, seen)
                return state
            pause(POLL_SECONDS)

    def _tell_events(self, wait: Wait, stack_id: str, seen: set[str]) -> set[str]:
        """Prints the events that are new; returns the tokens of all."""
        events = newest_events(wait, stack_id)
        for event in reversed(events):
            if event["EventId"] not in seen:
                seen.add(event["EventId"])
                say(f"  {wait.elapsed()} {described(event)}")
        return {event.get("ClientRequestToken", "") for event in events}

    # ---- Changing it -------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Waits until the stack can be made or changed. True if it is there."""
        state = self.settle()
        if state in NEVER_MADE:
            raise DeployError(
                f"The stack {self.name} is in the state {state}. Remove what is left of it with {self._destroy}, then "
                "deploy again."
            )
        if state in ("", "REVIEW_IN_PROGRESS"):
            return False
        if state not in SETTLED:
            raise DeployError(f"The stack {self.name} is in the state {state}. Repair it first:\n{self._repair()}")
        return True

    def _repair(self) -> str:
        return f"aws cloudformation continue-update-rollback --region {REGION} --stack-name {self.name}"

    def apply(self, template: Path | None, values: dict[str, str]) -> bool:
        """Creates or updates the stack and waits for it; False if there was nothing to change.

        Parameters that `values` leaves out keep their value. Without a template the stack keeps its own.
        """
        new = not self.ready()
        before = {} if new else self.parameters()
        kept = [
            name for name in before if name not in values and (not template or name in names(template, "Parameters"))
        ]
        parameters: list[dict[str, Any]] = [
            {"ParameterKey": name, "ParameterValue": value} for name, value in values.items()
        ]
        parameters += [{"ParameterKey": name, "UsePreviousValue": True} for name in kept]
        token = f"redirect-{uuid.uuid4()}"
        with json_file(parameters) as file:
            made = aws(
                "cloudformation", "create-change-set",
                "--stack-name", self.name,
                "--change-set-name", token,
                "--change-set-type", "CREATE" if new else "UPDATE",
                *(["--template-body", f"file://{template}"] if template else ["--use-previous-template"]),
                "--parameters", file,
                "--capabilities", "CAPABILITY_IAM",
            )  # fmt: skip
        change_set, stack_id = made["Id"], made["StackId"]
        if not self._is_ready(change_set):
            return False
        seen = self.event_ids(stack_id)
        aws("cloudformation", "execute-change-set", "--change-set-name", change_set, "--client-request-token", token)
        state = self.follow(stack_id, seen, token)
        if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise DeployError(self.failure(stack_id, state, token))
        return True

    def _is_ready(self, change_set: str) -> bool:
        wait = Wait()
        while True:
            found = wait.ask("cloudformation", "describe-change-set", "--change-set-name", change_set)
            if found["Status"] == "CREATE_COMPLETE":
                for change in found.get("Changes", []):
                    change = change["ResourceChange"]
                    new = " (a new one replaces it)" if change.get("Replacement") == "True" else ""
                    say(f"  {change['Action'].lower():<7} {change['LogicalResourceId']}  {change['ResourceType']}{new}")
                return True
            if found["Status"] == "FAILED":
                reason = found.get("StatusReason", "")
                aws("cloudformation", "delete-change-set", "--change-set-name", change_set)
                # CloudFormation has no code for it, only these sentences.
                if "didn't contain changes" in reason or "No updates are to be performed" in reason:
                    return False
                raise DeployError(f"CloudFormation refuses the change of {self.name}: {reason}")
            pause(POLL_SECONDS)

    def failure(self, stack_id: str, state: str, token: str) -> str:
        """What failed first, which is the cause; what follows is the rollback."""
        events = [event for event in newest_events(Wait(), stack_id) if event.get("ClientRequestToken") == token]
        failed = [event for event in reversed(events) if event["ResourceStatus"].endswith("_FAILED")]
        lines = [f"The stack {self.name} ended in {state}."]
        lines += [f"  {described(event)}" for event in failed[:3]]
        text = "\n".join(lines)
        if "A version for this Lambda function exists" in text:
            text += (
                "\nThis very package was published before, by a deployment that was rolled back. Package again (fresh "
                "flag data makes another package), then deploy."
            )
        elif state in NEVER_MADE:
            text += f"\nCorrect the cause, run {self._destroy} to remove the remains, then deploy again."
        elif state == "UPDATE_ROLLBACK_COMPLETE":
            text += "\nEverything runs as before. Correct the cause, then deploy again."
        elif state == "UPDATE_ROLLBACK_FAILED":
            text += f"\nNeither the old nor the new is there as a whole. Correct the cause, then repair it:\n{self._repair()}"
        return text

    def delete(self) -> None:
        found = self.describe()
        if not found:
            return
        token = f"redirect-{uuid.uuid4()}"
        seen = self.event_ids(found["StackId"])
        aws("cloudformation", "delete-stack", "--stack-name", self.name, "--client-request-token", token)
        state = self.follow(found["StackId"], seen, token)
        if state != "DELETE_COMPLETE":
            raise DeployError(self.failure(found["StackId"], state, token))


def is_busy(state: str) -> bool:
    return state.endswith("_IN_PROGRESS") and state != "REVIEW_IN_PROGRESS"


def newest_events(wait: Wait, stack_id: str) -> list[dict[str, Any]]:
    """Newest first. One operation of this stack has far fewer."""
    found = wait.ask("cloudformation", "describe-stack-events", "--stack-name", stack_id, "--max-items", "100")
    return found["StackEvents"]


def described(event: dict[str, Any]) -> str:
    line = f"{event['ResourceStatus']:<20} {event['ResourceType']}  {event['LogicalResourceId']}"
    reason = event.get("ResourceStatusReason", "")
    return f"{line}: {reason}" if reason else line


def part_of(template: Path, part: str) -> str:
    """The standard library reads no YAML; our templates indent by two."""
    found = re.search(rf"^{part}:\n(.*?)(?=^\S|\Z)", template.read_text(), re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def names(template: Path, part: str) -> list[str]:
    return re.findall(r"^  (\w+):", part_of(template, part), re.MULTILINE)


def chosen_parameters(template: Path, managed: set[str], settings: list[str]) -> dict[str, str]:
    """The template's parameters that --set gives; the managed ones are not for users to set."""
    known = [name for name in names(template, "Parameters") if name not in managed]
    chosen = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            # The value is not told: it may be a secret that lost its way.
            given = f"--set {name}=..." if equals else "--set"
            raise DeployError(f"{given}: expected NAME=VALUE with NAME one of {', '.join(known)}.")
        chosen[name] = value
    return chosen


def plan(stack: Stack, template: Path, shown: Path, values: dict[str, str]) -> str:
    """What `apply` would do, as far as the template tells it without an account."""
    lines = [f"Create or update the stack {stack.name} from {shown}"]
    lines += [f"   parameter {name} = {value}" for name, value in values.items()]
    described = re.finditer(
        r"^  (?P<name>\w+):\n    Type: (?P<kind>\S+)\n(?:    Condition: (?P<condition>\w+)\n)?",
        part_of(template, "Resources"),
        re.MULTILINE,
    )
    for one in described:
        condition = f"  (if {one['condition']})" if one["condition"] else ""
        lines.append(f"   {one['name']:<20} {one['kind']}{condition}")
    return "\n".join(lines)
