import itertools
import math

import pytest
import torch
from transformers import BertConfig

from modeling.heads import Head, build_head, initialise_head
from pipelines.training.objectives import Objective, TeacherAnswers, hidden_loss
from pipelines.training.recipes import Distillation
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType


class Said(torch.nn.Module):
    """A head that answers what it reads."""

    transitions = None

    def forward(self, features, _):
        return features


def loss_of(outputs, targets, *, teacher_outputs=None, **about):
    objective = Objective(**about)
    teacher = None if teacher_outputs is None else TeacherAnswers(teacher_outputs)
    return objective.loss(Said(), outputs, torch.zeros(len(outputs), 0), targets, teacher)


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


def head_of(kind: TaskType, outputs: int = 2, **choices) -> Head:
    config = BertConfig(hidden_size=6, num_attention_heads=1, hidden_dropout_prob=0.0)
    head = build_head(HeadConfig(type=kind, outputs=outputs, **choices), config)
    initialise_head(head, deviation=0.5, seed=3)
    return head


def test_the_hidden_loss_is_one_for_a_student_that_reads_nothing_at_any_scale_and_width():
    for scale, width in ((1.0, 3), (50.0, 300)):
        teacher = scale * torch.randn(5, width, generator=torch.Generator().manual_seed(0))
        assert hidden_loss(torch.zeros(5, width), teacher).item() == pytest.approx(1.0)
        assert hidden_loss(teacher.clone(), teacher).item() == 0.0
        assert hidden_loss(1.1 * teacher, teacher).item() == pytest.approx(0.01, rel=1e-4)
    assert hidden_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0.0


def test_the_hidden_loss_of_words_counts_only_those_with_a_piece():
    head = head_of(TaskType.TOKEN_CLASSIFICATION, 3)
    features = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    words = torch.tensor([[1, -1, 2], [1, -1, -1]])
    read = features[words >= 0]
    targets = torch.tensor([0, 1, 2])
    outputs = head(features, words)[words >= 0].detach()
    distillation = Distillation(soft_weight=1.0, hidden_weight=0.25)
    objective = Objective(type=TaskType.TOKEN_CLASSIFICATION, target_scale=1.0, distillation=distillation)
    loss = objective.loss(head, features, words, targets, TeacherAnswers(outputs, features=2.0 * read))
    assert loss.item() == pytest.approx(0.25 * 0.25, abs=1e-6)
    without = objective.loss(head, features, words, targets, TeacherAnswers(outputs))
    assert without.item() == pytest.approx(0.0, abs=1e-6)


TAGS = torch.tensor([0, 1, 2, 1, 2])  # O B I; B I
WORDS = torch.tensor([[1, -1, 2, 3], [1, 2, -1, -1]])


def crf_head(seed: int = 0):
    head = head_of(TaskType.TOKEN_CLASSIFICATION, 3, crf=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.crf.parameters():
            parameter.normal_(generator=generator)
    return head


def crf_objective(**choices) -> Objective:
    return Objective(type=TaskType.TOKEN_CLASSIFICATION, target_scale=1.0, **choices)


def all_legal(head, emissions):
    """Every legal sequence's probability under softened scores, from the definition."""
    start, between, end = head.transitions
    found = {}
    for tags in itertools.product(range(3), repeat=len(emissions)):
        score = start[tags[0]] + end[tags[-1]] + sum(row[tag] for row, tag in zip(emissions, tags, strict=True))
        found[tags] = score + sum(between[pair] for pair in itertools.pairwise(tags))
    scores = torch.stack(list(found.values()))
    return dict(zip(found, torch.log_softmax(scores, dim=0), strict=True))


def test_a_crf_is_taught_the_tags_of_the_words_with_a_piece_a_word_at_a_time():
    head = crf_head()
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    loss = crf_objective().loss(head, features, WORDS, TAGS)
    emissions = head.linear(features)
    expected = all_legal(head, emissions[0, [0, 2, 3]])[0, 1, 2] + all_legal(head, emissions[1, :2])[1, 2]
    assert loss.item() == pytest.approx(-expected.item() / 5, rel=1e-5)


def test_a_crf_is_taught_illegal_tags_as_a_lenient_reader_reads_them():
    head = crf_head()
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    illegal = torch.tensor([0, 2, 2, 2, 2])
    loss = crf_objective().loss(head, features, WORDS, illegal)
    assert loss.isfinite()
    assert torch.equal(loss, crf_objective().loss(head, features, WORDS, TAGS))


def test_a_crf_student_is_taught_the_marginals_of_its_teacher():
    student, teacher = crf_head(), crf_head(seed=1)
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    of_teacher = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    distillation = Distillation(soft_weight=1.0, temperature=1.0)
    objective = crf_objective(distillation=distillation, teacher_transitions=teacher.transitions)
    loss = objective.loss(student, features, WORDS, TAGS, TeacherAnswers(of_teacher))

    def marginals(head, emissions):
        found = torch.zeros(len(emissions), 3)
        for tags, log_probability in all_legal(head, emissions).items():
            found[range(len(tags)), list(tags)] += log_probability.exp()
        return found

    theirs = torch.cat([marginals(teacher, of_teacher[:3]), marginals(teacher, of_teacher[3:])])
    emissions = student.linear(features)
    ours = torch.cat([marginals(student, emissions[0, [0, 2, 3]]), marginals(student, emissions[1, :2])])
    expected = torch.special.xlogy(theirs, theirs / ours.clamp(min=1e-30)).sum() / 5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_crf_student_that_equals_its_teacher_has_no_soft_loss(temperature):
    head = crf_head()
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    outputs = head(features, WORDS)[WORDS >= 0].detach()
    distillation = Distillation(soft_weight=1.0, temperature=temperature)
    objective = crf_objective(distillation=distillation, teacher_transitions=head.transitions)
    assert objective.loss(head, features, WORDS, TAGS, TeacherAnswers(outputs)).item() == pytest.approx(0.0, abs=1e-6)
