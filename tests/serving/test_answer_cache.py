from modeling.decoding import LabelAnswer, NumberAnswer, SpansAnswer, TaggedWord, TagsAnswer
from serving.answer_cache import AnswerCache, CachedAnswer, branch_keys, text_key
from serving.questions import Text

NUMBER = CachedAnswer(NumberAnswer(value=1.0), truncated=False)


def test_a_pair_is_another_text_than_its_parts_joined():
    keys = {text_key(text) for text in (Text("ab"), Text("a", "b"), Text("", "ab"), Text("ab", ""), Text("a\0b"))}
    assert len(keys) == 5


def test_the_least_recently_used_answers_leave_first():
    cache = AnswerCache(3 * 850)
    for name in (b"1", b"2", b"3"):
        cache.keep(name, b"task", NUMBER)
    cache.find(b"1", {"task": b"task"})
    cache.keep(b"4", b"task", NUMBER)
    found = [name for name in (b"1", b"2", b"3", b"4") if cache.find(name, {"task": b"task"})]
    assert found == [b"1", b"3", b"4"]
    assert cache.size <= 3 * 850
    assert len(cache) == 3


def test_an_answer_beyond_the_limit_is_not_kept_and_drives_nothing_out():
    cache = AnswerCache(1000)
    cache.keep(b"small", b"task", NUMBER)
    labels = {f"label {number}": 0.01 for number in range(100)}
    large = LabelAnswer(label="label 1", probability=0.01, probabilities=labels)
    cache.keep(b"large", b"task", CachedAnswer(large, truncated=False))
    assert cache.find(b"small", {"task": b"task"})
    assert not cache.find(b"large", {"task": b"task"})


def test_an_answer_that_repeats_a_long_word_counts_with_it():
    word = TaggedWord(start=0, end=100_000, text="x" * 100_000, label="A", probability=1.0)
    cache = AnswerCache(1_000_000)
    for number in range(10):
        cache.keep(bytes([number]), b"task", CachedAnswer(TagsAnswer(words=(word,)), truncated=False))
    assert len(cache) == 2


def test_answers_of_every_type_are_kept():
    cache = AnswerCache(10_000)
    answers = [NUMBER.answer, SpansAnswer(spans=()), TagsAnswer(words=())]
    for number, answer in enumerate(answers):
        cache.keep(b"text", bytes([number]), CachedAnswer(answer, truncated=True))
    found = cache.find(b"text", {str(number): bytes([number]) for number in range(3)})
    assert [one.answer for one in found.values()] == answers


def test_a_branch_is_known_by_all_that_decides_its_answers(release):
    manifest = release.manifest
    keys = branch_keys(manifest, "fp32")
    assert len(set(keys.values())) == len(keys)
    assert branch_keys(manifest, "bf16")["mood"] != keys["mood"]
    longer = manifest.model_copy(update={"trunk": manifest.trunk.model_copy(update={"max_length": 99})})
    assert branch_keys(longer, "fp32")["mood"] != keys["mood"]
    other = manifest.tasks["mood"].model_copy(update={"module": "1" * 64})
    changed = manifest.model_copy(update={"tasks": {**manifest.tasks, "mood": other}})
    assert branch_keys(changed, "fp32") == {**keys, "mood": branch_keys(changed, "fp32")["mood"]}
    assert branch_keys(changed, "fp32")["mood"] != keys["mood"]
