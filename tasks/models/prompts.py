"""Text to token ids: the prompt and each answer apart, and which tokens hold the name.

Two rules hold everywhere:

- The beginning-of-sequence token is prepended once, where the family asks for it, and never otherwise.
- An answer is encoded as a *continuation*: preceded by one space unless the prompt ends in white space, and as it
  would be in the middle of a line, so that no tokenizer adds a space of its own. Its ids never merge with the
  prompt's.

With a chat template the prompt is what the user says: the ids are those of the whole templated text, whose own
beginning token is not doubled, and the answer follows the beginning of the model's turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from storage.records import UsageError
from tasks.models.chat.template import Chat
from tasks.models.families import Family

ANCHORS = ("\n", ":", ".")
"""What an answer is encoded after, to stand in the middle of a line; the first that does not merge with it."""


class Question(NamedTuple):
    """A question as token ids; positions count from the first token of `prompt`, the beginning token included."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    name_first: int
    name_last: int


def beginning(tokenizer: Any, family: Family) -> tuple[int, ...]:
    """The beginning-of-sequence id to prepend, or nothing.

    Raises: UsageError where the family asks for one and the tokenizer has none.
    """
    token = tokenizer.bos_token_id
    if family.beginning == "always":
        if token is None:
            raise UsageError(
                f"family {family.name} begins every sequence with a beginning token and this tokenizer has none; "
                "use the tokenizer that came with the model"
            )
        return (int(token),)
    if family.beginning == "tokenizer" and token is not None:
        return (int(token),) if list(tokenizer("a")["input_ids"])[:1] == [token] else ()
    return ()


def encode_texts(tokenizer: Any, family: Family, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Whole texts as ids, each with its beginning token."""
    begin = beginning(tokenizer, family)
    return [begin + ids for ids, _ in _encode(tokenizer, texts)]


def encode_answers(
    tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], chat: Chat | None = None
) -> list[tuple[int, ...]]:
    """The ids of each answer, as the continuation of the prompt at the same place.

    Raises: UsageError for an answer that gives no token, or that holds a control token of the chat template.
    """
    texts = [answer if prompt[-1:].isspace() else f" {answer}" for prompt, answer in zip(prompts, answers, strict=True)]
    if chat is not None:
        for answer in answers:
            chat.check(answer)
        texts = [chat.lead + answer for answer in answers]
    encoded = _continuations(tokenizer, texts)
    for answer, ids in zip(answers, encoded, strict=True):
        if not ids:
            raise UsageError(f"answer {answer!r} gives no token; every accepted answer must have text")
    return encoded


def token_spans(
    tokenizer: Any, family: Family, prompts: Sequence[str], spans: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """First and last token of the name in each prompt, from the characters `[start, end)` it spans.

    A token belongs to the name when they share a character.

    Raises: UsageError for a span that holds no token.
    """
    begin = len(beginning(tokenizer, family))
    offsets = [offset for _, offset in _encode(tokenizer, prompts)]
    return [_span(begin, *each) for each in zip(prompts, offsets, spans, strict=True)]


def token_span(tokenizer: Any, family: Family, prompt: str, name_start: int, name_end: int) -> tuple[int, int]:
    """First and last token of the name in one prompt."""
    return token_spans(tokenizer, family, [prompt], [(name_start, name_end)])[0]


def encode_questions(
    tokenizer: Any,
    family: Family,
    prompts: Sequence[str],
    spans: Sequence[tuple[int, int]],
    answers: Sequence[Sequence[str]],
    chat: Chat | None = None,
) -> list[Question]:
    """Questions as ids: prompt, every accepted answer, and the tokens of the name.

    Raises: UsageError for an answer or a name without a token.
    """
    read = _prompts(tokenizer, beginning(tokenizer, family), prompts, chat)
    repeated = [prompt for prompt, accepted in zip(prompts, answers, strict=True) for _ in accepted]
    flat = iter(encode_answers(tokenizer, repeated, [answer for accepted in answers for answer in accepted], chat))
    questions = []
    for prompt, (ids, offsets), span, accepted in zip(prompts, read, spans, answers, strict=True):
        first, last = _span(len(ids) - len(offsets), prompt, offsets, span)
        questions.append(Question(ids, tuple(next(flat) for _ in accepted), first, last))
    return questions


def _prompts(
    tokenizer: Any, begin: tuple[int, ...], prompts: Sequence[str], chat: Chat | None
) -> list[tuple[tuple[int, ...], list[tuple[int, int]]]]:
    """Ids of each prompt, the beginning token once, and the characters of the prompt that each of the others holds."""
    if chat is None:
        return [(begin + ids, offsets) for ids, offsets in _encode(tokenizer, prompts)]
    turns = [chat.turn(prompt) for prompt in prompts]
    read = []
    for (ids, offsets), (_, moved) in zip(_encode(tokenizer, [text for text, _ in turns]), turns, strict=True):
        once = ids if ids[: len(begin)] == begin else begin + ids
        read.append((once, [(low - moved, high - moved) for low, high in offsets]))
    return read


def _span(begin: int, prompt: str, offsets: list[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int]:
    start, end = span
    inside = [i for i, (low, high) in enumerate(offsets) if low < end and high > start and high > low]
    if not 0 <= start < end <= len(prompt) or not inside:
        raise UsageError(f"the name's characters {start} to {end} hold no token of the prompt {prompt!r}")
    return begin + inside[0], begin + inside[-1]


def _continuations(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Texts encoded as if something stood before them on the line."""
    wanted = list(dict.fromkeys(texts))
    done: dict[str, tuple[int, ...]] = {}
    for anchor in ANCHORS:
        ((alone, _),) = _encode(tokenizer, [anchor])
        rest = [text for text in wanted if text not in done]
        for text, (ids, _) in zip(rest, _encode(tokenizer, [anchor + text for text in rest]), strict=True):
            if ids[: len(alone)] == alone:
                done[text] = ids[len(alone) :]
    rest = [text for text in wanted if text not in done]
    done.update({text: ids for text, (ids, _) in zip(rest, _encode(tokenizer, rest), strict=True)})
    return [done[text] for text in texts]


def _encode(tokenizer: Any, texts: Iterable[str]) -> list[tuple[tuple[int, ...], list[tuple[int, int]]]]:
    """Ids and character offsets of each text without special tokens; equal texts are encoded once."""
    texts = list(texts)
    unique = list(dict.fromkeys(texts))
    if not unique:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer (a folder with tokenizer.json)"
        )
    backend = tokenizer.backend_tokenizer  # some three times faster than the call of transformers
    backend.no_padding()
    backend.no_truncation()
    encodings = backend.encode_batch(unique, add_special_tokens=False)
    table = {text: (tuple(each.ids), list(each.offsets)) for text, each in zip(unique, encodings, strict=True)}
    return [table[text] for text in texts]
