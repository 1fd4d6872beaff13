"""`gc`, `fsck`, `backup` and `restore`: looking after the registry as a whole."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.application import AsJson, Context, example
from cli.progress import progress_bar
from cli.rendering import print_fields, print_json, print_line, print_note, print_table, print_warning
from registry.housekeeping.findings import Check

app = typer.Typer()


@app.command(epilog=example("trunkline gc --dry-run", "trunkline gc --grace 48"))
def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Leave alone what was put less than so long ago.")
    ] = 24,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="First make the store this registry's, whose it was before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the blobs that nothing refers to.

    Interrupted commands leave such blobs behind. It is safe to run this at any time, beside training and assembling
    too: nothing is removed that a version, a backbone or a release of this registry needs, and a store that is another
    registry's is left alone.
    """
    from registry.housekeeping import sweep

    context: Context = ctx.obj
    if take_over:
        sweep.take_over(context.database, context.store)
    with progress_bar() as report:
        swept = sweep.sweep_blobs(
            context.database, context.store, grace=timedelta(hours=grace), dry_run=dry_run, report=report
        )
    if as_json:
        print_json(swept)
        return
    verb = "would be removed" if dry_run else "removed"
    print_fields(
        [
            ("registry", context.database.location),
            ("store", context.store.location),
            ("in use", _blobs(swept.in_use)),
            ("too young", f"{_blobs(swept.young)} that nothing refers to, put less than {grace:g} hours ago"),
            (verb, f"{_blobs(swept.removed)}, {_size(swept.removed_bytes)}"),
            ("unfinished", f"{_counted(swept.unfinished, 'upload')} that were killed more than a day ago, {verb}"),
        ]
    )


@app.command(epilog=example("trunkline fsck", "trunkline fsck --quick --json"))
def fsck(
    ctx: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read blobs: only look whether they are there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every row, chain and digest of the registry, and every blob against its rows.

    Nothing is changed. What is wrong is listed with what to do about it; the exit code is then 1.
    """
    from registry.housekeeping.check import check_registry

    context: Context = ctx.obj
    with progress_bar() as report:
        found = check_registry(
            context.database,
            context.settings.artifact_root,
            read_blobs=not quick,
            at=context.now(),
            report=report,
        )
    if as_json:
        print_json(found)
    else:
        _print_check(found)
    if found.findings:
        raise typer.Exit(1)


def _print_check(found: Check) -> None:
    if found.findings:
        print_table(["object", "problem", "what to do"], [(f.subject, f.problem, f.remedy) for f in found.findings])
    for note in found.notes:
        print_note(f"{note.subject} {note.problem}: {note.remedy}")
    counts = {
        "backbone": found.backbones,
        "version": found.versions,
        "release": found.releases,
        "audit event": found.events,
        "blob": found.blobs,
    }
    looked_at = ", ".join(_counted(count, noun) for noun, count in counts.items())
    how = "read" if found.blobs_read else "looked for"
    problems = _counted(len(found.findings), "problem") if found.findings else "all is well"
    print_line(f"{looked_at} {how}: {problems}")


@app.command(epilog=example("trunkline backup registry-2026-11-23.tar", "trunkline backup rows.tar --no-blobs"))
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The tar file to write; one of this name is replaced.")],
    blobs: Annotated[
        bool, typer.Option("--blobs/--no-blobs", help="With every blob that rows refer to, or rows alone.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write the whole registry, as of one moment, into one file.

    It can be taken while others work, and restored onto SQLite and PostgreSQL, a folder and S3 alike.
    """
    from registry.housekeeping.backup import write_backup

    context: Context = ctx.obj
    path = context.cwd / file
    with progress_bar() as report:
        summary = write_backup(context.database, context.store, path, blobs=blobs, at=context.now(), report=report)
    if as_json:
        print_json(summary)
    else:
        rows = sum(table.rows for table in summary.tables.values())
        held = "no blobs" if summary.blobs is None else _blobs(summary.blobs)
        print_line(f"wrote {file}: {_counted(rows, 'row')}, {held}, {_size(path.stat().st_size)}")
    if not summary.is_whole:
        problems = [*summary.audit_problems[:1], *(f"blob {digest} is lost" for digest in summary.missing_blobs[:3])]
        count = _counted(len(summary.audit_problems) + len(summary.missing_blobs), "problem")
        print_warning(f"{file} holds all that there is, but the registry has {count}: {'; '.join(problems)}; see fsck")
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "trunkline restore registry-2026-11-23.tar",
        then="Into another registry than the one at hand: with --home FOLDER before the command, or TRUNKLINE_HOME, "
        "TRUNKLINE_DATABASE_URL and TRUNKLINE_ARTIFACT_ROOT.",
    )
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `trunkline backup` wrote.")],
    only_blobs: Annotated[
        bool, typer.Option("--only-blobs", help="Only put the blobs into the store: mends lost and damaged ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fill an empty registry from a backup.

    Blobs are stored first, then all rows in one transaction: interrupted, the registry is still empty, and the same
    command goes on.
    """
    from registry.housekeeping.backup import restore_backup, restore_blobs

    context: Context = ctx.obj
    path = context.cwd / file
    with progress_bar() as report:
        if only_blobs:
            summary = restore_blobs(context.store, path, report=report)
        else:
            database, actor, at = context.database_or_new, context.actor, context.now()
            summary = restore_backup(database, context.store, path, actor=actor, at=at, report=report)
    if as_json:
        print_json(summary)
        return
    rows = 0 if only_blobs else sum(table.rows for table in summary.tables.values())
    print_line(f"restored {_counted(rows, 'row')} and {_blobs(summary.blobs or 0)} from {file}; check: trunkline fsck")
    if summary.blobs is None:
        print_note(
            f"the blobs stayed in {context.store.location}, which is the other registry's: to go on with this one in "
            "its place, run `trunkline gc --take-over` once"
        )


def _blobs(count: int) -> str:
    return _counted(count, "blob")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    raise AssertionError
