"""The mix of layers: alone, in a module, and in a merged model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.backbone import Trunk, load_trunk
from modeling.layer_mix import LayerMix, weights_for_fewer
from modeling.multitask import MergedModel, load_merged_model
from modeling.task_module import load_task_module, module_bytes, new_task_module
from modeling.text import Batch
from registry.domain.manifests import Manifest
from registry.domain.task_specs import TaskType
from registry.errors import InvalidWeights
from tests.conftest import Branch, Pinned

TEXT, WORDS = TaskType.CLASSIFICATION, TaskType.TOKEN_CLASSIFICATION


def batch_of(rows: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.tensor([7, 4, 5])[:rows, None]
    ids = torch.randint(5, 100, (rows, 7), generator=generator)
    mask = torch.arange(7) < lengths
    words = torch.tensor([[1, 3], [2, -1], [1, 2]])[:rows]
    return Batch(ids.masked_fill(~mask, 0), torch.zeros_like(ids), mask, words)


def mixing(make_branch: Callable[..., Branch], pinned: Pinned, kind: TaskType = TEXT, **choices: object) -> Branch:
    """A branch whose mix is not the initial one."""
    branch = make_branch(pinned, kind, gather="mix", **choices)
    mix = branch.module.head.mix
    assert mix is not None
    with torch.no_grad():
        mix.weights.copy_(torch.randn(len(mix.weights), generator=torch.Generator().manual_seed(5)))
        mix.scale.fill_(1.5)
    blob = pinned.store.put(module_bytes(branch.module))
    return Branch(branch.module, branch.manifest.model_copy(update={"module": blob}))


def test_half_of_the_first_mix_is_the_last_state_and_the_rest_is_shared_equally() -> None:
    features = torch.eye(5)
    torch.testing.assert_close(LayerMix(5)(features), torch.tensor([0.125, 0.125, 0.125, 0.125, 0.5]))
    torch.testing.assert_close(LayerMix(1)(torch.eye(1)), torch.ones(1))


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=8), st.data())
def test_a_shorter_mix_keeps_the_shares_below_and_gives_its_last_state_the_rest(
    weights: list[float], data: st.DataObject
) -> None:
    states = data.draw(st.integers(1, len(weights)))
    before = torch.softmax(torch.tensor(weights, dtype=torch.float64), dim=0)
    after = torch.softmax(weights_for_fewer(torch.tensor(weights, dtype=torch.float64), states), dim=0)
    torch.testing.assert_close(after[:-1], before[: states - 1])
    torch.testing.assert_close(after[-1], before[states - 1 :].sum())


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize(("kind", "choices"), [(TEXT, {}), (TEXT, {"pooling": "mean"}), (WORDS, {})])
def test_a_merged_model_mixes_what_the_head_reads_of_every_hidden_state(
    pinned: Pinned,
    make_branch: Callable[..., Branch],
    make_manifest: Callable[..., Manifest],
    kind: TaskType,
    choices: dict[str, object],
    depth: int,
) -> None:
    branch = mixing(make_branch, pinned, kind, depth=depth, layers=2, **choices)
    deeper = make_branch(pinned, depth=3, layers=1)
    model = load_merged_model(make_manifest(pinned, {"its": branch, "deeper": deeper}), pinned.store)
    batch = batch_of()
    rows = torch.tensor([2, 0])
    found = model(batch, {"its": rows, "deeper": None})["its"]

    head, mix = branch.module.head, branch.module.head.mix
    assert mix is not None
    with torch.no_grad():
        states = list(model.trunk.hidden_states(batch, depth))
        own = pinned.model(batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True).hidden_states
        states += own[depth + 1 : depth + 3]
        shares = torch.softmax(mix.weights, dim=0)
        whole = 1.5 * sum(share * state for share, state in zip(shares, states, strict=True))
        expected = head(head.read(whole, batch.mask, batch.word_tokens), batch.word_tokens)[rows]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(batch, {"its": None})["its"][rows], found, atol=1e-5, rtol=1e-4)


def test_a_mix_of_no_rows_has_no_outputs(
    pinned: Pinned, make_branch: Callable[..., Branch], make_manifest: Callable[..., Manifest]
) -> None:
    model = load_merged_model(make_manifest(pinned, {"its": mixing(make_branch, pinned)}), pinned.store)
    assert model(batch_of(), {"its": torch.zeros(0, dtype=torch.int64)})["its"].shape == (0, 3)


def test_states_that_are_not_handed_over_are_missed(pinned: Pinned, make_branch: Callable[..., Branch]) -> None:
    module = mixing(make_branch, pinned, depth=2).module
    assert (module.reads_below, module.states_below) == ("first", 2)
    hidden, mask, words = torch.zeros(2, 3, 24), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 0).long()
    with pytest.raises(ValueError, match="mixes 2 states below its depth, and was given none"):
        module(hidden, mask, words)
    with pytest.raises(ValueError, match="was given 3"):
        module(hidden, mask, words, torch.zeros(2, 3, 24))
    plain = make_branch(pinned, depth=2).module
    assert plain.reads_below is None
    with pytest.raises(ValueError, match="mixes 0 states"):
        plain(hidden, mask, words, torch.zeros(2, 2, 24))


def test_a_mix_of_another_depth_is_refused(pinned: Pinned, make_branch: Callable[..., Branch], tmp_path: Path) -> None:
    branch = mixing(make_branch, pinned, depth=2)
    path = pinned.store.fetch(branch.manifest.module)
    config, head = pinned.backbone.config, branch.manifest.head
    with pytest.raises(InvalidWeights, match=r"rte/3: tensor head\.mix\.weights has shape \[4\], not \[5\]"):
        load_task_module(path, subject="rte/3", config=config, head=head, task_layers=1, frozen_depth=3)
    with pytest.raises(ValueError, match="needs to know how many there are"):
        new_task_module(config=config, head=head, task_layers=1, seed=0)
    model = MergedModel(pinned_trunk(pinned), {"its": (2, branch.module)})
    with pytest.raises(ValueError, match="its: mixes the states of another depth than it leaves at"):
        MergedModel(model.trunk, {"its": (1, branch.module)})


def pinned_trunk(pinned: Pinned) -> Trunk:
    backbone = pinned.backbone
    return load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:2], store=pinned.store
    )
