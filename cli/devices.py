"""`--device`: where a command computes."""

from typing import TYPE_CHECKING, Annotated

import typer

from registry.errors import UsageError

if TYPE_CHECKING:
    import torch

DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N; auto: a GPU where there is one.")]


def chosen_device(name: str) -> "torch.device":
    """The device that `--device` names; raises UsageError when this machine has none such."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: is no device; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--device {name}: this machine has none; use cpu")
    return device
