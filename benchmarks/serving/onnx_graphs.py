"""Encoders as ONNX graphs, fused by onnxruntime's optimiser for BERT."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from setting import Setting
from torch import nn

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Of every graph, int64 [B, T] each."""


def write_graph(
    module: nn.Module, target: Path, setting: Setting, *, output: str, axes: Mapping[int, str], layers: int
) -> None:
    """Exports and optimises a module that takes `INPUTS`, in fp32.

    Args:
        module: its attention is written out ("eager"): that is what the optimiser recognises and fuses.
        axes: those of the output that vary, by name.
        layers: as many attentions must be fused.
    """
    from onnxruntime.transformers import optimizer

    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    varying: dict[str, dict[int, str]] = {name: {0: "rows", 1: "pieces"} for name in INPUTS}
    plain = target.with_name("plain.onnx")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package, about its own age
        torch.onnx.export(
            module,
            (ids, (ids > 0).long(), torch.zeros_like(ids)),
            str(plain),
            input_names=list(INPUTS),
            output_names=[output],
            dynamic_axes={**varying, output: dict(axes)},
            opset_version=17,
            dynamo=False,
        )
        made = optimizer.optimize_model(
            str(plain),
            model_type="bert",
            num_heads=setting.backbone.config["num_attention_heads"],
            hidden_size=setting.backbone.hidden_size,
        )
    fused = made.get_fused_operator_statistics()
    if fused["Attention"] != layers:
        raise SystemExit(f"onnxruntime's optimiser fused {fused['Attention']} attentions of {layers}: {fused}")
    written = target.with_name("writing.onnx")
    made.save_model_to_file(str(written))
    written.replace(target)
    plain.unlink()


def session(graph: str | bytes, threads: int) -> Any:
    """A graph, as a file's name or its bytes, ready to be run on so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
