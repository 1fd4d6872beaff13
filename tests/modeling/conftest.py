"""A tokenizer of the SentencePiece kind, beside the WordPiece one of every pinned model."""

import string

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors


def metaspace() -> Tokenizer:
    """Unigram over letters, with pieces that reach over what the word splitter separates."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    whole = ["▁new", "▁york", "▁hello", "'s", ").", "▁($", "中文", "▁中文"]
    scored = [(piece, 0.0) for piece in pieces] + [(piece, -1.0) for piece in whole]
    scored += [(letter, -5.0) for letter in string.ascii_lowercase + string.digits + string.punctuation]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def metaspace_json() -> bytes:
    return metaspace().to_str().encode()
