"""A linear-chain conditional random field over BIO tags (Lafferty, McCallum and Pereira, 2001).

A sequence's score is start[first] + the emissions of its tags + between[tag, next tag] + end[last]; its probability is
exp(score) over the sum of that over all sequences. Tags are in the order of `TaskSpec.output_labels`: O, B-a, I-a, B-b,
I-b, … What BIO forbids (I-x first, or after anything but B-x and I-x) scores -inf whatever was learnt, so that no
illegal sequence is ever likely, taught or decoded.

B = rows, W = words of the row that has most, O = tags. A row's words come first: `mask` [B, W] bool is True, then
False.
"""

from functools import cache
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

_LEAST = 1e-304
"""e^-700, of the likeliest."""


class Transitions(NamedTuple):
    """Scores of what follows what; -inf where BIO forbids it."""

    start: Tensor
    """[O]"""
    between: Tensor
    """[O, O]: from the tag of the row to the tag of the column."""
    end: Tensor
    """[O]"""

    def over(self, temperature: float) -> Self:
        """The scores of the distribution that a temperature softens."""
        return type(self)(*(scores / temperature for scores in self))

    def like(self, values: Tensor) -> Self:
        """The scores as constants of the values' dtype, on their device."""
        return type(self)(*(scores.detach().to(values) for scores in self))


@cache
def _forbidden(tags: int) -> tuple[Tensor, Tensor]:
    """What BIO forbids among so many tags: as the first one [O], and from tag to tag [O, O]; bool."""
    number = torch.arange(tags)
    inside = (number > 0) & (number % 2 == 0)
    continues = (number[:, None] == number - 1) | (number[:, None] == number)
    return inside, inside & ~continues


class TagTransitions(nn.Module):
    """The learnt part of a CRF: start [O], between [O, O] (from, to) and end [O], all fp32, zero at first.

    Entries that BIO forbids are there, so that the file's shapes are plain, and count for nothing.
    """

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(tags))
        self.between = nn.Parameter(torch.zeros(tags, tags))
        self.end = nn.Parameter(torch.zeros(tags))

    def scores(self) -> Transitions:
        first, following = (forbidden.to(self.start.device) for forbidden in _forbidden(len(self.start)))
        return Transitions(
            self.start.masked_fill(first, -torch.inf), self.between.masked_fill(following, -torch.inf), self.end
        )


def words_with_a_piece(values: Tensor, word_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Moves each row's words that have a piece to its front, in their order: a CRF runs over those only.

    Args:
        values: [B, W, …].
        word_tokens: [B, W] int64, -1 where a word has no piece.
    Returns:
        values [B, W, …] in the new order, and their mask [B, W].
    """
    seen = word_tokens >= 0
    order = torch.argsort((~seen).int(), dim=1, stable=True)
    index = order.reshape(*order.shape, *[1] * (values.dim() - 2)).expand_as(values)
    return values.gather(1, index), seen.gather(1, order)


def legal_tags(tags: Tensor) -> Tensor:
    """Gold tags [B, W] int64 as BIO allows them: an I-x that continues no x becomes the B-x that begins one.

    So the scorers read such data too (conlleval; `modeling.decoding`), and no sequence that the CRF calls impossible
    is ever taught.
    """
    before = torch.nn.functional.pad(tags, (1, 0))[:, :-1]  # O comes before the first word
    inside = (tags > 0) & (tags % 2 == 0)
    return tags - (inside & (before != tags) & (before != tags - 1)).long()


def negative_log_likelihood(emissions: Tensor, mask: Tensor, tags: Tensor, transitions: Transitions) -> Tensor:
    """-log p(tags) of every row: [B] fp32, 0 for a row without words.

    Args:
        emissions: [B, W, O] fp32.
        tags: [B, W] int64, legal; any where the mask is False.
    """
    return log_partition(emissions, mask, transitions) - _score(emissions, mask, tags, transitions)


def log_partition(emissions: Tensor, mask: Tensor, transitions: Transitions) -> Tensor:
    """Log of the sum over all sequences of exp(score): [B], 0 for a row without words (forward algorithm)."""
    last = _last(_forward(emissions, mask, transitions), mask)
    return torch.logsumexp(last + transitions.end, dim=1).to(emissions).where(mask[:, 0], 0.0)


def log_marginals(emissions: Tensor, mask: Tensor, transitions: Transitions) -> Tensor:
    """log p(word has tag | text), [B, W, O]; -inf where BIO leaves none; any where the mask is False
    (forward-backward algorithm)."""
    forward = _forward(emissions, mask, transitions)
    backward = _backward(emissions, mask, transitions)
    return torch.log_softmax(forward + backward, dim=2).to(emissions)


def viterbi(emissions: Tensor, transitions: Transitions) -> list[int]:
    """The likeliest sequence of one row's words, [W, O]: one tag number a word, always legal; ties to the lower."""
    if not len(emissions):
        return []
    best = transitions.start + emissions[0]
    came_from: list[Tensor] = []
    for emission in emissions[1:]:
        best, before = (best[:, None] + transitions.between).max(dim=0)
        came_from.append(before)
        best = best + emission
    path = [int((best + transitions.end).argmax())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1]


def _score(emissions: Tensor, mask: Tensor, tags: Tensor, transitions: Transitions) -> Tensor:
    """Of one sequence a row: [B]."""
    emitted = emissions.gather(2, tags[:, :, None])[:, :, 0].where(mask, 0.0).sum(dim=1)
    # `where` and not a product: beyond the mask a transition may be a forbidden one, and 0 × -inf is no number.
    followed = transitions.between[tags[:, :-1], tags[:, 1:]].where(mask[:, 1:], 0.0).sum(dim=1)
    last = tags.gather(1, (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return (transitions.start[tags[:, 0]] + emitted + followed + transitions.end[last]).where(mask[:, 0], 0.0)


class _Steps:
    """From word to word through the transitions that BIO allows: B·O² operations a word, none of them an exponential.

    Into O and B-x leads a way from every tag: these sums are one matrix product of exponentials, taken from the largest
    in fp64. What is less than e^-700 of the largest counts as that much: no distribution that a training could leave
    is so steep. Into I-x leads a way from B-x and I-x alone, and two sums are added as logarithms: here what is small
    may be all there is.

    Tags are in the order O, B-a, B-b, …, I-a, I-b, …; values are fp64.
    """

    def __init__(self, transitions: Transitions) -> None:
        tags = len(transitions.start)
        number = torch.arange(tags, device=transitions.start.device)
        self.order = torch.cat([number[:1], number[1::2], number[2::2]])
        self.back = self.order.argsort()
        self.begun = (tags + 1) // 2
        """How many of the tags are O or B-x."""
        self.start, self.end = (scores.double()[self.order] for scores in (transitions.start, transitions.end))
        between = transitions.between.double()[self.order][:, self.order]
        every = between[:, : self.begun]
        self.most = every.detach().amax()
        self.every = (every - self.most).exp()
        inside = between[:, self.begun :]
        self.from_begun = inside[1 : self.begun].diagonal()
        """[L], from B-x to I-x."""
        self.from_inside = inside[self.begun :].diagonal()

    def forth(self, sums: Tensor) -> Tensor:
        """[B, O] of a word -> [B, O]: log of the sum over what may come before each tag of the next word."""
        inside = torch.logaddexp(sums[:, 1 : self.begun] + self.from_begun, sums[:, self.begun :] + self.from_inside)
        return torch.cat([self._product(sums, self.every), inside], dim=1)

    def back_from(self, sums: Tensor) -> Tensor:
        """[B, O] of a word -> [B, O]: log of the sum over what may follow each tag of the word before it."""
        follow = self._product(sums[:, : self.begun], self.every.T)
        inside = torch.cat([sums[:, self.begun :] + self.from_begun, sums[:, self.begun :] + self.from_inside], dim=1)
        return torch.cat([follow[:, :1], torch.logaddexp(follow[:, 1:], inside)], dim=1)

    def _product(self, sums: Tensor, factors: Tensor) -> Tensor:
        largest = sums.detach().amax(dim=1, keepdim=True)
        return ((sums - largest).exp() @ factors).clamp(min=_LEAST).log() + (largest + self.most)


def _forward(emissions: Tensor, mask: Tensor, transitions: Transitions) -> Tensor:
    """Log of the sum over all beginnings that end in a tag at a word: [B, W, O]; a masked word repeats the last."""
    steps = _Steps(transitions)
    words = emissions.double()[:, :, steps.order].unbind(1)
    sums = [steps.start + words[0]]
    for seen, emission in zip(mask[:, 1:, None].unbind(1), words[1:], strict=True):
        sums.append(torch.where(seen, steps.forth(sums[-1]) + emission, sums[-1]))
    return torch.stack(sums, dim=1)[:, :, steps.back]


def _backward(emissions: Tensor, mask: Tensor, transitions: Transitions) -> Tensor:
    """Log of the sum over all endings that follow a tag at a word: [B, W, O]; a masked word has that of the end."""
    steps = _Steps(transitions)
    words = emissions.double()[:, :, steps.order].unbind(1)
    sums = [steps.end.expand_as(words[0])]
    for seen, emission in zip(mask[:, 1:, None].unbind(1)[::-1], words[:0:-1], strict=True):
        sums.append(torch.where(seen, steps.back_from(emission + sums[-1]), sums[-1]))
    return torch.stack(sums[::-1], dim=1)[:, :, steps.back]


def _last(sums: Tensor, mask: Tensor) -> Tensor:
    """[B, O], at each row's last word."""
    position = (mask.sum(dim=1) - 1).clamp(min=0)
    return sums[torch.arange(len(sums), device=sums.device), position]
