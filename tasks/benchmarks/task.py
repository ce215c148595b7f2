"""Door of the benchmarks: not a stage, for a time is no result to keep; it reads the facts and measures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.records import UsageError
from storage.tables import read_table
from tasks.catalogue import did_you_mean

logger = logging.getLogger("sae_unlearn")

FACTS = Path(__file__).resolve().parents[1] / "testbed" / "facts.parquet"


def benchmark(
    parts: Sequence[str], size: str, rounds: int, threads: int, peers: bool
) -> tuple[dict[str, Any], Iterator[Any]]:
    """What is measured on, and the sections, each as soon as it is measured.

    Raises: UsageError for an unknown part or size, or a count below 1.
    """
    from tasks.benchmarks.run import PARTS, Options, machine, run_benchmarks
    from tasks.benchmarks.workload import SIZES

    for part in parts:
        if part not in PARTS:
            raise UsageError(f"no benchmark is named '{part}'; {did_you_mean(part, list(PARTS))}")
    if size not in SIZES:
        raise UsageError(f"--size {size} is not known; expected one of {', '.join(SIZES)}")
    if rounds < 1 or threads < 1:
        raise UsageError(f"--rounds {rounds} --threads {threads}: both must be at least 1")
    options = Options(tuple(parts) or PARTS, rounds, threads, peers)
    facts = read_table(FACTS)
    return machine(options), run_benchmarks(facts, SIZES[size], options, lambda line: logger.info("%s", line))
