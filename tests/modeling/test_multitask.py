from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from modeling.backbone import Attention, load_trunk
from modeling.multitask import MergedModel, load_merged_model, load_merged_models
from modeling.text import Batch
from registry.domain.manifests import HeadConfig, Manifest
from registry.domain.task_specs import TagScheme, TaskType
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidWeights, NotFound
from tests.conftest import Branch, Pinned

CLASSIFICATION, REGRESSION, TOKENS = TaskType.CLASSIFICATION, TaskType.REGRESSION, TaskType.TOKEN_CLASSIFICATION


@pytest.fixture
def branches(pinned: Pinned, make_branch: Callable[..., Branch]) -> dict[str, Branch]:
    """Four tasks of all types, leaving at depths 0 to 3, two of them after the same layer."""
    return {
        "topic": make_branch(pinned, CLASSIFICATION, depth=2, layers=1, seed=1),
        "score": make_branch(pinned, REGRESSION, depth=0, layers=2, seed=2),
        "cities": make_branch(pinned, TOKENS, depth=3, layers=1, seed=3),
        "mood": make_branch(pinned, CLASSIFICATION, depth=2, layers=2, seed=4),
    }


@pytest.fixture
def model(pinned: Pinned, branches: dict[str, Branch], make_manifest: Callable[..., Manifest]) -> MergedModel:
    return load_merged_model(make_manifest(pinned, branches), pinned.store)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([10, 4, 7, 10, 2])
    return Batch(
        input_ids=torch.randint(0, 160, (5, 10), generator=generator),
        type_ids=torch.zeros(5, 10, dtype=torch.int64),
        mask=torch.arange(10) < lengths[:, None],
        word_tokens=torch.tensor([[1, 3, 5], [1, 2, -1], [1, -1, 4], [2, 4, 8], [-1, -1, -1]]),
    )


def alone(pinned: Pinned, branch: Branch, batch: Batch) -> Tensor:
    """What the branch answers on its own trunk, all rows."""
    depth = branch.manifest.frozen_depth
    backbone = pinned.backbone
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:depth], store=pinned.store
    )
    with torch.no_grad():
        outputs: Tensor = branch.module(trunk(batch, [depth])[depth], batch.mask, batch.word_tokens)
    return outputs


def count_calls(model: MergedModel) -> dict[str, int]:
    """Calls of every layer from now on, by its name in the model."""
    calls: dict[str, int] = {}

    def counter(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] = calls.get(name, 0) + 1

        return count

    for number, layer in enumerate(model.trunk.layers, start=1):
        layer.register_forward_hook(counter(f"trunk {number}"))
    for task in model.frozen_depths:
        for number, layer in enumerate(model.branch(task).layers, start=1):
            # Of a branch's last layer nothing but its parts need run, for a head that reads the first piece only.
            layer.intermediate.intermediate_act_fn.register_forward_hook(counter(f"{task} {number}"))
    return calls


def test_the_merged_model_answers_as_each_module_alone(
    pinned: Pinned, branches: dict[str, Branch], model: MergedModel, batch: Batch
) -> None:
    outputs = model(batch, dict.fromkeys(branches))
    assert list(outputs) == list(branches)
    assert {task: tuple(found.shape) for task, found in outputs.items()} == {
        "topic": (5, 3),
        "score": (5, 1),
        "cities": (5, 3, 3),
        "mood": (5, 3),
    }
    for task, branch in branches.items():
        assert torch.equal(outputs[task], alone(pinned, branch, batch))


def test_every_layer_runs_once_for_all_tasks_together(
    branches: dict[str, Branch], model: MergedModel, batch: Batch
) -> None:
    calls = count_calls(model)
    model(batch, dict.fromkeys(branches))
    assert calls == dict.fromkeys(
        ["trunk 1", "trunk 2", "trunk 3", "topic 1", "score 1", "score 2", "cities 1", "mood 1", "mood 2"], 1
    )


@pytest.mark.parametrize(
    ("tasks", "run"),
    [
        (["score"], ["score 1", "score 2"]),
        (["topic"], ["trunk 1", "trunk 2", "topic 1"]),
        (["topic", "score"], ["trunk 1", "trunk 2", "topic 1", "score 1", "score 2"]),
        ([], []),
    ],
)
def test_fewer_tasks_run_only_the_layers_they_need(
    model: MergedModel, batch: Batch, tasks: list[str], run: list[str]
) -> None:
    calls = count_calls(model)
    assert sorted(model(batch, dict.fromkeys(tasks))) == sorted(tasks)
    assert calls == dict.fromkeys(run, 1)


def test_each_task_answers_its_own_rows_in_the_order_asked(
    branches: dict[str, Branch], model: MergedModel, batch: Batch
) -> None:
    everything = model(batch, dict.fromkeys(branches))
    rows = {"topic": torch.tensor([3, 0]), "cities": torch.tensor([4, 2, 0]), "score": None, "mood": torch.tensor([1])}
    outputs = model(batch, rows)
    assert list(outputs) == list(rows)
    for task, index in rows.items():
        expected = everything[task] if index is None else everything[task][index]
        torch.testing.assert_close(outputs[task], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_task_may_be_asked_for_no_row(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_manifest: Callable[..., Manifest],
    batch: Batch,
    attention: Attention,
) -> None:
    model = load_merged_model(make_manifest(pinned, branches), pinned.store, attention=attention)
    none = torch.zeros(0, dtype=torch.int64)
    outputs = model(batch, {"topic": none, "cities": none})
    assert (outputs["topic"].shape, outputs["cities"].shape) == ((0, 3), (0, 3, 3))


def test_other_tasks_do_not_move_an_answer_by_one_bit(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_branch: Callable[..., Branch],
    make_manifest: Callable[..., Manifest],
    model: MergedModel,
    batch: Batch,
) -> None:
    before = model(batch, dict.fromkeys(branches))
    changed = {
        **{task: branch for task, branch in branches.items() if task != "mood"},
        "topic": make_branch(pinned, CLASSIFICATION, depth=1, layers=3, seed=9),
        "deeper": make_branch(pinned, TOKENS, depth=3, layers=1, seed=10),
    }
    after = load_merged_model(make_manifest(pinned, changed), pinned.store)(batch, dict.fromkeys(changed))
    for task in ("score", "cities"):
        assert torch.equal(after[task], before[task])
    assert not torch.equal(after["topic"], before["topic"])


@pytest.mark.parametrize("name", ["type", "keys", "pop", "items", "training", "forward", "a-b_c", "x"])
def test_every_legal_task_name_works(
    pinned: Pinned,
    make_branch: Callable[..., Branch],
    make_manifest: Callable[..., Manifest],
    batch: Batch,
    name: str,
) -> None:
    branch = make_branch(pinned)
    loaded = load_merged_model(make_manifest(pinned, {name: branch}), pinned.store)
    assert torch.equal(loaded(batch, {name: None})[name], alone(pinned, branch, batch))


def test_a_task_that_is_not_in_the_release_is_named(model: MergedModel, batch: Batch) -> None:
    with pytest.raises(NotFound, match="task 'topics' is not in this release, which has: cities, mood, score, topic"):
        model(batch, {"topics": None})


def test_a_loaded_model_is_in_eval_mode_without_gradients(model: MergedModel) -> None:
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_training_keeps_its_trunk_in_eval_mode(model: MergedModel) -> None:
    model.train()
    assert model.branch("topic").training
    assert not any(module.training for module in model.trunk.modules())


def test_every_stored_tensor_fills_exactly_one_of_the_models(
    pinned: Pinned, branches: dict[str, Branch], make_manifest: Callable[..., Manifest], model: MergedModel
) -> None:
    trunk = make_manifest(pinned, branches).trunk
    blobs = {"trunk.embeddings.": trunk.embeddings}
    blobs |= {f"trunk.layers.{number}.": blob for number, blob in enumerate(trunk.layers)}
    blobs |= {f"branches.task:{task}.": branch.manifest.module for task, branch in branches.items()}
    stored = {
        f"{prefix}{name}": tensor
        for prefix, blob in blobs.items()
        for name, tensor in load(pinned.store.read(blob)).items()
    }
    held = model.state_dict()
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in stored.items())
    assert len({tensor.data_ptr() for tensor in held.values()}) == len(held)


def test_a_branch_below_the_trunks_end_cannot_be_merged(pinned: Pinned, make_branch: Callable[..., Branch]) -> None:
    backbone = pinned.backbone
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:1], store=pinned.store
    )
    with pytest.raises(ValueError, match="topic: leaves after"):
        MergedModel(trunk, {"topic": (2, make_branch(pinned).module)})


def with_module(manifest: Manifest, task: str, blob: str) -> Manifest:
    branch = manifest.tasks[task].model_copy(update={"module": blob})
    return manifest.model_copy(update={"tasks": {**manifest.tasks, task: branch}})


def one_too_many(tensors: dict[str, Tensor]) -> None:
    tensors["layers.0.extra"] = torch.zeros(1)


def one_too_few(tensors: dict[str, Tensor]) -> None:
    del tensors["layers.0.attention.self.key.bias"]


def misshapen(tensors: dict[str, Tensor]) -> None:
    tensors["head.linear.bias"] = torch.zeros(3, 1)


def other_dtype(tensors: dict[str, Tensor]) -> None:
    tensors["head.linear.bias"] = tensors["head.linear.bias"].bfloat16()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (one_too_many, r"tensor layers\.0\.extra does not belong there"),
        (one_too_few, r"tensor layers\.0\.attention\.self\.key\.bias is missing"),
        (misshapen, r"tensor head\.linear\.bias has shape \[3, 1\], not \[3\]"),
        (other_dtype, r"tensor head\.linear\.bias is BF16, not F32"),
    ],
)
def test_a_module_that_is_not_exactly_its_tensors_is_refused(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_manifest: Callable[..., Manifest],
    change: Callable[[dict[str, Tensor]], None],
    problem: str,
) -> None:
    manifest = make_manifest(pinned, branches)
    tensors = load(pinned.store.read(manifest.tasks["topic"].module))
    change(tensors)
    with pytest.raises(InvalidWeights, match=f"weights of topic/1: {problem}$"):
        load_merged_model(with_module(manifest, "topic", pinned.store.put(save(tensors))), pinned.store)


def test_a_module_of_another_task_is_refused(
    pinned: Pinned, branches: dict[str, Branch], make_manifest: Callable[..., Manifest]
) -> None:
    manifest = make_manifest(pinned, branches)
    with pytest.raises(InvalidWeights, match=r"weights of topic/1: .*head\.target_mean does not belong there"):
        load_merged_model(with_module(manifest, "topic", manifest.tasks["score"].module), pinned.store)


def test_a_bit_flipped_module_is_refused_with_the_tasks_name(
    pin_model: Callable[..., Pinned], make_branch: Callable[..., Branch], make_manifest: Callable[..., Manifest]
) -> None:
    pinned = pin_model()
    branch = make_branch(pinned, seed=7)
    path = pinned.store.fetch(branch.manifest.module)
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(ArtifactDamaged, match=f"module of topic/7: .*{branch.manifest.module}"):
        load_merged_model(make_manifest(pinned, {"topic": branch}), pinned.store)


def test_a_missing_module_is_reported_with_the_tasks_name(
    pinned: Pinned, branches: dict[str, Branch], make_manifest: Callable[..., Manifest]
) -> None:
    manifest = with_module(make_manifest(pinned, branches), "mood", "0" * 64)
    with pytest.raises(ArtifactMissing, match="module of mood/4"):
        load_merged_model(manifest, pinned.store)


@pytest.mark.parametrize(
    "changes",
    [{"labels": ("no", "yes")}, {"type": REGRESSION, "labels": ()}, {"head": HeadConfig(type=TOKENS, outputs=3)}],
)
def test_a_head_that_does_not_fit_the_task_is_refused(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_manifest: Callable[..., Manifest],
    changes: dict[str, object],
) -> None:
    manifest = make_manifest(pinned, branches)
    branch = manifest.tasks["topic"].model_copy(update=changes)
    manifest = manifest.model_copy(update={"tasks": {**manifest.tasks, "topic": branch}})
    with pytest.raises(InvalidWeights, match=r"topic/1: a .* head of 3 outputs does not fit"):
        load_merged_model(manifest, pinned.store)


def test_a_crf_over_tags_that_are_not_bio_is_refused(
    pinned: Pinned, make_branch: Callable[..., Branch], make_manifest: Callable[..., Manifest]
) -> None:
    manifest = make_manifest(pinned, {"tagger": make_branch(pinned, TOKENS, crf=True)})
    branch = manifest.tasks["tagger"].model_copy(update={"tag_scheme": TagScheme.PLAIN})
    with pytest.raises(InvalidWeights, match="tagger/1: its head does not fit the task: crf: its transitions are"):
        load_merged_model(manifest.model_copy(update={"tasks": {"tagger": branch}}), pinned.store)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_attentions_give_the_same_answers(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_manifest: Callable[..., Manifest],
    model: MergedModel,
    batch: Batch,
    attention: Attention,
) -> None:
    loaded = load_merged_model(make_manifest(pinned, branches), pinned.store, attention=attention)
    expected = model(batch, dict.fromkeys(branches))
    for task, outputs in loaded(batch, dict.fromkeys(branches)).items():
        torch.testing.assert_close(outputs, expected[task], rtol=0, atol=1e-4)


def test_releases_share_in_memory_what_they_share_in_blobs(
    pinned: Pinned,
    branches: dict[str, Branch],
    make_branch: Callable[..., Branch],
    make_manifest: Callable[..., Manifest],
    batch: Batch,
) -> None:
    later = {**branches, "cities": make_branch(pinned, TOKENS, depth=1, layers=2, seed=9)}
    manifests = make_manifest(pinned, branches), make_manifest(pinned, later)
    assert [manifest.trunk.depth for manifest in manifests] == [3, 2], "the later trunk is not as deep"
    first, second = load_merged_models(manifests, pinned.store)
    assert (first.trunk.depth, second.trunk.depth) == (3, 2)
    own = {parameter.data_ptr() for parameter in first.parameters()}
    shared = {name for name, parameter in second.named_parameters() if parameter.data_ptr() in own}
    assert {name for name, _ in second.named_parameters()} - shared == {
        name for name, _ in second.named_parameters() if name.startswith("branches.task:cities.")
    }
    for model, manifest in zip((first, second), manifests, strict=True):
        alone_loaded = load_merged_model(manifest, pinned.store)
        rows = dict.fromkeys(manifest.tasks)
        with torch.no_grad():
            ours, theirs = model(batch, rows), alone_loaded(batch, rows)
        assert all(torch.equal(ours[task], theirs[task]) for task in rows)


def test_releases_of_other_backbones_share_nothing(
    pinned: Pinned,
    pin_model: Callable[..., Pinned],
    make_branch: Callable[..., Branch],
    make_manifest: Callable[..., Manifest],
) -> None:
    other = pin_model(seed=5)
    for blob in (*other.backbone.blobs,):
        pinned.store.put(other.store.read(blob))
    manifests = [make_manifest(one, {"topic": make_branch(one)}) for one in (pinned, other)]
    pinned.store.put(other.store.read(manifests[1].tasks["topic"].module))
    first, second = load_merged_models(manifests, pinned.store)
    own = {parameter.data_ptr() for parameter in first.parameters()}
    assert not any(parameter.data_ptr() in own for parameter in second.parameters())
