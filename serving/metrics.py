"""What the server counts, for Prometheus: seconds, bytes and counts, in a registry of its own."""

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from serving.engine import Engine

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Told by the engine (an `EngineObserver`), by the routes and by the follower of a channel."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        counter = partial(Counter, namespace="trunkline", registry=self.registry)
        gauge = partial(Gauge, namespace="trunkline", registry=self.registry)
        histogram = partial(Histogram, namespace="trunkline", registry=self.registry)
        self._requests = counter("requests", "HTTP requests by route and status.", ["route", "status"])
        self._errors = counter("errors", "HTTP requests that ended with 400 or more.", ["route", "status"])
        self._request_seconds = histogram(
            "request_seconds", "From a request's head to the end of its answer.", ["route"], buckets=SECONDS
        )
        self._stage_seconds = histogram(
            "stage_seconds",
            "Of requests for answers: making tokens, the wait of a request's texts for a batch, a batch's computation, "
            "a request from end to end.",
            ["stage"],
            buckets=SECONDS,
        )
        self._tokenise_seconds, self._queue_seconds, self._compute_seconds, self._total_seconds = (
            self._stage_seconds.labels(stage) for stage in ("tokenise", "queue", "compute", "total")
        )
        self._task_seconds = histogram(
            "task_seconds", "From a request's arrival in the engine to a task's answers.", ["task"], buckets=SECONDS
        )
        self._answers = counter(
            "answers",
            "Answers computed, or found in the cache, for a request that waited; it may have ended before it got them.",
            ["task", "version"],
        )
        self._batch_texts = histogram("batch_texts", "Texts in a batch.", buckets=TEXTS)
        self._batch_tokens = histogram("batch_tokens", "Tokens of texts in a batch.", buckets=TOKENS)
        self._text_tokens = counter("text_tokens", "Tokens of texts that were computed.")
        self._padding_tokens = counter(
            "padding_tokens", "Places of attention's blocks that no token filled, as batches were first laid out."
        )
        self._hits = counter("cache_hits", "Answers found in the cache.")
        self._misses = counter("cache_misses", "Answers looked for in the cache and not found.")
        self._swaps = counter("swaps", "Releases taken over from a channel while serving.", ["result"])
        self._in_flight = gauge("requests_in_flight", "HTTP requests being answered.")
        for result in ("done", "failed"):
            self._swaps.labels(result)

    def batch(self, *, texts: int, tokens: int, padding: int, seconds: float) -> None:
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)
        self._text_tokens.inc(tokens)
        self._padding_tokens.inc(padding)
        self._compute_seconds.observe(seconds)

    def tokenised(self, *, texts: int, seconds: float) -> None:  # noqa: ARG002 - a request's texts, all at once
        self._tokenise_seconds.observe(seconds)

    def waited(self, *, texts: int, seconds: float) -> None:  # noqa: ARG002 - a batch's texts waited together
        self._queue_seconds.observe(seconds)

    def answered(self, *, task: str, version: int, answers: int, seconds: float) -> None:
        self._task_seconds.labels(task).observe(seconds)
        self._answers.labels(task, version).inc(answers)

    def looked_up(self, *, hits: int, misses: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)

    def request(self, *, route: str, status: int, seconds: float, asked: bool) -> None:
        """A request has ended; `asked`: the engine took it in."""
        self._requests.labels(route, status).inc()
        if status >= 400:
            self._errors.labels(route, status).inc()
        self._request_seconds.labels(route).observe(seconds)
        if asked:
            self._total_seconds.observe(seconds)

    def swap(self, *, done: bool) -> None:
        self._swaps.labels("done" if done else "failed").inc()

    def watch(self, engine: Engine) -> None:
        """From now on shows what this engine holds."""
        self.registry.register(_EngineState(engine))

    def exposition(self, *, in_flight: int) -> bytes:
        """All of it in Prometheus's text format."""
        self._in_flight.set(in_flight)
        return generate_latest(self.registry)


class _EngineState(Collector):
    """Read when somebody looks, so that it never lags behind a swap."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("trunkline_queue_texts", "Texts waiting for a batch.", value=self._engine.waiting)
        yield GaugeMetricFamily("trunkline_lanes_idle", "Lanes with nothing to do.", value=self._engine.idle_lanes)
        cache = self._engine.cache
        yield GaugeMetricFamily("trunkline_cache_bytes", "Memory of cached answers, as estimated.", value=cache.size)
        yield GaugeMetricFamily("trunkline_cache_entries", "Answers in the cache.", value=len(cache))
        release = self._engine.release
        yield InfoMetricFamily(
            "trunkline_release",
            "What new requests are answered by.",
            value={"release": release.name, "digest": release.digest, "precision": release.precision},
        )
