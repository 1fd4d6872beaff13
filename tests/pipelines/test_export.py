"""Exports of every family and every kind of head: a fresh process answers as the release does."""

import json

import pytest
import torch
from safetensors import SafetensorError

from modeling.backbone import load_text_encoder
from modeling.batching import row_outputs
from modeling.crf import TagTransitions, viterbi
from modeling.multitask import load_merged_model
from pipelines.export.bundled import modeling_trunkline
from pipelines.export.checked_export import export_release
from pipelines.export.export_parity import file_parity, folder_parity
from pipelines.export.single_file import unpack_single_file, write_single_file
from pipelines.export.transformers_folder import write_transformers_folder
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.golden_examples import GoldenExample, GoldenExamples, parse_golden_examples
from registry.domain.manifests import parse_manifest
from registry.domain.task_specs import InputForm, TaskType
from registry.errors import GateFailed, InvalidInput, StorageError, UsageError
from registry.progress import silent
from tests.conftest import pin, wordpiece

TEXTS = ["the new york", "hello world, she said: [it] is a hat", "york " * 60, "a"]
HEADS = {
    "first": (TaskType.CLASSIFICATION, {"depth": 2}),
    "mean": (TaskType.CLASSIFICATION, {"depth": 0, "layers": 2, "pooling": "mean"}),
    "mixed": (TaskType.CLASSIFICATION, {"depth": 1, "gather": "mix"}),
    "number": (TaskType.REGRESSION, {"depth": 3}),
    "words": (TaskType.TOKEN_CLASSIFICATION, {"depth": 1, "layers": 2}),
    "crf": (TaskType.TOKEN_CLASSIFICATION, {"depth": 2, "crf": True, "gather": "mix"}),
}


@pytest.fixture
def manifest_of(make_branch, make_manifest):
    """A release of one branch for every kind of head; `number` reads pairs. Its golden answers are its own."""

    def make(pinned):
        branches = {
            task: make_branch(pinned, kind, seed=seed, **of_head)
            for seed, (task, (kind, of_head)) in enumerate(HEADS.items(), 1)
        }
        manifest = make_manifest(pinned, branches)
        encoder = load_text_encoder(manifest.trunk, pinned.store)
        model = load_merged_model(manifest, pinned.store)
        tasks = {}
        for task, branch in manifest.tasks.items():
            pairs = [(text, "the end of it" if task == "number" else None) for text in TEXTS]
            rows = encoder.encode(pairs)
            with torch.inference_mode():
                outputs = row_outputs(model(encoder.collate(rows), {task: None})[task], rows)
            examples = tuple(
                GoldenExample(text=text, text_pair=pair, outputs=answer.reshape(-1, answer.shape[-1]).tolist())
                for (text, pair), answer in zip(pairs, outputs, strict=True)
            )
            golden = pinned.store.put(GoldenExamples(examples=examples).to_bytes())
            form = InputForm.PAIR if task == "number" else InputForm.SINGLE
            tasks[task] = branch.model_copy(update={"golden": golden, "input_form": form})
        return manifest.model_copy(update={"tasks": tasks})

    return make


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "distilbert"])
def test_transformers_alone_answers_as_the_release(pinned_family, manifest_of, tmp_path, family):
    pinned = pinned_family(family)
    manifest = manifest_of(pinned)
    write_transformers_folder(manifest, tmp_path / "model", card="# It", store=pinned.store)
    found = folder_parity(manifest, tmp_path / "model", store=pinned.store)
    assert set(found) == set(HEADS)
    assert max(parity.largest_difference for parity in found.values()) < 1e-5


def test_an_encoder_in_bf16_keeps_its_function(pin_model, manifest_of, tmp_path):
    pinned = pin_model(dtype=torch.bfloat16)
    manifest = manifest_of(pinned)
    write_transformers_folder(manifest, tmp_path / "model", card="# It", store=pinned.store)
    assert all(found.passed for found in folder_parity(manifest, tmp_path / "model", store=pinned.store).values())
    write_single_file(manifest, tmp_path / "it.safetensors", store=pinned.store)
    assert all(found.passed for found in file_parity(manifest, tmp_path / "it.safetensors").values())


def test_a_folder_with_other_weights_or_another_tokenizer_fails(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    folder = tmp_path / "model"
    write_transformers_folder(manifest, folder, card="# It", store=pinned.store)
    whole = (folder / "tokenizer.json").read_text()
    content = json.loads(whole)
    vocabulary = content["model"]["vocab"]
    vocabulary["york"], vocabulary["new"] = vocabulary["new"], vocabulary["york"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(GateFailed, match="first: its tokenizer reads 'the new york' as other pieces"):
        folder_parity(manifest, folder, store=pinned.store)
    (folder / "tokenizer.json").write_text(whole)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2:] = b"\x40\x40"  # the last tensor's last number becomes 3 or so
    weights.write_bytes(data)
    with pytest.raises(GateFailed, match="outputs differ by up to"):
        folder_parity(manifest, folder, store=pinned.store)


def test_a_folder_that_asks_for_our_code_fails(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    folder = tmp_path / "model"
    write_transformers_folder(manifest, folder, card="# It", store=pinned.store)
    code = folder / "modeling_trunkline.py"
    code.write_text("import registry.errors\n" + code.read_text())
    with pytest.raises(GateFailed, match="asks for registry"):
        folder_parity(manifest, folder, store=pinned.store)


def test_unpacking_a_file_gives_the_very_blobs(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    path = tmp_path / "it.safetensors"
    write_single_file(manifest, path, store=pinned.store)
    again = path.read_bytes()
    write_single_file(manifest, path, store=pinned.store)
    assert path.read_bytes() == again
    store = LocalArtifactStore(tmp_path / "elsewhere")
    digest = unpack_single_file(path, store)
    assert parse_manifest(store.read(digest), "it") == manifest
    assert store.missing(manifest.blobs) == set()
    for blob in manifest.blobs:
        store.verify(blob)


def test_a_file_of_which_one_weight_was_changed_is_refused_before_its_manifest_is_stored(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    path = tmp_path / "it.safetensors"
    write_single_file(manifest, path, store=pinned.store)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + 1] ^= 1
    path.write_bytes(data)
    store = LocalArtifactStore(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="is not what the manifest names"):
        unpack_single_file(path, store)
    assert store.missing([manifest.digest()])
    with pytest.raises(GateFailed, match="cannot be used by a fresh process"):
        file_parity(manifest, path)


def test_the_bundled_crf_decodes_as_ours():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = TagTransitions(5), modeling_trunkline.TagTransitions(5)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    theirs.load_state_dict(ours.state_dict())
    for words in range(1, 12):
        emissions = torch.randn((words, 5), generator=generator)
        with torch.no_grad():
            assert theirs.likeliest(emissions) == viterbi(emissions, ours.scores())


def with_other_golden_answers(manifest, store, task="first"):
    """The release with answers that its module does not give."""
    branch = manifest.tasks[task]
    golden = parse_golden_examples(store.read(branch.golden), "it")
    shifted = tuple(
        one.model_copy(update={"outputs": tuple(tuple(value + 0.5 for value in row) for row in one.outputs)})
        for one in golden.examples
    )
    blob = store.put(golden.model_copy(update={"examples": shifted}).to_bytes())
    return manifest.model_copy(update={"tasks": {**manifest.tasks, task: branch.model_copy(update={"golden": blob})}})


@pytest.mark.parametrize("form", ["hf", "safetensors-single"])
def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(pinned, manifest_of, tmp_path, form):
    wrong = with_other_golden_answers(manifest_of(pinned), pinned.store)
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(GateFailed, match="first: outputs differ by up to 0"):
        export_release(wrong, folder / "it", form, card="# It", store=pinned.store, report=silent)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("form", ["hf", "safetensors-single"])
def test_an_export_can_be_read_by_others_and_what_a_killed_one_left_is_removed(pinned, manifest_of, tmp_path, form):
    folder = tmp_path / "here"
    (folder / ".exporting-it-killed").mkdir(parents=True)
    (folder / ".exporting-it-killed" / "it").write_text("half")
    (folder / ".exporting-other-busy").mkdir()
    export_release(manifest_of(pinned), folder / "it", form, card="# It", store=pinned.store, report=silent)
    assert {path.name for path in folder.iterdir()} == {"it", ".exporting-other-busy"}
    written = [folder / "it"] if form == "safetensors-single" else list((folder / "it").iterdir())
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o644"}


@pytest.mark.parametrize("form", ["hf", "safetensors-single"])
def test_what_came_in_between_is_not_written_over(pinned, manifest_of, tmp_path, form):
    target = tmp_path / "it"

    def somebody_else(_stage, done, _total):
        if done == 1 and not target.exists():
            target.mkdir()
            (target / "mine").write_text("mine")

    with pytest.raises(UsageError, match="is there already"):
        export_release(manifest_of(pinned), target, form, card="# It", store=pinned.store, report=somebody_else)
    assert (target / "mine").read_text() == "mine"


def test_a_folder_of_the_users_does_not_stand_in_for_our_packages(pinned, manifest_of, tmp_path, monkeypatch):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "__init__.py").write_text("raise SystemExit('not ours')")
    manifest = manifest_of(pinned)
    monkeypatch.chdir(tmp_path)
    write_single_file(manifest, tmp_path / "it.safetensors", store=pinned.store)
    assert all(found.passed for found in file_parity(manifest, tmp_path / "it.safetensors").values())


def test_a_full_disk_is_told_as_one(pinned, manifest_of, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("pipelines.export.transformers_folder.save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        export_release(manifest_of(pinned), tmp_path / "it", "hf", card="# It", store=pinned.store, report=silent)
    assert not (tmp_path / "it").exists()


def test_the_readme_asks_a_task_for_the_form_that_it_reads(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    for task, texts in (
        ("first", 'tokenizer(["a text"], padding'),
        ("number", 'tokenizer(["a text"], ["its pair"], padding'),
    ):
        alone = manifest.model_copy(update={"tasks": {task: manifest.tasks[task]}})
        write_transformers_folder(alone, tmp_path / task, card="# It", store=pinned.store)
        assert texts in (tmp_path / task / "README.md").read_text()


def test_the_bundled_model_refuses_what_the_release_cannot_answer(pinned, manifest_of, tmp_path):
    manifest = manifest_of(pinned)
    write_transformers_folder(manifest, tmp_path / "it", card="# It", store=pinned.store)
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    model = modeling_trunkline.TrunklineModel(modeling_trunkline.TrunklineConfig(**config))
    longest = manifest.trunk.max_length
    with pytest.raises(ValueError, match=f"{longest + 1} pieces, and this release reads {longest}"):
        model(torch.ones(1, longest + 1, dtype=torch.int64))
    with pytest.raises(KeyError, match="nothing: this release has "):
        model(torch.ones(1, 3, dtype=torch.int64), tasks=["nothing"])
    with pytest.raises(ValueError, match="first answers whole texts"):
        model.tags("first", torch.zeros(3, 3), [0])


def test_an_encoder_whose_config_leaves_its_widths_out_keeps_its_projection(tmp_path, manifest_of):
    """electra's own defaults: embeddings 128 wide under layers of 256."""
    config = {"model_type": "electra", "vocab_size": wordpiece().get_vocab_size(), "num_hidden_layers": 4}
    pinned = pin(tmp_path / "electra", config)
    manifest = manifest_of(pinned)
    write_transformers_folder(manifest, tmp_path / "model", card="# It", store=pinned.store)
    assert all(found.passed for found in folder_parity(manifest, tmp_path / "model", store=pinned.store).values())
