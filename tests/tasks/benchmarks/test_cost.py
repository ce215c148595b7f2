"""The cost model: weights as transformers counts them, prefix-tree nodes as a plan has them, seconds by hand."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model, GPT2Config, GPT2Model

from flows.cli import run_command
from storage.tables import read_table
from tasks.benchmarks.cost import SHAPES, TOKENS, Device, Shape, cost_of
from tasks.benchmarks.task import FACTS
from tasks.benchmarks.workload import SIZES, Lexicon, draw_workload
from tasks.models.plan import plan_trie


def test_weights_run_are_those_of_the_blocks_matrices() -> None:
    with torch.device("meta"):
        gemma = Gemma2Model(
            Gemma2Config(
                hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, vocab_size=50,
            )
        )  # fmt: skip
        gpt = GPT2Model(GPT2Config(n_embd=48, n_inner=80, n_layer=3, n_head=4, vocab_size=50))
    for model, blocks, shape in (
        (gemma, gemma.layers, Shape("", 3, 48, 4, 2, 16, 80, layer=1, latents=1)),
        (gpt, gpt.h, Shape("", 3, 48, 4, 4, 12, 80, layer=1, latents=1, gated=False)),
    ):
        matrices = [each for block in blocks[:2] for each in block.parameters() if each.ndim == 2]
        assert shape.weights_run == sum(each.numel() for each in matrices), type(model).__name__


def test_tokens_an_entity_are_about_those_of_a_plan() -> None:
    work = draw_workload(read_table(FACTS), Lexicon(SIZES["small"].vocabulary), 600)
    wanted = [[question.name_last] for question in work.questions]
    plan = plan_trie([question.prompt for question in work.questions], wanted)
    assert plan.tokens_run / 600 == pytest.approx(TOKENS, rel=0.25)


def test_costs_are_those_of_the_formulas() -> None:
    gemma = next(shape for shape in SHAPES if shape.name == "gemma-2-2b")
    cost = cost_of(gemma, 1e6, Device(rate=1e15, workers=2), rows=2, active=50)
    block = 2304 * 256 * (2 * 8 + 2 * 4) + 3 * 2304 * 9216
    assert cost.extraction == pytest.approx(1e6 * TOKENS * 2 * 10 * block / 1e15)
    assert cost.statistics == pytest.approx(2e6 * 2 * 2304 * 16384 / 1e15)
    assert (cost.host, cost.states, cost.latents) == pytest.approx((15.0, 2e6 * 4608, 2e6 * 300))


def test_the_command_prints_every_model_and_refuses_nothing_to_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cost", "--entities", "1000", "--json"]) == 0
    estimates = json.loads(capsys.readouterr().out)["estimates"]
    assert [each["model"] for each in estimates] == [shape.name for shape in SHAPES]
    assert run_command(["cost"]) == 0
    shown = capsys.readouterr().out
    assert "1,000,000 entities" in shown
    assert all(shape.name in shown for shape in SHAPES)
    assert run_command(["cost", "--entities", "0"]) == 2
