import threading
import time
import tracemalloc
import weakref

import pytest

from modeling.text import EncodedText
from registry.errors import InvalidInput, NotFound, UsageError
from serving.engine import Engine, EngineSettings
from serving.errors import DeadlinePassed, EngineFailed, Overloaded, Stopping
from serving.loaded_release import load_release
from serving.questions import Text
from serving.release_loading import load_served_release
from serving.waiting_line import Question, Request, WaitingLine
from tests.serving.conftest import CPU_FP32, Listener, ask
from tests.waiting import eventually

TEXTS = ["hello new york", "a", "the end of the world " * 20, "she visited york", "hello " * 7]


class Observed:
    """What an engine told its observer."""

    def __init__(self):
        self.batches, self.answers, self.hits, self.misses = [], {}, 0, 0

    def batch(self, *, texts, tokens, padding, seconds):
        assert seconds >= 0
        self.batches.append((texts, tokens, padding))

    def tokenised(self, *, texts, seconds):
        assert texts > 0
        assert seconds >= 0

    def waited(self, *, texts, seconds):
        assert texts > 0
        assert seconds >= 0

    def answered(self, *, task, version, answers, seconds):
        assert version > 0
        assert seconds >= 0
        self.answers[task] = self.answers.get(task, 0) + answers

    def looked_up(self, *, hits, misses):
        self.hits += hits
        self.misses += misses


@pytest.fixture
def start(release):
    """Starts engines of the release, which end with the test."""
    engines = []

    def begin(observer=None, **settings):
        engines.append(Engine(release, EngineSettings(**settings), observer))
        return engines[-1]

    yield begin
    for engine in engines:
        assert engine.close(timeout=30)


class Gate:
    """Holds every batch of a release back until it is opened."""

    def __init__(self, release, monkeypatch):
        self._open, self.entered = threading.Event(), threading.Event()
        one_pass = release.model.one_pass

        def held(encoded, rows):
            self.entered.set()
            assert self._open.wait(30)
            return one_pass(encoded, rows)

        monkeypatch.setattr(release.model, "one_pass", held)

    def open(self):
        self._open.set()

    def hold(self, engine):
        """Fills the lane with one text, so that what is asked next waits."""
        first = ask(engine, "held back")
        assert self.entered.wait(30)
        return first


@pytest.fixture
def gate(release, monkeypatch):
    held = Gate(release, monkeypatch)
    yield held
    held.open()


@pytest.mark.parametrize(("lanes", "batch_pieces"), [(1, 1024), (2, 16), (1, 1)])
def test_every_text_is_answered_as_the_release_answers_it(start, release, pinned, lanes, batch_pieces):
    engine = start(lanes=lanes, batch_pieces=batch_pieces, cache_bytes=0)
    listeners = [ask(engine, *TEXTS[:number], Text("hello", "world")) for number in range(1, 6)]
    expected = load_release(release.digest, pinned.store).predict([*map(Text, TEXTS), Text("hello", "world")])
    for number, listener in enumerate(listeners, 1):
        found = listener.wait().by_text
        wanted = [*expected[:number], expected[-1]]
        assert set(found) == {(place, task) for place, one in enumerate(wanted) for task in one.answers}
        for (place, task), answer in found.items():
            theirs = wanted[place].answers[task].model_dump()
            assert answer.model_dump() == approximately(theirs)


def approximately(value):
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(approximately, value))
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_what_is_asked_decides_what_answers(start):
    engine = start()
    listener = ask(engine, "hello", "new york", tasks=["city"])
    assert listener.asked.tasks == [["city"], ["city"]]
    assert set(listener.wait().by_text) == {(0, "city"), (1, "city")}


def test_texts_that_wait_together_share_a_batch(start, gate):
    observed = Observed()
    engine = start(observed)
    first = gate.hold(engine)
    others = [ask(engine, f"text number {number}") for number in range(5)]
    assert engine.waiting == 5
    gate.open()
    for listener in [first, *others]:
        listener.wait()
    assert engine.close(timeout=30)
    assert [texts for texts, _, _ in observed.batches] == [1, 5]
    assert engine.waiting == 0


def test_a_large_request_does_not_hold_up_a_small_one(start, gate):
    engine = start(batch_pieces=40)
    gate.hold(engine)
    large = ask(engine, *(f"large {number}" for number in range(40)))
    small = ask(engine, "small")
    gate.open()
    assert small.wait().ended_at < large.wait().ended_at


def test_an_answer_leaves_before_deeper_branches_are_computed(start, release, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    outputs = type(release.model.branches["mood"]).outputs

    def held(branch, *arguments):
        if branch is release.model.branches["mood"]:
            reached.set()
            assert go_on.wait(30)
        return outputs(branch, *arguments)

    monkeypatch.setattr(type(release.model.branches["mood"]), "outputs", held)
    engine = start()
    shallow, deep = ask(engine, "hello", tasks=["intent"]), ask(engine, "hello there", tasks=["intent", "mood"])
    assert reached.wait(30)
    assert shallow.wait().by_text
    assert not deep.ended
    go_on.set()
    assert set(deep.wait().by_text) == {(0, "intent"), (0, "mood")}


def test_bad_requests_are_refused_as_a_whole(start):
    engine = start()
    with pytest.raises(InvalidInput, match="text 2: is empty"):
        ask(engine, "hello", " ")
    with pytest.raises(NotFound, match="weather"):
        ask(engine, "hello", tasks=["weather", "intent"])
    with pytest.raises(UsageError, match="similarity: reads a pair"):
        ask(engine, "hello", tasks=["similarity"])
    with pytest.raises(InvalidInput, match="surrogate"):
        ask(engine, "hello \ud800")
    assert engine.waiting == 0


def test_a_text_that_is_too_long_is_said_to_be_truncated(start):
    assert ask(start(), "hello", "hello " * 100).asked.truncated == [False, True]


def test_a_request_whose_long_text_is_refused_is_not_taken_in(start):
    observed = Observed()
    engine = start(observed)
    with pytest.raises(InvalidInput, match="text 2: has more than 40 tokens"):
        ask(engine, "hello", "hello " * 100, refuse_truncated=True)
    assert engine.close(timeout=30)
    assert (engine.waiting, len(engine.cache)) == (0, 0)
    assert (observed.batches, observed.answers, observed.hits, observed.misses) == ([], {}, 0, 0)


def test_what_is_known_of_a_request_that_is_refused_is_not_told(start):
    engine = start()
    ask(engine, "hello " * 100).wait()
    told = []
    with pytest.raises(InvalidInput, match="text 1: has more than 40 tokens"):
        engine.ask(
            [Text("hello " * 100)],
            None,
            timeout=30,
            on_answers=told.append,
            on_end=told.append,
            refuse_truncated=True,
        )
    assert told == []


def test_long_texts_that_wait_hold_little_memory(start, gate):
    """Their words would be 140 bytes each."""
    engine = start(cache_bytes=0)
    gate.hold(engine)
    texts = [f"{number}" + "!" * 20_000 for number in range(10)]
    tracemalloc.start()
    try:
        waiting = ask(engine, *texts)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    waiting.asked.cancel()
    assert held < 1_000_000


def test_a_full_line_refuses_and_says_when_to_come_back(start, gate):
    engine = start(waiting_texts=3)
    gate.hold(engine)
    waiting = ask(engine, "one", "two")
    with pytest.raises(Overloaded, match="2 texts wait already and 2 more") as refused:
        ask(engine, "three", "four")
    assert refused.value.retry_after >= 1
    with pytest.raises(Overloaded):
        ask(engine, "three", "\ud800")  # refused before it is read, as work that nobody can use
    third = ask(engine, "three")
    gate.open()
    assert waiting.wait().by_text
    assert third.wait().by_text


def test_what_waited_too_long_is_told_so_and_not_computed(start, gate):
    observed = Observed()
    engine = start(observed)
    gate.hold(engine)
    late, patient = ask(engine, "late", timeout=0.01), ask(engine, "patient")
    time.sleep(0.02)
    gate.open()
    assert patient.wait().by_text
    (error,) = late.wait().errors
    assert isinstance(error, DeadlinePassed)
    assert engine.close(timeout=30)
    assert sum(texts for texts, _, _ in observed.batches) == 2


def test_a_cancelled_request_leaves_its_place(start, gate):
    observed = Observed()
    engine = start(observed)
    gate.hold(engine)
    cancelled, other = ask(engine, "one", "two", "three"), ask(engine, "four")
    cancelled.asked.cancel()
    assert engine.waiting == 1
    gate.open()
    assert other.wait().by_text
    assert engine.close(timeout=30)
    assert not cancelled.ended
    assert not cancelled.answers
    assert sum(texts for texts, _, _ in observed.batches) == 2


def test_a_request_that_has_left_the_line_is_kept_by_nobody():
    """An idle line must not keep a cancelled request's release in memory."""
    line = WaitingLine(10, lambda request: None, least_share=64)
    request = Request(None, 0.0, 1.0, print, print)
    request.waiting.append(Question(request, 0, "hello", b"", None, ["intent"]))
    line.add(request)
    line.leave(request)
    line.leave(request)
    seen = weakref.ref(request)
    del request
    assert seen() is None
    assert len(line) == 0


def test_known_answers_are_not_computed_again(start):
    observed = Observed()
    engine = start(observed)
    first = ask(engine, "hello new york", "hello " * 100).wait()
    again = ask(engine, "hello " * 100, "hello new york")
    assert again.ended, "the cache knew all of it"
    assert {(1 - number, task): answer for (number, task), answer in again.by_text.items()} == first.by_text
    assert again.asked.truncated == [True, False]
    assert (observed.hits, observed.misses) == (6, 6)
    assert len(observed.batches) == 1


def test_a_request_that_is_known_in_part_computes_the_rest(start):
    observed = Observed()
    engine = start(observed)
    ask(engine, "hello", tasks=["intent"]).wait()
    whole = ask(engine, "hello", "new").wait()
    assert set(whole.by_text) == {(number, task) for number in (0, 1) for task in ("intent", "city", "mood")}
    assert observed.answers == {"intent": 3, "city": 2, "mood": 2}
    assert (observed.hits, observed.misses) == (1, 6)


def test_the_cache_can_be_off(start):
    engine = start(cache_bytes=0)
    ask(engine, "hello").wait()
    ask(engine, "hello").wait()
    assert len(engine.cache) == 0


def test_a_request_ends_with_the_release_that_took_it_in(start, gate, release, pinned, stored, branches, make_branch):
    other = stored({**branches, "intent": make_branch(pinned, depth=1, seed=9)})
    new = load_served_release(other, pinned.store, name="r2", form=CPU_FP32, previous=release)
    engine = start(cache_bytes=0)
    gate.hold(engine)
    before = ask(engine, "hello", "new york")
    assert engine.swap(new) is release
    after = ask(engine, "hello", "new york")
    gate.open()
    assert (before.asked.release.name, after.asked.release.name) == ("r1", "r2")
    ours, theirs = before.wait().by_text, after.wait().by_text
    assert ours[0, "city"].model_dump() == approximately(theirs[0, "city"].model_dump())
    assert ours[0, "intent"] != theirs[0, "intent"]


def test_answers_of_unchanged_tasks_stay_known_across_releases(start, release, pinned, stored, branches, make_branch):
    observed = Observed()
    engine = start(observed)
    ask(engine, "hello").wait()
    other = stored({**branches, "intent": make_branch(pinned, depth=1, seed=9)})
    engine.swap(load_served_release(other, pinned.store, name="r2", form=CPU_FP32, previous=release))
    ask(engine, "hello").wait()
    assert observed.answers == {"intent": 2, "city": 2, "mood": 2}
    assert (observed.hits, observed.misses) == (2, 4)


def test_a_text_that_breaks_the_model_fails_alone(start, gate, release, monkeypatch):
    engine = start(cache_bytes=0)
    gate.hold(engine)
    decoded = type(release).decoded

    def breaking(served, task, outputs, texts, encoded):
        if "poison" in texts and task == "city":
            raise RuntimeError("no")
        return decoded(served, task, outputs, texts, encoded)

    monkeypatch.setattr(type(release), "decoded", breaking)
    good, bad, other = ask(engine, "hello"), ask(engine, "poison"), ask(engine, "new york", "york")
    gate.open()
    assert len(good.wait().by_text) == 3
    assert len(other.wait().by_text) == 6
    (error,) = bad.wait().errors
    assert isinstance(error, EngineFailed)
    assert "text 1: " in str(error)
    assert "RuntimeError" in str(error)
    assert ask(engine, "still here").wait().by_text


def test_a_listener_that_breaks_hurts_nobody(start):
    engine = start()

    def broken(_):
        raise RuntimeError("no")

    engine.ask([Text("hello")], None, timeout=30, on_answers=broken, on_end=broken)
    assert ask(engine, "hello again").wait().by_text


def test_closing_answers_what_was_taken_in_and_takes_nothing_new(start, gate):
    engine = start()
    first, second = gate.hold(engine), ask(engine, "hello")
    assert not engine.close(timeout=0.01)
    with pytest.raises(Stopping):
        ask(engine, "late")
    gate.open()
    assert engine.close(timeout=30)
    assert first.wait().by_text
    assert second.wait().by_text


def test_the_end_is_told_after_every_answer(start):
    """Two threads deliver to one request; the slower one must not be overtaken by the end."""
    slow, go_on = threading.Event(), threading.Event()

    class Slow(Observed):
        def answered(self, **_):
            if threading.current_thread() is threading.main_thread():  # of what the cache knows
                slow.set()
                assert go_on.wait(30)

    observed = Slow()
    engine = start(observed)
    ask(engine, "known", tasks=["intent"]).wait()
    listener, told = Listener(), []
    listener.on_answers = lambda answers: told.extend(one.task for one in answers)
    listener.on_end = lambda error: (told.append("end"), listener._ended.set())
    threading.Thread(target=lambda: (slow.wait(30), time.sleep(0.2), go_on.set()), daemon=True).start()
    engine.ask([Text("known")], ["intent", "mood"], timeout=30, on_answers=listener.on_answers, on_end=listener.on_end)
    assert listener._ended.wait(30)
    assert sorted(told[:2]) == ["intent", "mood"]
    assert told[2:] == ["end"]


def test_one_large_request_is_work_for_every_lane(start, release, monkeypatch):
    both = threading.Barrier(2)
    one_pass = release.model.one_pass

    def meets(encoded, rows):
        both.wait(30)  # breaks, and fails the batch, unless another lane computes at the same time
        return one_pass(encoded, rows)

    monkeypatch.setattr(release.model, "one_pass", meets)
    engine = start(lanes=2, batch_pieces=1, cache_bytes=0)
    assert len(ask(engine, "one", "two", tasks=["intent"]).wait().by_text) == 2


def test_a_list_of_texts_is_shared_out_among_idle_lanes(start, release, monkeypatch):
    taken, both = [], threading.Barrier(2)
    one_pass = release.model.one_pass

    def meets(encoded, rows):
        taken.append(len(encoded))
        both.wait(30)
        return one_pass(encoded, rows)

    monkeypatch.setattr(release.model, "one_pass", meets)
    engine = start(lanes=2, least_share=1, cache_bytes=0)
    eventually(lambda: engine.idle_lanes == 2, "two idle lanes")
    assert len(ask(engine, *["hello"] * 10, tasks=["intent"]).wait().by_text) == 10
    assert taken == [5, 5]


@pytest.mark.parametrize(
    ("lengths", "shares"),
    [
        ([10, 300, 300], [[10, 300], [300]]),
        ([20, 120, 120], [[20, 120], [120]]),
        ([300, 10], [[300], [10]]),
        ([900, 900, 900], [[900], [900], [900]]),
    ],
)
def test_shares_are_as_equal_as_texts_allow(lengths, shares):
    line = WaitingLine(10, lambda request: None, least_share=64)
    found = []
    lanes = [threading.Thread(target=lambda: found.append(line.take(1024))) for _ in shares]
    for lane in lanes:
        lane.start()
    eventually(lambda: line.idle_lanes == len(shares), "all lanes are idle")
    request = Request(None, 0.0, float("inf"), print, print)
    for number, length in enumerate(lengths):
        encoded = EncodedText((0,) * length, (0,) * length, (), (), 0)
        request.waiting.append(Question(request, number, "hello", b"", encoded, ["intent"]))
    line.add(request)
    for lane in lanes:
        lane.join(30)
    taken = [[len(question.encoded.input_ids) for question in batch] for batch in found]
    assert sorted(taken) == sorted(shares)


def test_a_few_pieces_are_one_batch_whoever_is_idle(start):
    observed = Observed()
    engine = start(observed, lanes=2, cache_bytes=0)
    eventually(lambda: engine.idle_lanes == 2, "two idle lanes")
    ask(engine, "hello", "hello").wait()
    assert engine.close(timeout=30)
    assert [texts for texts, _, _ in observed.batches] == [2]


def test_several_large_requests_do_not_starve_a_small_one(start, gate):
    engine = start(batch_pieces=1, cache_bytes=0)
    gate.hold(engine)
    large = [ask(engine, *(f"large {number}" for number in range(20))) for _ in range(2)]
    small = ask(engine, "small")
    gate.open()
    ended = small.wait().ended_at
    assert all(ended < one.wait().ended_at for one in large)


@pytest.mark.parametrize("asked", [([], None), ([Text("hello")], [])])
def test_nothing_asked_is_refused(start, asked):
    with pytest.raises(UsageError, match="nothing is asked"):
        start().ask(*asked, timeout=1, on_answers=lambda _: None, on_end=lambda _: None)


def test_an_observer_that_breaks_hurts_nobody(start):
    class Broken:
        def __getattr__(self, name):
            def break_(**_):
                raise RuntimeError(name)

            return break_

    engine = start(Broken())
    assert len(ask(engine, "hello").wait().by_text) == 3
    assert len(ask(engine, "hello", "again").wait().by_text) == 6


def test_many_threads_get_their_own_answers(start):
    engine = start(lanes=2, batch_pieces=64, cache_bytes=0)
    alone = {text: ask(engine, text).wait().by_text for text in TEXTS}
    problems = []

    def client(number):
        for turn in range(5):
            texts = [TEXTS[(number + turn + place) % len(TEXTS)] for place in range(3)]
            for (place, task), answer in ask(engine, *texts).wait().by_text.items():
                if answer.model_dump() != approximately(alone[texts[place]][0, task].model_dump()):
                    problems.append((texts[place], task))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
