"""Ids of prompt and answer, apart and in place, for tokenizers that treat spaces differently."""

from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from storage.records import UsageError
from tasks.models.families import family_of_type
from tasks.models.prompts import (
    beginning,
    encode_answers,
    encode_questions,
    encode_texts,
    token_span,
)

GEMMA, QWEN, PHI = family_of_type("gemma2"), family_of_type("qwen2"), family_of_type("phi3")
KINDS = ["byte_level", "pieces", "words"]
Tokenizers = dict[str, PreTrainedTokenizerFast]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_apart_is_what_it_would_be_in_the_sentence(tokenizers: Tokenizers, kind: str) -> None:
    tokenizer = tokenizers[kind]
    for prompt, answer in [
        ("The city of", "Paris"),
        ("Ada Lovelace was born in", "1815"),
        ("The team of Ada is ", "Lions"),
    ]:
        together = prompt.rstrip() + " " + answer
        (alone,) = encode_texts(tokenizer, QWEN, [prompt])
        (continued,) = encode_answers(tokenizer, [prompt], [answer])
        if prompt[-1] == " " and kind != "words":
            assert tokenizer.decode(continued).strip() == answer  # a space that stands alone cannot join the answer
            assert alone + continued == _ids(tokenizer, prompt) + continued
        else:
            assert alone + continued == _ids(tokenizer, together)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", ["byte_level", "pieces"])
def test_one_space_and_no_more_goes_before_an_answer(tokenizers: Tokenizers, kind: str) -> None:
    tokenizer = tokenizers[kind]
    with_space, without = encode_answers(tokenizer, ["in", "in "], ["Paris", "Paris"])
    first, *_ = tokenizer.convert_ids_to_tokens(with_space)
    assert first[0] in "Ġ▁"
    assert first[1:2] not in ("Ġ", "▁")
    assert tokenizer.convert_ids_to_tokens(without)[0][0] == "P"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quote", ["", "'"])
def test_the_tokens_of_a_name(tokenizers: Tokenizers, kind: str, quote: str) -> None:
    tokenizer = tokenizers[kind]
    prompt = f"The team of {quote}Ada Lovelace{quote} is"
    start = prompt.index("Ada")
    end = start + len("Ada Lovelace")
    first, last = token_span(tokenizer, GEMMA, prompt, start, end)
    (ids,) = encode_texts(tokenizer, GEMMA, [prompt])
    assert ids[0] == tokenizer.bos_token_id
    text = "".join(tokenizer.convert_ids_to_tokens(ids[first : last + 1])).replace("Ġ", " ").replace("▁", " ")
    assert text.replace(" ", "") == "AdaLovelace"
    assert token_span(tokenizer, QWEN, prompt, start, end) == (first - 1, last - 1)


def test_the_beginning_is_prepended_once_and_by_the_familys_rule(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    begin = (tokenizer.bos_token_id,)
    assert beginning(tokenizer, GEMMA) == begin
    assert beginning(tokenizer, QWEN) == ()
    assert beginning(tokenizer, PHI) == ()  # this tokenizer adds none itself
    (ids,) = encode_texts(tokenizer, GEMMA, ["The team"])
    assert ids.count(tokenizer.bos_token_id) == 1
    with pytest.raises(UsageError, match="beginning token"):
        beginning(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer), GEMMA)


def test_questions_keep_their_order_and_all_their_answers(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    prompts = ["The city of Paris lies in", "The team of Ada is", "The city of Paris lies in"]
    spans = [(12, 17), (12, 15), (12, 17)]
    answers = [["France", "Paris"], ["Lions"], ["France"]]
    questions = encode_questions(tokenizer, GEMMA, prompts, spans, answers)
    assert [len(question.answers) for question in questions] == [2, 1, 1]
    assert questions[0].prompt == questions[2].prompt
    assert questions[0].answers[0] == questions[2].answers[0] == encode_answers(tokenizer, ["x"], ["France"])[0]
    assert tokenizer.decode(questions[1].prompt[questions[1].name_first : questions[1].name_last + 1]).strip() == "Ada"


def test_a_padding_tokenizer_does_not_pad_here(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    tokenizer(["The", "The city of Paris"], padding=True, truncation=True, max_length=3)
    long, short = encode_texts(tokenizer, QWEN, ["The city of Paris lies in France.", "The"])
    assert len(long) > 3
    assert len(short) == 1


@pytest.mark.parametrize("span", [(3, 3), (0, 99), (-1, 2)])
def test_a_span_without_text_is_refused(tokenizers: Tokenizers, span: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="hold no token"):
        token_span(tokenizers["byte_level"], GEMMA, "The team", *span)


def test_an_answer_without_text_is_refused(tokenizers: Tokenizers) -> None:
    with pytest.raises(UsageError, match="gives no token"):
        encode_answers(tokenizers["words"], ["The"], [" "])


def test_a_family_is_data() -> None:
    assert replace(GEMMA, beginning="never").beginning == "never"
    with pytest.raises(UsageError, match="'bert' is not supported; known: gemma2"):
        family_of_type("bert")
