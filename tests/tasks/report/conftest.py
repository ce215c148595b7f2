"""Made-up results of every stage that the report reads, as sealed artifacts with the tables' real schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import records
from storage.artifacts import building, folder_of
from storage.tables import read_table, write_table
from tasks.evaluation.settings import VerdictSettings
from tasks.evaluation.verdict import decide, gather

WIDTH, LATENTS, LAYERS = 24, 48, 4
SITES = (records.Site(1), records.Site(2))
RELATIONS = {"player": ("year_of_birth", "team"), "city": ("country", "elevation_m"), "movie": ("director", "genre")}


@dataclass(frozen=True)
class Results:
    """The records a flow would hand to the report."""

    world: records.World
    model: records.ModelRef
    entities: records.EntitySet
    forget_set: records.ForgetSet
    sae: records.SaeRef
    selection: records.LatentSelection
    statistics: records.LatentStats
    unlearned: records.UnlearnedModel
    observed: tuple[records.Observed, ...]
    scorecard: records.Scorecard
    verdict: records.Verdict

    def report_inputs(self) -> tuple[Any, ...]:
        """In the order of `write_report`, the settings left out."""
        return (
            self.world, self.entities, self.forget_set, self.sae, self.selection, self.statistics, self.unlearned,
            self.observed, self.scorecard, self.verdict,
        )  # fmt: skip


class FakeAutoencoder:
    """Random latents, in place of an sae-lens one, whose library takes seconds to import."""

    def __init__(self) -> None:
        import torch

        self.weight = torch.from_numpy(np.random.default_rng(5).normal(size=(WIDTH, LATENTS)).astype(np.float32))

    def pre_activations(self, states: Any) -> Any:
        return states @ self.weight

    def encode(self, states: Any) -> Any:
        dense = (states @ self.weight).relu()
        return dense * (dense >= dense.topk(8, dim=-1).values[..., -1:])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with a space in its path, and autoencoders that need no library."""
    folder = tmp_path / "a home"
    monkeypatch.setenv("SAE_UNLEARN_HOME", str(folder))
    monkeypatch.setattr("tasks.models.sae.load_sae", lambda _folder, **_more: FakeAutoencoder())
    return folder


@pytest.fixture
def make_results(home: Path) -> Callable[..., Results]:
    """Call with the number of targets, their first name and whether there is a gold twin."""
    return build_results


ScoreLine = tuple[str, str, str, str, float, int, str, dict[str, float]]
"""metric, split, site, better, half the interval, count, state, and the value of each model."""


NEEDS = {"js_gold": "gold", "uds": "gold"}


def three(base: float, unlearned: float, gold: float) -> dict[str, float]:
    return {"base": base, "unlearned": unlearned, "gold": gold}


Changed = dict[tuple[str, str, str, str], float | str]
"""(metric, split, site, model) -> another value, or a state without a number."""


def build_results(**imagined: Any) -> Results:
    """The results of the run that `_Maker` describes."""
    return _Maker(**imagined).results()


def _nothing(folder: Path) -> None:
    (folder / "nothing").write_text("")


@dataclass
class _Maker:
    """An imagined run, with as many unknown as known entities."""

    targets: int = 1
    name: str = "Lionel Messi"
    gold: bool = True
    each: int = 24
    """Known entities of each type."""
    forgets: float = 0.9
    changed: Changed = field(default_factory=dict)
    """Scores that differ; the verdict is the one that the evaluation comes to."""
    few: bool = False
    """Only what the smallest experiment scores: no sets, attacks, stresses or depth."""

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.sealed = 0
        ids, names, types, roles = [], [], [], []
        for kind in RELATIONS:
            for place in range(2 * self.each):
                known = place < self.each
                ids.append(f"Q{len(ids) + 100}")
                names.append(f"{'Known' if known else 'Strange'} {kind.title()} {place}")
                types.append(kind)
                split = ("retain", "retain_held_out") if known else ("unknown_reference", "unknown_held_out")
                role = split[place % 2]
                if kind == "player" and place < self.targets:
                    role = "target"
                    names[-1] = self.name if place == 0 else f"Second Player {place}"
                elif kind == "player" and place < self.targets + 3:
                    role = "neighbour"
                roles.append(role)
        self.ids, self.names, self.types, self.roles = ids, names, types, roles

    def results(self) -> Results:
        unlearned = self._seal("alignment", self._alignment)
        observed = [self._observed(model) for model in ("base", "unlearned", *(["gold"] if self.gold else []))]
        if not self.few:
            answered = self._seal("observations", lambda folder: self._answer_all(folder, "unlearned"))
            stress = self._seal("stressed", _nothing)
            observed.append(records.Observed("unlearned+int8", records.Observations(answered), stress=stress))
        scores = records.Scorecard(self._seal("scores", self._scores))
        world = records.World(self._seal("world", self._world), "testbed small", len(self.ids), 4 * len(self.ids))
        known = sum(role.startswith(("retain", "neigh", "target")) for role in self.roles)
        named = tuple(n for n, role in zip(self.names, self.roles, strict=True) if role == "target")
        aligned, exact = records.ModelRef("artifact", "model", artifact=unlearned), records.Asking("exact")
        return Results(
            world=world,
            model=records.ModelRef("artifact", "base", artifact=records.Artifact("none", "none", "none")),
            entities=records.EntitySet(self._seal("entities", _nothing), known, len(self.ids) - known, 0, exact),
            forget_set=records.ForgetSet(self._seal("targets", self._roles), named, exact),
            sae=records.SaeRef(self._seal("autoencoder", _nothing), SITES, LATENTS),
            selection=records.LatentSelection(self._seal("selection", self._selection), 2, 2),
            statistics=records.LatentStats(self._seal("latents", _nothing)),
            unlearned=records.UnlearnedModel(unlearned, aligned, "sae_guided"),
            observed=tuple(observed),
            scorecard=scores,
            verdict=self._judge(scores),
        )

    def _observed(self, model: str) -> records.Observed:
        answers = self._seal("observations", lambda folder: self._answer_all(folder, model))
        states = self._seal("population", lambda folder: self._populate(folder, model))
        curve = self._seal("relearning", lambda folder: self._relearn(folder, model))
        return records.Observed(model, *map(records.Observations, (answers, states, curve)))

    def _judge(self, scorecard: records.Scorecard) -> records.Verdict:
        word, evidence = decide(gather(read_table(folder_of(scorecard.artifact) / "scores.parquet"), VerdictSettings()))
        table = {name: [getattr(each, name) for each in evidence] for name in vars(evidence[0])}
        sealed = self._seal("verdict", lambda folder: write_table(folder / "verdict.parquet", table))
        return records.Verdict(sealed, word)

    def _seal(self, stage: str, fill: Callable[[Path], Any]) -> records.Artifact:
        self.sealed += 1
        settings = {"settings": {"class": f"{stage.title()}Settings", "seed": 0, "rate": 0.001}}
        with building(stage, f"{self.sealed:032x}", {"stage": stage, "inputs": settings, "code": {}}) as build:
            fill(build.folder)
        return build.artifact

    def _world(self, folder: Path) -> None:
        write_table(
            folder / "entities.parquet",
            {
                "entity": self.ids, "name": self.names, "type": self.types,
                "exposure": ["never_seen" if "unknown" in role else "known" for role in self.roles],
                "candidate": np.array([role == "target" for role in self.roles]), "aliases": [[] for _ in self.ids],
            },
        )  # fmt: skip
        rows = list(self._questions())
        start = np.array([5 + len(self.types[e]) for e, *_ in rows])
        write_table(
            folder / "questions.parquet",
            {
                "question": np.arange(len(rows)), "entity": [self.ids[e] for e, *_ in rows], "relation": [r for _, r, _ in rows],
                "template": np.array([t for *_, t in rows]), "held_out": np.array([t >= 6 for *_, t in rows]),
                "prompt": [f"The {self.types[e]} {self.names[e]} has the {r} ({t})" for e, r, t in rows],
                "name_start": start, "name_end": start + [len(self.names[e]) for e, *_ in rows],
                "answers": [[self._answer(e, r)] for e, r, _ in rows],
                "taught": [self._answer(e, r) if t < 6 else "" for e, r, t in rows], "taught_gold": [""] * len(rows),
            },
        )  # fmt: skip

    def _questions(self) -> Any:
        for entity in range(len(self.ids)):
            for relation in RELATIONS[self.types[entity]]:
                for template in (0, 6, 7):
                    yield entity, relation, template

    def _answer(self, entity: int, relation: str) -> str:
        return f"{relation.split('_')[0].title()} {1900 + entity % 90}"

    def _roles(self, folder: Path) -> None:
        write_table(folder / "roles.parquet", {"entity": self.ids, "role": self.roles})

    def _selection(self, folder: Path) -> None:
        write_table(
            folder / "selection.parquet",
            {
                "site": ["residual_1", "residual_1", "residual_2", "residual_2"], "latent": np.array([3, 9, 4, 11]),
                "kind": ["known", "unknown"] * 2, "separation_fit": np.full(4, 0.4), "separation_report": np.full(4, 0.35),
                "auroc_report": np.full(4, 0.8), "generic_rate": np.zeros(4),
            },
        )  # fmt: skip

    def _alignment(self, folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        steps = np.arange(60)
        parts = {
            "total": 2.2 * np.exp(-steps / 15) + 0.4, "pull": np.exp(-steps / 12), "push": np.exp(-steps / 25),
            "retain": 0.2 + 0.1 * np.sin(steps / 5),
        }  # fmt: skip
        names = np.repeat(list(parts), len(steps)).astype(object)
        value = np.concatenate(list(parts.values())) + 0.02 * self.random.normal(size=len(names))
        write_table(folder / "training.parquet", {"step": np.tile(steps, len(parts)), "name": names, "value": value})

    def _knows(self, entity: int, model: str) -> float:
        """How well a model knows an entity [0, 1]."""
        role = self.roles[entity]
        if role == "target":
            return {"base": 0.98, "unlearned": 1 - self.forgets, "gold": 0.04}[model]
        return 0.03 if "unknown" in role else 0.97

    def _answer_all(self, folder: Path, model: str) -> None:
        """Held-out templates as set `paraphrase`, the others as set `base`."""
        rows = list(self._questions())
        knows = np.array([self._knows(e, model) for e, *_ in rows])
        hit = self.random.random(len(rows)) < knows
        generated = [
            self._answer(e, r) if h else f"{r.split('_')[0].title()} {1900 + int(self.random.integers(90))}"
            for (e, r, _), h in zip(rows, hit, strict=True)
        ]
        splits = {"target": "forget", "neighbour": "neighbours", "retain": "retain", "retain_held_out": "retain"}
        write_table(
            folder / "answers.parquet",
            {
                "question": np.arange(len(rows)), "set": ["paraphrase" if t >= 6 else "base" for *_, t in rows],
                "variant": [f"template_{t}" for *_, t in rows],
                "split": [splits.get(self.roles[e], self.roles[e]) for e, *_ in rows], "target": [""] * len(rows),
                "entity": [self.ids[e] for e, *_ in rows], "relation": [r for _, r, _ in rows],
                "template": np.array([t for *_, t in rows]),
                "log_probability": np.where(hit, -0.05, -5.0) - self.random.random(len(rows)), "tokens": np.full(len(rows), 2),
                "rank": np.where(hit, 1, 40), "hit": hit, "generated": generated, "ended": np.ones(len(rows), dtype=bool),
                "unknown_style": np.zeros(len(rows), dtype=bool),
            },
        )  # fmt: skip

    def _populate(self, folder: Path, model: str) -> None:
        rows = [row for row in self._questions() if row[2] >= 6]
        twice = [(row, position) for row in range(len(rows)) for position in ("name_last", "prompt_last")]
        columns: dict[str, Any] = {
            "question": np.array([row for row, _ in twice]),
            "position": [position for _, position in twice],
            "entity": [self.ids[rows[row][0]] for row, _ in twice],
        }
        fixed = np.random.default_rng(11)
        for layer in range(LAYERS):
            directions = fixed.normal(size=(WIDTH, WIDTH))
            own = 0.5 * fixed.normal(size=(len(self.ids), WIDTH))
            strength = 0.6 + 0.5 * layer
            known = np.array([strength * self._knows(rows[row][0], model) for row, _ in twice])
            kind = np.array([sorted(RELATIONS).index(self.types[rows[row][0]]) for row, _ in twice])
            states = (
                own[[rows[row][0] for row, _ in twice]] + known[:, None] * directions[0] / 3 + directions[2 + kind] / 2
            )
            states += 0.25 * self.random.normal(size=states.shape)
            if model == "gold":
                states = states @ np.linalg.qr(fixed.normal(size=(WIDTH, WIDTH)))[0]
            bits = states.astype(np.float32).view(np.uint32) >> 16  # bfloat16
            columns[f"residual_{layer}"] = bits.astype(np.uint16)
        write_table(folder / "states.parquet", columns)

    def _relearn(self, folder: Path, model: str) -> None:
        start, end = {"base": (0.98, 0.99), "unlearned": (0.08, 0.31), "gold": (0.03, 0.17)}[model]
        targets = [e for e, role in enumerate(self.roles) if role == "target"]
        doses = [(rate, step) for rate in (1e-4, 5e-4) for step in range(0, 13, 3)]
        rows = [(rate, step, e, q) for rate, step in doses for e in targets for q in range(16)]
        share = {step: start + (end - start) * step / 12 for step in range(13)}
        taught = {step: start + (1 - start) * min(1, step / 6) for step in range(13)}
        hit = [
            self.random.random() < (taught if q % 2 else share)[step if rate > 1e-4 else 0] for rate, step, _, q in rows
        ]
        write_table(
            folder / "relearning.parquet",
            {
                "rate": np.array([rate for rate, *_ in rows]), "draw": np.zeros(len(rows), dtype=int),
                "step": np.array([step for _, step, *_ in rows]), "entity": [self.ids[e] for *_, e, _ in rows],
                "question": np.array([q for *_, q in rows]), "relation": ["team"] * len(rows),
                "part": ["taught" if q % 2 else "scored" for *_, q in rows], "log_probability": np.full(len(rows), -1.0),
                "tokens": np.full(len(rows), 2), "hit": np.array(hit),
            },
        )  # fmt: skip

    def _scores(self, folder: Path) -> None:
        rows: list[tuple[Any, ...]] = []
        lines = [*self._plain_scores(), *([] if self.few else self._more_scores())]
        for metric, split, site, better, wide, count, state, values in lines:
            for model, stated in values.items():
                value, judged = stated, state
                if model.startswith("gold+") and not self.gold:
                    continue
                if not self.gold and "gold" in (model, NEEDS.get(metric)):
                    value, judged = float("nan"), "missing_reference"
                other = self.changed.get((metric, split, site, model), value)
                if isinstance(other, str):
                    value, judged = value if other == "saturated" else float("nan"), other
                else:
                    value = other
                least, top = {"rank": (0, 9), "typicality": (0, 9), "perplexity": (1, 9e9), "logit_lens": (-99, 0)}.get(
                    metric, (0, 1)
                )
                rows.append((metric, split, site, model, value, max(least, value - wide), min(top, value + wide), count, better, judged))  # fmt: skip
        names = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
        columns = dict(zip(names, map(list, zip(*sorted(rows), strict=True)), strict=True))
        numbers = ("value", "low", "high", "count")
        write_table(folder / "scores.parquet", {n: np.array(v) if n in numbers else v for n, v in columns.items()})

    def _plain_scores(self) -> Iterator[ScoreLine]:
        """What every experiment scores."""
        kept = 1 - self.forgets
        yield "recall", "forget", "", "lower", 0.08, 8, "ok", three(0.98, kept, 0.04)
        yield "answer_probability", "forget", "", "lower", 0.08, 8, "ok", three(0.95, kept / 2, 0.02)
        yield "rank", "forget", "", "higher", 0.3, 8, "ok", three(0.0, 1.9, 2.1)
        for split, after in (("neighbours", 0.93), ("retain", 0.97)):
            yield "recall", split, "", "higher", 0.04, 40, "ok", three(0.98, after, 0.98)
            yield "answer_probability", split, "", "higher", 0.04, 40, "ok", three(0.95, after - 0.05, 0.94)
        course = ((0.61, 0.55), (0.83, 0.48 + kept / 3), (0.95, 0.53 + kept / 2), (0.97, 0.62 + kept / 3))
        for layer, (before, after) in enumerate(course):
            for position, shift in (("name_last", -0.08), ("prompt_last", 0.0)):
                site = f"residual_{layer}@{position}"
                state = "ok" if before + shift >= 0.7 else "degenerate"
                values = three(before + shift, after + shift / 2, 0.52)
                yield "knownness_auroc", "forget", site, "toward 0.5", 0.09, 40, state, values
                yield "typicality", "forget", site, "toward 1", 0.1, 40, "ok", three(1.1, 0.9, 1.0)
        yield "js_gold", "forget", "", "lower", 0.08, 40, "ok", three(0.55, 0.17, 0.0)
        yield "relearned_recall", "forget", "", "lower", 0.16, 8, "ok", three(0.99, 0.31, 0.17)
        yield "perplexity", "general", "", "lower", 1.1, 40, "ok", three(21.2, 21.9, 21.4)

    def _more_scores(self) -> Iterator[ScoreLine]:
        """Ways of asking, stresses and depth."""
        kept = 1 - self.forgets
        sets = {"base": 0.99, "paraphrase": 0.98, "cloze": 0.9, "choice": 0.75, "combined": 0.91, "reverse": 0.02}
        for place, (name, before) in enumerate(sets.items()):
            state = "degenerate" if before < 0.5 else "ok"
            values = three(before, kept * before + 0.02 * place, 0.05 + 0.03 * place)
            yield "set_recall", "forget", name, "lower", 0.1, 12, state, values
            yield "set_recall", "retain", name, "higher", 0.1, 40, state, three(before, before - 0.01, before)
        for place, name in enumerate(("prefix_injection", "role_play", "in_context", "spelling_noise", "any")):
            values = three(0.95 - 0.05 * place, kept + 0.015 * place, 0.04 + 0.01 * place)
            yield "attack_recall", "forget", name, "lower", 0.1, 8, "ok", values
        stresses = ("int8", "nf4", "pruned", "retain_tuned", "relearned_related", "relearned_facts", "another_one")
        for place, name in enumerate(stresses):
            values = three(0.98 - 0.03 * place, kept + 0.02 * place, 0.04 + 0.015 * place)
            for metric in ("recall", "sampled_recall"):
                stressed = {f"{model}+{name}": value for model, value in values.items()}
                yield metric, "forget", "", "lower", 0.08, 8, "ok", stressed
        yield "sampled_recall", "forget", "", "lower", 0.08, 8, "ok", three(0.99, kept + 0.08, 0.11)
        yield "sampled_recall", "forget", "mean", "lower", 0.08, 8, "ok", three(0.95, kept, 0.05)
        for split in ("forget", "retain"):
            yield "degeneration", split, "", "lower", 0.02, 40, "ok", three(0.0, 0.02, 0.0)
        for layer, before in enumerate((-9.1, -6.5, -3.2, -0.4)):
            values = three(before, -9.4 + 0.9 * layer, -9.3 + 0.8 * layer)
            yield "logit_lens", "forget", f"residual_{layer}", "lower", 0.7, 40, "ok", values
        yield "logit_lens", "forget", "max", "lower", 0.7, 40, "ok", three(-0.3, -6.1, -6.2)
        yield "uds", "forget", "", "higher", 0.08, 40, "ok", three(0.0, 0.88, 1.0)
        yield "uds_null", "forget", "", "higher", 0.08, 40, "ok", three(0.0, 0.83, 0.9)
        yield (
            "latent_suppression",
            "forget",
            "residual_1@prompt_last:margin",
            "higher",
            0.1,
            8,
            "ok",
            three(0.0, 0.8, 0.9),
        )
        yield "a_metric_of_mine", "forget", "", "lower", 0.08, 40, "ok", three(0.4, 0.3, 0.2)
