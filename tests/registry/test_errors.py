import inspect

import pytest

from registry import errors
from registry.errors import InvalidInput, TrunklineError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, TrunklineError)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_stands_in_the_drawn_tree(cls: type[TrunklineError]) -> None:
    assert any(line.lstrip(" │├└─").split(" ")[0] == cls.__name__ for line in errors.__doc__.splitlines())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("TrunklineError", 1),
        ("InvalidInput", 1),
        ("NotFound", 1),
        ("StorageError", 1),
        ("UsageError", 2),
        ("GateFailed", 3),
        ("NotAllowed", 4),
        ("Conflict", 5),
        ("AlreadyExists", 5),
        ("LostRace", 5),
    ],
)
def test_exit_codes_tell_the_situations_apart(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_one_problem_is_one_line() -> None:
    assert str(InvalidInput("task.yaml", ["labels: declared twice: yes"])) == "task.yaml: labels: declared twice: yes"


def test_several_problems_are_all_listed() -> None:
    assert str(InvalidInput("task.yaml", ["one", "two"])) == "task.yaml: 2 problems\n  - one\n  - two"


def test_a_flood_of_problems_is_counted() -> None:
    error = InvalidInput("rows", [f"line {n}" for n in range(1_025)])
    assert len(error.problems) == 1_025
    assert "line 19" in str(error)
    assert "line 20" not in str(error)
    assert str(error).endswith("and 1,005 more")
