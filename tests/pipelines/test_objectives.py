import math

import pytest
import torch

from pipelines.training.objectives import loss_of
from pipelines.training.recipes import Distillation
from registry.domain.task_specs import TaskType


def test_without_a_teacher_it_is_the_cross_entropy_of_the_labels():
    outputs = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
    loss = loss_of(outputs, torch.tensor([1, 1]), type=TaskType.CLASSIFICATION, target_scale=1.0)
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_regression_counts_errors_in_standard_deviations_of_the_target():
    outputs = torch.tensor([[90.0], [110.0]])
    loss = loss_of(outputs, torch.tensor([100.0, 100.0]), type=TaskType.REGRESSION, target_scale=10.0)
    assert loss.item() == pytest.approx(1.0)


def test_the_soft_part_is_the_divergence_from_the_teacher_at_its_temperature():
    temperature = 2.0
    # At temperature 2 the teacher says (0.8, 0.2) and the student (0.5, 0.5).
    teacher = torch.tensor([[temperature * math.log(4.0), 0.0]])
    student = torch.zeros(1, 2)
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    hard = math.log(2.0)
    loss = loss_of(
        student,
        torch.tensor([0]),
        type=TaskType.CLASSIFICATION,
        target_scale=1.0,
        teacher_outputs=teacher,
        distillation=Distillation(temperature=temperature, soft_weight=0.75),
    )
    assert loss.item() == pytest.approx(0.75 * temperature**2 * divergence + 0.25 * hard, rel=1e-5)


@pytest.mark.parametrize("type_", [TaskType.CLASSIFICATION, TaskType.REGRESSION])
def test_a_student_that_equals_its_teacher_has_no_soft_loss(type_):
    outputs = torch.tensor([[1.0, -2.0], [0.5, 3.0]]) if type_ is TaskType.CLASSIFICATION else torch.tensor([[4.0]])
    targets = torch.tensor([0, 1]) if type_ is TaskType.CLASSIFICATION else torch.tensor([7.0])
    soft_alone = Distillation(soft_weight=1.0)
    loss = loss_of(
        outputs, targets, type=type_, target_scale=2.0, teacher_outputs=outputs.clone(), distillation=soft_alone
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
