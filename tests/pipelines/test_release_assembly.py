import json
import re

import pytest

from pipelines.assembly.release_assembly import build_manifest, draft, new_release, verify
from registry.domain.gate_findings import Gate, failed
from registry.domain.golden_examples import parse_golden_examples
from registry.domain.manifests import parse_manifest
from registry.domain.records import Backbone, Member
from registry.errors import GateFailed, UsageError
from registry.progress import silent


@pytest.fixture
def members(make_trial, run, as_version, backbone):
    """One trained member a type, leaving at different depths."""
    shapes = {"classification": (2, 2), "regression": (1, 2), "token_classification": (3, 1)}
    made = []
    for kind, (depth, layers) in shapes.items():
        trial = make_trial(kind, frozen_depth=depth, task_layers=layers)
        made.append(Member(version=as_version(run(trial)), spec=trial.spec, trained_on=backbone))
    return made


def test_a_release_holds_every_branch_on_a_trunk_as_deep_as_needed(members, backbone, pinned):
    assembled = verify(draft(backbone, members), store=pinned.store, report=silent)
    manifest = assembled.manifest
    assert manifest.trunk.depth == 3
    assert manifest.layers_in_use == 3 + 2 + 2 + 1
    assert manifest.layers_if_separate == 3 * 4
    assert assembled.passed
    integrity, accounting, *parity = assembled.findings
    assert (integrity.gate, integrity.values) == (Gate.INTEGRITY, {"blobs": 2 + 3 + 2 * 3})
    assert (accounting.gate, accounting.values["parameters"]) == (Gate.ACCOUNTING, assembled.parameters)
    assert {one.task for one in parity} == {"classification", "regression", "token-classification"}
    for one in parity:
        assert (one.gate, one.values["examples"]) == (Gate.PARITY, 16)
        assert one.values["largest_difference"] < 1e-4


def test_the_same_selection_gives_the_same_manifest_in_any_order(members, backbone, pinned):
    first = verify(draft(backbone, members), store=pinned.store, report=silent)
    second = verify(draft(backbone, members[::-1]), store=pinned.store, report=silent)
    assert first.manifest.digest() == second.manifest.digest()
    release = new_release(first.manifest, pinned.store, gates=first.gates)
    assert release.manifest == first.manifest.digest()
    assert parse_manifest(pinned.store.read(release.manifest), "it") == first.manifest


def test_two_releases_share_their_blobs(members, backbone):
    whole, part = build_manifest(backbone, members), build_manifest(backbone, members[:2])
    assert part.blobs < whole.blobs
    assert whole.blobs - part.blobs == {
        backbone.layers[2],
        members[2].version.module,
        members[2].version.golden,
    }


def test_a_module_of_other_frozen_layers_is_refused_naming_what_differs(members, backbone, pinned, pin_model):
    changed = pin_model(seed=1)
    other = Backbone(**changed.backbone.model_dump(), created_at=backbone.created_at)
    with pytest.raises(GateFailed) as refused:
        verify(draft(other, members), store=pinned.store, report=silent)
    assert "classification/1 is bound to P(2)" in str(refused.value)
    assert "they differ in embeddings" in str(refused.value)


def test_the_error_names_the_first_layer_that_differs(members, backbone, pinned):
    digests = list(backbone.layer_digests)
    digests[1] = "0" * 64
    prefixes = (*backbone.prefix_digests[:2], *("1" * 64 for _ in range(3)))
    other = backbone.model_copy(update={"layer_digests": tuple(digests), "prefix_digests": prefixes})
    with pytest.raises(GateFailed, match="they differ in layer 2"):
        verify(draft(other, members), store=pinned.store, report=silent)
    one_layer_deep = [member for member in members if member.version.frozen_depth == 1]
    assert build_manifest(other, one_layer_deep).trunk.depth == 1, "P(1) is the same: this module may attach"


def test_a_module_that_answers_differently_fails_the_parity_gate(members, backbone, pinned):
    member = members[0]
    golden = parse_golden_examples(pinned.store.read(member.version.golden), "golden")
    first = golden.examples[0]
    shifted = first.model_copy(update={"outputs": tuple(tuple(v + 0.01 for v in row) for row in first.outputs)})
    changed = golden.model_copy(update={"examples": (shifted, *golden.examples[1:])})
    version = member.version.model_copy(update={"golden": pinned.store.put(changed.to_bytes())})
    forged = Member(version=version, spec=member.spec, trained_on=backbone)
    assembled = verify(draft(backbone, [forged, *members[1:]]), store=pinned.store, report=silent)
    (found,) = failed(assembled.findings)
    assert (found.gate, found.task) == (Gate.PARITY, "classification")
    assert "one task: outputs differ by up to 0.0" in found.words
    assert "mixed: outputs differ by up to 0.0" in found.words
    assert found.values["largest_difference"] > found.values["tolerance"]


def test_a_module_of_the_wrong_shape_is_refused_naming_its_tensors(members, backbone, pinned):
    head = members[0].version.head.model_copy(update={"outputs": 3})
    spec = members[0].spec.model_copy(update={"labels": ("a", "b", "c")})
    version = members[0].version.model_copy(update={"head": head})
    assembled = verify(
        draft(backbone, [Member(version=version, spec=spec, trained_on=backbone)]), store=pinned.store, report=silent
    )
    (found,) = failed(assembled.findings)
    assert found.gate is Gate.ACCOUNTING
    assert re.search(r"classification/1.*head\.linear\.(weight|bias) has shape", found.words)
    assert assembled.parameters is None


def test_a_flipped_bit_in_a_module_is_found(members, backbone, pinned):
    path = pinned.store.fetch(members[0].version.module)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    assembled = verify(draft(backbone, members), store=pinned.store, report=silent)
    (found,) = assembled.findings
    assert (found.gate, found.task, found.passed) == (Gate.INTEGRITY, "classification", False)
    assert "the module of classification/1" in found.words
    content[-1] ^= 1
    path.write_bytes(content)


def test_nothing_selected_is_refused(backbone, pinned):
    with pytest.raises(UsageError, match="no version is selected"):
        verify(draft(backbone, []), store=pinned.store, report=silent)


def test_what_the_gates_found_is_stored_with_the_release_and_not_in_the_manifest(members, backbone, pinned):
    assembled = verify(draft(backbone, members), store=pinned.store, report=silent)
    release = new_release(assembled.manifest, pinned.store, gates=assembled.gates)
    kept = json.loads(json.dumps(dict(release.gates)))
    assert [(one["gate"], one["task"], one["passed"]) for one in kept["findings"]] == [
        ("integrity", None, True),
        ("accounting", None, True),
        ("parity", "classification", True),
        ("parity", "regression", True),
        ("parity", "token-classification", True),
    ]
    assert (kept["passed"], kept["parameters"]) == (True, assembled.parameters)
    assert b"parity" not in pinned.store.read(release.manifest)
