import pytest
import torch

from modeling.decoding import LabelAnswer, NumberAnswer, SpansAnswer
from registry.domain.task_specs import InputForm, TaskType
from registry.errors import ArtifactMissing, InvalidInput, NotFound, UsageError
from serving import loaded_release
from serving.loaded_release import load_release
from serving.questions import Text


@pytest.fixture
def release(pinned, make_branch, make_manifest):
    """Three tasks: `intent` after layer 1, `city` after layer 2, and `similarity`, which reads pairs, after layer 3."""
    intent = make_branch(pinned, TaskType.CLASSIFICATION, depth=1, seed=1)
    city = make_branch(pinned, TaskType.TOKEN_CLASSIFICATION, depth=2, seed=2)
    similarity = make_branch(pinned, TaskType.REGRESSION, depth=3, seed=3)
    pair = similarity.manifest.model_copy(update={"input_form": InputForm.PAIR})
    similarity = type(similarity)(similarity.module, pair)
    manifest = make_manifest(pinned, {"intent": intent, "city": city, "similarity": similarity})
    return load_release(pinned.store.put(manifest.to_bytes()), pinned.store)


def count_layer_calls(release):
    calls = []
    for number, layer in enumerate(release.model.trunk.layers, 1):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    return calls


def test_every_task_of_the_form_answers_from_one_pass_over_the_trunk(release):
    calls = count_layer_calls(release)
    (prediction,) = release.predict([Text("hello new york")])
    answers = prediction.answers
    assert set(answers) == {"intent", "city"}
    assert isinstance(answers["intent"], LabelAnswer)
    assert sum(answers["intent"].probabilities.values()) == pytest.approx(1.0)
    assert isinstance(answers["city"], SpansAnswer)
    assert calls == [1, 2], "the trunk ran more than once, or deeper than these tasks need"


def test_fewer_tasks_cost_only_what_they_need(release):
    calls = count_layer_calls(release)
    (prediction,) = release.predict([Text("hello new york")], ["intent"])
    answers = prediction.answers
    assert set(answers) == {"intent"}
    assert calls == [1]


def test_single_texts_and_pairs_are_answered_by_their_own_tasks_in_order(release):
    answers = [p.answers for p in release.predict([Text("hello"), Text("hello", "world"), Text("new york")])]
    assert [set(answer) for answer in answers] == [{"intent", "city"}, {"similarity"}, {"intent", "city"}]
    assert isinstance(answers[1]["similarity"], NumberAnswer)


def test_many_texts_are_answered_some_at_a_time_and_refused_before_the_first(release, monkeypatch):
    monkeypatch.setattr(loaded_release, "_TEXTS_AT_ONCE", 2)
    texts = [Text("hello"), Text("hello", "world"), Text("new york"), Text("hello"), Text("world")]
    calls = count_layer_calls(release)
    told = []
    answered = release.predictions(texts, report=lambda *one: told.append(one))
    assert (calls, told) == ([], [])
    first = next(answered)
    assert (len(calls), told) == (5, [("answering", 0, 5)])
    rest = list(answered)
    assert (len(calls), told[1:]) == (9, [("answering", 2, 5), ("answering", 4, 5), ("answering", 5, 5)])
    for one, whole in zip([first, *rest], release.predict(texts), strict=True):
        assert set(one.answers) == set(whole.answers)
        if "intent" in one.answers:
            assert one.answers["intent"].probabilities == pytest.approx(whole.answers["intent"].probabilities)
    calls.clear()
    with pytest.raises(InvalidInput, match="text 4: is empty"):
        release.predictions([*texts[:3], Text(" ")])
    with pytest.raises(UsageError, match="similarity: reads a pair"):
        release.predictions([Text("hello"), Text("world"), Text("hello")], ["similarity"])
    assert calls == []
    told.clear()
    assert len(list(release.predictions(texts[:2], report=lambda *one: told.append(one)))) == 2
    assert told == [], "one part is not worth a bar"


def test_spans_are_offsets_into_the_text_as_it_was_sent(release):
    text = "  Hello,   New York (the city)!"
    (prediction,) = release.predict([Text(text)], ["city"])
    for span in prediction.answers["city"].spans:
        assert text[span.start : span.end] == span.text
        assert span.text.strip() == span.text != ""


def test_many_texts_get_the_answers_that_each_gets_alone(release):
    texts = [Text("hello " * (1 + number % 7) + "york") for number in range(300)]
    together = release.outputs(texts)
    for number in (0, 5, 299):
        alone = release.outputs([texts[number]])
        for task in ("intent", "city"):
            torch.testing.assert_close(together[task][number], alone[task][0], atol=1e-5, rtol=0)


def test_a_task_of_the_other_form_is_refused_saying_which_form_it_reads(release):
    with pytest.raises(UsageError, match="similarity: reads a pair of texts, and the input is a single text"):
        release.predict([Text("hello")], ["similarity"])
    with pytest.raises(UsageError, match="intent: reads a single text, and the input is a pair"):
        release.predict([Text("hello", "world")], ["intent"])


def test_an_unknown_task_is_refused_naming_those_that_are_there(release):
    with pytest.raises(NotFound, match="not in this release: sentiment; its tasks: city, intent, similarity"):
        release.predict([Text("hello")], ["sentiment"])


def test_an_empty_text_is_refused_by_its_number(release):
    with pytest.raises(InvalidInput, match="text 2: is empty"):
        release.predict([Text("hello"), Text("  ")])


def test_a_release_whose_blobs_are_not_there_is_refused(release, pinned):
    with pytest.raises(ArtifactMissing):
        load_release("0" * 64, pinned.store)


def test_a_text_that_was_cut_off_says_so(release):
    longest = release.manifest.trunk.max_length
    texts = [Text("york " * longest), Text("york"), Text("york", "the " * longest)]
    assert [prediction.truncated for prediction in release.predict(texts)] == [True, False, True]
