"""Reads a YAML file that a user wrote, and says where it is wrong."""

from pathlib import Path
from typing import Any

import yaml

from registry.errors import InvalidInput

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _AsWritten(yaml.SafeLoader):
    """The safe loader, with plain scalars kept as text and repeated keys refused.

    YAML reads `no`, `on`, `1` and `2026-11-23` as a truth value, a number and a date, but as labels they are just
    words. Those who read the content turn text into numbers where they want numbers. `null` and `~` stay nothing.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - the loader's own attribute, of the shape it asks for
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    problem = f"key {key.value!r} stands here and in line {seen[key.value]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """The content of a file with one YAML document: mappings, sequences, text and None.

    Raises:
        InvalidInput: the file cannot be read or is not YAML; names the line and the column.
    """
    subject = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(subject, [f"cannot be read: {error.strerror}"]) from error
    try:
        loader = _AsWritten(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(subject, [_marked_problem(error)]) from error
    except yaml.reader.ReaderError as error:
        raise InvalidInput(subject, [f"is not YAML text: {error.reason} at position {error.position}"]) from error
    except RecursionError as error:
        raise InvalidInput(subject, ["is nested too deeply"]) from error


def _marked_problem(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + ", ".join(part for part in (error.context, error.problem) if part)
