"""Measuring variants of one computation beside one another.

All run in one process and in turn, the order reversed every round, so that what slows the machine down for a while
slows all of them; the median of the rounds counts. First each runs once untimed: its result is compared with that of
the variant it must equal, and one that differs is refused, not timed.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

State = Literal["measured", "not installed", "failed", "differs"]
EXTRA = "pip install 'sae-unlearn[bench]'"
"""What brings the peers that the package itself does without."""


class Watch:
    """Times a run; one that has to prepare first calls `restart`, one that has to tidy up afterwards `stop`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end: float | None = None
        self._start = clock()

    def restart(self) -> None:
        self._start = self._clock()

    def stop(self) -> None:
        self._end = self._clock()

    @property
    def seconds(self) -> float:
        """From the last start to the stop, or to now."""
        return (self._clock() if self._end is None else self._end) - self._start


Run = Callable[[Watch], Any]
"""Does the work once and returns its result."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work."""

    name: str
    make: Callable[[], Run]
    """Prepares what is not timed, such as a wrapped copy of the model."""
    equals: str = ""
    """The variant whose result it must have, listed before it; none for a different computation."""
    tolerance: float = 1e-5
    """Largest relative error."""
    tokens: int | None = None
    """Token positions that go through the network."""
    package: str = ""
    """Library that must be there."""
    per: int = 1
    """Units of work in one run, e.g. training steps."""
    timed: bool = True
    """False: it is run once, for its result or its memory."""


@dataclass(frozen=True)
class Row:
    """What was found of one variant."""

    name: str
    state: State
    seconds: tuple[float, ...] = ()
    """Per unit of work, round by round."""
    error: float | None = None
    """Largest relative error against the variant it must equal."""
    memory: int | None = None
    """Bytes the process grew by at most during a run, where the system tells."""
    tokens: int | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Claim:
    """A figure that is held to a limit."""

    what: str
    value: float | None
    """None where it could not be measured."""
    must: float | None
    """The limit; None where the figure only stands beside others."""
    aim: float | None = None
    lower_is_better: bool = False

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where there is no limit or no figure."""
        if self.value is None or self.must is None:
            return ""
        reached = self.value <= self.must if self.lower_is_better else self.value >= self.must
        return "met" if reached else "missed"


@dataclass(frozen=True)
class Section:
    """One table: what is compared on which work."""

    title: str
    work: str
    """Size of the work, tokens wanted among it."""
    baseline: str
    """The variant whose time all others are given as multiples of."""
    unit: str = "run"
    rows: tuple[Row, ...] = ()
    remarks: tuple[str, ...] = field(default=())
    claims: tuple[Claim, ...] = field(default=())

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def times(self, row: Row) -> float | None:
        """The row's median as a multiple of the baseline's."""
        return self.ratio(row.name, self.baseline)

    def ratio(self, name: str, by: str) -> float | None:
        """The median of one row over that of another; None where one is missing."""
        medians = {row.name: row.median for row in self.rows}
        own, unit = medians.get(name), medians.get(by)
        return own / unit if own is not None and unit else None


def measure(
    variants: Sequence[Variant],
    *,
    rounds: int,
    compare: Callable[[Any, Any], float],
    clock: Callable[[], float] = time.process_time,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Row, ...]:
    """Check every variant, then time those that passed; rows in the order given.

    compare  largest relative error of the second result against the first.
    """
    rows: dict[str, Row] = {}
    results: dict[str, Any] = {}
    runs: dict[str, tuple[Variant, Run]] = {}
    wanted = {variant.equals for variant in variants}
    for variant in variants:
        progress(f"check    {variant.name}")
        row, run, result = _check(variant, results.get(variant.equals), compare, clock)
        if variant.equals and variant.equals not in results and run is not None:
            row = Row(variant.name, "failed", note=f"there is no result of '{variant.equals}' to compare with")
            run = None
        rows[variant.name] = row
        if run is not None:
            if variant.timed:
                runs[variant.name] = (variant, run)
            if variant.name in wanted:
                results[variant.name] = result
    del results
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        order = list(runs.items())
        for name, (variant, run) in order if number % 2 == 0 else reversed(order):
            gc.collect()
            watch = Watch(clock)
            run(watch)
            times[name].append(watch.seconds / variant.per)
            progress(f"round {number + 1}/{rounds}  {name}: {times[name][-1]:.3f} s")
    return tuple(
        Row(row.name, row.state, tuple(times.get(row.name, ())), row.error, row.memory, row.tokens, row.note)
        for row in rows.values()
    )


def _check(
    variant: Variant, expected: Any, compare: Callable[[Any, Any], float], clock: Callable[[], float]
) -> tuple[Row, Run | None, Any]:
    if variant.package and importlib.util.find_spec(variant.package) is None:
        return Row(variant.name, "not installed", note=f"not installed ({EXTRA})"), None, None
    try:
        run = variant.make()
        before = _forget_peak()
        result = run(Watch(clock))
        memory = None if before is None else max(0, _resident("VmHWM") - before)
    except Exception as error:
        if not variant.package:
            raise
        # A peer of another version must not keep the others from being measured.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Row(variant.name, "failed", note=f"{type(error).__name__}: {first}"), None, None
    error_ = None if expected is None else compare(expected, result)
    if error_ is not None and not error_ <= variant.tolerance:
        note = f"refused: differs by {error_:.1e}, allowed {variant.tolerance:.0e}"
        return Row(variant.name, "differs", error=error_, tokens=variant.tokens, note=note), None, None
    return Row(variant.name, "measured", (), error_, memory, variant.tokens), run, result


def _forget_peak() -> int | None:
    """Resident bytes, after the system's record of the highest number was cleared; None where that cannot be done."""
    gc.collect()
    if sys.platform != "linux":
        return None
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def row_error(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest relative error of a row, in Euclidean length; infinite for another shape or no number."""
    if expected.shape != found.shape:
        return float("inf")
    each, wanted = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if each.ndim == 1:
        each, wanted = each[:, None], wanted[:, None]
    error = np.linalg.norm(each - wanted, axis=-1) / np.maximum(np.linalg.norm(wanted, axis=-1), 1e-12)
    return float(error.max()) if np.isfinite(error).all() else float("inf")
