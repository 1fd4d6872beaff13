import gc
import shutil
import weakref

import pytest
import torch

from modeling.inference import Form
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.golden_examples import parse_golden_examples
from registry.errors import ArtifactDamaged, ArtifactMissing, GateFailed
from serving.engine import Engine
from serving.release_loading import load_served_release
from tests.serving import conftest
from tests.serving.conftest import CPU_FP32


class Watched:
    """A store that remembers which blobs were read."""

    def __init__(self, store):
        self._store, self.read_blobs = store, []

    def read(self, digest):
        self.read_blobs.append(digest)
        return self._store.read(digest)

    def fetch(self, digest):
        self.read_blobs.append(digest)
        return self._store.fetch(digest)


@pytest.fixture
def store_copy(pinned, tmp_path):
    """A copy of the store, to damage; and where its blobs are."""
    folder = tmp_path / "artifacts"
    shutil.copytree(pinned.store_folder, folder)
    return LocalArtifactStore(folder), folder


def test_an_updated_task_loads_its_module_and_nothing_else(release, pinned, stored, branches, make_branch):
    changed = make_branch(pinned, depth=1, seed=9)
    store = Watched(pinned.store)
    digest = stored({**branches, "intent": changed})
    new = load_served_release(digest, store, name="r2", form=CPU_FP32, previous=release)
    golden = new.manifest.tasks["intent"].golden
    assert sorted(store.read_blobs) == sorted([digest, changed.manifest.module, golden, new.manifest.trunk.tokenizer])
    assert new.model.trunk.embeddings is release.model.trunk.embeddings
    assert all(map(lambda a, b: a is b, new.model.trunk.layers, release.model.trunk.layers))
    kept = {task for task, branch in new.model.branches.items() if branch is release.model.branches[task]}
    assert kept == {"city", "similarity", "mood"}


def test_a_deeper_branch_loads_the_trunk_layers_that_were_not_there(pinned, stored, branches):
    shallow = {task: branches[task] for task in ("intent", "city")}
    first = load_served_release(stored(shallow), pinned.store, name="r1", form=CPU_FP32)
    store = Watched(pinned.store)
    new = load_served_release(stored(branches), store, name="r2", form=CPU_FP32, previous=first)
    layers = new.manifest.trunk.layers
    assert [layer for layer in layers if layer in store.read_blobs] == [layers[2]]


def test_a_replaced_release_goes_without_the_collector(pinned, stored, branches):
    """The server freezes what it began with, so that no cycle in it would ever be found."""
    first = load_served_release(stored(branches), pinned.store, name="r1", form=CPU_FP32)
    fewer = stored({task: branch for task, branch in branches.items() if task != "mood"})
    engine = Engine(first)
    list(first.model.one_pass(first.encoder.encode([("hello", None)]), {"mood": [0]}))
    old, old_branch = weakref.ref(first), weakref.ref(first.model.branches["mood"])
    gc.disable()
    try:
        engine.swap(load_served_release(fewer, pinned.store, name="r2", form=CPU_FP32, previous=first))
        del first
        assert (old(), old_branch()) == (None, None)
    finally:
        gc.enable()
        engine.close(timeout=10.0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_takes_nothing_over(release, pinned, precision):
    form = Form(precision, torch.device("cpu"))
    new = load_served_release(release.digest, pinned.store, name="r1", form=form, previous=release)
    assert new.precision == precision
    assert not set(new.model.branches.values()) & set(release.model.branches.values())
    assert new.branch_keys != release.branch_keys


def test_answers_that_are_not_the_golden_ones_are_refused(pinned, release, stored, branches):
    branch = release.manifest.tasks["mood"]
    golden = parse_golden_examples(pinned.store.read(branch.golden), "golden")
    first = golden.examples[0]
    wrong = first.model_copy(update={"outputs": tuple(tuple(-value for value in row) for row in first.outputs)})
    blob = pinned.store.put(golden.model_copy(update={"examples": (wrong, *golden.examples[1:])}).to_bytes())
    tasks = {**release.manifest.tasks, "mood": branch.model_copy(update={"golden": blob})}
    digest = pinned.store.put(release.manifest.model_copy(update={"tasks": tasks}).to_bytes())
    with pytest.raises(GateFailed, match=r"r2 does not give its golden answers in fp32: mood/4: outputs differ"):
        load_served_release(digest, pinned.store, name="r2", form=CPU_FP32)


def test_golden_answers_cover_words_that_are_not_read(pinned, stored, branches, monkeypatch):
    """They were recorded with a row for each word."""
    texts = ("new york " * 100, "she \u200b visited york")
    monkeypatch.setattr(conftest, "GOLDEN", texts)
    digest = stored({"city": branches["city"]})
    new = load_served_release(digest, pinned.store, name="r1", form=CPU_FP32)
    golden = parse_golden_examples(pinned.store.read(new.manifest.tasks["city"].golden), "golden")
    assert [len(example.outputs) for example in golden.examples] == [200, 4]


def test_a_damaged_module_is_refused(release, store_copy):
    store, folder = store_copy
    (blob,) = folder.rglob(f"*{release.manifest.tasks['city'].module[8:]}")
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ArtifactDamaged, match="city/2"):
        load_served_release(release.digest, store, name="r1", form=CPU_FP32)


def test_a_lost_layer_is_refused(release, store_copy):
    store, folder = store_copy
    (blob,) = folder.rglob(f"*{release.manifest.trunk.layers[1][8:]}")
    blob.unlink()
    with pytest.raises(ArtifactMissing, match="layer 2"):
        load_served_release(release.digest, store, name="r1", form=CPU_FP32)


def test_loading_tells_how_far_it_is(release, pinned):
    told = []
    load_served_release(
        release.digest, pinned.store, name="r1", form=CPU_FP32, report=lambda *stage: told.append(stage)
    )
    assert ("loading branches", 4, 4) in told
    assert any(stage == "golden answers" and done == total for stage, done, total in told)
