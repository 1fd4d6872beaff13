"""A release as one safetensors file, its manifest in the header: every blob is in it, and can be had again.

The header's metadata hold `trunkline_manifest`, the manifest's canonical JSON. Tensors are named
`trunk.embeddings.NAME`, `trunk.layers.0.NAME`, `tasks.TASK.layers.0.NAME` and `tasks.TASK.head.NAME`, in the dtype of
their blobs, for any reader of safetensors; the tokenizer and the golden examples, which are JSON, are the bytes (U8) of
`trunk.tokenizer` and `tasks.TASK.golden`.

A blob's bytes are a function of its tensors (`safetensors_bytes`), so that unpacking gives the very blobs, and each is
compared with the digest that the manifest names.

    python -m pipelines.export.single_file FILE

unpacks it into a folder beside it that is thrown away, asks its golden examples there, and prints what it found (JSON).
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from modeling.multitask import load_merged_model
from pipelines.assembly.parity_gate import measured_parity
from registry.artifacts.atomic_file import write_atomically
from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.safetensors_file import SafetensorsFile, safetensors_bytes, safetensors_chunks
from registry.artifacts.store import ArtifactStore
from registry.domain.digests import TensorBytes
from registry.domain.manifests import Manifest, parse_manifest
from registry.errors import InvalidInput
from registry.progress import silent

_MANIFEST = "trunkline_manifest"


def write_single_file(manifest: Manifest, path: Path, *, store: ArtifactStore) -> None:
    """Writes the file, whole or not at all, without holding it in memory.

    Raises:
        ArtifactMissing, ArtifactDamaged: the store does not hold a whole blob.
        StorageError: the file cannot be written.
    """
    with ExitStack() as open_files:
        tensors: list[TensorBytes] = []
        for prefix, blob in _weights(manifest).items():
            file = open_files.enter_context(SafetensorsFile(store.fetch(blob)))
            tensors += (file.tensor(name)._replace(name=f"{prefix}.{name}") for name in file.entries)
        for name, blob in _documents(manifest).items():
            data = store.read(blob)
            tensors.append(TensorBytes(name, "U8", (len(data),), data))
        write_atomically(path, safetensors_chunks(tensors, {_MANIFEST: manifest.to_bytes().decode()}))


def unpack_single_file(path: Path, store: ArtifactStore) -> str:
    """Puts every blob of the file's release into a store, the manifest last, and returns the manifest's digest.

    Raises:
        InvalidWeights: it is not a whole safetensors file.
        InvalidInput: it holds no manifest, or what a blob is made of is not there or has another digest; says which.
        StorageError: a blob cannot be written.
    """
    with SafetensorsFile(path) as file:
        if _MANIFEST not in file.metadata:
            raise InvalidInput(str(path), [f"is no release: its header has no {_MANIFEST}"])
        manifest = parse_manifest(file.metadata[_MANIFEST].encode(), f"manifest in {path}")
        for what, blob, data in _blobs(manifest, file):
            if hashlib.sha256(data).hexdigest() != blob:
                raise InvalidInput(str(path), [f"{what} is not what the manifest names: copy or export it again"])
            store.put(data)
    return store.put(manifest.to_bytes())


def _blobs(manifest: Manifest, file: SafetensorsFile) -> Iterator[tuple[str, str, bytes]]:
    """Every part of the release, its digest, and the bytes that the file has for it."""
    documents = _documents(manifest)
    for name, blob in documents.items():
        yield name, blob, bytes(file.tensor(name).data)
    for prefix, blob in _weights(manifest).items():
        names = [name for name in file.entries if name.startswith(f"{prefix}.") and name not in documents]
        tensors = [file.tensor(name)._replace(name=name.removeprefix(f"{prefix}.")) for name in names]
        yield prefix, blob, safetensors_bytes(tensors)


def _weights(manifest: Manifest) -> dict[str, str]:
    """What stands before the tensors' names -> their blob."""
    trunk = manifest.trunk
    layers = {f"trunk.layers.{number}": blob for number, blob in enumerate(trunk.layers)}
    modules = {f"tasks.{task}": branch.module for task, branch in manifest.tasks.items()}
    return {"trunk.embeddings": trunk.embeddings, **layers, **modules}


def _documents(manifest: Manifest) -> dict[str, str]:
    """Names of the tensors that are bytes -> their blob."""
    golden = {f"tasks.{task}.golden": branch.golden for task, branch in manifest.tasks.items()}
    return {"trunk.tokenizer": manifest.trunk.tokenizer, **golden}


def _main(path: Path) -> None:
    # Beside the file: where it fits, its parts fit once more, and the machine's own folder for such may be small.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = LocalArtifactStore(Path(folder))
        digest = unpack_single_file(path, store)
        manifest = parse_manifest(store.read(digest), f"manifest in {path}")
        found = measured_parity(manifest, load_merged_model(manifest, store), store=store, report=silent)
    parity = {task: {way: asdict(one) for way, one in ways.items()} for task, ways in found.items()}
    sys.stdout.write(json.dumps({"manifest": digest, "parity": parity}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
