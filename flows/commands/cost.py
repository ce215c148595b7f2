"""The command `sae-unlearn cost`."""

from __future__ import annotations

from flows.commands.options import AsJson

HEADER = ("model", "block", "K", "reading s", "encoding s", "planning s", "states", "active latents")


def cost(*, entities: int = 1_000_000, rate: float = 395e12, workers: int = 4, as_json: AsJson = False) -> int:
    """What the states and latents of many entities cost on one device, per model: an estimate, nothing is run.

    Example: `sae-unlearn cost --entities 10000000`.

    Parameters
    ----------
    entities
        One state of each is kept, at its name's last token.
    rate
        Floating-point operations a second that the device reaches; the default is half of what large bfloat16
        products reach on an H200.
    workers
        Processor cores that tokenise and plan while the device computes.
    """
    import dataclasses

    from flows.commands.console import print_json, print_table, sized
    from storage.records import UsageError
    from tasks.benchmarks.cost import SHAPES, Device, cost_of

    if min(entities, workers) < 1 or rate <= 0:
        raise UsageError(
            f"--entities {entities} --rate {rate:g} --workers {workers}: all must be above 0; e.g. --entities 1000000"
        )
    costs = [(shape, cost_of(shape, entities, Device(rate, workers))) for shape in SHAPES]
    if as_json:
        estimates = [{"model": shape.name, **dataclasses.asdict(each)} for shape, each in costs]
        print_json({"entities": entities, "rate": rate, "workers": workers, "estimates": estimates})
        return 0
    lines = [
        (
            shape.name,
            str(shape.layer),
            f"{shape.latents:,}",
            *(f"{seconds:.3g}" for seconds in (each.extraction, each.statistics, each.host)),
            sized(int(each.states)),
            sized(int(each.latents)),
        )
        for shape, each in costs
    ]
    title = f"{entities:,} entities at {rate / 1e12:g} TFLOP/s, one state each: an estimate"
    print_table(HEADER, lines, title=title, numbers=HEADER[1:])
    return 0
