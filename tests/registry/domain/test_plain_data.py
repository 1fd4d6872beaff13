import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.domain.plain_data import Plain, canonical_json

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_json_says_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(values)
def test_canonical_json_of_what_was_read_is_the_same_text(value: Any) -> None:
    written = canonical_json(value)
    assert canonical_json(json.loads(written)) == written


@given(st.dictionaries(text, values, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)


def test_the_text_is_the_documented_one() -> None:
    value = {"ü": [1, 1.0, 1e-12, True, None], "a": {"z": "", "b": "é\n"}}
    assert canonical_json(value) == '{"a":{"b":"é\\n","z":""},"ü":[1,1.0,1e-12,true,null]}'.encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([number])


class Point(Plain):
    x: float


def test_plain_values_refuse_change_unknown_fields_and_nan() -> None:
    with pytest.raises(ValidationError):
        Point(x=math.nan)
    with pytest.raises(ValidationError):
        Point.model_validate({"x": 1.0, "y": 2.0})
    with pytest.raises(ValidationError):
        Point(x=1.0).x = 2.0
