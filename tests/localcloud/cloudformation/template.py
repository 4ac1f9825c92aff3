"""Templates: parsing, conditions, intrinsic functions, the order of creation. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import yaml


class TemplateError(Exception):
    """Shown to the deployer as the reason of a failed change set."""


class _Loader(yaml.SafeLoader):
    pass


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    """!GetAtt A.B and friends in their long form."""
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)
# Dates stay strings: "2012-10-17" is a policy version.
_Loader.yaml_implicit_resolvers = {
    k: [(tag, pattern) for tag, pattern in v if tag != "tag:yaml.org,2002:timestamp"] for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        try:
            document = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError as bad:
            raise TemplateError(f"Template format error: neither JSON nor YAML: {bad}") from None
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict) or not document["Resources"]:
        raise TemplateError("Template format error: At least one Resources member must be defined.")
    known = {"AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions", "Rules", "Resources", "Outputs"}
    unknown = set(document) - known
    if unknown:
        raise TemplateError(f"the local cloud does not know the template section(s) {sorted(unknown)}")
    for name, resource in document["Resources"].items():
        extra = set(resource) - {"Type", "Properties", "DependsOn", "Condition", "Metadata", "DeletionPolicy", "UpdateReplacePolicy"}
        if extra:
            raise TemplateError(f"the local cloud does not know {sorted(extra)} of resource {name}")
    return document


class NoValue:
    """AWS::NoValue: the property is left out."""


NO_VALUE = NoValue()
SUB = re.compile(r"\$\{(!?)([^}]+)\}")


class Resolver:
    """Evaluates intrinsic functions. `ref` and `attribute` answer for resources; everything else is known beforehand."""

    def __init__(self, template: dict[str, Any], parameters: dict[str, Any], pseudo: dict[str, Any], *, ref: Callable[[str], Any],
                 attribute: Callable[[str, str], Any], imports: Callable[[str], Any]):  # fmt: skip
        self.template, self.parameters, self.pseudo = template, parameters, pseudo
        self.ref_resource, self.attribute, self.imports = ref, attribute, imports
        self.conditions: dict[str, bool] = {}

    def condition(self, name: str) -> bool:
        if name not in self.conditions:
            found = (self.template.get("Conditions") or {}).get(name)
            if found is None:
                raise TemplateError(f"Template format error: Unresolved condition {name}")
            self.conditions[name] = bool(self.resolve(found))
        return self.conditions[name]

    def active(self) -> dict[str, dict[str, Any]]:
        """The resources whose condition holds."""
        return {n: r for n, r in self.template["Resources"].items() if "Condition" not in r or self.condition(r["Condition"])}

    def resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [r for v in value if (r := self.resolve(v)) is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            name, argument = next(iter(value.items()))
            if name == "Ref":
                return self.ref(argument)
            if name == "Condition" and isinstance(argument, str) and argument in (self.template.get("Conditions") or {}):
                return self.condition(argument)
            if name.startswith("Fn::"):
                return self.function(name[4:], argument)
        return {k: r for k, v in value.items() if (r := self.resolve(v)) is not NO_VALUE}

    def ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self.pseudo:
            return self.pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        return self.ref_resource(name)

    def function(self, name: str, argument: Any) -> Any:
        if name == "GetAtt":
            parts = argument.split(".", 1) if isinstance(argument, str) else argument
            return self.attribute(parts[0], self.resolve(parts[1]))
        if name == "If":
            return self.resolve(argument[1] if self.condition(argument[0]) else argument[2])
        if name == "Sub":
            return self.sub(argument)
        argument = self.resolve(argument)
        match name:
            case "Join":
                return argument[0].join(str(x) for x in argument[1])
            case "Split":
                return argument[1].split(argument[0])
            case "Select":
                return argument[1][int(argument[0])]
            case "FindInMap":
                return self.template["Mappings"][argument[0]][argument[1]][argument[2]]
            case "ImportValue":
                return self.imports(argument)
            case "GetAZs":
                region = argument or self.pseudo["AWS::Region"]
                return [region + z for z in "abc"]
            case "Base64":
                return base64.b64encode(argument.encode()).decode()
            case "ToJsonString":
                return json.dumps(argument)
            case "Length":
                return len(argument)
            case "Equals":
                return str(argument[0]).lower() == str(argument[1]).lower() if isinstance(argument[0], bool) or isinstance(argument[1], bool) else argument[0] == argument[1]
            case "Not":
                return not argument[0]
            case "And":
                return all(argument)
            case "Or":
                return any(argument)
            case "Contains":
                return argument[1] in argument[0]
        raise TemplateError(f"the local cloud does not know the function Fn::{name}")

    def sub(self, argument: Any) -> str:
        text, extra = (argument, {}) if isinstance(argument, str) else (argument[0], argument[1])

        def one(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return "${" + name + "}"
            if name in extra:
                return str(self.resolve(extra[name]))
            if "." in name and name not in self.pseudo and name not in self.parameters:
                return str(self.attribute(*name.split(".", 1)))
            return str(self.ref(name))

        return SUB.sub(one, text)


def references(value: Any, template: dict[str, Any]) -> set[str]:
    """The logical ids of resources that a value refers to."""
    resources = template["Resources"]
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            for key, inner in node.items():
                if key == "Ref" and isinstance(inner, str):
                    found.add(inner)
                elif key == "Fn::GetAtt":
                    found.add(inner.split(".", 1)[0] if isinstance(inner, str) else inner[0])
                elif key == "Fn::Sub":
                    text = inner if isinstance(inner, str) else inner[0]
                    found.update(name.split(".", 1)[0] for literal, name in SUB.findall(text) if not literal)
                walk(inner)

    walk(value)
    return {name for name in found if name in resources}


def order(template: dict[str, Any], active: dict[str, dict[str, Any]]) -> list[str]:
    """Every resource after what it refers to or depends on; otherwise as written."""
    needs: dict[str, set[str]] = {}
    for name, resource in active.items():
        depends = resource.get("DependsOn") or []
        depends = {depends} if isinstance(depends, str) else set(depends)
        missing = depends - set(template["Resources"])
        if missing:
            raise TemplateError(f"Template format error: Unresolved resource dependencies {sorted(missing)} in the Resources block of the template")
        needs[name] = ((depends | references(resource.get("Properties", {}), template)) & set(active)) - {name}
    done: list[str] = []
    while len(done) < len(active):
        ready = [n for n in active if n not in done and needs[n] <= set(done)]
        if not ready:
            raise TemplateError(f"Circular dependency between resources: [{', '.join(n for n in active if n not in done)}]")
        done += ready
    return done
