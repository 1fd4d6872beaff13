"""One run of the command, and the one place where errors become words and exit codes."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import typer

from cli.application import Context
from cli.command_tree import root_command, take_help_literally
from cli.rendering import print_error
from registry.errors import TrunklineError, UsageError

_INTERRUPTED = 130  # what typer ends with after Ctrl-C


def run(
    arguments: Sequence[str] | None,
    *,
    environ: Mapping[str, str] | None,
    cwd: Path | None,
    clock: Callable[[], datetime],
) -> int:
    """Runs one command and returns its exit code; what is None is the process's own.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    try:
        folder = Path.cwd() if cwd is None else cwd
    except FileNotFoundError:
        print_error("the working folder does not exist any more; change to another one")
        return 1
    context = Context(environ=os.environ if environ is None else environ, cwd=folder, clock=clock)
    try:
        return _run(sys.argv[1:] if arguments is None else arguments, context)
    except Exception as error:  # noqa: BLE001 - the boundary: every error is a line and an exit code
        code = _say(error, context)
        if context.show_traceback:
            traceback.print_exc()
        return code
    finally:
        context.close()


def _run(arguments: Sequence[str], context: Context) -> int:
    for argument in arguments:
        _check_text(argument)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a drawing on a terminal that knows ASCII only is better than none
    root = root_command()
    take_help_literally(root)
    result = root.main(list(arguments), prog_name="trunkline", standalone_mode=False, obj=context)
    _flush()
    if result == _INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _check_text(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8 when the shell passed them
        raise UsageError(f"argument {argument!r} is not valid UTF-8") from None


def _flush() -> None:
    """Writes out what is left; a reader that has gone (`trunkline audit list | head`) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: Exception, context: Context) -> int:
    """Prints one error as its line on stderr; returns the exit code."""
    if isinstance(error, TrunklineError):
        print_error(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):  # the arguments could not be parsed
        if misplaced := _misplaced(error):
            print_error(misplaced)
        elif message := " ".join(error.format_message().split()):  # none when help has just been shown instead
            print_error(message.rstrip(".") + _where_to_look(error))
        return error.exit_code
    hint = "" if context.show_traceback else "; `trunkline --traceback …` shows where"
    print_error(f"unexpected {type(error).__name__}: {error}{hint}")
    return 1


def _misplaced(error: typer.TyperException) -> str:
    """The message when a global option was written behind a command that has none of its name, else nothing."""
    at, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if at is None or at.parent is None or any(option in own.opts for own in at.command.params):
        return ""
    found = [parameter for parameter in at.find_root().command.params if option in parameter.opts]
    if not found:
        return ""
    value = f" {found[0].metavar}" if found[0].metavar else ""
    _, command = at.command_path.split(maxsplit=1)
    return f"{option} is a global option: global options go before the command, `trunkline {option}{value} {command}`"


def _where_to_look(error: typer.TyperException) -> str:
    at = getattr(error, "ctx", None)
    return "" if at is None else f"; see `{at.command_path} --help`"
