import itertools
import threading

import pytest

from registry.errors import GateFailed, StorageError
from serving.channel_following import LONGEST_PAUSE, ChannelFollower
from serving.engine import Engine
from serving.metrics import ServerMetrics
from serving.release_loading import load_served_release
from tests.serving.conftest import CPU_FP32, ask


class Channel:
    """What is live, and what comes of reading and loading it."""

    def __init__(self, pinned, live):
        self.live = live
        self.reading_fails_with = None
        self.loading_fails_with = None
        self.loaded = []
        self._store = pinned.store

    def current(self):
        if self.reading_fails_with is not None:
            raise self.reading_fails_with
        return self.live

    def load(self, name, digest, previous):
        self.loaded.append((name, previous.name))
        if self.loading_fails_with is not None:
            raise self.loading_fails_with
        return load_served_release(digest, self._store, name=name, form=CPU_FP32, previous=previous)


@pytest.fixture
def engine(release):
    engine = Engine(release)
    yield engine
    assert engine.close(timeout=30)


@pytest.fixture
def channel(pinned, release):
    return Channel(pinned, ("r1", release.digest))


@pytest.fixture
def metrics():
    return ServerMetrics()


@pytest.fixture
def follower(channel, engine, metrics):
    return ChannelFollower("production", engine, metrics, current=channel.current, load=channel.load, poll_seconds=10.0)


@pytest.fixture
def second(stored, branches):
    """Another release to promote: without `mood`."""
    return ("r2", stored({task: branch for task, branch in branches.items() if task != "mood"}))


def swaps(metrics, result):
    return metrics.registry.get_sample_value("trunkline_swaps_total", {"result": result})


def test_nothing_is_loaded_while_the_channel_stays(follower, channel):
    follower.look()
    follower.look()
    assert (channel.loaded, follower.failure) == ([], None)


def test_what_is_promoted_answers_from_then_on(follower, channel, engine, metrics, second):
    channel.live = second
    follower.look()
    assert (engine.release.name, engine.release.digest) == second
    assert channel.loaded == [("r2", "r1")]
    assert {task for _, task in ask(engine, "hello").wait().by_text} == {"city", "intent"}
    follower.look()
    assert swaps(metrics, "done") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [(GateFailed("r2 does not give its golden answers"), "golden"), (ValueError("secret"), "ValueError")],
)
def test_a_release_that_cannot_be_loaded_leaves_the_old_one_and_is_shown(
    follower, channel, engine, metrics, second, error, said
):
    channel.live, channel.loading_fails_with = second, error
    follower.look()
    assert engine.release.name == "r1"
    assert (follower.failure.release, follower.failure.digest, follower.failure.attempts) == (*second, 1)
    assert said in follower.failure.error
    assert "secret" not in follower.failure.error
    assert swaps(metrics, "failed") == 1


def test_it_is_tried_again_after_ever_longer_pauses(follower, channel, engine, second):
    channel.live, channel.loading_fails_with = second, OSError("disk")
    tried = []
    for look in range(200):
        before = len(channel.loaded)
        follower.look()
        if len(channel.loaded) > before:
            tried.append(look)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert max(pauses) <= LONGEST_PAUSE / 10.0 + 1
    channel.loading_fails_with = None
    for _ in range(int(LONGEST_PAUSE / 10.0) + 1):
        follower.look()
    assert (engine.release.name, follower.failure) == ("r2", None)


def test_another_promotion_is_tried_at_once_whatever_failed_before(follower, channel, engine, second, stored, branches):
    channel.live, channel.loading_fails_with = second, OSError("disk")
    follower.look()
    third = ("r3", stored({"intent": branches["intent"]}))
    channel.live, channel.loading_fails_with = third, None
    follower.look()
    assert (engine.release.name, follower.failure) == ("r3", None)


def test_a_promotion_that_is_taken_back_leaves_no_failure(follower, channel, engine, release, second):
    channel.live, channel.loading_fails_with = second, OSError("disk")
    follower.look()
    channel.live = ("r1", release.digest)
    follower.look()
    assert (engine.release.name, follower.failure) == ("r1", None)


def test_a_registry_that_is_away_changes_nothing_and_is_logged_once(follower, channel, engine, second, caplog):
    channel.reading_fails_with = StorageError("the database cannot be reached")
    for _ in range(3):
        follower.look()
    assert (engine.release.name, follower.registry_error) == ("r1", "the database cannot be reached")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    channel.reading_fails_with, channel.live = None, second
    follower.look()
    assert (engine.release.name, follower.registry_error) == ("r2", None)


def test_it_looks_by_itself_until_it_is_stopped(channel, engine, metrics, second):
    swapped = threading.Event()
    load = channel.load

    def loading(*arguments):
        swapped.set()
        return load(*arguments)

    follower = ChannelFollower("production", engine, metrics, current=channel.current, load=loading, poll_seconds=0.01)
    follower.start()
    channel.live = second
    assert swapped.wait(30)
    follower.stop()
    follower.join(timeout=30)
    assert not any(thread.name == "channel-follower" for thread in threading.enumerate())
    looked = len(channel.loaded)
    channel.live = ("r3", "0" * 64)
    assert looked == len(channel.loaded) == 1


def test_a_release_that_is_loaded_after_the_end_is_not_taken_over(follower, channel, engine, second):
    channel.live = second
    follower.stop()
    follower.look()
    assert engine.release.name == "r1"
