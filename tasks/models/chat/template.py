"""A tokenizer's chat template, as the texts that stand around what the user says.

    before + question + after        what is read; `after` ends with the beginning of the model's turn
    lead + answer, then `end`        what is answered

The template is run on two made-up questions, and what differs between them is the question's place. So each question
is put in place without running the template again, and its characters are where they are known to be.
A template that writes the date gets one and the same: today's would change the ids, and with them every result, daily.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from storage.records import UsageError

DATE = {
    "%d": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%y": "24",
    "%Y": "2024",
    "%A": "Friday",
    "%a": "Fri",
    "%H": "12",
    "%M": "00",
    "%S": "00",
}
"""What stands for today, by the codes of strftime: the date that Llama 3.1's template has of its own."""
PROBES = ("FIRSTPLACE", "SECONDPLACE1", "ANSWERPLACE")
"""Two made-up questions and an answer; nothing that a template would trim or know."""


@dataclass(frozen=True)
class Chat:
    """What a chat template puts around a question and its answer."""

    before: str
    after: str
    """Ends with the beginning of the model's turn."""
    lead: str
    """Between that and the answer: nothing or white space."""
    end: int
    """Id of the token that ends the model's turn."""
    digest: str
    """sha256 of the template's text."""
    controls: tuple[str, ...]
    """Texts that the tokenizer reads as control tokens."""

    def turn(self, question: str) -> tuple[str, int]:
        """The text that the model reads, and by how many characters those of the question have moved in it.

        White space around the question is left out.

        Raises: UsageError for a question that holds a control token: it would end the user's turn.
        """
        self.check(question)
        words = question.strip()
        return self.before + words + self.after, len(self.before) - question.index(words)

    def check(self, text: str) -> None:
        """Raises: UsageError for a text that holds a control token."""
        found = next((token for token in self.controls if token in text), "")
        if found:
            raise UsageError(f"{text!r} holds the control token {found!r} of the chat template; take it out")


def chat_of(tokenizer: Any, location: str) -> Chat:
    """The chat template of a tokenizer; location: of the model, for messages.

    Raises: UsageError where there is none, it fails, or it changes what the user says.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            f"[model] chat = true and {location} has no chat template; give an instruction-tuned model, or chat = false"
        )
    try:
        template = str(tokenizer.get_chat_template())
        one, other = (_render(tokenizer, template, [("user", probe)]) for probe in PROBES[:2])
        whole = _render(tokenizer, template, [("user", PROBES[0]), ("assistant", PROBES[2])])
    except Exception as error:  # jinja's, and whatever a template raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"the chat template of {location} fails ({first}); give another model, or chat = false"
        ) from error
    before, _, after = one.partition(PROBES[0])
    if before + PROBES[1] + after != other or PROBES[0] in after or whole.count(PROBES[2]) != 1:
        raise UsageError(
            f"the chat template of {location} does not put one question and one answer in as they are; use chat = false"
        )
    answered, _, rest = whole.partition(PROBES[2])
    return Chat(
        before,
        after,
        lead=answered[len(one) :] if answered.startswith(one) and not answered[len(one) :].strip() else "",
        end=_end(tokenizer, rest.lstrip(), location),
        digest=hashlib.sha256(template.encode()).hexdigest(),
        controls=tuple(
            sorted(each.content for each in tokenizer.added_tokens_decoder.values() if each.content.strip())
        ),
    )


def _render(tokenizer: Any, template: str, turns: list[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(
        messages,
        chat_template=_dated() + template,
        tokenize=False,
        add_generation_prompt=turns[-1][0] == "user",
        enable_thinking=False,
    )
    return str(text)


def _dated() -> str:
    """A macro that takes the place of the one that tells today's date."""
    replaced = "".join(f" | replace('{code}', '{value}')" for code, value in DATE.items())
    return "{%- macro strftime_now(format) -%}{{ format" + replaced + " }}{%- endmacro -%}"


def _end(tokenizer: Any, rest: str, location: str) -> int:
    """The token that the template writes behind an answer; the tokenizer's own end where it writes none."""
    ids = tokenizer.backend_tokenizer.encode(rest, add_special_tokens=False).ids if rest else []
    if ids and ids[0] in tokenizer.added_tokens_decoder:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise UsageError(f"neither the chat template nor the tokenizer of {location} ends an answer; use chat = false")
    return int(tokenizer.eos_token_id)
