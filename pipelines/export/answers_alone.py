"""Run as a script by an interpreter of its own: what an exported folder answers where Trunkline cannot be imported.

    python -I answers_alone.py FOLDER QUESTIONS ANSWERS

QUESTIONS is JSON: task -> list of {text, text_pair, pieces}, `pieces` being each word's first piece (-1: it has none),
or null where the text as a whole is answered. ANSWERS will hold task -> list of {ids, outputs}.
"""

import importlib.abc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = ("cli", "migrations", "modeling", "pipelines", "registry", "serving")


class _Refusal(importlib.abc.MetaPathFinder):
    """Stands before every other finder, so that also an installed Trunkline is not found."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:  # noqa: ARG002
        if name.partition(".")[0] in OURS:
            raise ImportError(f"the exported folder asks for {name}, which is Trunkline's own")


def main(folder: str, questions: str, answers: str) -> None:
    sys.meta_path.insert(0, _Refusal())
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for task, asked in json.loads(Path(questions).read_text()).items():
        pairs = [one["text_pair"] for one in asked]
        texts = [[one["text"] for one in asked], *([pairs] if pairs[0] is not None else [])]
        batch = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**batch, tasks=[task]).logits[task]
        found[task] = [
            {
                "ids": ids[seen.bool()].tolist(),
                "outputs": [row.tolist()] if one["pieces"] is None else _of_words(row, one["pieces"]),
            }
            for one, row, ids, seen in zip(asked, logits, batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    Path(answers).write_text(json.dumps(found))


def _of_words(row: Any, pieces: Sequence[int]) -> list[list[float]]:
    return [row[piece].tolist() if piece >= 0 else [0.0] * row.shape[-1] for piece in pieces]


if __name__ == "__main__":
    main(*sys.argv[1:])
