import pytest
from unit_costs import Line, exhaustive_passes, exhaustive_seconds, fitted_line


def test_a_line_goes_through_its_points() -> None:
    line = fitted_line([(4, 11.0), (7, 17.0), (10, 23.0)])
    assert line.at(5) == pytest.approx(13.0)
    assert line.fixed == pytest.approx(3.0)


def test_one_number_of_layers_gives_a_level_line() -> None:
    assert fitted_line([(4, 2.0), (4, 4.0)]) == Line(3.0, 0.0)


def test_the_protocol_by_trainer_computes_frozen_layers_in_every_epoch() -> None:
    passes = exhaustive_passes(
        backbone_layers=12,
        layers=(4, 5),
        seeds=2,
        epochs=5,
        evaluations=3,
        students=(1,),
        student_depth=8,
        student_epochs=10,
        student_evaluations=5,
        dev_share=0.1,
    )
    teachers = 2 * (5 * (8 + 12) + 3 * 0.1 * 12 + 5 * (7 + 15) + 3 * 0.1 * 12)
    students = 2 * (10 * (8 + 3) + 5 * 0.1 * 9)
    assert passes == pytest.approx(teachers + students + 12)


def test_the_protocols_time_is_the_sum_of_its_epochs_and_evaluations() -> None:
    seconds = exhaustive_seconds(
        layers=(4, 10),
        seeds=3,
        epochs=5,
        evaluations=3,
        students=(1, 2),
        student_epochs=10,
        student_evaluations=5,
        epoch=Line(1.0, 1.0),
        evaluation=Line(0.5, 0.0),
        student_epoch=Line(0.0, 2.0),
        student_evaluation=Line(0.0, 1.0),
        teacher_logits=7.0,
    )
    assert seconds == pytest.approx(3 * (5 * 5 + 1.5 + 5 * 11 + 1.5) + 3 * (20 + 5 + 40 + 10) + 7)
