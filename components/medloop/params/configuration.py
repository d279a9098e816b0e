"""The whole of params.yaml: read, laid over, checked, described, handed to a Kubeflow task."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import field_validator

from medloop import models, pairing, plugins
from medloop.errors import Refused
from medloop.params.running import Pipeline, Schedule
from medloop.params.section import S, Section, checked, hint
from medloop.params.stages import Base, Evaluate, Ingest, Preprocess, Promote, Register, Train, Validate

with warnings.catch_warnings():  # pydantic warns that `validate` and `register` are names of its own classes
    warnings.simplefilter("ignore", UserWarning)

    class Params(Section):
        """The whole of params.yaml."""

        schema_version: Literal[1]
        base: Base = Base()
        ingest: Ingest = Ingest()
        validate: Validate = Validate()  # type: ignore[assignment]
        preprocess: Preprocess = Preprocess()
        train: Train = Train()
        evaluate: Evaluate = Evaluate()
        register: Register = Register()
        promote: Promote = Promote()
        pipeline: Pipeline = Pipeline()
        schedule: tuple[Schedule, ...] = ()

        @field_validator("schedule")
        @classmethod
        def _each_name_once(cls, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
            names = [each.name for each in schedules]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two schedules are named {twice[0]!r}")
            return schedules


def read(path: Path = Path("params.yaml")) -> Params:
    """Return the checked parameters in `path`.

    Raises:
        Refused: the file is missing, is no YAML, or a key or value does not fit the schema.
    """
    return check(mapping(path), where=str(path))


def overlaid(path: Path, profile: Path) -> dict[str, Any]:
    """Return the mapping in `path` with the mapping in `profile` laid over it, key by key, checked by the schema."""
    merged = merge(mapping(path), mapping(profile))
    check(merged, where=str(profile))
    return merged


def check(content: dict[str, Any], *, where: str) -> Params:
    """Return `content` as parameters; raise Refused, naming the keys in `where` that do not fit, or fit each other."""
    found = checked(Params, content, where=where)
    pairing.check(found.base.task, found.base.kind, found.train.architectures)
    for name, chosen in found.train.hyper.items():
        if name not in (known := plugins.names(models)):
            raise Refused(f"{where}: unknown architecture train.hyper.{name}{hint(name, known)}")
        for key in chosen:
            if key not in (known := pairing.hyper_parameters(name)):
                raise Refused(f"{where}: unknown hyper-parameter train.hyper.{name}.{key}{hint(key, known)}")
    return found


def dump(base: Base, section: Section) -> str:
    """Return what one stage reads, as the JSON string that a Kubeflow task is given."""
    return json.dumps(
        {"base": base.model_dump(mode="json"), "section": section.model_dump(mode="json")}, sort_keys=True
    )


def parse(text: str, kind: type[S]) -> tuple[Base, S]:
    """Return the two sections that `dump` wrote."""
    content = json.loads(text)
    return Base.model_validate(content["base"]), kind.model_validate(content["section"])


def describe(content: dict[str, Any]) -> str:
    """Return one line a parameter: key, value, meaning."""
    return "\n".join(_described(check(content, where="params.yaml"), ""))


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML takes: the last of two equal keys would hold, and the first be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                said = f"the key {key.value!r} stands there twice, again"
                raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def mapping(path: Path) -> dict[str, Any]:
    """Return the keys and values in `path`, not yet checked."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)  # noqa: S506 - as safe as what it extends
    except FileNotFoundError:
        raise Refused(f"no file {path}: run this from the project's folder") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not text in UTF-8 (byte {error.start}): save it as such") from None
    except yaml.YAMLError as error:
        raise Refused(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise Refused(f"{path} must hold keys and values, got {type(content).__name__}")
    return content


def _described(section: Section, prefix: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _described(value, f"{prefix}{name}.")
        else:
            shown = json.dumps(value, default=str)
            yield f"{prefix}{name}: {shown}" + (f"  # {field.description}" if field.description else "")


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `over` laid over `under`, key by key."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
