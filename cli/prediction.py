"""`predict`: ask a release."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.application import Context, example
from cli.progress import progress_bar
from cli.release_source import FromRoot, release_source
from cli.rendering import print_line, print_table, print_warning
from registry.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from modeling.decoding import Answer
    from serving.loaded_release import Prediction
    from serving.questions import Text

app = typer.Typer()


@app.command(
    epilog=example(
        'trunkline predict r1 "Shares in Boeing fell on Monday."',
        "trunkline predict latest --tasks rte --pair 'It rained.' 'The streets were wet all day.'",
        "trunkline predict r1 --input texts.jsonl --json",
        "trunkline predict --from /srv/releases $DIGEST 'Shares in Boeing fell on Monday.'",
    )
)
def predict(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="r<number>, latest, or the start of a manifest's digest.")],
    text: Annotated[str | None, typer.Argument(help="The text.")] = None,
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The second text, for tasks that read pairs.")
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A text a line, or rows with text and text_pair (.jsonl, .csv, .tsv, .gz, .parquet); - is stdin.",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these tasks. [default: all that can read it]")
    ] = None,
    root: FromRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines: one object a text.")] = False,
) -> None:
    """Answer every task of a release, or some, in one pass over each text."""
    context: Context = ctx.obj
    wanted = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    if wanted == []:
        raise UsageError("--tasks names no task; leave it out for all")
    texts = _asked_texts(text, pair, input_file, context.cwd)
    source = release_source(context, release, root)

    from serving.loaded_release import load_release
    from serving.questions import Text

    asked = [Text(*one) for one in texts]
    loaded = load_release(source.digest, source.store)
    with progress_bar(beside_answers=True) as report:
        predictions = loaded.predictions(asked, wanted, report)
        for number, (one, prediction) in enumerate(zip(asked, predictions, strict=True), 1):
            if as_json:
                _print_json_line(one, prediction)
            else:
                _print_tables(number, one, prediction, loaded.manifest.trunk.max_length)


def _asked_texts(
    text: str | None, pair: str | None, input_file: Path | None, folder: Path
) -> list[tuple[str, str | None]]:
    if input_file is None and text is not None:
        return [(text, pair)]
    if input_file is None or text is not None:
        raise UsageError("give either a TEXT or --input FILE")
    if pair is not None:
        raise UsageError('--pair goes with a TEXT; in a file, write {"text": …, "text_pair": …} a line')
    return _read_texts(input_file, folder)


def _read_texts(path: Path, folder: Path) -> list[tuple[str, str | None]]:
    """Rows of a table by the file's name, else a text a line; standard input is JSON Lines if it begins so."""
    from pipelines.data.rows import is_table, json_rows, place_word, read_rows, text_lines

    subject = "input standard input" if str(path) == "-" else f"input {path}"
    try:
        if str(path) != "-" and is_table(path):
            rows = list(read_rows(folder / path, ("text", "text_pair")))
        else:
            lines = text_lines(sys.stdin.buffer if str(path) == "-" else folder / path)
            filled = [(number, line.rstrip("\r\n")) for number, line in lines if line.strip()]
            if str(path) != "-" or not filled or not filled[0][1].lstrip().startswith("{"):
                if not filled:
                    raise InvalidInput(subject, ["holds no text"])
                return [(line, None) for _, line in filled]
            rows = list(json_rows(filled))
    except InvalidInput as error:
        raise InvalidInput(subject, error.problems) from None
    if not rows:
        raise InvalidInput(subject, ["holds no text"])
    if problems := [
        f"{place_word(path)} {row.number}: {problem}" for row in rows if (problem := _row_problem(row.values))
    ]:
        raise InvalidInput(subject, problems)
    return [(row.values["text"], row.values.get("text_pair")) for row in rows]


def _row_problem(row: dict[str, Any]) -> str | None:
    parts = [row.get("text"), *([] if row.get("text_pair") is None else [row["text_pair"]])]
    if all(isinstance(part, str) and part.strip() for part in parts):
        return None
    return 'needs a "text" and, for pairs, a "text_pair", neither of them empty'


def _print_tables(number: int, text: "Text", prediction: "Prediction", max_length: int) -> None:
    print_line(("" if number == 1 else "\n") + text.text + (f"  |  {text.text_pair}" if text.text_pair else ""))
    print_table(["task", "answer"], [(task, _described(answer)) for task, answer in prediction.answers.items()])
    if prediction.truncated:
        print_warning(f"text {number} is longer than {max_length} tokens: its end was not read")


def _print_json_line(text: "Text", prediction: "Prediction") -> None:
    row: dict[str, Any] = {"text": text.text}
    if text.text_pair is not None:
        row["text_pair"] = text.text_pair
    row["truncated"] = prediction.truncated
    row["answers"] = {task: answer.model_dump(mode="json") for task, answer in prediction.answers.items()}
    sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _described(answer: "Answer") -> str:
    from modeling.decoding import LabelAnswer, NumberAnswer, SpansAnswer

    match answer:
        case LabelAnswer():
            return f"{answer.label} ({answer.probability:.0%})"
        case NumberAnswer():
            return f"{answer.value:.3f}"
        case SpansAnswer():
            return (
                "; ".join(f"{s.text} [{s.start}:{s.end}] {s.label} ({s.probability:.0%})" for s in answer.spans)
                or "none"
            )
        case _:
            return " ".join(f"{w.text}/{w.label}" if w.label else w.text for w in answer.words)
