"""What a trial's module is before its first step: the backbone's layers or its teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modeling.heads import RegressionHead
from modeling.layer_mix import weights_for_fewer
from modeling.task_module import TaskModule, copy_backbone_layers, load_task_module, new_task_module
from pipelines.training.trials import Trial
from registry.artifacts.store import ArtifactStore
from registry.domain.records import Version


def teacher_module(trial: Trial, teacher: Version, store: ArtifactStore) -> TaskModule:
    """The teacher's whole branch, in eval mode."""
    return load_task_module(
        store.fetch(teacher.module),
        subject=str(teacher.reference),
        config=trial.backbone.config,
        head=teacher.head,
        task_layers=teacher.task_layers,
        frozen_depth=teacher.frozen_depth,
    ).eval()


def initial_module(
    trial: Trial, targets: Sequence[Tensor], store: ArtifactStore, teacher: TaskModule | None
) -> TaskModule:
    """Layers k+1..k+l and head from the teacher's same ones (paper, section 3.2), or layers from the backbone.

    A student that begins from the backbone has a fresh head, as a teacher has: the teacher's head has learnt to read
    hidden states that only the teacher's layers give, and the paper's "initialized from pre-trained BERT" (figure 2)
    has no head to take either. The regression head's units are the data's in both cases.

    Args:
        targets: those of the training data, [places(row)] each; a regression head takes its units from them.
        teacher: the whole branch of the trial's teacher, where it has one; on any device.
    """
    module = new_task_module(
        config=trial.backbone.config,
        head=trial.head,
        task_layers=trial.task_layers,
        seed=trial.seed,
        frozen_depth=trial.frozen_depth,
    )
    distillation = trial.recipe.distillation
    if trial.teacher is None or teacher is None or (distillation and distillation.initialisation == "backbone"):
        copy_backbone_layers(module, first_layer=trial.frozen_depth + 1, layer_blobs=trial.backbone.layers, store=store)
    else:
        skipped = trial.frozen_depth - trial.teacher.frozen_depth
        for number, layer in enumerate(module.layers):
            layer.load_state_dict(teacher.layers[skipped + number].state_dict())
        head = teacher.head.state_dict()
        if module.head.mix is not None:
            head["mix.weights"] = weights_for_fewer(head["mix.weights"], len(module.head.mix.weights))
        module.head.load_state_dict(head)
    if isinstance(module.head, RegressionHead):
        mean, scale = spread(targets)
        module.head.set_target_units(mean=mean, scale=scale)
    return module


def spread(targets: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation of regression targets."""
    values = torch.cat(list(targets)).double()
    return values.mean().item(), values.std(correction=0).item()
