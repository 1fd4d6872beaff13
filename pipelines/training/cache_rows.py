"""Rows looked up by the digest of their input, and only the missing ones computed."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.training.cache_room import CacheRoom, Outlook, cannot_write, locked_folder
from pipelines.training.cache_segments import (
    Digests,
    RowGroup,
    Segment,
    SegmentDamaged,
    SegmentWriter,
    segment_bytes,
)
from pipelines.training.packed_rows import RowTensors
from registry.errors import StorageError
from registry.progress import WAITING, Report, silent

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 4_000_000_000
"""Rows that would take more are kept in several segments of about this size: a mapping much larger than the memory may
be refused, and what makes room should not have to drop everything at once."""

_MOST_SEGMENTS, _KEPT_SEGMENTS = 64, 16
"""Rows that lie in more small segments than the first number are computed again into one, except those of the segments
that have most: each segment in use is an open file, and data that are corrected daily leave one a day. Small is below a
quarter of `_SEGMENT_BYTES`."""

Compute = Callable[[Sequence[int], Sequence[RowGroup]], Iterable[tuple[Sequence[int], Sequence[Sequence[Tensor]]]]]
"""Row numbers and groups -> batches: some of the numbers, and for each group their values. Every row once."""

Stage = Callable[[Sequence[RowGroup]], str]
"""What computing these groups is called where progress is told."""

OnTheFly = Callable[[Sequence[int]], list[Tensor]]
"""Values of some rows, in their order; a row may be asked for several times."""


WantedRows = tuple[RowGroup, Digests, Sequence[int]]
"""A group, and of each row the digest of its input and its length."""

_Run = dict[RowGroup, tuple[NDArray[np.int64], SegmentWriter]]
"""Rows that are computed together and kept in one segment a group: of each group those that it lacks."""


class CachedRows:
    """Rows that lie here and there in some segments; those that lie in none are computed whenever they are asked."""

    def __init__(
        self,
        segments: Sequence[Segment],
        segment_of: NDArray[np.int64],
        row_of: NDArray[np.int64],
        on_the_fly: OnTheFly,
    ) -> None:
        self._values = [segment.values for segment in segments]
        self._segment_of = segment_of
        self._begins = np.zeros(len(row_of), np.int64)
        self._ends = np.zeros(len(row_of), np.int64)
        for number, segment in enumerate(segments):
            mine = np.flatnonzero(segment_of == number)
            self._begins[mine] = segment.offsets[row_of[mine]]
            self._ends[mine] = segment.offsets[row_of[mine] + 1]
        self._on_the_fly = on_the_fly

    def __len__(self) -> int:
        return len(self._begins)

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        asked = np.asarray(numbers, np.int64)
        segments = self._segment_of[asked].tolist()
        places = zip(segments, self._begins[asked].tolist(), self._ends[asked].tolist(), strict=True)
        nowhere = [number for number, segment in zip(numbers, segments, strict=True) if segment < 0]
        computed = iter(self._on_the_fly(nowhere) if nowhere else [])
        return [next(computed) if segment < 0 else self._values[segment][begin:end] for segment, begin, end in places]


@dataclass(frozen=True)
class _Found:
    """Where the rows of a data set lie: the number of a segment (-1: in none), and of the row in it."""

    segments: Sequence[Segment]
    segment_of: NDArray[np.int64]
    row_of: NDArray[np.int64]

    @property
    def missing(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.segment_of < 0)

    def tensors(self, on_the_fly: OnTheFly) -> RowTensors:
        return CachedRows(self.segments, self.segment_of, self.row_of, on_the_fly)


@dataclass(frozen=True)
class RowCache:
    """The caches of one home: a folder of segments a group."""

    room: CacheRoom
    report: Report = silent
    """Hears how far computing is, and of it while another process computes the rows: whoever is not heard of for long
    is taken for hung."""

    def rows(
        self,
        groups: Sequence[RowGroup],
        digests: Digests,
        lengths: Sequence[int],
        *,
        compute: Compute,
        on_the_fly: OnTheFly,
        stage: Stage,
    ) -> RowTensors:
        """The rows of the first group: looked up, and what is missing computed and kept.

        Where something must be computed, what the other groups lack of these rows is computed and kept with it, as far
        as there is room: segment by segment, so that whoever is killed loses one. Of two processes that want the same,
        the second waits and reads. What cannot be kept is computed whenever it is asked for, and a warning says so.

        Args:
            digests: of each row's input.
            lengths: of each row, in all groups.
        """
        found = self._find(groups[0], digests)
        if len(found.missing):
            del found  # or its files would be open beside those that are found next
            try:
                found = self._complete(groups, digests, lengths, compute, stage)
            except StorageError as error:
                found = self._find(groups[0], digests, gather=False)  # some segments may have been finished
                logger.warning(
                    "%s. %s of %s rows of %s are computed again whenever they are needed, which takes longer",
                    *(str(error), f"{len(found.missing):,}", f"{len(digests):,}", groups[0].kind.replace("_", " ")),
                )
        return found.tensors(on_the_fly)

    def forecast(self, wanted: Iterable[WantedRows]) -> tuple[int, int, Outlook]:
        """What keeping rows will take, in bytes; damage is not looked for.

        Returns:
            Of all rows, of those that are missing, and the outlook while nothing is dropped that has some of them.
        """
        total = missing = 0
        in_use: list[Segment] = []  # as is every segment that is open
        for group, digests, lengths in wanted:
            found = self._find(group, digests, whole=True)
            in_use += found.segments
            total += _bytes(group, _once(digests, np.arange(len(digests))), lengths)
            missing += _bytes(group, _once(digests, found.missing), lengths)
        return total, missing, self.room.outlook()

    def _complete(
        self, groups: Sequence[RowGroup], digests: Digests, lengths: Sequence[int], compute: Compute, stage: Stage
    ) -> _Found:
        with ExitStack() as held:
            self._hold(groups, held)
            found = self._find(groups[0], digests, mend=True)
            if not len(found.missing):  # another process was first
                return found
            missing = {group: _once(digests, found.missing) for group in groups[:1]}
            for group in groups[1:]:
                missing[group] = _once(digests, self._find(group, digests, mend=True).missing)
            written = self._fill(self._runs(missing, digests, lengths, held), compute, stage)
            return self._find(groups[0], digests, trusted=written)

    def _fill(self, runs: Sequence["_Run"], compute: Compute, stage: Stage) -> set[Path]:
        """Computes what is missing run by run, and finishes each one's segments before the next one begins."""
        wanted = [np.unique(np.concatenate([rows for rows, _ in run.values()])) for run in runs]
        done, total = 0, sum(map(len, wanted))
        written: set[Path] = set()
        for run, rows_of_run in zip(runs, wanted, strict=True):
            groups = list(run)
            for numbers, of_groups in compute(rows_of_run.tolist(), groups):
                for (rows, writer), values in zip(run.values(), of_groups, strict=True):
                    _write(writer, rows, numbers, values)
                done += len(numbers)
                self.report(stage(groups), done, total)
            written |= {writer.finish() for _, writer in run.values()}
        return written

    def _hold(self, groups: Sequence[RowGroup], held: ExitStack) -> None:
        """In one order everywhere, so that no two processes wait for each other."""
        stage = f"{WAITING}another process's {groups[0].kind.replace('_', ' ')}"
        for path in sorted({self.room.folder / group.path for group in groups}):
            try:
                held.enter_context(locked_folder(path, lambda: self.report(stage, 0, 1)))
            except OSError as error:
                raise cannot_write(path, error) from error

    def _runs(
        self,
        missing: dict[RowGroup, NDArray[np.int64]],
        digests: Digests,
        lengths: Sequence[int],
        held: ExitStack,
    ) -> list["_Run"]:
        """For the first group, and for as many of the others as there is room for. All of it is reserved here."""
        widest = max(missing, key=lambda group: group.width * group.dtype.itemsize)
        cut = _parts(widest, np.unique(np.concatenate(list(missing.values()))), lengths)
        runs: list[_Run] = [{} for _ in cut]
        for group, numbers in missing.items():
            parts = {place: part for place, one in enumerate(cut) if len(part := numbers[np.isin(numbers, one)])}
            if not parts:
                continue
            try:
                writers = self._segment_writers(group, list(parts.values()), digests, lengths, held)
            except StorageError:
                if not any(runs):
                    raise
                break
            for (place, part), writer in zip(parts.items(), writers, strict=True):
                runs[place][group] = part, writer
        return [run for run in runs if run]

    def _segment_writers(
        self,
        group: RowGroup,
        parts: Sequence[NDArray[np.int64]],
        digests: Digests,
        lengths: Sequence[int],
        held: ExitStack,
    ) -> list[SegmentWriter]:
        """One for the rows of each part."""
        files = self.room.reserve(self.room.folder / group.path, [_size(group, part, lengths) for part in parts])
        for descriptor, path in files:
            held.callback(os.close, descriptor)
            held.callback(path.unlink, missing_ok=True)
        return [
            SegmentWriter(*file, group=group, digests=digests[part], lengths=[lengths[number] for number in part])
            for part, file in zip(parts, files, strict=True)
        ]

    def _find(
        self,
        group: RowGroup,
        digests: Digests,
        *,
        mend: bool = False,
        whole: bool = False,
        gather: bool = True,
        trusted: Iterable[Path] = (),
    ) -> _Found:
        """Looks the rows up, and marks the segments that have some as used.

        Args:
            gather: where there are very many small segments, take the rows of most as missing, so that they are
                computed and kept in one; else only of those beyond what is to be open at once.
            mend: remove what is damaged; the caller holds the group's folder.
            whole: take it that no segment is damaged behind its index, and mark none.
            trusted: segments that were just written.
        """
        segment_of, row_of = np.full(len(digests), -1), np.zeros(len(digests), np.int64)
        segments: list[Segment] = []
        # Those that have most of the rows first, so that few are used; each is opened again then, because a process
        # may not have very many files open at once.
        for path, wanted, places in sorted(self._having(group, digests, mend=mend), key=lambda one: -len(one[1])):
            new = np.flatnonzero(segment_of[wanted] < 0)
            if not len(new) or (segment := _opened(path, group, mend=mend)) is None:
                continue
            if not whole:
                if path not in trusted and not _is_whole(segment, mend=mend):
                    continue
                _mark_used(path)
            segment_of[wanted[new]], row_of[wanted[new]] = len(segments), places[new]
            segments.append(segment)
        small = [number for number, segment in enumerate(segments) if segment.size < _SEGMENT_BYTES / 4]
        if len(small) > _MOST_SEGMENTS and not trusted:
            left_out = small[_KEPT_SEGMENTS if gather else _MOST_SEGMENTS :]
            kept = np.setdiff1d(np.arange(len(segments)), left_out)
            numbers = np.full(len(segments) + 1, -1)  # the last one for rows that no segment has
            numbers[kept] = np.arange(len(kept))
            segment_of, segments = numbers[segment_of], [segments[number] for number in kept]
        return _Found(segments, segment_of, row_of)

    def _having(
        self, group: RowGroup, digests: Digests, *, mend: bool
    ) -> Iterator[tuple[Path, NDArray[np.int64], NDArray[np.int64]]]:
        """The segments that have some of the rows: which ones, and their numbers there."""
        for path in sorted((self.room.folder / group.path).glob("*.safetensors")):
            if (segment := _opened(path, group, mend=mend)) is not None:
                places = segment.find(digests)
                if len(wanted := np.flatnonzero(places >= 0)):
                    yield path, wanted, places[wanted]


def _opened(path: Path, group: RowGroup, *, mend: bool) -> Segment | None:
    try:
        return Segment(path, group)
    except FileNotFoundError:  # another process made room
        return None
    except SegmentDamaged as error:
        _damaged(path, str(error), mend=mend)
    except OSError as error:
        logger.warning("%s cannot be read (%s): its rows are taken as missing", path, error.strerror)
    return None


def _is_whole(segment: Segment, *, mend: bool) -> bool:
    try:
        if segment.is_whole():
            return True
        _damaged(segment.path, "its bytes are not those that were written", mend=mend)
    except OSError as error:
        logger.warning("%s cannot be read (%s): its rows are taken as missing", segment.path, error.strerror)
    return False


def _damaged(path: Path, reason: str, *, mend: bool) -> None:
    if mend:
        logger.warning("%s is damaged (%s): its rows are computed again", path, reason)
        path.unlink(missing_ok=True)


def _mark_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # a folder that can only be read serves its rows all the same
        logger.debug("%s: cannot be marked as used", path)


def _once(digests: Digests, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of these rows the first of each input, in their order."""
    _, first = np.unique(digests[numbers], axis=0, return_index=True)
    return numbers[np.sort(first)]


def _size(group: RowGroup, numbers: NDArray[np.int64], lengths: Sequence[int]) -> int:
    total = sum(lengths[number] for number in numbers)
    return segment_bytes(rows=len(numbers), total=total, width=group.width, dtype=group.dtype)


def _bytes(group: RowGroup, numbers: NDArray[np.int64], lengths: Sequence[int]) -> int:
    """Of the segments of these rows."""
    return sum(_size(group, part, lengths) for part in _parts(group, numbers, lengths)) if len(numbers) else 0


def _parts(group: RowGroup, numbers: NDArray[np.int64], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """The rows, in their order, in runs of `_SEGMENT_BYTES`; a row that lies across the border is in the later one."""
    sizes = np.array([lengths[number] for number in numbers], np.int64) * (group.width * group.dtype.itemsize)
    of_run = np.cumsum(sizes) // _SEGMENT_BYTES
    return np.split(numbers, np.flatnonzero(np.diff(of_run)) + 1)


def _write(
    writer: SegmentWriter, segment_rows: NDArray[np.int64], numbers: Sequence[int], values: Sequence[Tensor]
) -> None:
    """Those of the rows that the segment is to have; `segment_rows` ascend."""
    places = np.minimum(np.searchsorted(segment_rows, numbers), len(segment_rows) - 1)
    mine = np.flatnonzero(segment_rows[places] == np.asarray(numbers))
    writer.write(places[mine].tolist(), [values[number] for number in mine.tolist()])
