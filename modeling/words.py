"""The one word splitter, and the tags of data that somebody else tokenised carried to its words."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from registry.domain.task_specs import TagScheme


class Word(NamedTuple):
    """Character offsets in the text: `text[start:end]`."""

    start: int
    end: int


def _combining_characters() -> str:
    """A character class's inside: every combining mark (Unicode category M) of the planes that have letters."""
    marks = [code for code in range(0x20000) if unicodedata.category(chr(code)).startswith("M")]
    first_of_runs = [code for code in marks if not unicodedata.category(chr(code - 1)).startswith("M")]
    last_of_runs = [code for code in marks if not unicodedata.category(chr(code + 1)).startswith("M")]
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in zip(first_of_runs, last_of_runs, strict=True))


# Thai, Lao, Myanmar, Khmer, kana, Han: scripts that put no space between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
# What changes the character before it and never stands for itself: combining marks, variation selectors, soft hyphen,
# the zero-width joiners, skin tones, and the tags that spell a region's flag.
_ATTACHED = (
    _combining_characters() + "\u00ad\u200c\u200d\U000e0020-\U000e007f\U000e0100-\U000e01ef\U0001f3fb-\U0001f3ff"
)
_LETTER = rf"[^\W{_UNSPACED}]"
_RUN = rf"{_LETTER}(?:{_LETTER}|[{_ATTACHED}])*"

_WORD = re.compile(
    rf"""
      (?:[Hh][Tt][Tt][Pp][Ss]?://|[Ww][Ww][Ww]\.)              # a web address, less the punctuation that follows it
      [0-9A-Za-z._~:/?\#\[\]@!$&'()*+,;=%-]*[0-9A-Za-z/_=\#&%-]
    | [0-9A-Za-z_][0-9A-Za-z_.+-]{{0,63}}@[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)+      # a mail address
    | [@\#]{_RUN}                                              # @mention, #hashtag
    | {_RUN}(?:(?<=\d)[.,](?=\d){_RUN})*                       # letters and digits; a number with its inner . and ,
    | [\U0001f1e6-\U0001f1ff]{{2}}                             # a flag: two regional indicators
    | \S[{_ATTACHED}]*(?:(?<=\u200d)[\u2190-\u2bff\U0001f000-\U0001faff][{_ATTACHED}]*)*  # anything else, alone
    """,
    re.VERBOSE,
)


def split_words(text: str) -> tuple[Word, ...]:
    """The words of a text, in order and disjoint; every character that is not white space is in exactly one.

    Where in doubt it splits: an answer can span several words, but cannot cut one. So apostrophes, hyphens and all
    other punctuation are words of their own (`John's` is John, ', s), and so is each character of a script that puts
    no space between words. Kept whole is what nobody would cut: a number with its inner points and commas, a web or
    mail address, an @mention, a #hashtag, an emoji with its modifiers, a letter with its marks.

    A word is recognised by its own characters alone, so splitting the words joined by spaces gives them again: data
    that was tokenised by somebody else, and the raw text of a request, come to the same words.
    """
    return tuple(Word(*match.span()) for match in _WORD.finditer(text))


def carry_tags(
    tokens: Sequence[str], tags: Sequence[str], scheme: TagScheme
) -> tuple[str, tuple[Word, ...], tuple[str, ...]]:
    """Joins somebody's tokens to a text, splits it by our own splitter, and carries each token's tag to its words.

    Returns:
        The text, its words, and one tag a word. A `B-x` token of several words gives `B-x`, `I-x`, …; other tags are
        repeated.

    Raises:
        ValueError: a token is empty or white space, or there is not one tag a token.
    """
    if empty := [number for number, token in enumerate(tokens) if not token.strip()]:
        raise ValueError(f"tokens {', '.join(map(str, empty))} (from 0) are empty")
    if len(tokens) != len(tags):
        raise ValueError(f"{len(tokens)} tokens have {len(tags)} tags")
    text = " ".join(tokens)
    words = split_words(text)
    starts = [0]
    for token in tokens[:-1]:
        starts.append(starts[-1] + len(token) + 1)
    token_of_words = [bisect_right(starts, word.start) - 1 for word in words]
    continues = [number > 0 and token_of_words[number - 1] == token for number, token in enumerate(token_of_words)]
    carried = (
        continued_tag(tags[token]) if scheme is TagScheme.BIO and goes_on else tags[token]
        for token, goes_on in zip(token_of_words, continues, strict=True)
    )
    return text, words, tuple(carried)


def continued_tag(tag: str) -> str:
    """The BIO tag of a word that goes on with the word before it, whose tag this is: `B-x` becomes `I-x`."""
    return f"I-{tag[2:]}" if tag.startswith("B-") else tag
