"""The CRF against brute force over every sequence."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling.crf import (
    TagTransitions,
    Transitions,
    legal_tags,
    log_marginals,
    log_partition,
    negative_log_likelihood,
    viterbi,
    words_with_a_piece,
)

LABELS = ("O", "B-a", "I-a", "B-b", "I-b")


def is_legal(tags: tuple[int, ...]) -> bool:
    names = ["O", *(LABELS[tag] for tag in tags)]
    return all(
        not after.startswith("I-") or (before[0] in "BI" and before[2:] == after[2:])
        for before, after in itertools.pairwise(names)
    )


def score(emissions: Tensor, tags: tuple[int, ...], learnt: TagTransitions) -> float:
    """By the definition, from the parameters alone; -inf for what is not legal."""
    if not is_legal(tags):
        return -torch.inf
    total = learnt.start[tags[0]] + learnt.end[tags[-1]]
    total = total + sum(emissions[word, tag] for word, tag in enumerate(tags))
    total = total + sum(learnt.between[before, after] for before, after in itertools.pairwise(tags))
    return float(total)


def random_crf(seed: int, tags: int, scale: float) -> TagTransitions:
    generator = torch.Generator().manual_seed(seed)
    learnt = TagTransitions(tags).double()
    with torch.no_grad():
        for parameter in learnt.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return learnt.requires_grad_(False)


cases = st.tuples(
    st.integers(0, 10**6), st.sampled_from([1, 3, 5]), st.integers(1, 5), st.sampled_from([0.1, 1.0, 30.0])
)


def case_of(case: tuple[int, int, int, float]) -> tuple[Tensor, TagTransitions, Transitions, list[tuple[int, ...]]]:
    seed, tags, words, scale = case
    generator = torch.Generator().manual_seed(seed + 1)
    emissions = scale * torch.randn(words, tags, generator=generator, dtype=torch.float64)
    learnt = random_crf(seed, tags, scale)
    return emissions, learnt, learnt.scores(), list(itertools.product(range(tags), repeat=words))


@settings(max_examples=40)
@given(cases, st.integers(0, 3))
def test_it_is_brute_force_over_all_sequences(case: tuple[int, int, int, float], padding: int) -> None:
    emissions, learnt, transitions, sequences = case_of(case)
    scores = torch.tensor([score(emissions, tags, learnt) for tags in sequences], dtype=torch.float64)
    # A longer row beside it, and garbage where it is padded.
    padded = torch.nn.functional.pad(emissions, (0, 0, 0, padding), value=7.0)[None].repeat(2, 1, 1)
    mask = torch.ones(2, len(emissions) + padding, dtype=torch.bool)
    mask[0, len(emissions) :] = False

    partition = torch.logsumexp(scores, dim=0)
    torch.testing.assert_close(log_partition(padded, mask, transitions)[0], partition)
    marginals = log_marginals(padded, mask, transitions)[0, : len(emissions)].exp()
    probabilities = (scores - partition).exp()
    expected = torch.zeros_like(emissions)
    for tags, probability in zip(sequences, probabilities, strict=True):
        expected[range(len(tags)), list(tags)] += probability
    torch.testing.assert_close(marginals, expected, atol=1e-9, rtol=1e-7)

    found = tuple(viterbi(emissions, transitions))
    assert is_legal(found)
    assert score(emissions, found, learnt) == pytest.approx(float(scores.max()))

    gold = torch.tensor(found + (0,) * padding)[None].repeat(2, 1)
    loss = negative_log_likelihood(padded, mask, gold, transitions)[0]
    torch.testing.assert_close(loss, partition - scores.max())


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_what_is_decoded_is_legal_however_strongly_the_outputs_say_otherwise(seed: int, words: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    emissions = 1e4 * torch.randn(words, 5, generator=generator, dtype=torch.float64)
    emissions[:, 2::2] += 1e5
    learnt = random_crf(seed, 5, 1e3)
    with torch.no_grad():
        learnt.between.fill_(-1e6).fill_diagonal_(1e6)
        learnt.start[2] = 1e9
    assert is_legal(tuple(viterbi(emissions, learnt.scores())))


@given(st.lists(st.sampled_from(range(5)), min_size=1, max_size=8))
def test_gold_tags_are_made_legal_as_a_lenient_reader_reads_them(tags: list[int]) -> None:
    read, before = [], "O"
    for tag in tags:
        name = LABELS[tag]
        if name.startswith("I-") and before[1:] != name[1:]:
            name = "B" + name[1:]
        read.append(LABELS.index(name))
        before = name
    assert legal_tags(torch.tensor([tags])).tolist() == [read]
    assert is_legal(tuple(read))
    assert not is_legal(tuple(tags)) or read == tags


def test_gradients_are_those_of_finite_differences() -> None:
    learnt = random_crf(1, 5, 0.5)
    emissions = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    gold = torch.tensor([[0, 1, 2, 3], [3, 4, 2, 2]])
    shapes = [learnt.start, learnt.between, learnt.end]

    def losses(emissions: Tensor, start: Tensor, between: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        crf = TagTransitions(5)
        del crf.start, crf.between, crf.end
        crf.start, crf.between, crf.end = start, between, end
        transitions = crf.scores()
        entropy = log_marginals(emissions, mask, transitions).exp().square()
        return negative_log_likelihood(emissions, mask, gold, transitions), entropy[mask]

    inputs = [tensor.clone().requires_grad_() for tensor in (emissions, *shapes)]
    assert torch.autograd.gradcheck(losses, inputs)


def test_forbidden_transitions_are_never_moved_and_no_gradient_is_nan() -> None:
    learnt = TagTransitions(5)
    emissions = torch.zeros(3, 4, 5, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, False, False], [False] * 4])
    transitions = learnt.scores()
    loss = negative_log_likelihood(emissions, mask, torch.zeros(3, 4, dtype=torch.int64), transitions)
    assert loss[2] == 0.0
    assert (loss[:2] > 0).all()
    loss.sum().backward()
    gradients = [emissions.grad, *(parameter.grad for parameter in learnt.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert learnt.between.grad is not None
    assert learnt.start.grad is not None
    assert learnt.start.grad[[2, 4]].tolist() == [0.0, 0.0]
    assert not learnt.between.grad[[0, 0, 1, 2, 3, 4], [2, 4, 4, 4, 2, 2]].any()
    assert learnt.between.grad[[1, 2, 0], [2, 2, 1]].all()
    assert emissions.grad is not None
    assert not emissions.grad[~mask].any()


def test_what_is_far_less_likely_than_the_rest_still_counts_where_it_is_all_there_is() -> None:
    transitions = TagTransitions(5).scores()
    emissions = torch.zeros(1, 2, 5)
    emissions[0, 0, 1], emissions[0, 1, 2] = -2000.0, 5000.0  # O now; but I-a next, which comes after B-a alone
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert log_partition(emissions, mask, transitions).item() == pytest.approx(3000.0)
    assert log_marginals(emissions, mask, transitions)[0].argmax(dim=1).tolist() == [1, 2]


def test_scores_however_steep_give_numbers_and_gradients() -> None:
    learnt = TagTransitions(5)
    with torch.no_grad():
        learnt.between[:, 1:] = -1e5
    emissions = torch.tensor([[[0.0, 1e5, 0, 0, 0], [-1e5, 0, 1e5, 0, 0]]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    gold = torch.tensor([[1, 2]])
    marginals = log_marginals(emissions, mask, learnt.scores())
    loss = negative_log_likelihood(emissions, mask, gold, learnt.scores()).sum() + marginals[0, 0].sum().exp()
    loss.backward()
    gradients = [emissions.grad, *(parameter.grad for parameter in learnt.parameters())]
    assert loss.isfinite()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return result


def test_no_word_takes_memory_for_every_pair_of_tags_in_every_row() -> None:
    emissions = torch.randn(6, 3, 21, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.ones(6, 3, dtype=torch.bool)
    transitions = TagTransitions(21).scores()
    with _Largest() as seen:
        loss = negative_log_likelihood(emissions, mask, torch.zeros(6, 3, dtype=torch.int64), transitions)
        (loss + log_marginals(emissions, mask, transitions).exp().sum()).sum().backward()
    assert 21 * 21 <= seen.numel < 6 * 21 * 21


def test_words_without_a_piece_are_passed_over() -> None:
    values = torch.arange(8.0).reshape(2, 4, 1)
    words = torch.tensor([[-1, 3, -1, 5], [1, 2, -1, -1]])
    moved, mask = words_with_a_piece(values, words)
    assert moved[mask].flatten().tolist() == [1.0, 3.0, 4.0, 5.0] == values[words >= 0].flatten().tolist()
    assert mask.tolist() == [[True, True, False, False]] * 2


def test_a_temperature_divides_every_score() -> None:
    learnt = random_crf(3, 3, 1.0)
    for softened, scores in zip(learnt.scores().over(2.0), learnt.scores(), strict=True):
        torch.testing.assert_close(softened, scores / 2.0)
