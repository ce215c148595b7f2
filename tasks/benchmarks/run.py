"""Runs the benchmarks that were asked for, one section after the other."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from tasks.benchmarks import alignment, extraction, scoring, statistics
from tasks.benchmarks.harness import Section, Variant, measure, row_error
from tasks.benchmarks.workload import Facts, Lexicon, Size, draw_workload, random_model
from tasks.models.load import LoadedModel

PARTS = ("extraction", "statistics", "alignment", "scoring")


@dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    parts: tuple[str, ...] = PARTS
    rounds: int = 3
    threads: int = 1
    peers: bool = True
    """Whether other libraries are measured too."""


def run_benchmarks(
    facts: Facts, size: Size, options: Options, progress: Callable[[str], None] = lambda line: None
) -> Iterator[Section]:
    """Measure the parts; each section as soon as it is done.

    Seconds are those of the processor with one thread, those of the clock with more.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    try:
        loaded = random_model(size)
        makers: dict[str, Callable[[], Iterator[Section]]] = {
            "extraction": lambda: _extraction(facts, loaded, size, options, progress),
            "statistics": lambda: _statistics(size, options, progress),
            "alignment": lambda: _alignment(facts, loaded, size, options, progress),
            "scoring": lambda: _scoring(facts, loaded, size, options, progress),
        }
        for part in options.parts:
            yield from makers[part]()
    finally:
        torch.set_num_threads(before)


def machine(options: Options) -> dict[str, Any]:
    """What the numbers were measured on: they mean little elsewhere."""
    packages = ("torch", "transformers", "sae-lens", "transformer-lens", "nnsight", "lm-eval")
    return {
        "processor": _processor(),
        "threads": options.threads,
        "clock": "CPU seconds" if options.threads == 1 else "wall-clock seconds",
        "rounds": options.rounds,
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def _extraction(
    facts: Facts, loaded: LoadedModel, size: Size, options: Options, progress: Callable[[str], None]
) -> Iterator[Section]:
    for relations, said in ((None, "3.33 relations"), (1, "one relation")):
        work = draw_workload(facts, Lexicon(size.vocabulary), size.entities, relations=relations)
        section = extraction.describe(size, work, said)
        variants = extraction.extraction_variants(loaded, size, work, options.peers)
        yield extraction.with_claims(_measured(section, variants, row_error, options, progress), relations == 1)


def _statistics(size: Size, options: Options, progress: Callable[[str], None]) -> Iterator[Section]:
    variants = statistics.statistics_variants(size, options.peers)
    yield statistics.with_claims(_measured(statistics.describe(size), variants, row_error, options, progress))


def _alignment(
    facts: Facts, loaded: LoadedModel, size: Size, options: Options, progress: Callable[[str], None]
) -> Iterator[Section]:
    material = alignment.alignment_material(facts, size)
    section = alignment.describe_alignment(size, material)
    variants = alignment.alignment_variants(loaded, size, material)
    yield alignment.with_claims(_measured(section, variants, alignment.loss_error, options, progress))


def _scoring(
    facts: Facts, loaded: LoadedModel, size: Size, options: Options, progress: Callable[[str], None]
) -> Iterator[Section]:
    work = draw_workload(facts, Lexicon(size.vocabulary), size.scored, candidates=4)
    variants = scoring.scoring_variants(loaded, size, work, options.peers)
    section = _measured(scoring.describe_scoring(work), variants, row_error, options, progress)
    yield scoring.with_claims(section, (12, 20), (5, 7))
    variants = scoring.answer_variants(loaded, size, work, options.peers)
    section = _measured(scoring.describe_answers(loaded, work), variants, scoring.answer_error, options, progress)
    yield scoring.with_claims(section, (10, 15), (1.8, 2.5))


def _measured(
    section: Section,
    variants: list[Variant],
    compare: Callable[[Any, Any], float],
    options: Options,
    progress: Callable[[str], None],
) -> Section:
    progress(f"{section.title}: {section.work}")
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rows = measure(variants, rounds=options.rounds, compare=compare, clock=clock, progress=progress)
    return Section(section.title, section.work, section.baseline, section.unit, rows, section.remarks)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
