from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from pipelines.importing import ImportedModule, evaluate_module, read_module
from pipelines.training.trials import Trial
from registry.domain.module_manifests import PlannedImport, parse_module_manifest
from registry.domain.records import ProposedVersion
from registry.errors import InvalidInput, InvalidWeights
from registry.progress import silent

KINDS = ["classification", "regression", "token_classification"]


def planned(trial: Trial, **told: Any) -> PlannedImport:
    content = {"backbone": trial.backbone.name, "frozen_depth": 2, "task_layers": 2, "kind": "teacher"}
    manifest = parse_module_manifest(content | told, "manifest m.yaml")
    proposed = ProposedVersion(
        task=trial.spec.task,
        spec_revision=1,
        backbone=trial.backbone.name,
        kind=manifest.kind,
        frozen_depth=manifest.frozen_depth,
        task_layers=manifest.task_layers,
        prefix_digest=trial.backbone.prefix_digests[manifest.frozen_depth],
        head=trial.head,
    )
    return PlannedImport(manifest, proposed, trial.spec, trial.backbone, None)


@pytest.fixture
def evaluate(pinned: Any, tmp_path: Path) -> Callable[..., ImportedModule]:
    def evaluate_file(path: Path, plan: PlannedImport, trial: Trial) -> ImportedModule:
        return evaluate_module(
            read_module(path, plan),
            plan,
            subject="manifest m.yaml",
            dev=trial.dev,
            train_digest=trial.train.digest,
            store=pinned.store,
            caches=tmp_path / "caches",
            device=torch.device("cpu"),
            report=silent,
        )

    return evaluate_file


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors as another program would: in its own order, with metadata."""

    def write(tensors: dict[str, torch.Tensor]) -> Path:
        path = tmp_path / "module.safetensors"
        save_file(dict(sorted(tensors.items())), path, metadata={"format": "pt", "by": "somebody"})
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_module_is_measured_as_the_trial_that_trained_it(
    make_trial, run, as_version, evaluate, file_of, pinned, kind
):
    trial = make_trial(kind)
    trained = run(trial)
    imported = evaluate(file_of(load(trained.module)), planned(trial, metrics=trained.metrics), trial)
    assert imported.module == trained.module
    assert imported.golden == trained.golden
    assert imported.dev_predictions == trained.dev_predictions
    assert imported.metrics == trained.metrics
    mine, its = imported.to_version(pinned.store), as_version(trained)
    assert (mine.module, mine.golden, mine.dev_predictions) == (its.module, its.golden, its.dev_predictions)
    assert (mine.prefix_digest, mine.head, mine.dev_digest) == (its.prefix_digest, its.head, its.dev_digest)
    assert mine.statistic == "imported, evaluated here"


def test_what_the_manifest_tells_is_kept_but_decides_nothing(make_trial, run, evaluate, file_of, pinned):
    trial = make_trial()
    path = file_of(load(run(trial).module))
    told = {"recipe": {"learning_rate": "2e-5"}, "trained_by": "bob", "notes": "first try", "seed": 3}
    plain = evaluate(path, planned(trial), trial).to_version(pinned.store)
    with_words = evaluate(path, planned(trial, **told), trial).to_version(pinned.store)
    assert plain.recipe == {"imported": {}}
    assert with_words.recipe == {"imported": told}
    assert (plain.seed, with_words.seed) == (0, 3)
    assert plain.trial_key == with_words.trial_key


def test_another_module_place_or_dev_data_is_another_import(make_trial, run, evaluate, file_of, pinned):
    trial = make_trial()
    tensors = load(run(trial).module)
    path = file_of(tensors)
    key = evaluate(path, planned(trial), trial).to_version(pinned.store).trial_key
    lower = evaluate(path, planned(trial, frozen_depth=1), trial)
    other = make_trial("classification", spec=trial.spec.model_copy(update={"positive_label": "city"}))
    tensors["head.linear.bias"] += 1e-3
    changed = evaluate(file_of(tensors), planned(trial), trial)
    other_spec = evaluate(path, planned(other), other)
    other_dev = evaluate(path, planned(trial), replace(trial, dev=trial.train))
    keys = {key, *(one.to_version(pinned.store).trial_key for one in (lower, changed, other_spec, other_dev))}
    assert len(keys) == 5


def test_the_same_weights_read_in_another_way_are_another_import(make_trial, run, evaluate, file_of, pinned):
    trial = make_trial()
    path = file_of(load(run(trial).module))
    mean = replace(trial, head=trial.head.model_copy(update={"pooling": "mean"}))
    keys = {evaluate(path, planned(one), one).to_version(pinned.store).trial_key for one in (trial, mean, mean)}
    assert len(keys) == 2


def test_every_claim_that_is_not_reached_is_named_with_both_numbers(make_trial, run, evaluate, file_of):
    trial = make_trial()
    trained = run(trial)
    path = file_of(load(trained.module))
    reached = trained.metrics["accuracy"]
    evaluate(path, planned(trial, metrics={"accuracy": reached + 0.0049}), trial)
    claims = {"accuracy": reached + 0.0051, "matthews": -1.0, "f1": 0.5}
    with pytest.raises(InvalidInput, match=r"manifest m\.yaml: 3 problems") as refused:
        evaluate(path, planned(trial, metrics=claims), trial)
    said = str(refused.value)
    assert f"metrics.accuracy: claims {reached + 0.0051:.4f}" in said
    assert f"the module reaches {reached:.4f} (allowed difference 0.005)" in said
    assert "metrics.matthews: claims -1.0000" in said
    assert "metrics.f1: is not one of this task, which has accuracy, f1_macro, matthews" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("head.linear.bias"), "tensor head.linear.bias is missing"),
        (lambda t: t.update({"bert.pooler.dense.weight": torch.zeros(2)}), "bert.pooler.dense.weight does not belong"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(3)}), r"head.linear.bias has shape \[3\], not \[2\]"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(2).half()}), "head.linear.bias is F16, not F32"),
        (lambda t: t["head.linear.bias"].fill_(torch.nan), "NaN or infinity in head.linear.bias"),
        (lambda t: t["head.linear.weight"].fill_(torch.inf), "NaN or infinity in head.linear.weight"),
    ],
)
def test_weights_that_are_not_exactly_such_a_module_are_refused_naming_the_file(make_trial, run, file_of, spoil, said):
    trial = make_trial()
    tensors = load(run(trial).module)
    spoil(tensors)
    path = file_of(tensors)
    with pytest.raises(InvalidWeights, match=said) as refused:
        read_module(path, planned(trial))
    assert str(path) in str(refused.value)


def test_a_pickled_file_is_refused(make_trial, tmp_path):
    path = tmp_path / "module.bin"
    torch.save({"head.linear.bias": torch.zeros(2)}, path)
    with pytest.raises(InvalidWeights, match="pickled checkpoint"):
        read_module(path, planned(make_trial()))


@pytest.mark.parametrize("scale", [0.0, -2.0])
def test_a_regression_module_without_a_scale_is_refused(make_trial, run, file_of, scale):
    trial = make_trial("regression")
    tensors = load(run(trial).module)
    tensors["head.target_scale"].fill_(scale)
    with pytest.raises(InvalidWeights, match=r"head\.target_scale is .*, not above 0"):
        read_module(file_of(tensors), planned(trial))


def test_a_module_whose_answers_overflow_is_refused(make_trial, run, evaluate, file_of):
    trial = make_trial("regression")
    tensors = load(run(trial).module)
    tensors["head.linear.weight"].fill_(3e38)
    with pytest.raises(InvalidWeights, match=r"manifest m\.yaml: the module answers with NaN or infinity"):
        evaluate(file_of(tensors), planned(trial), trial)
