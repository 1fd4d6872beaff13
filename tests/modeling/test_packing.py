import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.packing import Packed, lay_out
from modeling.text import NO_TOKEN, EncodedText

LENGTHS = st.lists(st.integers(min_value=1, max_value=140), min_size=1, max_size=60)


def row(length: int, number: int = 0) -> EncodedText:
    """Piece ids and, of every other row, types tell whose they are."""
    ids = tuple(range(1000 * number, 1000 * number + length))
    return EncodedText(ids, (number % 2,) * length, (), (), 0)


def pack(lengths: list[int]) -> Packed:
    encoded = [row(length, number) for number, length in enumerate(lengths)]
    return Packed(encoded, range(len(lengths)), device=torch.device("cpu"))


@given(LENGTHS)
def test_every_row_is_in_one_block_and_a_group_is_as_wide_as_its_fullest_block(lengths):
    groups = lay_out(lengths)
    assert sorted(number for group in groups for block in group.blocks for number in block) == list(range(len(lengths)))
    for group in groups:
        assert max(sum(lengths[number] for number in block) for block in group.blocks) == group.width


@given(LENGTHS)
def test_a_line_has_the_pieces_of_its_rows_and_no_others(lengths):
    packed = pack(lengths)
    ids, types, positions = packed.inputs(first_position=2)
    expected = [1000 * number + piece for number, length in enumerate(lengths) for piece in range(length)]
    assert sorted(ids.tolist()) == expected
    assert torch.equal(types, ids // 1000 % 2)
    assert torch.equal(positions, ids % 1000 + 2)


@given(LENGTHS)
def test_places_left_over_are_at_most_an_eighth(lengths):
    """A block joins only blocks that it nearly fills, and the widest of each group is full."""
    packed = pack(lengths)
    assert packed.places_left_over <= (packed.pieces + packed.places_left_over) / 8


@given(LENGTHS)
def test_what_is_taken_into_blocks_comes_back_in_the_lines_order(lengths):
    packed = pack(lengths)
    line = torch.arange(packed.pieces)[:, None]
    taken = torch.cat([group.taken_from(line) for group in packed.groups])
    back = taken if packed.context_order is None else taken[packed.context_order]
    assert torch.equal(back, line)


@given(LENGTHS)
def test_cheaper_groups_are_more_groups_with_fewer_scores(lengths):
    dear, cheap = lay_out(lengths, 7400), lay_out(lengths, 500)

    def scores(groups):
        return sum(len(group.blocks) * group.width**2 for group in groups)

    assert len(cheap) >= len(dear)
    assert scores(cheap) <= scores(dear)


def test_a_further_group_pays_where_it_is_cheap_enough():
    lengths = [30] * 8 + [64] * 8
    assert [len(lay_out(lengths, cost)) for cost in (10**6, 1)] == [1, 2]
    encoded = [row(length, number) for number, length in enumerate(lengths)]
    for cost, groups in ((10**6, 1), (1, 2)):
        packed = Packed(encoded, range(len(lengths)), device=torch.device("cpu"), scores_a_group=cost)
        assert len(packed.groups) == len(packed.only(packed.rows).groups) == groups


def test_one_long_row_makes_no_block_of_short_ones_wide():
    lengths = [128] + [10] * 60
    for group in lay_out(lengths):
        assert group.width == 128 or group.width <= 32
        assert (group.width == 128) == (group.blocks == ((0,),))


def test_rows_of_one_length_need_no_bias_and_no_order():
    packed = pack([32] * 20)
    assert packed.context_order is None
    for groups in (packed.groups, packed.row_groups):
        assert [(group.blocks, group.pieces, group.bias) for group in groups] == [(20, slice(0, 640), None)]


def test_many_short_rows_of_different_lengths_are_few_groups():
    packed = pack([6 + number % 15 for number in range(80)])
    assert len(packed.groups) <= 3
    assert len(packed.row_groups) <= 2


@given(LENGTHS, st.data())
def test_a_line_of_some_rows_holds_their_pieces_in_the_order_asked(lengths, data):
    packed = pack(lengths)
    some = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    target = packed.only(some)
    ids, _, _ = packed.inputs(first_position=0)
    gathered = packed.gathered(ids[:, None], target)
    assert torch.equal(gathered[:, 0], target.inputs(first_position=0)[0])
    assert target.read(gathered, "first", some)[:, 0].tolist() == [1000 * number for number in some]


@given(LENGTHS)
def test_the_bias_keeps_every_piece_to_its_own_row(lengths):
    packed = pack(lengths)
    ids, _, _ = packed.inputs(first_position=0)
    filled = torch.zeros(packed.pieces + packed.places_left_over, dtype=torch.bool)
    filled[slice(None) if packed.context_order is None else packed.context_order] = True
    offset = 0
    for group in packed.groups:
        owners = (group.taken_from(ids[:, None]) // 1000).view(group.blocks, -1)
        by_right = filled[offset : offset + owners.numel()].view_as(owners)
        offset += owners.numel()
        same = (owners[:, :, None] == owners[:, None, :]) & by_right[:, None, :]
        if group.bias is None:
            assert bool(same.all())
        else:
            assert torch.equal((group.bias[:, 0] == 0)[by_right], same[by_right])


@given(LENGTHS)
def test_the_first_piece_of_each_row_looks_at_that_row_alone(lengths):
    packed = pack(lengths)
    ids, _, _ = packed.inputs(first_position=0)
    assert ids[packed.first_pieces[packed.first_order]].tolist() == [1000 * number for number in range(len(lengths))]
    seen = []
    for group in packed.row_groups:
        pieces = group.taken_from(ids).view(group.blocks, -1)
        bias = torch.zeros(pieces.shape) if group.bias is None else group.bias.view(pieces.shape)
        seen += [row[may_look].tolist() for row, may_look in zip(pieces, bias == 0, strict=True)]
    assert seen == [list(range(first, first + lengths[first // 1000])) for first in ids[packed.first_pieces].tolist()]


@given(LENGTHS)
def test_the_rows_of_a_group_are_at_least_half_as_long_as_its_longest(lengths):
    for group in pack(lengths)._row_layout:
        assert all(group.width <= 2 * lengths[number] for (number,) in group.blocks)


def test_heads_read_first_pieces_means_and_words():
    encoded = [
        EncodedText((1, 2, 3), (0, 0, 0), (), (1, NO_TOKEN), 2),
        EncodedText((4, 5), (0, 0), (), (1,), 1),
    ]
    packed = Packed(encoded, [0, 1], device=torch.device("cpu"))
    hidden = packed.inputs(first_position=0)[0][:, None].float()
    assert packed.read(hidden, "first", [1, 0])[:, 0].tolist() == [4.0, 1.0]
    assert packed.read(hidden, "mean", [1, 0])[:, 0].tolist() == [4.5, 2.0]
    assert packed.read(hidden, "words", [1, 0])[:, 0].tolist() == [5.0, 2.0]


@pytest.mark.parametrize("length", [1, 5, 512])
def test_one_row_alone_is_one_block_without_padding(length):
    packed = pack([length])
    assert (packed.pieces, packed.places_left_over, len(packed.groups)) == (length, 0, 1)
