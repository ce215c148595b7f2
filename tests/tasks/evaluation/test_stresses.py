"""Every stress of the folder keeps the contract, changes what it says and nothing else, and names what it taught."""

import copy
import importlib
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from storage.records import UsageError
from tasks import catalogue
from tasks.evaluation.relearning import different_splits, relearn_curve, split_facts
from tasks.evaluation.stress import FOLDER, Stress, StressMaterial, Taught, make_stressed
from tasks.models.families import family_of, linear_weights
from tasks.models.load import LoadedModel
from tasks.models.scoring import score_answers
from tasks.models.worlds import encode_world

NAMES = catalogue.names(FOLDER)
TEACHING = [name for name in NAMES if hasattr(catalogue.load(FOLDER, name)(), "steps")]
RELATIONS = ("club", "born", "coach", "home")
ROLES = (
    {"target": "target", "near0": "neighbour", "near1": "neighbour", "unknown": "unknown_reference"}
    | {f"player{i}": "retain" for i in range(6)}
    | {f"city{i}": "retain" for i in range(6)}
    | {f"held{i}": "retain_held_out" for i in range(4)}
)
TYPES = {entity: "city" if entity.startswith("city") else "player" for entity in ROLES}
ANSWER = {(entity, relation): f"{relation}of{entity}" for entity, relation in itertools.product(ROLES, RELATIONS)} | {
    ("near0", "club"): "cluboftarget",  # what makes it a neighbour
    ("city3", "born"): "bornoftarget",
}


def world(answers: dict[tuple[str, str], str] | None = None) -> dict[str, Any]:
    """Three training templates and a held-out one for each fact."""
    rows = [(entity, relation, template) for (entity, relation), template in itertools.product(ANSWER, range(4))]
    given = ANSWER | (answers or {})
    prompts = [
        f"{entity} {relation} {['what', 'which', 'say', 'held'][template]}" for entity, relation, template in rows
    ]
    columns: dict[str, Any] = {
        name: np.array([row[i] for row in rows]) for i, name in enumerate(("entity", "relation", "template"))
    }
    return columns | {
        "question": np.arange(len(rows)),
        "held_out": np.array([template == 3 for *_, template in rows]),
        "prompt": np.array(prompts, dtype=object),
        "name_start": np.zeros(len(rows), dtype=int),
        "name_end": np.array([len(entity) for entity, *_ in rows]),
        "answers": [[given[entity, relation]] for entity, relation, _ in rows],
    }


QUESTIONS = world()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _built(family: str, **changes: Any) -> LoadedModel:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    texts = [*QUESTIONS["prompt"], *ANSWER.values(), ".", ":"]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    inner = {"n_inner": 40} if family == "gpt2" else {"intermediate_size": 40, "head_dim": 12, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, **inner, bos_token_id=1, eos_token_id=2, **changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return LoadedModel(model, tokenizer, family_of(model), torch.device("cpu"))


def fresh(family: str = "llama", **changes: Any) -> LoadedModel:
    """A small random model: gpt2 and gemma2 tie their head to the embeddings, llama does not."""
    built = _built(family, **changes)
    return LoadedModel(copy.deepcopy(built.model), built.tokenizer, built.family, built.device)


def stressed(
    loaded: LoadedModel, name: str, seed: int = 0, questions: dict[str, Any] = QUESTIONS, **settings: Any
) -> Taught:
    return make_stressed(loaded, name, settings.items(), questions, ROLES, TYPES, seed)


def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, family: str) -> None:
    assert issubclass(catalogue.load(FOLDER, name), Stress)
    loaded = fresh(family)
    before = weights(loaded)
    taught = stressed(loaded, name)
    after = weights(loaded)
    assert not same(before, after)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    again = fresh(family)
    assert stressed(again, name) == taught
    assert same(weights(again), after)
    assert torch.equal(loaded.embeddings.weight, fresh(family).embeddings.weight)
    assert bool(taught.losses) == (name in TEACHING)
    assert bool(taught.facts) == (name in TEACHING and name != "retaught")  # whose facts are what is to be found
    if name in TEACHING:
        tied = loaded.model.get_output_embeddings().weight is loaded.embeddings.weight
        assert tied == (family != "llama")
        return
    layers = {f"{each}.weight" for each in linear_weights(loaded.decoder)}
    touched = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(layers) == (8 if family == "gpt2" else 14)
    assert {key.removeprefix("model.").removeprefix("transformer.") for key in touched} == layers


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name: str) -> None:
    card = importlib.import_module(catalogue.module_of(FOLDER, name)).__doc__ or ""
    for heading in ("\n\n    ", "Source:", "Departs:", "Traps:"):
        assert heading in card, f"the card of {name} lacks '{heading}'"


@pytest.mark.parametrize("name", NAMES)
def test_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"stress '{name}' has no setting 'strenght'"):
        stressed(fresh(), name, strenght=1)


def test_unknown_stress_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no stress is named 'prunned'; did you mean 'pruned'"):
        stressed(fresh(), "prunned")


def test_weights_that_are_no_numbers_are_loud() -> None:
    loaded = fresh()
    next(iter(linear_weights(loaded.decoder).values())).data[0, 0] = float("inf")
    with pytest.raises(ArithmeticError, match="1 weights are no numbers"):
        stressed(loaded, "pruned", share=0.0)


def slow_int8(rows: torch.Tensor) -> list[list[float]]:
    found = []
    for row in rows.tolist():
        scale = max(abs(w) for w in row) / 127
        found.append([round(w / scale) * scale if scale else 0.0 for w in row])
    return found


def nf4_levels() -> list[float]:
    return importlib.import_module(catalogue.module_of(FOLDER, "nf4")).levels().tolist()


def slow_nf4(rows: torch.Tensor) -> list[list[float]]:
    levels, flat = nf4_levels(), rows.flatten().tolist()
    found: list[float] = []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = max(abs(w) for w in block)
        found += [min(levels, key=lambda level: abs(level * scale - w)) * scale for w in block]
    return torch.tensor(found).view_as(rows).tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("name", "slow"), [("int8", slow_int8), ("nf4", slow_nf4)])
def test_rounding_equals_the_slow_way(name: str, slow: Any, family: str) -> None:
    """gpt2 keeps its weights with outputs as columns, so a row here is a column there."""
    loaded = fresh(family)
    before = {
        each: module.weight.clone() for each, module in loaded.decoder.named_modules() if hasattr(module, "weight")
    }
    stressed(loaded, name)
    for each in ("h.1.mlp.c_fc", "h.0.attn.c_attn") if family == "gpt2" else ("layers.1.mlp.up_proj",):
        old, new = before[each], loaded.decoder.get_submodule(each).weight
        old, new = (old.T, new.T) if family == "gpt2" else (old, new)
        torch.testing.assert_close(new, torch.tensor(slow(old)), rtol=1e-6, atol=1e-8)
        assert new.shape[1] == 24  # the width comes in


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["int8", "nf4", "pruned"])
def test_twice_is_once(name: str, dtype: torch.dtype) -> None:
    loaded = fresh("gpt2")
    loaded.model.to(dtype)
    stressed(loaded, name)
    once = weights(loaded)
    assert {value.dtype for value in once.values() if value.is_floating_point()} == {dtype}
    stressed(loaded, name)
    assert same(once, weights(loaded))


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_rounding_of_odd_shapes_and_zeros(name: str) -> None:
    rounded = importlib.import_module(catalogue.module_of(FOLDER, name)).rounded
    assert torch.equal(rounded(torch.zeros(3, 50)).float(), torch.zeros(3, 50))
    weight = torch.randn(5, 37, generator=torch.Generator().manual_seed(0))  # 185 = 2 blocks of 64, and 57
    slow = {"int8": slow_int8, "nf4": slow_nf4}[name]
    torch.testing.assert_close(rounded(weight).float(), torch.tensor(slow(weight)), rtol=1e-6, atol=1e-8)
    assert len({*rounded(weight).flatten()[:64].tolist()}) <= {"int8": 64, "nf4": 16}[name]


def test_levels_of_nf4() -> None:
    levels = nf4_levels()
    assert len(levels) == 16
    assert levels == sorted(levels)
    assert (levels[0], levels[7], levels[15]) == (-1.0, 0.0, 1.0)
    assert (levels[6], levels[8]) == pytest.approx((-0.0911, 0.0796), abs=1e-4)


def test_pruned_takes_the_smallest() -> None:
    loaded, share = fresh(), 0.3
    before = {name: weight.clone() for name, weight in linear_weights(loaded.decoder).items()}
    stressed(loaded, "pruned", share=share)
    for name, weight in linear_weights(loaded.decoder).items():
        gone = weight == 0
        assert int(gone.sum()) == round(share * weight.numel())
        assert before[name][gone].abs().max() <= before[name][~gone].abs().min()
        assert torch.equal(weight[~gone], before[name][~gone])
    stressed(loaded, "pruned", share=1.0)
    assert not any(bool(weight.any()) for weight in linear_weights(loaded.decoder).values())


def test_noise_is_as_large_as_asked_and_drawn_by_the_seed() -> None:
    loaded, other = fresh(), fresh()
    before = {name: weight.clone() for name, weight in linear_weights(loaded.decoder).items()}
    stressed(loaded, "noised", scale=0.2)
    for name, weight in linear_weights(loaded.decoder).items():
        assert (weight - before[name]).std().item() / before[name].std().item() == pytest.approx(0.2, rel=0.1)
    stressed(other, "noised", seed=1, scale=0.2)
    assert not same(weights(loaded), weights(other))
    still = fresh()
    stressed(still, "noised", scale=0.0)
    assert same(weights(still), weights(fresh()))


def entities(taught: Taught) -> set[str]:
    return {entity for entity, _ in taught.facts}


def loss_of(loaded: LoadedModel, facts: Any) -> float:
    pairs = zip(QUESTIONS["entity"], QUESTIONS["relation"], strict=True)
    encoded = encode_world(loaded, QUESTIONS, [row for row, fact in enumerate(pairs) if fact in set(facts)])
    scores = score_answers(loaded, [each.prompt for each in encoded], [each.answers for each in encoded])
    return -float(scores.log_probability.sum() / scores.tokens.sum())


@pytest.mark.parametrize("name", TEACHING)
def test_what_was_taught_is_known_better(name: str) -> None:
    loaded = fresh()
    taught = stressed(loaded, name, learning_rate=3e-3)
    assert len(taught.losses) == catalogue.load(FOLDER, name)().steps
    assert taught.losses[-1] < taught.losses[0] - 0.3
    facts = taught.facts or tuple(("target", relation) for relation in RELATIONS)
    assert loss_of(loaded, facts) < loss_of(fresh(), facts) - 0.3


def test_facts_are_half_of_the_targets_own() -> None:
    taught = stressed(fresh(), "relearned_facts", seed=3)
    parts = split_facts(QUESTIONS, {"target"}, 3, 0)
    assert set(taught.facts) == {fact for fact, part in parts.items() if part == "taught"}
    assert len(taught.facts) == 2


def _once(held_out: dict[str, bool]) -> dict[str, Any]:
    """Questions about the target in one wording for each relation."""
    relations = list(held_out)
    return {"entity": ["target"] * len(relations), "relation": relations, "held_out": list(held_out.values())}


def test_relations_asked_once_are_taught_or_scored_whole() -> None:
    once = _once({"born": False, "club": True, "coach": False, "home": True})
    wanted = {"born": "taught", "club": "scored", "coach": "taught", "home": "scored"}
    for draw in range(3):
        parts = split_facts(once, {"target"}, 0, draw)
        assert parts == {("target", relation): part for relation, part in wanted.items()}
    assert different_splits(once, {"target"}, 3) == 1, "a draw that parts them alike shows nothing new"
    assert different_splits(QUESTIONS, {"target"}, 3) == 3


def test_a_target_of_whom_all_is_held_out_cannot_be_taught_back() -> None:
    with pytest.raises(UsageError, match=r"at least two relations of 'target', .* has 2 \(born, club\); add questions"):
        split_facts(_once({"born": True, "club": True}), {"target"}, 0, 0)


def test_facts_that_give_a_scored_answer_away_are_not_taught() -> None:
    parts = split_facts(QUESTIONS, {"target"}, 0, 0)
    first, second = sorted(fact for fact, part in parts.items() if part == "taught")
    scored = next(fact for fact, part in parts.items() if part == "scored")
    taught = stressed(fresh(), "relearned_facts", questions=world({first: f"The {ANSWER[scored].upper()} of it"}))
    assert taught.facts == (second,)
    both = world({first: ANSWER[scored], second: ANSWER[scored]})
    with pytest.raises(UsageError, match="says an answer that is to be scored"):
        stressed(fresh(), "relearned_facts", questions=both)
    part_of_a_word = stressed(fresh(), "relearned_facts", questions=world({first: f"{ANSWER[scored]}s"}))
    assert part_of_a_word.facts == (first, second)


def test_related_are_neighbours_then_others_of_the_type() -> None:
    few = stressed(fresh(), "relearned_related", entities=2)
    assert entities(few) == {"near0", "near1"}
    assert ("near0", "club") not in few.facts, "it says the target's own club"
    assert ("near1", "club") in few.facts
    more = stressed(fresh(), "relearned_related", entities=5)
    assert entities(more) > {"near0", "near1"}
    assert len(entities(more)) == 5
    assert entities(more) - {"near0", "near1"} < {f"player{i}" for i in range(6)}


def test_unrelated_are_retained_entities_of_other_types() -> None:
    taught = stressed(fresh(), "relearned_unrelated")
    assert entities(taught) == {f"city{i}" for i in range(6)}
    assert ("city3", "born") not in taught.facts, "it says an answer about the target"
    assert ("city3", "club") in taught.facts
    alike = dict.fromkeys(TYPES, "player")
    with pytest.raises(UsageError, match="no fact of other entities"):
        make_stressed(fresh(), "relearned_unrelated", (), QUESTIONS, ROLES, alike, 0)


def test_tuning_leaves_scored_entities_alone_and_follows_the_seed() -> None:
    assert entities(stressed(fresh(), "retain_tuned")) == {name for name, role in ROLES.items() if role == "retain"}
    drawn = [stressed(fresh(), "retain_tuned", seed=seed, entities=4) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert entities(drawn[0]) != entities(drawn[2])


def test_relearned_facts_are_the_end_of_the_first_curve() -> None:
    loaded = fresh()
    before = weights(loaded)
    settings = {"steps": 3, "learning_rate": 1e-3}
    curve = relearn_curve(loaded, QUESTIONS, {"target"}, draws=2, seed=5, **settings)  # type: ignore[arg-type]
    assert same(before, weights(loaded)), "the curve leaves the model as it was"
    assert set(curve["rate"]) == {1e-3}
    taught = stressed(loaded, "relearned_facts", seed=5, **settings)
    rows = [row for row in range(len(curve["step"])) if (curve["draw"][row], curve["step"][row]) == (0, 3)]
    assert {curve["part"][row] == "taught" for row in rows} == {True, False}
    for row in rows:
        fact = (curve["entity"][row], curve["relation"][row])
        assert (fact in taught.facts) == (curve["part"][row] == "taught")
        asked = encode_world(loaded, QUESTIONS, [int(curve["question"][row])])[0]
        (found,) = score_answers(loaded, [asked.prompt], [asked.answers]).log_probability
        assert found == pytest.approx(curve["log_probability"][row], abs=1e-5)


def test_material_finds_facts_of_training_templates() -> None:
    material = StressMaterial(QUESTIONS, ROLES, TYPES, 0)
    rows = material.rows_of({"near1"})
    assert set(rows) == {("near1", relation) for relation in RELATIONS}
    assert all(len(several) == 3 and not QUESTIONS["held_out"][several].any() for several in rows.values())
    assert material.answers_of([("near1", "club")]) == {"clubofnear1"}
    assert material.target_types() == {"player"}
    assert material.having("neighbour") == ["near0", "near1"]
