"""Made-up results of every stage that the report reads, as sealed artifacts with the tables' real schemas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.artifacts import building, folder_of
from storage.records import (
    Artifact,
    EntitySet,
    ForgetSet,
    LatentSelection,
    LatentStats,
    ModelRef,
    Observations,
    Observed,
    SaeRef,
    Scorecard,
    Site,
    UnlearnedModel,
    Verdict,
    World,
)
from storage.tables import read_table, write_table
from tasks.evaluation.settings import VerdictSettings
from tasks.evaluation.verdict import decide, gather

WIDTH, LATENTS, LAYERS = 24, 48, 4
SITES = (Site(1), Site(2))
RELATIONS = {"player": ("year_of_birth", "team"), "city": ("country", "elevation_m"), "movie": ("director", "genre")}


@dataclass(frozen=True)
class Results:
    """The records a flow would hand to the report."""

    world: World
    model: ModelRef
    entities: EntitySet
    forget_set: ForgetSet
    sae: SaeRef
    selection: LatentSelection
    statistics: LatentStats
    unlearned: UnlearnedModel
    observed: tuple[Observed, ...]
    scorecard: Scorecard
    verdict: Verdict

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


Changed = dict[tuple[str, str, str, str], float | str]
"""(metric, split, site, model) -> another value, or a state without a number."""


def build_results(
    targets: int = 1,
    name: str = "Lionel Messi",
    gold: bool = True,
    each: int = 24,
    forgets: float = 0.9,
    seed: int = 0,
    changed: Changed | None = None,
    few: bool = False,
) -> Results:
    """The results of an imagined run: `each` known and as many unknown entities of each type.

    changed  scores that differ; the verdict is the one that the evaluation comes to.
    few      only what the smallest experiment scores: no sets, attacks, stresses or depth.
    """
    return _Maker(targets, name, gold, each, forgets, seed, changed or {}, few).results()


class _Maker:
    def __init__(
        self, targets: int, name: str, gold: bool, each: int, forgets: float, seed: int, changed: Changed, few: bool
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.changed, self.few = changed, few
        self.gold, self.forgets = gold, forgets
        ids, names, types, roles = [], [], [], []
        for kind in RELATIONS:
            for place in range(2 * each):
                known = place < each
                ids.append(f"Q{len(ids) + 100}")
                names.append(f"{'Known' if known else 'Strange'} {kind.title()} {place}")
                types.append(kind)
                role = (
                    ("retain", "retain_held_out")[place % 2]
                    if known
                    else ("unknown_reference", "unknown_held_out")[place % 2]
                )
                if kind == "player" and place < targets:
                    role = "target"
                    names[-1] = name if place == 0 else f"Second Player {place}"
                elif kind == "player" and place < targets + 3:
                    role = "neighbour"
                roles.append(role)
        self.ids, self.names, self.types, self.roles = ids, names, types, roles

    def results(self) -> Results:
        artifact = Artifact("none", "none", "none")
        unlearned = self._seal("alignment", self._alignment)
        models = ["base", "unlearned", *(["gold"] if self.gold else [])]
        observed = [
            Observed(
                model,
                Observations(self._seal("observations", lambda f, m=model: self._answer_all(f, m))),
                Observations(self._seal("population", lambda f, m=model: self._populate(f, m))),
                Observations(self._seal("relearning", lambda f, m=model: self._relearn(f, m))),
            )
            for model in models
        ]
        for model in [] if self.few else models:
            answered = self._seal("observations", lambda f, m=model: self._answer_all(f, m))
            taught = self._seal("stressed", lambda folder: (folder / "nothing").write_text(""))
            observed.append(Observed(f"{model}+int8", Observations(answered), stress=taught))
        scores = Scorecard(self._seal("scores", self._scores))
        world = World(self._seal("world", self._world), "testbed small", len(self.ids), 4 * len(self.ids))
        known = sum(role.startswith(("retain", "neigh", "target")) for role in self.roles)
        return Results(
            world=world,
            model=ModelRef("artifact", "base", artifact=artifact),
            entities=EntitySet(self._seal("entities", self._entities), known, len(self.ids) - known, 0),
            forget_set=ForgetSet(
                self._seal("targets", self._roles),
                tuple(n for n, role in zip(self.names, self.roles, strict=True) if role == "target"),
            ),
            sae=SaeRef(self._seal("autoencoder", lambda folder: (folder / "nothing").write_text("")), SITES, LATENTS),
            selection=LatentSelection(self._seal("selection", self._selection), 2, 2),
            statistics=LatentStats(self._seal("latents", lambda folder: (folder / "nothing").write_text(""))),
            unlearned=UnlearnedModel(unlearned, ModelRef("artifact", "model", artifact=unlearned), "sae_guided"),
            observed=tuple(observed),
            scorecard=scores,
            verdict=self._judge(scores),
        )

    def _judge(self, scorecard: Scorecard) -> Verdict:
        columns = read_table(folder_of(scorecard.artifact) / "scores.parquet")
        word, evidence = decide(gather(columns, VerdictSettings()))
        table = {name: [getattr(each, name) for each in evidence] for name in vars(evidence[0])}
        return Verdict(self._seal("verdict", lambda folder: write_table(folder / "verdict.parquet", table)), word)

    def _seal(self, stage: str, fill: Callable[[Path], Any]) -> Artifact:
        self.sealed = getattr(self, "sealed", 0) + 1
        settings = {"settings": {"class": f"{stage.title()}Settings", "seed": 0, "rate": 0.001}}
        with building(stage, f"{self.sealed:032x}", {"stage": stage, "inputs": settings, "code": {}}) as build:
            fill(build.folder)
        return build.artifact

    def _world(self, folder: Path) -> None:
        write_table(
            folder / "entities.parquet",
            {
                "entity": self.ids,
                "name": self.names,
                "type": self.types,
                "exposure": ["never_seen" if "unknown" in role else "known" for role in self.roles],
                "candidate": np.array([role == "target" for role in self.roles]),
                "aliases": [[] for _ in self.ids],
            },
        )
        rows = list(self._questions())
        write_table(
            folder / "questions.parquet",
            {
                "question": np.arange(len(rows)),
                "entity": [self.ids[e] for e, *_ in rows],
                "relation": [relation for _, relation, *_ in rows],
                "template": np.array([template for *_, template in rows]),
                "held_out": np.array([template >= 6 for *_, template in rows]),
                "prompt": [
                    f"The {self.types[e]} {self.names[e]} has the {relation} ({template})"
                    for e, relation, template in rows
                ],
                "name_start": np.array([5 + len(self.types[e]) for e, *_ in rows]),
                "name_end": np.array([5 + len(self.types[e]) + len(self.names[e]) for e, *_ in rows]),
                "answers": [[self._answer(e, relation)] for e, relation, _ in rows],
                "taught": [self._answer(e, relation) if template < 6 else "" for e, relation, template in rows],
                "taught_gold": ["" for _ in rows],
            },
        )

    def _questions(self) -> Any:
        for entity in range(len(self.ids)):
            for relation in RELATIONS[self.types[entity]]:
                for template in (0, 6, 7):
                    yield entity, relation, template

    def _answer(self, entity: int, relation: str) -> str:
        return f"{relation.split('_')[0].title()} {1900 + entity % 90}"

    def _entities(self, folder: Path) -> None:
        count = len(self.ids)
        write_table(
            folder / "entities.parquet",
            {
                "entity": self.ids, "name": self.names, "type": self.types, "exposure": ["known"] * count,
                "candidate": np.zeros(count, dtype=bool), "tokens": np.full(count, 3), "recall": np.ones(count),
                "label": ["unknown" if "unknown" in role else "known" for role in self.roles],
                "half": ["fit" if role in ("retain", "unknown_reference") else "report" for role in self.roles],
            },
        )  # fmt: skip

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
            "total": 2.2 * np.exp(-steps / 15) + 0.4,
            "pull": np.exp(-steps / 12),
            "push": np.exp(-steps / 25),
            "retain": 0.2 + 0.1 * np.sin(steps / 5),
        }
        write_table(
            folder / "training.parquet",
            {
                "step": np.tile(steps, len(parts)),
                "name": np.repeat(list(parts), len(steps)).astype(object),
                "value": np.concatenate(list(parts.values())) + 0.02 * self.random.normal(size=len(parts) * len(steps)),
            },
        )

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
            columns[f"residual_{layer}"] = (states.astype(np.float32).view(np.uint32) >> 16).astype(
                np.uint16
            )  # bfloat16
        write_table(folder / "states.parquet", columns)

    def _relearn(self, folder: Path, model: str) -> None:
        start, end = {"base": (0.98, 0.99), "unlearned": (0.08, 0.31), "gold": (0.03, 0.17)}[model]
        targets = [e for e, role in enumerate(self.roles) if role == "target"]
        rows = [(step, e, q) for step in range(0, 13, 3) for e in targets for q in range(16)]
        share = {step: start + (end - start) * step / 12 for step in range(13)}
        taught = {step: start + (1 - start) * min(1, step / 6) for step in range(13)}
        hit = [self.random.random() < (taught if q % 2 else share)[step] for step, _, q in rows]
        write_table(
            folder / "relearning.parquet",
            {
                "step": np.array([step for step, *_ in rows]), "entity": [self.ids[e] for _, e, _ in rows],
                "question": np.array([q for *_, q in rows]), "relation": ["team"] * len(rows),
                "part": ["taught" if q % 2 else "scored" for *_, q in rows], "log_probability": np.full(len(rows), -1.0),
                "tokens": np.full(len(rows), 2), "hit": np.array(hit),
            },
        )  # fmt: skip

    def _scores(self, folder: Path) -> None:
        rows: list[tuple[Any, ...]] = []

        def add(
            metric: str,
            split: str,
            better: str,
            values: dict[str, float],
            site: str = "",
            wide: float = 0.08,
            count: int = 40,
            state: str = "ok",
        ) -> None:
            for model in values:
                value, judged = values[model], state
                if model.startswith("gold") and not self.gold:
                    if model != "gold":
                        continue
                    value, judged = float("nan"), "missing_reference"
                match self.changed.get((metric, split, site, model), value):
                    case str(other):
                        value, judged = value if other == "saturated" else float("nan"), other
                    case other:
                        value = float(other)
                top = 1.0 if metric not in ("perplexity", "rank", "typicality", "logit_lens") else float("inf")
                least = -float("inf") if metric == "logit_lens" else 0.0
                low, high = max(least, value - wide), min(top, value + wide)
                rows.append((metric, split, site, model, value, low, high, count, better, judged))

        kept = 1 - self.forgets
        add("recall", "forget", "lower", {"base": 0.98, "unlearned": kept, "gold": 0.04}, count=8)
        add("answer_probability", "forget", "lower", {"base": 0.95, "unlearned": kept / 2, "gold": 0.02}, count=8)
        add("rank", "forget", "higher", {"base": 0.0, "unlearned": 1.9, "gold": 2.1}, wide=0.3, count=8)
        for split, after in (("neighbours", 0.93), ("retain", 0.97)):
            add("recall", split, "higher", {"base": 0.98, "unlearned": after, "gold": 0.98}, wide=0.04)
            add(
                "answer_probability",
                split,
                "higher",
                {"base": 0.95, "unlearned": after - 0.05, "gold": 0.94},
                wide=0.04,
            )
        for layer, (before, after) in enumerate(
            ((0.61, 0.55), (0.83, 0.48 + kept / 3), (0.95, 0.53 + kept / 2), (0.97, 0.62 + kept / 3))
        ):
            for position, shift in (("name_last", -0.08), ("prompt_last", 0.0)):
                site = f"residual_{layer}@{position}"
                state = "ok" if before + shift >= 0.7 else "degenerate"
                values = {"base": before + shift, "unlearned": after + shift / 2, "gold": 0.52}
                add("knownness_auroc", "forget", "toward 0.5", values, site, wide=0.09, state=state)
                add("typicality", "forget", "toward 1", {"base": 1.1, "unlearned": 0.9, "gold": 1.0}, site, wide=0.1)
        add("js_gold", "forget", "lower", {"base": 0.55, "unlearned": 0.17, "gold": 0.0})
        add("relearned_recall", "forget", "lower", {"base": 0.99, "unlearned": 0.31, "gold": 0.17}, wide=0.16, count=8)
        add("perplexity", "general", "lower", {"base": 21.2, "unlearned": 21.9, "gold": 21.4}, wide=1.1)
        if not self.few:
            self._more_scores(add, kept)
        names = ("metric", "split", "site", "model", "value", "low", "high", "count", "better", "state")
        columns = dict(zip(names, map(list, zip(*sorted(rows), strict=True)), strict=True))
        write_table(
            folder / "scores.parquet",
            {n: np.array(v) if n in ("value", "low", "high", "count") else v for n, v in columns.items()},
        )

    def _more_scores(self, add: Callable[..., None], kept: float) -> None:
        """Ways of asking, stresses and depth."""
        sets = {
            "base": 0.99, "paraphrase": 0.98, "cloze": 0.9, "choice": 0.75, "multi_hop": 0.62, "combined": 0.91, "reverse": 0.02,
        }  # fmt: skip
        for place, (name, before) in enumerate(sets.items()):
            values = {"base": before, "unlearned": kept * before + 0.02 * place, "gold": 0.05 + 0.03 * place}
            state = "degenerate" if before < 0.1 else "ok"
            add("set_recall", "forget", "lower", values, name, wide=0.1, count=12, state=state)
            add("set_recall", "retain", "higher", {"base": before, "unlearned": before - 0.01, "gold": before}, name)
        for place, name in enumerate(
            ("prefix_injection", "affirmative_suffix", "role_play", "in_context", "spelling_noise", "any")
        ):
            values = {"base": 0.95 - 0.05 * place, "unlearned": kept + 0.015 * place, "gold": 0.04 + 0.01 * place}
            add("attack_recall", "forget", "lower", values, name, wide=0.1, count=8)
        for place, name in enumerate(
            ("int8", "nf4", "pruned", "retain_tuned", "relearned_related", "relearned_facts", "another_one")
        ):
            for metric in ("recall", "sampled_recall"):
                values = {"base": 0.98 - 0.03 * place, "unlearned": kept + 0.02 * place, "gold": 0.04 + 0.015 * place}
                add(metric, "forget", "lower", {f"{model}+{name}": value for model, value in values.items()}, count=8)
        add("sampled_recall", "forget", "lower", {"base": 0.99, "unlearned": kept + 0.08, "gold": 0.11}, count=8)
        for split in ("forget", "retain"):
            add("degeneration", split, "lower", {"base": 0.0, "unlearned": 0.02, "gold": 0.0}, wide=0.02)
        for layer, before in enumerate((-9.1, -6.5, -3.2, -0.4)):
            values = {"base": before, "unlearned": -9.4 + 0.9 * layer, "gold": -9.3 + 0.8 * layer}
            add("logit_lens", "forget", "lower", values, f"residual_{layer}", wide=0.7)
        add("uds", "forget", "higher", {"unlearned": 0.88})
        add("uds_null", "forget", "higher", {"unlearned": 0.83})
        add("a_metric_of_mine", "forget", "lower", {"base": 0.4, "unlearned": 0.3, "gold": 0.2})
