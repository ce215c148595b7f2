"""Door of the reloading stage: what was saved is what was judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from storage.artifacts import folder_of
from storage.records import ModelRef, Observations, QuestionSet, ReloadedModel, UnlearnedModel
from storage.tables import read_table, write_table
from storage.weights import location_of
from tasks.caching import new_artifact, stage
from tasks.reloading.settings import ReloadingSettings


@stage("reloading", tags=("gpu",))
def reload(
    base: ModelRef,
    unlearned: UnlearnedModel,
    questions: QuestionSet,
    observations: Observations,
    settings: ReloadingSettings,
) -> ReloadedModel:
    """Score a sample of the questions again in a fresh process, by plain transformers from the saved folder.

    `reloading.parquet`: of each question its log-probability as observed, as reloaded, of the base model with the adapter
    (NaN without one), and how far apart the first two are, nats a token.

    Raises: UsageError where the folder cannot be read so, or anything is scored otherwise than the run observed.
    """
    from tasks.models.chat.template import chat_of
    from tasks.models.load import model_folder, read_tokenizer
    from tasks.models.prompts import beginning, encode_questions
    from tasks.models.release.fresh import Asked, score_in_fresh_process
    from tasks.reloading.comparison import check_same_scores, check_same_tokens, chosen_rows

    asked = read_table(folder_of(questions.artifact) / "questions.parquet")
    answers = read_table(folder_of(observations.artifact) / "answers.parquet")
    rows = chosen_rows(asked, settings.questions)
    origin = model_folder(*location_of(base))
    tokenizer, family = read_tokenizer(origin)
    chat = chat_of(tokenizer, str(origin)) if base.chat else None
    prompts = [asked["prompt"][row] for row in rows]
    spans = [(int(asked["name_start"][row]), int(asked["name_end"][row])) for row in rows]
    first = [asked["answers"][row][:1] for row in rows]
    encoded = encode_questions(tokenizer, family, prompts, spans, first, chat)
    given = [
        Asked(prompt if chat is None else chat.turn(prompt)[0], each.prompt, each.answers[0])
        for prompt, each in zip(prompts, encoded, strict=True)
    ]
    folder = Path(location_of(unlearned.model)[0])
    adapter = folder_of(unlearned.artifact) / "adapter"
    dtype = unlearned.model.dtype
    found = score_in_fresh_process(
        folder,
        given,
        dtype=dtype,
        device=settings.device,
        placement=base.placement,
        adapter=adapter if adapter.is_dir() else None,
        base=origin,
    )
    check_same_tokens([each.prompt for each in given], found.tokens, beginning(tokenizer, family), str(folder))
    observed = np.array([answers["log_probability"][row] for row in rows])
    tokens = [len(each.answer) for each in given]
    reader = "tasks.models.load" if found.edited else "plain transformers"
    reread = np.array(found.log_probabilities)
    apart = check_same_scores(observed, reread, tokens, dtype, f"the model saved in {folder}, read by {reader},")
    adapted = np.full(len(rows), np.nan)
    if found.adapter is not None:
        adapted = np.array(found.adapter)
        check_same_scores(
            observed, adapted, tokens, dtype, f"the base model with the adapter in {adapter}, read by peft,"
        )
    with new_artifact() as build:
        write_table(build.folder / "reloading.parquet", {
            "question": [asked["question"][row] for row in rows],
            "split": [asked["split"][row] for row in rows],
            "tokens": np.array(tokens),
            "observed": observed,
            "reloaded": reread,
            "adapter": adapted,
            "apart": apart,
        })  # fmt: skip
    return ReloadedModel(build.artifact, len(rows), float(apart.max()), reader)
