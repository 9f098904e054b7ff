"""How CloudFormation evaluates a template before it changes anything: parameters, rules, conditions, functions."""

import functools
import re
from typing import Any

import yaml

from failure import Failure

NO_VALUE = object()


class _Loader(yaml.CSafeLoader):
    pass


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    raise Failure(f"!{suffix} of a mapping is not supported here. Write it as a sequence.")


_Loader.add_multi_constructor("!", _function)


@functools.cache
def load(text: str) -> dict[str, Any]:
    return yaml.load(text, _Loader)


class Refused(Failure):
    """The text of CloudFormation's ValidationError."""


class Resolved:
    """A template with its parameters' values: its resources and their properties."""

    def __init__(
        self,
        template: dict[str, Any],
        values: dict[str, str],
        stack_name: str,
        account: str = "ACCOUNT",
        region: str = "us-east-1",
    ) -> None:
        self.template = template
        self.stack_name = stack_name
        self.parameters: dict[str, str] = {}
        for name, parameter in template["Parameters"].items():
            if name not in values and "Default" not in parameter:
                raise Refused(f"Parameters: [{name}] must have values")
            value = str(values.get(name, parameter.get("Default")))
            if not re.search(parameter.get("AllowedPattern", ""), value):
                constraint = parameter.get("ConstraintDescription", parameter.get("AllowedPattern"))
                raise Refused(f"Parameter {name} failed to satisfy constraint: {constraint}")
            if "MinValue" in parameter and not parameter["MinValue"] <= float(value) <= parameter["MaxValue"]:
                raise Refused(f"Parameter {name} must be between {parameter['MinValue']} and {parameter['MaxValue']}")
            if value not in map(str, parameter.get("AllowedValues", [value])):
                raise Refused(f"Parameter '{name}' must be one of AllowedValues")
            self.parameters[name] = value
        unknown = set(values) - set(template["Parameters"])
        if unknown:
            raise Refused(f"Parameters: {sorted(unknown)} do not exist in the template")
        self._known = {
            **self.parameters,
            "AWS::NoValue": NO_VALUE,
            "AWS::Partition": "aws",
            "AWS::StackName": stack_name,
            "AWS::AccountId": account,
            "AWS::Region": region,
        }
        self.physical: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str]] = {}
        for rule in template.get("Rules", {}).values():
            if self.value(rule.get("RuleCondition", True)):
                for assertion in rule["Assertions"]:
                    if not self.value(assertion["Assert"]):
                        raise Refused(assertion["AssertDescription"])

    def condition(self, name: str) -> bool:
        return self.value(self.template["Conditions"][name])

    def exists(self, part: dict[str, Any]) -> bool:
        return "Condition" not in part or self.condition(part["Condition"])

    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources that exist, each after those that it needs."""
        wanted = {name: part for name, part in self.template["Resources"].items() if self.exists(part)}
        ordered: list[str] = []

        def place(name: str) -> None:
            if name in wanted and name not in ordered:
                needs = references(wanted[name].get("Properties", {})) | set(wanted[name].get("DependsOn", []))
                for other in sorted(needs - {name}):
                    place(other)
                ordered.append(name)

        for name in wanted:
            place(name)
        return {name: wanted[name] for name in ordered}

    def outputs(self) -> dict[str, str]:
        parts = self.template["Outputs"].items()
        return {name: self.value(part["Value"]) for name, part in parts if self.exists(part)}

    def value(self, node: Any) -> Any:
        """A node of the template with its functions evaluated."""
        if isinstance(node, list):
            return [item for item in map(self.value, node) if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (function, argument), *_ = node.items()
            if function == "Ref":
                return self._ref(argument)
            if function == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if function.startswith("Fn::"):
                return getattr(self, "_" + function[4:].lower())(argument)
        pairs = ((name, self.value(part)) for name, part in node.items())
        return {name: part for name, part in pairs if part is not NO_VALUE}

    def _ref(self, name: str) -> Any:
        return self._known[name] if name in self._known else self.physical[name]

    def _getatt(self, argument: list[str]) -> str:
        resource, attribute = argument
        return self.attributes[resource][attribute]

    def _sub(self, argument: str | list[Any]) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else (argument[0], self.value(argument[1]))

        def one(found: re.Match[str]) -> str:
            name, _, attribute = found.group(1).partition(".")
            if name in own:
                return own[name]
            return self._getatt([name, attribute]) if attribute else str(self._ref(name))

        return re.sub(r"\$\{([\w:.]+)\}", one, text)

    def _select(self, argument: list[Any]) -> Any:
        index, items = argument
        return self.value(items)[index]

    def _split(self, argument: list[Any]) -> list[str]:
        delimiter, text = argument
        return self.value(text).split(delimiter)

    def _if(self, argument: list[Any]) -> Any:
        condition, yes, no = argument
        return self.value(yes if self.condition(condition) else no)

    def _findinmap(self, argument: list[Any]) -> Any:
        name, key, field = map(self.value, argument)
        return self.template["Mappings"][name][key][field]

    def _equals(self, argument: list[Any]) -> bool:
        left, right = map(self.value, argument)
        return left == right

    def _not(self, argument: list[Any]) -> bool:
        return not self.value(argument[0])

    def _and(self, argument: list[Any]) -> bool:
        return all(map(self.value, argument))

    def _or(self, argument: list[Any]) -> bool:
        return any(map(self.value, argument))


def references(node: Any) -> set[str]:
    """The names that a node refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found: set[str] = set()
    for name, part in node.items():
        if name == "Ref":
            found.add(part)
        elif name == "Fn::GetAtt":
            found.add(part[0])
        elif name == "Fn::Sub":
            text, own = (part, {}) if isinstance(part, str) else part
            found |= {one.partition(".")[0] for one in re.findall(r"\$\{([\w:.]+)\}", text)} - set(own)
            found |= references(own)
        else:
            found |= references(part)
    return found
