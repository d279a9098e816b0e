"""What every part of params.yaml is: frozen, closed, and refused in words that name the key."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medloop.errors import Refused

UNSHOWN = "unshown"  # the kind of problem whose value no message may hold

S = TypeVar("S", bound="Section")
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_+-]*$", max_length=64)]


class Section(BaseModel):
    """A part of params.yaml: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked(kind: type[S], content: dict[str, Any], *, where: str) -> S:
    """Return `content` as a section of `kind`; raise Refused, naming the keys in `where` that do not fit."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise Refused("\n".join(f"{where}: {_readable(kind, problem)}" for problem in error.errors())) from None


def _readable(kind: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        # a section's message says what came
        told = problem["type"] in ("missing", UNSHOWN) or isinstance(problem["input"], dict)
        return (f"{key}: " if key else "") + message + ("" if told else f", got {problem['input']!r}")
    return f"unknown parameter {key}{hint(str(problem['loc'][-1]), _keys_beside(kind, problem['loc']))}"


def hint(name: str, known: Sequence[str]) -> str:
    """Return what `name` may have meant of what is known, for the end of a message."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}" if known else ""


def _keys_beside(section: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location[:-1]:
        if isinstance(part, int):  # one of a list, whose section was found with the list
            continue
        inner = _section_of(section.model_fields[part].annotation) if part in section.model_fields else None
        if inner is None:
            return []
        section = inner
    return sorted(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation stands for, or lists; None: it holds none."""
    if parts := get_args(annotation):
        return next(filter(None, map(_section_of, parts)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
