"""What the serving benchmarks ask, of whom, and how they count it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_side import load_served
from floor import layer_operations, own_products, peak
from generators import by_locust
from lanes import rates_by_way
from layers import BATCHES, BLOCK_WIDTHS, attention, last_layers, products, rates_in_turn, shares
from lists import NEVER, seconds_by_share
from load import Load, poisson, questions, saturated
from peer_server import Batcher, _Asked
from peers import Way, load_peer, padded
from segments import OnnxSegment, OwnSegment, compared, drawn_rows, largest_difference
from setting import MIXED, Encoder, Setting
from texts import mixed, uniform
from throughput import best_peer, connections_missing, ratios, texts_missing

from modeling.inference import Form
from serving.release_loading import load_served_release

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "serving"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.open(tmp_path_factory.mktemp("setting"), None, Encoder(layers=12, width=64))


def test_the_release_is_the_papers_mixed_layout_and_gives_its_golden_answers(setting: Setting) -> None:
    digest = setting.release(MIXED)
    manifest = setting.manifest(digest)
    assert (manifest.layers_in_use, manifest.layers_if_separate) == (33, 96)
    assert [(one.frozen_depth, one.task_layers) for one in manifest.tasks.values()] == list(MIXED)
    form = Form("fp32", torch.device("cpu"))
    assert load_served_release(digest, setting.store, name="r1", form=form).digest == digest
    assert Setting.open(setting.home, None).release(MIXED) == digest


def test_separate_releases_hold_the_same_modules_as_the_one_that_shares_nothing(setting: Setting) -> None:
    together = setting.manifest(setting.separate_release(2))
    apart = [setting.manifest(digest) for digest in setting.one_task_releases(2)]
    assert together.layers_in_use == 24
    assert [one.module for one in together.tasks.values()] == [
        branch.module for one in apart for branch in one.tasks.values()
    ]


def test_ways_are_measured_in_turn() -> None:
    order = []
    ways = [(lambda: order.append("one"), 1.0), (lambda: order.append("other"), 2.0)]
    one, other = rates_in_turn(ways, rounds=2)
    assert len(one) == len(other) == 2
    begins = [name for number, name in enumerate(order) if number == 0 or order[number - 1] != name]
    assert begins == ["one", "other"] * 3  # a warm-up and two rounds


def test_the_own_products_are_those_that_a_layers_operations_count() -> None:
    multiplied = sum(2 * inputs * outputs for inputs, outputs in own_products(64))
    attention = 4 * 64
    assert layer_operations(64, 1) == multiplied + attention
    assert peak(own_products(64), "fp32", lanes=2, threads=1) > 0


def test_a_layer_is_measured_beside_its_peak(setting: Setting) -> None:
    assert len(shares(setting, "fp32", rounds=1)) == len(BATCHES)
    assert len(last_layers(setting, "fp32", rounds=1)) == len(BATCHES)
    assert products(64, ["fp32", "bf16"], rounds=1).row_count == 5
    assert attention(64, 4, ["fp32", "bf16"], rounds=1).row_count == len(BLOCK_WIDTHS)


def test_a_segment_of_the_trunk_is_measured_beside_the_same_by_onnx_runtime(setting: Setting) -> None:
    assert len(compared(setting, 2, rounds=1)) == len(BATCHES)
    theirs, rows = OnnxSegment(setting, 2), drawn_rows([5, 9])
    assert largest_difference(OwnSegment(setting, 2), theirs, rows) < 1e-5
    assert largest_difference(OwnSegment(setting, 3), theirs, rows) > 1e-2


def test_every_way_to_use_the_cores_is_measured_in_every_round(setting: Setting) -> None:
    release = load_served(setting, setting.release(MIXED), "fp32")
    ways = [Way(2, 1, 256), Way(1, 2, 64)]
    rates = rates_by_way(release, uniform(setting.text_encoder, 8).texts, ways, rounds=2)
    assert list(rates) == ways
    assert all(len(found) == 2 and min(found) > 0 for found in rates.values())


@pytest.mark.parametrize("behind", [False, True])
def test_a_list_is_measured_with_every_least_share_in_every_round(setting: Setting, behind: bool) -> None:
    release = load_served(setting, setting.release(MIXED), "fp32")
    texts = uniform(setting.text_encoder, 8).texts
    how = {"way": Way(2, 1, 256), "shares": [NEVER, 16], "counts": [1, 4], "rounds": 2}
    found = seconds_by_share(release, texts, **how, behind=behind)
    assert {count: {*by_share} for count, by_share in found.items()} == {1: {NEVER, 16}, 4: {NEVER, 16}}
    assert all(len(seconds) == 2 and min(seconds) > 0 for of_one in found.values() for seconds in of_one.values())


def test_texts_have_the_lengths_that_they_are_said_to_have(setting: Setting) -> None:
    same = uniform(setting.text_encoder, 20)
    assert set(same.lengths) == {32}
    assert len(set(same.texts)) == 20
    different = mixed(setting.text_encoder, 20, None)
    assert len(set(different.lengths)) > 5
    assert different.texts == mixed(setting.text_encoder, 20, None).texts


def test_rows_are_padded_to_the_longest() -> None:
    ids, mask = padded([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("onnx-fp32", 1e-5), ("torch-bf16", 0.05), ("onnx-int8", 0.1)])
def test_peers_answer_as_transformers_does(setting: Setting, name: str, tolerance: float) -> None:
    rows = [[101, 2054, 2003, 102], [101, 2003, 102], [101] * 20]
    reference = load_peer("torch-fp32", setting, threads=1, tasks=3, copies=2)
    peer = load_peer(name, setting, threads=1, tasks=3, copies=2)
    for task in range(3):
        expected = reference.answer(task, rows)
        assert expected.shape == (3, (2, 3, 5)[task])
        np.testing.assert_allclose(peer.answer(task, rows), expected, atol=tolerance)
        # Padding of other rows changes nothing.
        np.testing.assert_allclose(reference.answer(task, rows[1:2]), expected[1:2], atol=1e-5)


class _Counting:
    """A peer that answers each row with its length and keeps the sizes of its batches."""

    tasks = 2

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []
        self.free = threading.Event()

    def answer(self, task: int, rows: Sequence[Sequence[int]]) -> np.ndarray:
        self.free.wait(10)
        self.batches.append((task, [len(row) for row in rows]))
        return np.array([[task, len(row)] for row in rows], dtype=np.float32)


def test_what_waits_is_answered_in_batches_of_similar_lengths_and_each_asker_gets_its_own() -> None:
    peer = _Counting()
    batcher = Batcher(peer, Way(lanes=1, threads=1, budget=64), window=10_000)
    answered: dict[int, list[float]] = {}
    all_there = threading.Event()

    def ask(length: int) -> None:
        def done(outputs: Sequence[np.ndarray]) -> None:
            answered[length] = [float(one[1]) for one in outputs]
            if len(answered) == 5:
                all_there.set()

        batcher.ask(_Asked([7] * length, (0, 1), done))

    ask(1)  # occupies the worker until the others wait
    time.sleep(0.1)
    for length in (30, 4, 31, 5):
        ask(length)
    peer.free.set()
    assert all_there.wait(10)
    assert answered == {length: [length, length] for length in (1, 30, 4, 31, 5)}
    assert [lengths for task, lengths in peer.batches if task == 1] == [[1], [4, 5], [30, 31]]


class _Slow(BaseHTTPRequestHandler):
    """Answers 200, and 500 to what asks for it; the first request of all waits."""

    protocol_version = "HTTP/1.1"
    stall = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.stall.is_set():
            self.stall.set()
            time.sleep(0.5)
        self.send_response(500 if b"fail" in body else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    _Slow.stall.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_every_question_is_counted_once_and_failures_apart(server: str) -> None:
    asked = questions(["one", "fail", "two"], ["a", "b"])
    assert [[request.path for request in question] for question in asked] == [["/predict/a", "/predict/b"]] * 3
    load = saturated(server, asked, connections=2, seconds=0.5, warm_up=0.6)
    assert load.answered == len(load.last) == len(load.first) > 0
    assert load.errors > 0
    assert all(first <= last for first, last in zip(load.first, load.last, strict=True))


def test_a_server_that_stops_does_not_slow_down_who_measures_it(server: str) -> None:
    load = poisson(server, questions(["one"]), rate=100, seconds=1.0, warm_up=0.0)
    assert load.errors == 0
    assert max(load.last) > 0.4
    # While the first question waits, others are sent: they are meant to be sent whatever the server does.
    assert load.answered > 60


def test_no_answer_has_no_percentile() -> None:
    assert all(np.isnan(Load(1.0, 0, 3, (), ()).percentiles()))


def test_ratios_are_those_of_one_round() -> None:
    rates = {"ours fp32": [30.0, 60.0], "onnx-fp32, at once": [10.0, 15.0], "torch-fp32, at once": [20.0, 10.0]}
    assert ratios(rates, "ours fp32", "onnx-fp32, at once") == (3.5, 3.0, 4.0)
    assert ratios(rates, "ours fp32", "apart fp32") is None
    assert best_peer(rates, "fp32") == "torch-fp32, at once"
    assert best_peer(rates, "int8") is None


def run(name: str, setting: Setting, *options: str) -> str:
    """What the benchmark prints, as markdown."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--home", str(setting.home), "--markdown", *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_comparison_runs_whole(setting: Setting) -> None:
    printed = run("throughput.py", setting, "--quick")
    for part in ("engine", "HTTP"):
        assert f"\n{part}, mixed lengths: ratios:" in printed
    assert printed.count("| sharing, same kernels | ours fp32 | apart fp32 |") == 2
    assert printed.count("| over all, best peer | ours fp32 | onnx-fp32") == 2
    assert "| onnx-fp32, one a task |" in printed


@pytest.mark.slow
def test_growth_is_told_for_each_number_of_tasks(setting: Setting) -> None:
    options = ["--tasks", "1,4", "--width", "64", "--texts", "16", "--budgets", "512", "--rounds", "1"]
    printed = run("growth.py", setting, *options)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "onnx-fp32" in line]
    assert [row[:3] for row in rows] == [["1", "5", "12"], ["4", "19", "48"]]
    assert all(int(row[3]) > 0 for row in rows)


def test_what_locust_tells_is_read(tmp_path: Path) -> None:
    told = [
        {
            "num_requests": 22,
            "num_failures": 2,
            "start_time": 100.0,
            "last_request_timestamp": 104.0,
            "response_times": {"10": 20, "500": 2},
        }
    ]
    script = tmp_path / "locust"
    script.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    script.chmod(0o700)
    found = by_locust(str(script), "http://127.0.0.1:1", ["hello"], open_requests=2, seconds=4.0)
    assert (found.rate, found.errors, found.percentiles[0]) == (5.0, 2, 0.01)
    script.write_text("#!/bin/sh\necho 'no such file' >&2; exit 1\n")
    with pytest.raises(RuntimeError, match="locust ended with 1"):
        by_locust(str(script), "http://127.0.0.1:1", ["hello"], open_requests=2, seconds=4.0)


@pytest.mark.slow
def test_generators_of_load_ask_one_server_in_turn(setting: Setting) -> None:
    options = ["--width", "64", "--texts", "16", "--seconds", "1", "--rounds", "1", "--open", "4"]
    printed = run("generators.py", setting, *options)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    found = {row[0]: row for row in rows}
    for name in ("own", "tritonclient"):
        assert float(found[name][1]) > 0
        assert found[name][4] == "0"


def test_a_sweep_needs_a_few_batches_of_the_largest_size_for_each_lane() -> None:
    tried = [Way(1, 2, 256), Way(2, 1, 1024)]
    assert texts_missing([32] * 192, tried) == 0
    assert texts_missing([32] * 191, tried) == 1
    assert texts_missing([32] * 48, tried) == 144


def test_lanes_stay_full_with_twice_their_batches_open() -> None:
    assert connections_missing([32] * 192, Way(2, 1, 1024), 64) == 64
    assert connections_missing([32] * 192, Way(2, 1, 1024), 128) == 0
    assert connections_missing([32] * 192, Way(1, 2, 256), 64) == 0
