"""What a student begins as and is taught by, as whole trials."""

import pytest
import torch
from safetensors.torch import load

from modeling.backbone import load_text_encoder, load_trunk
from modeling.batching import places
from pipelines.training.activation_cache import ActivationCache, EncodedRows
from pipelines.training.head_features import teacher_features
from pipelines.training.initialisation import teacher_module
from pipelines.training.recipes import Distillation
from registry.progress import silent

KINDS = ["classification", "regression", "token_classification"]
NOTHING = {"learning_rate": 1e-12, "weight_decay": 0.0}
"""A recipe that leaves the weights where they were."""


@pytest.fixture
def taught(make_trial, run, as_version):
    """A teacher of layers 2 to 4, and trials of its students after layer 3."""

    def make(kind="classification", **changes):
        trial = make_trial(kind, frozen_depth=1, task_layers=3)
        teacher = as_version(run(trial))
        values = {"frozen_depth": 2, "task_layers": 1, "teacher": teacher, "head": teacher.head, **changes}
        return trial, make_trial(kind, spec=trial.spec, **values)

    return make


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_student_can_begin_from_the_backbone_with_a_head_of_its_own(taught, with_recipe, run, pinned, kind):
    teacher, student = taught(kind)
    recipe = {"distillation": Distillation(initialisation="backbone"), **NOTHING}
    tensors = load(run(with_recipe(student, **recipe)).module)
    for name, weight in pinned.model.encoder.layer[2].state_dict().items():
        torch.testing.assert_close(tensors[f"layers.0.{name}"], weight, atol=1e-6, rtol=0)
    of_teacher = load(run(teacher).module)
    assert not torch.allclose(tensors["head.linear.weight"], of_teacher["head.linear.weight"], atol=1e-3)
    if kind == "regression":
        assert torch.equal(tensors["head.target_scale"], of_teacher["head.target_scale"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_hidden_states_are_taught_from_features_computed_once(taught, with_recipe, run, tmp_path, kind, precision):
    _, student = taught(kind)
    student = with_recipe(student, precision=precision, distillation=Distillation(hidden_weight=2.0))
    stages: list[str] = []

    def report(stage, done, total):
        stages.append(stage)

    first = run(student, tmp_path / "work", report=report)
    assert "training data: teacher's hidden states" in stages
    stages.clear()
    without = with_recipe(student, distillation=Distillation())
    assert run(without, tmp_path / "work").module != first.module
    again = with_recipe(student, distillation=Distillation(hidden_weight=3.0))
    assert run(again, tmp_path / "work", report=report).module != first.module
    assert "training data: teacher's hidden states" not in stages


def test_without_a_weight_nobody_computes_the_teachers_hidden_states(taught, with_recipe, run, tmp_path):
    _, student = taught()
    run(with_recipe(student, distillation=Distillation()), tmp_path / "work")
    assert (tmp_path / "work" / "cache" / "teacher_outputs").exists()
    assert not (tmp_path / "work" / "cache" / "teacher_features").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_teachers_features_are_what_its_head_reads_of_each_row_alone(
    make_trial, run, as_version, pinned, tmp_path, kind
):
    trial = make_trial(kind)
    teacher = teacher_module(trial, as_version(run(trial)), pinned.store)
    backbone = trial.backbone
    encoder = load_text_encoder(backbone, pinned.store)
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:2], store=pinned.store
    )
    cache = ActivationCache(tmp_path / "cache", trunk, encoder, backbone.prefix_digests, torch.device("cpu"), silent)
    rows = EncodedRows.of(trial.dev, encoder)
    found = teacher_features(
        cache,
        teacher,
        rows,
        depth=2,
        module_digest="0" * 64,
        token_level=trial.token_level,
        precision="fp32",
        stage="dev data",
    ).rows(range(len(rows)))
    for encoded, features in zip(rows.encoded, found, strict=True):
        batch = encoder.collate([encoded])
        with torch.inference_mode():
            alone = teacher.features(trunk(batch, [2])[2], batch.mask, batch.word_tokens)
        torch.testing.assert_close(features, places(alone, batch.word_tokens), atol=1e-5, rtol=0)


def test_every_choice_makes_another_trial(taught, with_recipe):
    _, student = taught()
    choices = [{}, {"initialisation": "backbone"}, {"hidden_weight": 0.5}, {"temperature": 3.0}, {"soft_weight": 0.5}]
    keys = {with_recipe(student, distillation=Distillation(**choice)).key for choice in choices}
    assert len(keys) == len(choices)
