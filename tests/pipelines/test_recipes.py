import pytest
import torch
from pydantic import ValidationError

from modeling.crf import TagTransitions
from pipelines.training.optimisation import learning_rate_at, new_optimiser
from pipelines.training.recipes import Recipe, default_learning_rate, make_recipe
from registry.errors import UsageError


def test_the_default_learning_rate_grows_as_the_encoder_narrows():
    assert default_learning_rate(768) == pytest.approx(2e-5)
    assert 1e-4 <= default_learning_rate(384) <= 2e-4
    assert default_learning_rate(1024) < 2e-5
    assert default_learning_rate(24) == 5e-4


def test_the_paper_recipe_has_the_papers_numbers_at_any_width():
    recipe = make_recipe("paper", hidden_size=384, precision="fp32")
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs, recipe.evaluate_from) == (2e-5, 32, 5, 3)
    assert (recipe.weight_decay, recipe.beta1, recipe.beta2, recipe.epsilon) == (0.01, 0.9, 0.999, 1e-6)


def test_a_recipe_says_what_its_metric_is_of():
    assert make_recipe("default", hidden_size=384, precision="fp32").statistic == "best of epochs 3-5, one run"
    assert make_recipe("default", hidden_size=384, precision="fp32", epochs=2).statistic == "epoch 2, one run"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused(rate):
    with pytest.raises(UsageError, match="recipe: learning_rate"):
        make_recipe("default", hidden_size=384, precision="fp32", learning_rate=rate)


def test_a_recipe_that_would_never_be_scored_is_refused():
    with pytest.raises(ValidationError, match="evaluate_from 3 is after the last epoch"):
        Recipe(learning_rate=1e-4, epochs=2, evaluate_from=3)


def test_the_rate_warms_up_and_decays_to_zero():
    recipe = Recipe(learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate_at(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(max(rates)) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 / 90)
    assert learning_rate_at(100, 100, recipe) == 0.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_crfs_scores_have_a_rate_of_their_own_and_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), TagTransitions(3))
    recipe = Recipe(learning_rate=1e-4, scalar_rate=0.02)
    _, _, scores = new_optimiser(module, recipe).param_groups
    assert sorted(tuple(p.shape) for p in scores["params"]) == [(3,), (3,), (3, 3)]
    assert scores["weight_decay"] == 0.0
    assert recipe.learning_rate * scores["times"] == pytest.approx(0.02)


def test_only_matrices_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, kept = new_optimiser(module, Recipe(learning_rate=1.0)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == 0.01
    assert sorted(tuple(p.shape) for p in kept["params"]) == [(4,), (4,), (4,)]
    assert kept["weight_decay"] == 0.0
