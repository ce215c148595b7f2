"""The benchmarks as tables: each way of doing a piece of work as a multiple of the time of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.commands.options import AsJson, stdout_kept_for_json

CLAIMS = ("", "found", "must", "aim", "")
HEADER = ("way", "times ours", "median ms", "largest error", "tokens run", "memory MB", "")


def bench(
    *parts: str,
    rounds: int = 3,
    size: str = "small",
    threads: int = 1,
    peers: bool = True,
    as_json: AsJson = False,
    markdown: Path | None = None,
) -> int:
    """Measure how fast the parts of the chain run here, beside the usual ways: ratios within one run.

    Example: `sae-unlearn bench extraction alignment --size medium --markdown table.md`.

    Parameters
    ----------
    parts
        extraction, statistics, alignment, scoring; all when left out.
    rounds
        The ways take turns so many times, the order reversed each time; medians are shown.
    size
        small (a minute or two) or medium (the one to quote).
    threads
        With one, seconds of the processor are counted; with more, those of the clock.
    peers
        Whether other libraries are measured too.
    markdown
        Write the tables to this file.
    """
    from flows.commands.console import print_json
    from storage.artifacts import disk_errors
    from tasks.benchmarks.task import benchmark

    done = []
    with stdout_kept_for_json(as_json):
        measured_on, sections = benchmark(parts, size, rounds, threads, peers)
        for section in sections:
            done.append(section)
            if not as_json:
                _print(section)
    if markdown is not None:
        with disk_errors():
            markdown.write_text("\n\n".join([_facts(measured_on), *map(_markdown, done)]) + "\n")
    if as_json:
        print_json({"measured_on": measured_on, "sections": [_document(section) for section in done]})
    return 0


def _lines(section: Any) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for row in section.rows:
        times, median = section.times(row), row.median
        lines.append(
            (
                row.name,
                "" if times is None else f"{times:.2f}",
                "" if median is None else f"{1000 * median:.1f}",
                "" if row.error is None else f"{row.error:.1e}",
                "" if row.tokens is None else f"{row.tokens:,}",
                "" if row.memory is None else f"{row.memory / 2**20:.0f}",
                row.note or ("" if row.state == "measured" else str(row.state)),
            )
        )
    return lines


def _claims(section: Any) -> list[tuple[str, ...]]:
    """A limit that a figure may not exceed is written ≤; the others are multiples to be reached."""
    lines = []
    for claim in section.claims:
        sign = "≤ " if claim.lower_is_better else ""
        limits = ("" if limit is None else f"{sign}{limit:g}" for limit in (claim.must, claim.aim))
        lines.append((claim.what, "" if claim.value is None else f"{claim.value:.3g}", *limits, claim.verdict))
    return lines


def _print(section: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for header, lines in ((HEADER, _lines(section)), (CLAIMS, _claims(section))):
        if lines:
            table = Table(*header, title=f"{section.title}: {section.work}, per {section.unit}", title_justify="left")
            for line in lines:
                table.add_row(*line)
            console.print(table)
    for remark in section.remarks:
        console.print(remark)


def _markdown(section: Any) -> str:
    tables = [
        "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---", *["---:"] * (len(header) - 2), "---"), *lines))
        for header, lines in ((CLAIMS, _claims(section)), (HEADER, _lines(section)))
        if lines
    ]
    return "\n\n".join([f"**{section.title}** ({section.work}; per {section.unit})", *tables, *section.remarks])


def _facts(measured_on: dict[str, Any]) -> str:
    return "Measured on " + "; ".join(f"{name} {value}" for name, value in measured_on.items() if name != "packages")


def _document(section: Any) -> dict[str, Any]:
    return {
        "title": section.title,
        "work": section.work,
        "unit": section.unit,
        "rows": [{**vars(row), "times_ours": section.times(row)} for row in section.rows],
        "claims": [{**vars(claim), "verdict": claim.verdict} for claim in section.claims],
        "remarks": section.remarks,
    }
