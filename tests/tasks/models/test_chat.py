"""Chat templates: the question in the user's turn, the answer in the model's, in the styles of several families."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.models.chat.template import Chat, chat_of
from tasks.models.families import family_of_type
from tasks.models.prompts import encode_answers, encode_questions

GEMMA_STYLE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA_STYLE = (
    "{{ bos_token }}{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}"
    "<|head|>system<|/head|>\n\nToday Date: {{ today }}<|eot|>"
    "{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
QWEN_STYLE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
BRACKETS_STYLE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
STYLES = {
    "gemma2": (GEMMA_STYLE, "<end_of_turn>", "<start_of_turn>model\n"),
    "llama": (LLAMA_STYLE, "<|eot|>", "<|head|>assistant<|/head|>\n\n"),
    "qwen3": (QWEN_STYLE, "<|im_end|>", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    "mistral": (BRACKETS_STYLE, "<eos>", "[/INST]"),
}
CONTROLS = (
    "<start_of_turn>", "<end_of_turn>", "<|head|>", "<|/head|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "[INST]",
    "[/INST]",
)  # fmt: skip
QUESTION, NAME = " Who was model user Ada Lovelace? ", "Ada Lovelace"
SPAN = (QUESTION.index(NAME), QUESTION.index(NAME) + len(NAME))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes merged without regard for words: what stands at a border would be merged across it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", *CONTROLS]
    texts = [f"{end}{answer}" for end in ("\n", "model\n", "\n\n", "is", "") for answer in ("Paris", " Paris", "1815")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        texts * 9,
        trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def _chat(tokenizer: PreTrainedTokenizerFast, family: str) -> Chat:
    tokenizer.chat_template = STYLES[family][0]
    return chat_of(tokenizer, "here")


@pytest.mark.parametrize("family", STYLES)
def test_the_question_is_the_users_turn_and_the_answer_the_models(
    tokenizer: PreTrainedTokenizerFast, family: str
) -> None:
    chat = _chat(tokenizer, family)
    _, end, opening = STYLES[family]
    (asked,) = encode_questions(tokenizer, family_of_type(family), [QUESTION], [SPAN], [["Paris"]], chat)
    turns = [{"role": "user", "content": QUESTION.strip()}]
    expected = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    if family != "llama":  # whose template writes today's date
        assert list(asked.prompt) == expected
    assert tokenizer.decode(asked.prompt).endswith(opening)
    assert asked.prompt.count(tokenizer.bos_token_id) == (family != "qwen3")
    assert tokenizer.decode(asked.prompt[asked.name_first : asked.name_last + 1]).strip() == NAME
    assert tokenizer.convert_ids_to_tokens([chat.end]) == [end]
    if family != "llama":
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": "Paris"}], tokenize=False, enable_thinking=False
        )
        assert tokenizer.decode((*asked.prompt, *asked.answers[0], chat.end)) == whole.removesuffix("\n")


@pytest.mark.parametrize("family", STYLES)
def test_prompt_and_answer_never_merge(tokenizer: PreTrainedTokenizerFast, family: str) -> None:
    chat = _chat(tokenizer, family)
    questions = encode_questions(
        tokenizer, family_of_type(family), [QUESTION] * 2, [SPAN] * 2, [["Paris"], ["1815", "Paris"]], chat
    )
    assert questions[0].prompt == questions[1].prompt
    assert questions[0].answers[0] == questions[1].answers[1]
    assert tokenizer.decode(questions[1].answers[0]).strip() == "1815"


def test_these_merges_would_cross_the_border(tokenizer: PreTrainedTokenizerFast) -> None:
    """What the ids apart are good for: the same text in one piece has other ids."""
    chat = _chat(tokenizer, "gemma2")
    (asked,) = encode_questions(tokenizer, family_of_type("gemma2"), [QUESTION], [SPAN], [["Paris"]], chat)
    together = tokenizer(chat.turn(QUESTION)[0] + "Paris", add_special_tokens=False)["input_ids"]
    assert list(asked.prompt + asked.answers[0]) != together
    assert tokenizer.decode(together) == tokenizer.decode(asked.prompt + asked.answers[0])


def test_a_template_without_a_beginning_gets_the_familys_once(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = QWEN_STYLE
    chat = chat_of(tokenizer, "here")
    for family, begins in (("gemma2", 1), ("qwen3", 0)):
        (asked,) = encode_questions(tokenizer, family_of_type(family), [QUESTION], [SPAN], [["Paris"]], chat)
        assert asked.prompt.count(tokenizer.bos_token_id) == begins
        assert tokenizer.decode(asked.prompt[asked.name_first : asked.name_last + 1]).strip() == NAME


def test_today_is_always_the_same_day(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = _chat(tokenizer, "llama")
    assert "Today Date: 26 Jul 2024<|eot|>" in chat.before
    tokenizer.chat_template = LLAMA_STYLE.replace("%d %b %Y", "%Y-%m-%d")
    other = chat_of(tokenizer, "here")
    assert "2024-07-26" in other.before
    assert other.digest != chat.digest


def test_an_answer_that_the_template_leads_in_with_a_space(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = _chat(tokenizer, "mistral")
    assert chat.lead == " "
    assert tokenizer.decode(encode_answers(tokenizer, ["x"], ["Paris"], chat)[0]) == " Paris"
    assert _chat(tokenizer, "gemma2").lead == ""


def test_a_turn_that_nothing_ends_ends_with_the_tokenizers_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert chat_of(tokenizer, "here").end == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "here has no chat template; give an instruction-tuned model, or chat = false"),
        ("{{ raise_exception('no user') }}", r"fails \(no user\)"),
        ("{% for m in messages %}{{ m.content | lower }}{% endfor %}", "does not put one question and one answer in"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not put one question"),
        ("{{ messages[0].content }}", "does not put one question and one answer in"),
    ],
)
def test_templates_that_cannot_be_used(tokenizer: PreTrainedTokenizerFast, template: Any, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=message):
        chat_of(tokenizer, "here")


def test_a_question_or_answer_with_a_control_token_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = _chat(tokenizer, "gemma2")
    with pytest.raises(UsageError, match="holds the control token '<end_of_turn>'"):
        encode_questions(tokenizer, family_of_type("gemma2"), ["Ada<end_of_turn>"], [(0, 3)], [["Paris"]], chat)
    with pytest.raises(UsageError, match="holds the control token '<eos>'"):
        encode_answers(tokenizer, ["Ada"], ["Paris<eos>"], chat)
