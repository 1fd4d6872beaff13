"""Weights from safetensors files into torch modules, with every tensor accounted for."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from registry.artifacts.safetensors_file import SafetensorsFile, TensorEntry
from registry.errors import ArtifactError, InvalidWeights

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

EXACT_IN_FP32 = tuple(TORCH_DTYPES)
"""The dtypes whose every value is an fp32 value too."""


class ExpectedTensor(NamedTuple):
    """dtype as the safetensors header spells it."""

    dtype: str
    shape: tuple[int, ...]


def tensors_of(module: nn.Module) -> dict[str, ExpectedTensor]:
    """What a file of this module's weights must hold: its parameters and persistent buffers, all F32."""
    return {name: ExpectedTensor("F32", tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, path: Path, *, subject: str, dtypes: Collection[str]) -> None:
    """Fills every tensor of the module from the file, as fp32, and uses every tensor of the file, each once.

    Args:
        module: may lie on the meta device; its tensors are replaced, never written into.
        path: a verified safetensors blob.
        subject: whose weights they are ("rte/3", "layer 4"), for the error.
        dtypes: which the file may hold.

    Raises:
        InvalidWeights: the file is not safetensors, or a tensor is missing, extra, misshapen or of another dtype;
            all of them are listed.
    """
    try:
        with SafetensorsFile(path) as file:
            if problems := _differences(file.entries, tensors_of(module), dtypes):
                raise InvalidWeights("; ".join(problems))
            tensors = {name: _tensor(file, entry) for name, entry in file.entries.items()}
    except ArtifactError as error:
        raise InvalidWeights(f"weights of {subject}: {error}") from error
    module.load_state_dict(tensors, strict=True, assign=True)


def _differences(
    found: Mapping[str, TensorEntry], expected: Mapping[str, ExpectedTensor], dtypes: Collection[str]
) -> list[str]:
    problems = [f"tensor {name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"tensor {name} does not belong there" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].shape != expected[name].shape:
            problems.append(f"tensor {name} has shape {list(found[name].shape)}, not {list(expected[name].shape)}")
        if found[name].dtype not in dtypes:
            problems.append(f"tensor {name} is {found[name].dtype}, not {' or '.join(dtypes)}")
    return problems


def _tensor(file: SafetensorsFile, entry: TensorEntry) -> Tensor:
    # A copy, not a view: weights in use must not change or vanish with the file.
    data = bytearray(file.tensor(entry.name).data)
    return torch.frombuffer(data, dtype=TORCH_DTYPES[entry.dtype]).reshape(entry.shape).to(torch.float32)
