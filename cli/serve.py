"""`serve`: answer over HTTP."""

import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cli.application import AsJson, Context, example
from cli.cores import own_cores
from cli.progress import progress_bar
from cli.release_source import FromRoot, ReleaseSource, release_source
from cli.rendering import print_json, print_line
from registry.artifacts.store import ArtifactStore
from registry.errors import UsageError
from registry.services import channels

if TYPE_CHECKING:
    from modeling.inference import Form
    from serving.channel_following import ChannelFollower
    from serving.engine import Engine, EngineSettings
    from serving.http.limits import Limits
    from serving.metrics import ServerMetrics
    from serving.served_release import ServedRelease

app = typer.Typer()

_MEGABYTE = 1_000_000
_LAST_WORK_SECONDS = 10.0
"""For what is being loaded, and for the batch that is being computed: the interpreter must not go from under them."""


@app.command(
    epilog=example(
        "trunkline serve r3",
        "trunkline serve --channel production --host 0.0.0.0 --port 8080",
        "trunkline serve r3 --estimate",
        "trunkline serve --from /srv/releases $DIGEST --long-texts refuse --timeout 2",
        then='curl localhost:8080/predict -d \'{"text": "Shares in Boeing fell on Monday."}\'',
    )
)
def serve(
    ctx: typer.Context,
    release: Annotated[
        str | None, typer.Argument(help="r<number>, latest, or the start of a manifest's digest.")
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="CHANNEL", help="Serve what is live on this channel, and follow it: what is promoted takes over."
        ),
    ] = None,
    root: FromRoot = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="The port to listen on; 0 takes any free one.")
    ] = 8080,
    model_name: Annotated[
        str, typer.Option(metavar="NAME", help="What the Open Inference Protocol calls the model.")
    ] = "trunkline",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="To compute in; auto is bf16 where the hardware multiplies faster in it, else fp32."),
    ] = "auto",
    lanes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Batches computed at once. [default: 2; 1 on one core or a GPU]"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of each lane. [default: an equal share of the cores]")
    ] = None,
    batch_pieces: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Most tokens of a batch; in larger ones texts wait longer for each other."
        ),
    ] = 1024,
    cache_mb: Annotated[
        int, typer.Option(metavar="MB", min=0, help="Memory for answers that were given before; 0 keeps none.")
    ] = 64,
    queue_texts: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Texts that may wait; a request that has no room is told when to come back."
        ),
    ] = 4096,
    max_texts: Annotated[int, typer.Option(metavar="N", min=1, help="Texts in one request.")] = 1024,
    max_body_mb: Annotated[float, typer.Option(metavar="MB", min=0.001, help="Size of a request's body.")] = 16.0,
    max_characters: Annotated[int, typer.Option(metavar="N", min=1, help="Characters of one text.")] = 100_000,
    long_texts: Annotated[
        Literal["truncate", "refuse"],
        typer.Option(
            help="What happens to a text of more tokens than the backbone reads: its end is not read, or it is refused."
        ),
    ] = "truncate",
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            help="Seconds until a request is answered; a request may ask for less.",
        ),
    ] = 30.0,
    drain_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="At the end, seconds for answering what was taken in."),
    ] = 30.0,
    poll_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds between two looks at the channel.")
    ] = 5.0,
    only_estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure what the machine bears, what each task costs of it, and end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer over HTTP: plain JSON, and the Open Inference Protocol.

    Prints one line when requests are taken, then writes its log to stderr, a line of JSON a request. SIGTERM and
    Ctrl-C end it: it is no longer ready, answers what it has taken in, and exits with 0.
    """
    context: Context = ctx.obj
    if not all(map(math.isfinite, (timeout, drain_seconds, poll_seconds, max_body_mb))):
        raise UsageError("seconds and megabytes are finite numbers")
    if max_texts > queue_texts:
        raise UsageError(
            f"a request of {max_texts:,} texts would never find room in a queue of {queue_texts:,}: "
            "lower --max-texts or raise --queue-texts"
        )
    source = _source(context, release, channel, root)

    from serving.engine import EngineSettings
    from serving.http.limits import Limits
    from serving.http.server import bound_socket

    form = _form(precision)
    load = _loader(source.store, form)
    settings = EngineSettings(
        **_use_of_cores(lanes, threads, form.device.type),
        batch_pieces=batch_pieces,
        waiting_texts=queue_texts,
        cache_bytes=cache_mb * _MEGABYTE,
    )
    if only_estimate:
        _estimate(load(source.name, source.digest, None), source.store, settings, as_json=as_json)
        return
    limits = Limits(
        texts=max_texts,
        characters=max_characters,
        body_bytes=int(max_body_mb * _MEGABYTE),
        refuse_long_texts=long_texts == "refuse",
        seconds=timeout,
    )
    _answer(
        bound_socket(host, port),
        partial(load, source.name, source.digest, None),
        settings,
        limits,
        follow=None if channel is None else partial(_follower, context, channel, load, poll_seconds),
        environ=context.environ,
        model_name=model_name,
        drain_seconds=drain_seconds,
        as_json=as_json,
    )


def _answer(
    listening: socket.socket,
    load_first: "Callable[[], ServedRelease]",
    settings: "EngineSettings",
    limits: "Limits",
    *,
    follow: "Callable[[Engine, ServerMetrics], ChannelFollower] | None",
    environ: Mapping[str, str],
    model_name: str,
    drain_seconds: float,
    as_json: bool,
) -> None:
    """Answers until a signal ends it, and leaves when nothing of it works any more."""
    from serving.engine import Engine
    from serving.http.application import build_application
    from serving.http.lifecycle import Lifecycle
    from serving.http.server import DrainingServer, url_of
    from serving.http.service import Service
    from serving.metrics import ServerMetrics
    from serving.structured_logs import write_logs_to
    from serving.tracing import tracer_provider

    metrics, lifecycle, spans = ServerMetrics(), Lifecycle(), tracer_provider(environ)
    engine = Engine(load_first(), settings, metrics)  # the release is the engine's alone: after a swap it is to go
    write_logs_to(sys.stderr)
    metrics.watch(engine)
    follower = None if follow is None else follow(engine, metrics)
    if follower is not None:
        follower.start()
    service = Service(
        engine=engine,
        metrics=metrics,
        lifecycle=lifecycle,
        limits=limits,
        model_name=model_name,
        follower=follower,
    )
    server = DrainingServer(
        build_application(service, spans),
        lifecycle,
        drain_seconds=drain_seconds,
        on_start=lambda: _announce(url_of(listening), engine.release, as_json=as_json),
        on_drain=lambda: None if follower is None else follower.stop(),
        on_second_signal=_leave_at_once,
    )
    with _later_signals_leave_at_once():
        server.run(sockets=[listening])
        if follower is not None:
            follower.join(timeout=_LAST_WORK_SECONDS)
        engine.close(timeout=_LAST_WORK_SECONDS)
    if spans is not None:
        spans.shutdown()


@contextmanager
def _later_signals_leave_at_once() -> Iterator[None]:
    """What the server puts back once it has drained: a second signal may come while its threads are waited for."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield
        return
    before = {
        number: signal.signal(number, lambda heard, _: _leave_at_once(heard))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once(number: int) -> NoReturn:
    """Ends the process as the signal would: a tidy end waits for every thread that computes."""
    os._exit(128 + number)


def _estimate(measured: "ServedRelease", store: ArtifactStore, settings: "EngineSettings", *, as_json: bool) -> None:
    from cli.serving_estimate import show_estimate
    from serving.estimate import estimate

    with progress_bar() as report:
        found = estimate(measured, store, settings, report)
    show_estimate(measured, found, as_json=as_json)


def _source(context: Context, reference: str | None, channel: str | None, root: str | None) -> ReleaseSource:
    if reference is not None and channel is None:
        return release_source(context, reference, root)
    if channel is None or reference is not None:
        raise UsageError("name either a RELEASE or a --channel")
    if root is not None:
        raise UsageError("with --from, name the release by the whole digest of its manifest: no channel is known there")
    return ReleaseSource(*_live(context, channel), context.store)


def _follower(
    context: Context,
    channel: str,
    load: "Callable[[str, str, ServedRelease | None], ServedRelease]",
    poll_seconds: float,
    engine: "Engine",
    metrics: "ServerMetrics",
) -> "ChannelFollower":
    from serving.channel_following import ChannelFollower

    live = partial(_live, context, channel)
    return ChannelFollower(channel, engine, metrics, current=live, load=load, poll_seconds=poll_seconds)


def _live(context: Context, channel: str) -> tuple[str, str]:
    with context.database.read() as session:
        found = channels.live_release(session, channel)
    return found.name, found.manifest


def _use_of_cores(lanes: int | None, threads: int | None, device: str) -> dict[str, int]:
    """Lanes, and threads of each: on two cores two lanes bear more than one on both (docs/serving_speed.md)."""
    cores = own_cores()
    lanes = lanes or (min(2, cores) if device == "cpu" else 1)
    return {"lanes": lanes, "threads": threads or max(1, cores // lanes)}


def _form(precision: Literal["auto", "fp32", "bf16", "fp16"]) -> "Form":
    import torch

    from modeling.inference import Form
    from modeling.precision import best_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Form(best_precision(device) if precision == "auto" else precision, device)


def _loader(store: ArtifactStore, form: "Form") -> "Callable[[str, str, ServedRelease | None], ServedRelease]":
    """Loads a release by name and digest, beside the one that it is to replace."""
    from serving.release_loading import load_served_release

    return lambda name, digest, previous: load_served_release(digest, store, name=name, form=form, previous=previous)


def _announce(url: str, release: "ServedRelease", *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "release": release.name, "digest": release.digest, "precision": release.precision})
    else:
        print_line(f"serving {release.name} in {release.precision} on {url}")
    sys.stdout.flush()  # who waits for this line may read a pipe
