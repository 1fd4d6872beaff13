import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.golden_examples import GoldenExample, GoldenExamples, parse_golden_examples
from registry.errors import InvalidInput

text = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)).map(tuple)).map(tuple)
examples = st.builds(GoldenExample, text=text, text_pair=st.none() | text, outputs=rows)


@given(st.lists(examples, min_size=1, max_size=4).map(tuple))
def test_golden_examples_survive_a_round_trip_to_the_bit(content: tuple[GoldenExample, ...]) -> None:
    golden = GoldenExamples(examples=content)
    assert parse_golden_examples(golden.to_bytes(), "golden examples of rte/1") == golden


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"format":1,"examples":[]}', b'{"format":2,"examples":[{"text":"a","outputs":[]}]}']
)
def test_what_is_no_set_of_golden_examples_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"golden examples of rte/1"):
        parse_golden_examples(data, "golden examples of rte/1")
