"""Model cards: of a task's version, and of a release."""

import json

from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult

from tests.cli.conftest import Trunkline, assembled


def hub_results(text: str) -> list[EvalResult]:
    """What the hub's own client reads of a card."""
    return list(ModelCard(text).data.eval_results or [])


def test_a_versions_card_is_read_by_the_hubs_own_client(trained: Trunkline) -> None:
    text = trained.done("task", "card", "token@champion")
    version = json.loads(trained.done("version", "show", "token/2", "--json"))
    card = ModelCard(text)
    assert card.data.base_model == "small"
    assert card.data.pipeline_tag == "token-classification"
    results = {result.metric_name: result for result in hub_results(text)}
    for metric, value in version["metrics"].items():
        result = results[f"{metric} ({version['statistic']})"]
        assert (result.metric_value, result.dataset_revision) == (value, version["dev_digest"])
    assert "kind: student of token/1" in text
    assert "- aliases: champion" in text
    metric = next(iter(version["metrics"]))
    teacher = json.loads(trained.done("version", "show", "token/1", "--json"))["metrics"][metric]
    assert f"| {version['metrics'][metric]:.4f} | {teacher:.4f} |" in text
    assert "live on" not in text


def test_a_releases_card_has_one_result_a_task_and_metric(trained: Trunkline) -> None:
    assembled(trained)
    text = trained.done("release", "card", "r1")
    tasks = json.loads(trained.done("release", "show", "r1", "--json"))["release"]["tasks"]
    metrics = {
        (task, metric)
        for task, number in tasks.items()
        for metric in json.loads(trained.done("version", "show", f"{task}/{number}", "--json"))["metrics"]
    }
    read = {(result.task_name, str(result.metric_name).partition(" ")[0]) for result in hub_results(text)}
    assert read == metrics
    assert "# Release r1" in text
    assert "## Gates" in text
    assert "UTC, verified by ann" in text


def test_a_card_says_where_its_version_is_live(trained: Trunkline) -> None:
    assembled(trained)
    trained.done("channel", "create", "staging", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "staging")
    assert "- live on: staging (r1)" in trained.done("task", "card", "token/2")
    assert "live on" not in trained.done("task", "card", "token/1"), "another version of it is"
    assert "- live on: staging" in trained.done("release", "card", "r1")


def test_the_card_of_a_draft_has_no_gates_and_as_json_the_same_metadata(trained: Trunkline) -> None:
    assert trained("release", "assemble", "--select", "champion", "--draft").code == 0
    document = json.loads(trained.done("release", "card", "r1", "--json"))
    assert "## Gates" not in document["text"]
    assert document["metadata"]["model-index"][0]["name"] == "r1"
    assert trained("task", "card", "token/9").code == 1
