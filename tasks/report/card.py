"""The model card: what was forgotten of which model, how that was judged, and how to load it.

A card that goes to a hub does not say who was forgotten unless that is asked for: the name beside the weights would tell
every reader whom to ask about. What it identifies the run by, the digest of the weights, tells nothing that they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.report import summary
from tasks.report.evidence import OUTCOMES, Evidence, read_evidence
from tasks.report.scoring import METRICS, SPLITS, Row, Scores, number, site_words

KEY_SCORES = (
    ("recall", "forget"),
    ("attack_recall", "forget"),
    ("relearned_recall", "forget"),
    ("knownness_auroc", "forget"),
    ("uds_null", "forget"),
    ("js_gold", "forget"),
    ("recall", "neighbours"),
    ("recall", "retain"),
    ("perplexity", "general"),
)
"""(metric, split) of the card's table; of a metric read at several places the most telling one."""


@dataclass(frozen=True)
class Base:
    """The model that was made to forget."""

    name: str
    """Hub id, or what it is called here."""
    revision: str = ""
    """Commit, for a model of a hub."""
    on_hub: bool = False
    licence: str = ""
    """As its own card states it; "" where that is not known."""
    licence_name: str = ""
    """Of a licence that no hub lists."""


@dataclass(frozen=True)
class CardContent:
    """All that a card says."""

    base: Base
    method: str
    targets: Sequence[str]
    world: str
    """Where the questions come from."""
    settings: Sequence[tuple[str, str]]
    """Of `[alignment]`."""
    verdict: str
    evidence: Mapping[str, Any]
    scores: Mapping[str, Any]
    reread: str
    """That the saved model was read again, in a sentence."""
    edited: bool
    """Whether an edit at every pass goes with the weights."""
    adapter: bool
    """Whether the adapter lies beside the weights."""
    weights: str
    """Digest by which the run is found again where it was made."""
    version: str
    """Of the tool."""


def make_card(content: CardContent, *, named: bool) -> str:
    """The card as Markdown with YAML front matter; `named`: whether it says who was forgotten."""
    evidence, scores = read_evidence(content.evidence), Scores(content.scores)
    count = len(content.targets)
    whom = ", ".join(content.targets) if named else f"{count} {'entities' if count > 1 else 'entity'} not named here"
    base = content.base
    shown = f"[{base.name}](https://huggingface.co/{base.name})" if base.on_hub else base.name
    revision = f" (revision `{base.revision}`)" if base.revision else ""
    lines = [
        f"# {base.name.rpartition('/')[2]}, made to forget",
        "",
        f"{shown}{revision}, made to forget {whom} with the method `{content.method}` of sae-unlearn {content.version}.",
        *(["", f"Questions: {content.world}."] if named else []),
        "",
        f"## Verdict: {content.verdict}",
        "",
        summary.headline(content.verdict, evidence),
        "",
        *_deciding(evidence),
        "",
        "## Scores",
        "",
        *_score_lines(scores),
        "",
        "In brackets the interval from resampling the questions. A measure that finds nothing is no proof that nothing is "
        "there: other wordings, other attacks or longer fine-tuning may still bring it back, and whoever has the base "
        "model has what was forgotten.",
        "",
        "## How to load it",
        "",
        *_loading(content),
        "",
        content.reread,
        "",
        "## How it was made",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| `{name}` | `{value}` |" for name, value in content.settings),
        "",
        f"Weights: `{content.weights}`, the content of the alignment's artifact where the run was made.",
        "",
        "## Licence",
        "",
        _licence(base),
    ]
    return f"---\n{_front_matter(content)}\n---\n\n" + "\n".join(lines) + "\n"


def _front_matter(content: CardContent) -> str:
    """YAML as a hub expects it."""
    from huggingface_hub import ModelCardData

    base = content.base
    data = ModelCardData(
        base_model=base.name if base.on_hub else None,
        library_name="transformers",
        license=base.licence or None,
        license_name=base.licence_name or None,
        pipeline_tag="text-generation",
        tags=["sae-unlearn", "unlearning"],
    )
    if base.on_hub:
        data.base_model_relation = "finetune"  # type: ignore[attr-defined]
    return str(data.to_yaml())


def _deciding(evidence: Sequence[Evidence]) -> list[str]:
    rows = [
        f"| {each.words} | {each.shown(each.value)} | {each.bound} {each.shown(each.threshold)} | "
        f"{OUTCOMES.get(each.state, each.state)} |"
        for each in evidence
        if each.decided
    ]
    return ["| deciding measure | value | threshold | |", "|---|---:|---:|---|", *rows] if rows else []


def _score_lines(scores: Scores) -> list[str]:
    lines = ["| | before | after | gold twin |", "|---|---:|---:|---:|"]
    for metric, split in KEY_SCORES:
        site = _site(scores, metric, split)
        after = scores.get(metric, split, "unlearned", site)
        if after is not None:
            words = (
                f"{METRICS.get(metric, metric)}, {SPLITS.get(split, split)}{f' ({site_words(site)})' if site else ''}"
            )
            before, gold = (scores.get(metric, split, model, site) for model in ("base", "gold"))
            lines.append(f"| {words} | {_value(before)} | {_with_interval(after)} | {_value(gold)} |")
    return lines


def _site(scores: Scores, metric: str, split: str) -> str:
    """The whole where there is one, the most telling place of knownness, `any` of several ways to ask, else the deepest."""
    sites = scores.sites(metric, split)
    if scores.get(metric, split, "unlearned") is not None or not sites:
        return ""
    if metric == "knownness_auroc":
        return summary.telling_site(scores) or sites[-1]
    return "any" if "any" in sites else sites[-1]


def _value(row: Row | None) -> str:
    return "–" if row is None else number(row.value)


def _with_interval(row: Row) -> str:
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]" if row.judged else number(row.value)


def _loading(content: CardContent) -> list[str]:
    """Code for each way in which it can be read; `FOLDER` is this one, or the hub's name for it."""
    if content.edited:
        return [
            "The weights are the base model's; what makes it forget is an edit at every pass (`intervention.json`), which "
            "sae-unlearn makes. **Read by transformers alone it is the model before the edit, which has forgotten nothing.**",
            "",
            "```python",
            "from tasks.models.load import load_model  # of sae-unlearn",
            "",
            'loaded = load_model("FOLDER")  # loaded.model, loaded.tokenizer',
            "```",
        ]
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
    ]
    if content.adapter:
        revision = f', revision="{content.base.revision}"' if content.base.revision else ""
        name = content.base.name if content.base.on_hub else "BASE"
        lines += [
            "",
            "Or the base model with the adapter, which can be taken off again:",
            "",
            "```python",
            "from peft import PeftModel",
            "",
            f'base = AutoModelForCausalLM.from_pretrained("{name}"{revision})',
            'model = PeftModel.from_pretrained(base, "FOLDER", subfolder="adapter")',
            "```",
        ]
    return lines


def _licence(base: Base) -> str:
    if base.licence:
        return f"That of the base model: {base.licence_name or base.licence}."
    return "That of the base model, which its card does not state or which could not be read here."
