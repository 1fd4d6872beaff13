"""Every kind of head from training to answers: train, distil, import, assemble with parity, predict."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save_file

from pipelines.assembly.release_assembly import draft, new_release, verify
from pipelines.importing import evaluate_module, read_module
from pipelines.training.recipes import Distillation
from registry.domain.manifests import HeadConfig
from registry.domain.module_manifests import PlannedImport, parse_module_manifest
from registry.domain.records import Member, ProposedVersion
from registry.progress import silent
from serving.loaded_release import load_release
from serving.questions import Text
from tests.pipelines.conftest import largest_differences

HEADS = {
    "mean": ("classification", {"pooling": "mean"}),
    "mean-regression": ("regression", {"pooling": "mean"}),
    "crf": ("token_classification", {"crf": True}),
    "mix": ("classification", {"gather": "mix"}),
    "mean-mix": ("regression", {"gather": "mix", "pooling": "mean"}),
    "crf-mix": ("token_classification", {"gather": "mix", "crf": True}),
}


@pytest.fixture
def trial_of(make_trial, make_spec):
    def make(name, **changes):
        kind, choices = HEADS[name]
        spec = changes.pop("spec", None) or make_spec(kind)
        return make_trial(
            kind, spec=spec, head=HeadConfig(type=spec.type, outputs=spec.output_count, **choices), **changes
        )

    return make


@pytest.mark.parametrize("name", ["mean", "crf", "mix"])
def test_a_task_is_learnt_and_distilled_with_every_head(trial_of, with_recipe, run, as_version, name):
    recipe = {"precision": "bf16", "epochs": 24, "evaluate_from": 20, "batch_size": 8}
    trial = with_recipe(trial_of(name, frozen_depth=0), **recipe)
    trained = run(trial)
    assert trained.metrics[trial.spec.metric] > 0.9
    student = trial_of(name, spec=trial.spec, frozen_depth=0, task_layers=1, teacher=as_version(trained))
    distillation = Distillation(hidden_weight=0.5)
    distilled = run(with_recipe(student, **recipe, distillation=distillation))
    assert distilled.metrics[trial.spec.metric] > 0.8


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_released_with_others_and_answers_as_it_did_alone(
    trial_of, make_trial, run, as_version, backbone, pinned, name
):
    trial = trial_of(name, frozen_depth=2, task_layers=1)
    trial = replace(trial, spec=trial.spec.model_copy(update={"task": "its"}))
    kind = trial.spec.type.value
    other = make_trial(kind, frozen_depth=1, task_layers=1)
    members = [Member(version=as_version(run(one)), spec=one.spec, trained_on=backbone) for one in (trial, other)]
    assembled = verify(draft(backbone, members), store=pinned.store, report=silent)
    assert assembled.passed
    assert largest_differences(assembled.findings) < 1e-4
    release = load_release(new_release(assembled.manifest, pinned.store, gates=assembled.gates).manifest, pinned.store)
    text = Text("anna saw new york", "the world" if kind == "regression" else None)
    (prediction,) = release.predict([text])
    assert set(prediction.answers) == {"its", other.spec.task}
    alone = verify(draft(backbone, members[:1]), store=pinned.store, report=silent)
    only = load_release(new_release(alone.manifest, pinned.store, gates=alone.gates).manifest, pinned.store)
    together, by_itself = release.outputs([text])["its"][0], only.outputs([text])["its"][0]
    torch.testing.assert_close(together, by_itself, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_a_module_with_any_head_is_imported_as_it_was_trained(trial_of, run, pinned, tmp_path, name):
    trial = trial_of(name)
    trained = run(trial)
    content = {"backbone": "small", "frozen_depth": 2, "task_layers": 2, "kind": "teacher", **HEADS[name][1]}
    manifest = parse_module_manifest(content, "manifest m.yaml")
    proposed = ProposedVersion(
        task=trial.spec.task,
        spec_revision=1,
        backbone=trial.backbone.name,
        kind=manifest.kind,
        frozen_depth=2,
        task_layers=2,
        prefix_digest=trial.backbone.prefix_digests[2],
        head=trial.head,
    )
    planned = PlannedImport(manifest, proposed, trial.spec, trial.backbone, None)
    path = tmp_path / "module.safetensors"
    save_file(load(trained.module), path)
    imported = evaluate_module(
        read_module(path, planned),
        planned,
        subject="manifest m.yaml",
        dev=trial.dev,
        train_digest=trial.train.digest,
        store=pinned.store,
        caches=tmp_path / "caches",
        device=torch.device("cpu"),
        report=silent,
    )
    assert imported.module == trained.module
    assert imported.golden == trained.golden
    assert imported.dev_predictions == trained.dev_predictions
    assert imported.metrics == trained.metrics


def test_what_a_crf_has_learnt_is_in_the_file_and_decides_the_predictions(trial_of, with_recipe, run, pinned):
    trial = with_recipe(trial_of("crf"), epochs=6, evaluate_from=6, batch_size=8)
    tensors = load(run(trial).module)
    assert {name: tuple(tensors[f"head.crf.{name}"].shape) for name in ("start", "between", "end")} == {
        "start": (3,),
        "between": (3, 3),
        "end": (3,),
    }
    assert tensors["head.crf.start"].abs().max() > 0.05, "the scores have hardly moved"
    # "new" is always followed by "york", and no city has a third word.
    assert tensors["head.crf.between"][1, 2] > tensors["head.crf.between"][1, 0]
    assert tensors["head.crf.between"][1, 2] > tensors["head.crf.between"][2, 2]
    assert tensors["head.crf.start"][2] == tensors["head.crf.between"][0, 2] == 0.0, "forbidden entries were trained"


@pytest.mark.parametrize("name", ["mix", "mean-mix", "crf-mix"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_mix_of_layers_is_learnt_from_what_is_kept_of_the_frozen_ones_and_passed_on(
    trial_of, with_recipe, run, as_version, tmp_path, name, precision
):
    trial = with_recipe(trial_of(name, frozen_depth=2, task_layers=2), precision=precision)
    stages: list[str] = []

    def report(stage, done, total):
        stages.append(stage)

    trained = run(trial, tmp_path / "work", report=report)
    assert {"training data: what the head reads below", "dev data: what the head reads below"} <= set(stages)
    weights = load(trained.module)["head.mix.weights"]
    assert weights.shape == (5,)
    assert len(set(weights[:4].tolist())) == 4, "the states below have not been told apart"

    stages.clear()
    student = trial_of(name, spec=trial.spec, frozen_depth=2, task_layers=1, teacher=as_version(trained))
    still = {"learning_rate": 1e-12, "scalar_rate": 1e-12, "weight_decay": 0.0, "precision": precision}
    distilled = run(
        with_recipe(student, **still, distillation=Distillation(hidden_weight=1.0)), tmp_path / "work", report=report
    )
    assert not any("reads below" in stage for stage in stages), "what a head reads below was computed again"
    shares = torch.softmax(load(distilled.module)["head.mix.weights"], dim=0)
    of_teacher = torch.softmax(weights, dim=0)
    torch.testing.assert_close(shares, torch.cat([of_teacher[:3], of_teacher[3:].sum()[None]]), atol=1e-5, rtol=0)
    assert load(distilled.module)["head.mix.scale"] == pytest.approx(load(trained.module)["head.mix.scale"].item())
