"""The Kubeflow Pipelines API as its own Swagger description tells it: what a request and an answer may look like.

Two quirks of the description are met half-way: an int64 is declared as a string, and clients send a number; a byte
field is base64. What the description leaves open is closed: a field that it does not name is refused.
"""

import base64
import binascii
import copy
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

FORMATS = jsonschema.FormatChecker(formats=())


class Misfit(ValueError):
    """A request that the description has no place for."""


@FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: Any) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("byte", raises=binascii.Error)
def _is_base64(value: Any) -> bool:
    return not isinstance(value, str) or base64.b64decode(value, validate=True) is not None


class Description:
    """The operations and the definitions of a Swagger 2 file."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.definitions = {name: _closed(definition) for name, definition in content["definitions"].items()}
        self.operations = [
            (method.upper(), re.compile(re.sub(r"\\\{([\w.\\]+)\\\}", _group, re.escape(template)) + "$"), operation)
            for template, operations in content["paths"].items()
            for method, operation in operations.items()
        ]

    def operation(self, method: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the operation behind a method and a path, and what stands in the path's places."""
        for known, pattern, operation in self.operations:
            if known == method and (match := pattern.match(path)):
                return operation, match.groupdict()
        raise Misfit(f"no operation {method} {path}")

    def check_query(self, operation: dict[str, Any], query: dict[str, str]) -> None:
        """Raise Misfit for a query parameter that is unknown, missing or of another type."""
        known = {each["name"]: each for each in operation.get("parameters", []) if each["in"] == "query"}
        for name, value in query.items():
            if name not in known:
                raise Misfit(f"unknown query parameter {name}; known: {', '.join(known)}")
            if known[name]["type"] == "integer" and not re.fullmatch(r"-?\d+", value):
                raise Misfit(f"query parameter {name} must be an integer, got {value!r}")
            if known[name]["type"] == "boolean" and value not in ("true", "false"):
                raise Misfit(f"query parameter {name} must be a boolean, got {value!r}")
        if query.get("filter"):
            self.check("v2beta1Filter", _as_described(json.loads(query["filter"])))

    def check_body(self, operation: dict[str, Any], body: Any) -> None:
        """Raise Misfit where the body of a request is not what the operation takes."""
        schemas = [each["schema"] for each in operation.get("parameters", []) if each["in"] == "body"]
        if bool(schemas) != (body is not None):
            raise Misfit("a body is " + ("missing" if schemas else "not taken here"))
        if schemas:
            self._validate(schemas[0], body)

    def check_answer(self, operation: dict[str, Any], answer: Any) -> None:
        """Raise Misfit where an answer is not what the operation gives."""
        self._validate(_closed(operation["responses"]["200"]["schema"]), answer)

    def check(self, definition: str, value: Any) -> None:
        """Raise Misfit where `value` does not fit `definition`."""
        self._validate({"$ref": f"#/definitions/{definition}"}, value)

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "definitions": self.definitions, "$schema": "http://json-schema.org/draft-07/schema#"}
        problem = jsonschema.exceptions.best_match(
            validator_for(whole)(whole, format_checker=FORMATS).iter_errors(value)
        )
        if problem:
            raise Misfit(f"{problem.json_path}: {problem.message}"[:500])


def _group(match: re.Match[str]) -> str:
    return f"(?P<{match[1].rpartition('.')[2]}>[^/:]+)"


def _closed(schema: Any) -> Any:
    """Return a schema that takes no field beside its own, and numbers where it says int64."""
    if not isinstance(schema, dict):
        return schema
    inner = ("items", "additionalProperties")
    closed = {key: _closed(value) if key in inner else value for key, value in schema.items()}
    if "properties" in schema:
        closed["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    if schema.get("format") == "int64" and schema.get("type") == "string":
        return {"anyOf": [{"type": "string", "pattern": r"^-?\d+$"}, {"type": "integer"}]}
    return closed


def _as_described(content: Any) -> Any:
    """Return a filter in the words of the description: protobuf also takes camelCase and numbers for enumerations."""
    content = copy.deepcopy(content)
    for predicate in content.get("predicates", []) if isinstance(content, dict) else []:
        for name in [name for name in predicate if re.search("[A-Z]", name)]:
            predicate[re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", name)] = predicate.pop(name)
        if predicate.get("operation") == 1:
            predicate["operation"] = "EQUALS"
    return content
