"""The gates that hold a new release to the live one, on trained modules."""

from dataclasses import replace

import pytest
import torch

from modeling.multitask import load_merged_model
from pipelines.assembly.comparison_gates import (
    ChangedTask,
    Limits,
    LiveRelease,
    budget_findings,
    regression_finding,
    retention_finding,
)
from pipelines.assembly.non_interference_gate import non_interference_findings
from pipelines.assembly.release_assembly import build_manifest, verify
from pipelines.data.predictions import DevPredictions
from registry.domain.gate_findings import OF_ONE_RELEASE, Gate
from registry.domain.records import Member
from registry.domain.release_diff import contract_changes
from registry.domain.task_specs import InputForm
from registry.progress import silent


@pytest.fixture
def members(make_trial, run, as_version, backbone):
    made = []
    for kind, (depth, layers) in {"classification": (2, 2), "token_classification": (1, 1)}.items():
        trial = make_trial(kind, frozen_depth=depth, task_layers=layers)
        made.append(Member(version=as_version(run(trial)), spec=trial.spec, trained_on=backbone))
    return made


@pytest.fixture
def changed(members):
    """classification/1 that becomes classification/2, of the same module."""
    version = members[0].version
    newer = version.model_copy(update={"number": 2})

    def make(old=None, new=None, teacher=None):
        teacher = None if teacher is None else newer.model_copy(update=teacher)
        return ChangedTask(
            "classification",
            members[0].spec,
            version.model_copy(update=old or {}),
            newer.model_copy(update=new or {}),
            teacher,
        )

    return make


def with_predictions(version, pinned, change):
    kept = DevPredictions.parse(pinned.store.read(version.dev_predictions), "it")
    changed = DevPredictions(kept.gold, change(list(kept.gold), list(kept.predicted)))
    return {"dev_predictions": pinned.store.put(changed.to_bytes())}


def test_the_regression_gate_reads_what_both_versions_answered(changed, members, pinned):
    version = members[0].version
    right = with_predictions(version, pinned, lambda gold, _: gold)
    wrong = with_predictions(version, pinned, lambda gold, _: [gold[0]] * len(gold))
    worse = regression_finding(changed(old=right, new=wrong), pinned.store, Limits())
    assert (worse.passed, worse.values["old"]) == (False, 100.0)
    assert "worse by more than 0.5" in worse.words
    assert regression_finding(changed(old=wrong, new=right), pinned.store, Limits()).passed
    tolerated = regression_finding(changed(old=right, new=wrong), pinned.store, Limits(tolerance=100))
    assert tolerated.passed
    assert tolerated.words.endswith("worse, within the tolerance of 100")
    only_here = Limits(tolerances={"classification": 100})
    assert regression_finding(changed(old=right, new=wrong), pinned.store, only_here).passed


def test_scores_on_other_dev_data_are_not_compared(changed, pinned):
    finding = regression_finding(changed(new={"dev_digest": "f" * 64}), pinned.store, Limits())
    assert not finding.passed
    assert "were scored on other dev data" in finding.words
    assert finding.values == {}


def test_a_label_that_is_gone_cannot_be_compared(changed, members, pinned):
    old = with_predictions(members[0].version, pinned, lambda gold, _: ["no such label"] * len(gold))
    spec = members[0].spec.model_copy(update={"metric": "f1_macro"})
    finding = regression_finding(replace(changed(old=old), spec=spec), pinned.store, Limits())
    assert not finding.passed
    assert "cannot be compared" in finding.words


def test_a_student_keeps_enough_of_its_teacher(changed, members, pinned):
    metric = members[0].spec.metric
    half, whole = {"metrics": {metric: 0.45}}, {"metrics": {metric: 0.9}}
    assert retention_finding(changed(), pinned.store, Limits()) is None
    lost = retention_finding(changed(new=half, teacher=whole), pinned.store, Limits())
    assert (lost.passed, lost.values["share"]) == (False, 0.5)
    assert retention_finding(changed(new=half, teacher=whole), pinned.store, Limits(least_retention=0.5)).passed
    assert retention_finding(changed(teacher={"metrics": {metric: 0.0}}), pinned.store, Limits()) is None
    elsewhere = retention_finding(changed(new=whole, teacher={**whole, "dev_digest": "f" * 64}), pinned.store, Limits())
    assert not elsewhere.passed


def test_what_a_reader_of_the_answers_would_notice(members, backbone):
    branch = build_manifest(backbone, members).tasks["classification"]
    first, *rest = branch.labels
    assert contract_changes(branch, branch.model_copy(update={"version": 9})) == []
    for change, words in (
        ({"labels": (*branch.labels, "new")}, "labels added: new"),
        ({"labels": tuple(rest)}, f"labels removed: {first}"),
        ({"labels": (*rest, first)}, "labels reordered"),
        ({"input_form": InputForm.PAIR}, "input form was single, and is pair"),
    ):
        assert contract_changes(branch, branch.model_copy(update=change)) == [words]


def test_the_budget_is_told_and_kept(members, backbone):
    live, new = build_manifest(backbone, members[1:]), build_manifest(backbone, members)
    layers, parameters = budget_findings(live, new, 1234, Limits(most_layers=4, most_parameters=1234))
    assert (layers.passed, layers.words) == (False, "5 layers (+3): more than 4")
    assert (parameters.passed, parameters.words) == (True, "1,234 parameters")


def test_interference_with_one_task_is_found(members, backbone, pinned):
    live, new = build_manifest(backbone, members[:1]), build_manifest(backbone, members)
    models = load_merged_model(live, pinned.store), load_merged_model(new, pinned.store)
    (untouched,) = non_interference_findings(live, new, models, store=pinned.store, report=silent)
    assert (untouched.task, untouched.passed) == ("classification", True)
    with torch.no_grad():
        next(iter(models[1].branch("classification").parameters())).view(-1)[0] += 1e-3
    (touched,) = non_interference_findings(live, new, models, store=pinned.store, report=silent)
    assert not touched.passed
    assert touched.values["largest_difference"] > 0


def test_a_changed_trunk_is_found_too(members, backbone, pinned):
    live, new = build_manifest(backbone, members[:1]), build_manifest(backbone, members)
    models = load_merged_model(live, pinned.store), load_merged_model(new, pinned.store)
    with torch.no_grad():
        next(iter(models[1].trunk.parameters())).view(-1)[:] += 1e-3
    (touched,) = non_interference_findings(live, new, models, store=pinned.store, report=silent)
    assert not touched.passed


def test_verifying_against_a_live_release_tells_all_findings(members, backbone, pinned, changed):
    live, new = build_manifest(backbone, members[:1]), build_manifest(backbone, members)
    against = LiveRelease(live, (), Limits(most_layers=1))
    assembled = verify(new, store=pinned.store, report=silent, against=against)
    assert not assembled.passed
    assert [(one.gate, one.passed) for one in assembled.findings if one.gate not in OF_ONE_RELEASE] == [
        (Gate.BUDGET, False),
        (Gate.BUDGET, True),
        (Gate.NON_INTERFERENCE, True),
    ]
    assert assembled.gates["passed"] is False


def test_a_student_whose_answers_are_lost_is_not_compared_with_its_teacher(changed, members, pinned):
    answers = DevPredictions.parse(pinned.store.read(members[0].version.dev_predictions), "it")
    one = changed(new={"dev_predictions": "e" * 64}, teacher={"number": 7})
    finding = retention_finding(replace(one, predicted_anew={7: answers}), pinned.store, Limits())
    assert not finding.passed
    assert "cannot be compared" in finding.words
