import pytest

from registry.domain.task_specs import InputForm
from serving import estimate as estimation
from serving.engine import EngineSettings
from serving.estimate import estimate


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(estimation, "_SECONDS", 0.2)


@pytest.mark.usefixtures("brief")
def test_each_form_is_measured_with_its_own_tasks(release, pinned):
    single, pair = estimate(release, pinned.store, EngineSettings())
    assert (single.form, pair.form) == (InputForm.SINGLE, InputForm.PAIR)
    assert [cost.task for cost in single.tasks] == ["city", "intent", "mood"]
    assert [cost.task for cost in pair.tasks] == ["similarity"]
    assert single.texts == 9
    assert single.pieces > 3


@pytest.mark.usefixtures("brief")
def test_shares_are_of_the_whole_and_a_further_task_costs(release, pinned):
    single, pair = estimate(release, pinned.store, EngineSettings())
    assert single.trunk_share + sum(cost.share for cost in single.tasks) == pytest.approx(1.0)
    assert all(cost.texts_per_second_without > single.texts_per_second > 0 for cost in single.tasks)
    assert [cost.texts_per_second_without for cost in pair.tasks] == [None], "without it no text of its form is asked"
    rates = [single.with_one_more[layers] for layers in (1, 2, 3)]
    assert single.texts_per_second > rates[0] > rates[1] > rates[2] > 0
