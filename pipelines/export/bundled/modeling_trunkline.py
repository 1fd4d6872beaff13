"""A Trunkline release as one transformers model: one frozen trunk, every task's branch on it, one pass for all.

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"), tasks=["rte"]).logits["rte"]

Needs torch and transformers 5, and nothing of Trunkline's own. B = rows, T = pieces, H = hidden size, O = outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import ModelOutput

from .configuration_trunkline import TrunklineConfig


@dataclass
class TrunklineOutput(ModelOutput):
    """`logits`: task -> raw outputs, [B, O] of a text or pair, [B, T, O] of its pieces.

    `last_hidden_state` [B, T, H] is the deepest state of the trunk that was computed.
    """

    last_hidden_state: Tensor | None = None
    logits: dict[str, Tensor] | None = None


class LayerMix(nn.Module):
    """scale × the sum over the states of softmax(weights) × state."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(states))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        shares = torch.softmax(self.weights, dim=0)
        mixed: Tensor = self.scale * (shares * torch.stack(list(states), dim=-1).float()).sum(dim=-1)
        return mixed


class TagTransitions(nn.Module):
    """A CRF's scores of the first tag [O], of what follows what [O, O] and of the last tag [O]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(outputs))
        self.between = nn.Parameter(torch.zeros(outputs, outputs))
        self.end = nn.Parameter(torch.zeros(outputs))

    def likeliest(self, emissions: Tensor) -> list[int]:
        """The legal sequence of BIO tags (O, B-a, I-a, B-b, …) that scores highest (Viterbi); emissions [W, O]."""
        tag = torch.arange(len(self.start), device=emissions.device)
        inside = (tag > 0) & (tag % 2 == 0)
        goes_on = (tag[:, None] == tag - 1) | (tag[:, None] == tag)
        between = self.between.masked_fill(inside & ~goes_on, -torch.inf)
        best, backwards = emissions[0] + self.start.masked_fill(inside, -torch.inf), []
        for emission in emissions[1:]:
            best, before = (best[:, None] + between).max(dim=0)
            best = best + emission
            backwards.append(before)
        chosen = [int((best + self.end).argmax())]
        for before in reversed(backwards):
            chosen.append(int(before[chosen[-1]]))
        return chosen[::-1]


class Head(nn.Module):
    """What turns a branch's states into its outputs; a number comes in the units of its data."""

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, task: dict[str, Any], hidden_size: int) -> None:
        super().__init__()
        self.reading: str = task["reading"]
        self.linear = nn.Linear(hidden_size, task["outputs"])
        self.is_number = task["type"] == "regression"
        if self.is_number:
            self.register_buffer("target_mean", torch.zeros(()))
            self.register_buffer("target_scale", torch.ones(()))
        if task["crf"]:
            self.crf = TagTransitions(task["outputs"])
        if task["mixes"]:
            self.mix = LayerMix(task["frozen_depth"] + task["task_layers"] + 1)

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, T, H] -> [B, H], or [B, T, H] where every word is answered, by its first piece."""
        if self.reading == "first":
            return hidden[:, 0]
        if self.reading == "mean":
            return (hidden.float() * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return hidden

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """From all states, the embeddings' first, or from the last one alone."""
        mixed = self.mix([self.read(state, mask) for state in states]) if hasattr(self, "mix") else None
        outputs: Tensor = self.linear(self.read(states[-1], mask) if mixed is None else mixed)
        return outputs.float() * self.target_scale + self.target_mean if self.is_number else outputs


class Branch(nn.Module):
    """A task's own layers and its head."""

    def __init__(self, layers: nn.ModuleList, task: dict[str, Any], hidden_size: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = Head(task, hidden_size)


class TrunklineModel(PreTrainedModel):
    """The release. The trunk runs once, down to the deepest layer that the asked tasks need."""

    config_class = TrunklineConfig
    config: TrunklineConfig

    def __init__(self, config: TrunklineConfig) -> None:
        super().__init__(config)
        self.encoder = _encoder(config, int(config.encoder[config.layout["layer_count"]]))
        hidden_size = self.encoder.config.hidden_size
        self.branches = nn.ModuleDict(
            {
                f"task:{name}": Branch(_layers(_encoder(config, task["task_layers"]), config), task, hidden_size)
                for name, task in config.tasks.items()
            }
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        **_: Any,
    ) -> TrunklineOutput:
        """Answers the tasks, or all of them.

        Args:
            input_ids, attention_mask, token_type_ids: [B, T], as the tokenizer beside this file makes them, of one
                text for tasks whose `input_form` is single and of two for those that read a pair.

        Raises:
            KeyError: the release has no such task.
            ValueError: a text has more pieces than the release reads.
        """
        if unknown := [name for name in tasks or () if name not in self.config.tasks]:
            raise KeyError(f"{', '.join(unknown)}: this release has {', '.join(self.config.tasks)}")
        longest = self.config.longest_input
        if longest is not None and input_ids.shape[1] > longest:
            raise ValueError(f"{input_ids.shape[1]} pieces, and this release reads {longest}: use truncation=True")
        asked = {name: self.config.tasks[name] for name in (self.config.tasks if tasks is None else tasks)}
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = list(self._trunk_states(input_ids, mask, token_type_ids, asked))
        logits = {}
        for name, task in asked.items():
            branch, own = self._branch(name), states[: task["frozen_depth"] + 1]
            logits[name] = branch.head([*own, *self._run(branch.layers, own[-1], mask)], mask)
        return TrunklineOutput(last_hidden_state=states[-1], logits=logits)

    def tags(self, task: str, logits: Tensor, pieces: Sequence[int]) -> list[str]:
        """One text's tags, of its words.

        Args:
            logits: [T, O], one row of what `forward` gave.
            pieces: the place of each word's first piece (a tokenizer's `word_ids` tells them).

        Raises:
            ValueError: the task answers no words.
        """
        if self.config.tasks[task]["reading"] != "words":
            raise ValueError(f"{task} answers whole texts: its logits are one row a text")
        emissions, transitions = logits[list(pieces)], getattr(self._branch(task).head, "crf", None)
        chosen = emissions.argmax(-1).tolist() if transitions is None else transitions.likeliest(emissions)
        return [self.config.tasks[task]["labels"][number] for number in chosen]

    def _branch(self, task: str) -> Branch:
        return cast(Branch, self.branches[f"task:{task}"])

    def _trunk_states(
        self, input_ids: Tensor, mask: Tensor, types: Tensor | None, asked: dict[str, dict[str, Any]]
    ) -> list[Tensor]:
        layout = self.config.layout
        given = {"token_type_ids": types} if layout["types"] and types is not None else {}
        hidden = self.encoder.get_submodule(layout["embeddings"])(input_ids=input_ids, **given)
        if layout["projection"]:
            hidden = self.encoder.get_submodule(layout["projection"])(hidden)
        deepest = max((task["frozen_depth"] for task in asked.values()), default=0)
        return [hidden, *self._run(list(_layers(self.encoder, self.config))[:deepest], hidden, mask)]

    def _run(self, layers: Iterable[nn.Module], hidden: Tensor, mask: Tensor) -> list[Tensor]:
        """The state after each layer."""
        wide = create_bidirectional_mask(
            config=self.encoder.config,
            inputs_embeds=hidden,
            attention_mask=mask.bool(),
            allow_is_bidirectional_skip=False,
        )
        states = []
        for layer in layers:
            hidden = layer(hidden, wide)
            states.append(hidden)
        return states


def _encoder(config: TrunklineConfig, layers: int) -> PreTrainedModel:
    """transformers' own model of so many layers; what it has beside embeddings and layers is taken off."""
    encoder: PreTrainedModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(**{**config.encoder, config.layout["layer_count"]: layers}), attn_implementation="sdpa"
    )
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)
    return encoder


def _layers(encoder: PreTrainedModel, config: TrunklineConfig) -> nn.ModuleList:
    return cast(nn.ModuleList, encoder.get_submodule(config.layout["layers"]))
