"""Other libraries at the same work; each is imported when it is measured, and wraps a copy of the model of its own."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.benchmarks.harness import Run, Watch
from tasks.benchmarks.workload import Size, as_text, id_tokenizer
from tasks.models.load import LoadedModel
from tasks.models.prompts import Question

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Ids, mask, and the wanted position of each row."""


def transformer_lens_states(loaded: LoadedModel, size: Size, batches: Batches) -> Run:
    """One hook cached, the layers above it left out."""
    with _quiet():
        from transformer_lens.model_bridge import TransformerBridge

        tokenizer = id_tokenizer(size.vocabulary)
        tokenizer.bos_token = None  # else the bridge asks the hub for one that adds it
        bridge: Any = TransformerBridge.boot_transformers(
            "benchmark", hf_model=copy.deepcopy(loaded.model), tokenizer=tokenizer, device="cpu"
        )
    kept, layer = list(batches), size.site.layer
    name = f"blocks.{layer}.hook_out"

    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found = []
        for ids, _mask, wanted in kept:  # padded on the right: nothing that counts sees the padding
            _, cache = bridge.run_with_cache(ids, names_filter=name, stop_at_layer=layer + 1, return_cache_object=False)
            found.append(cache[name][torch.arange(len(ids)), wanted])
        return torch.cat(found).numpy()

    return run


def nnsight_states(loaded: LoadedModel, size: Size, batches: Batches) -> Run:
    """One output saved, the trace stopped after it."""
    with _quiet():
        from nnsight import LanguageModel

        model: Any = LanguageModel(copy.deepcopy(loaded.model), tokenizer=id_tokenizer(size.vocabulary))
    kept, layer = list(batches), size.site.layer

    @torch.no_grad()
    def run(_: Watch) -> np.ndarray:
        found = []
        for ids, mask, wanted in kept:
            with model.trace({"input_ids": ids, "attention_mask": mask}) as tracer:
                state = model.model.layers[layer].output.save()
                tracer.stop()
            state = state[0] if isinstance(state, tuple) else state
            found.append(state[torch.arange(len(ids)), wanted])
        return torch.cat(found).numpy()

    return run


def sae_lens_states(loaded: LoadedModel, size: Size, prompts: Sequence[Sequence[int]], wanted: Sequence[int]) -> Run:
    """The runner that sae-lens caches activations with: every position of every prompt, padded, written to disk."""
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    hook, longest = f"model.layers.{size.site.layer}", max(map(len, prompts))
    data = Dataset.from_dict({"tokens": [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]})
    tokens = len(prompts) * longest
    batch = next(number for number in range(32, 0, -1) if len(prompts) % number == 0)

    def run(watch: Watch) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            loaded.model.save_pretrained(f"{folder}/model")
            id_tokenizer(size.vocabulary).save_pretrained(f"{folder}/model")
            settings = CacheActivationsRunnerConfig(
                dataset_path="benchmark", model_name=f"{folder}/model", model_class_name="AutoModelForCausalLM",
                model_batch_size=batch, hook_name=hook, d_in=size.width, training_tokens=tokens,
                context_size=longest, new_cached_activations_path=f"{folder}/activations", shuffle=False,
                buffer_size_gb=(tokens + 0.5) * size.width * 4 / 1e9, dtype="float32", device="cpu", streaming=False, prepend_bos=False,
                model_from_pretrained_kwargs={"attn_implementation": "eager"},
            )  # fmt: skip
            runner = CacheActivationsRunner(settings, override_dataset=data)
            watch.restart()
            cached = runner.run()
            watch.stop()
            states = np.asarray(cached.with_format("numpy")[hook][:])
        return states[np.arange(len(prompts)), wanted]

    return run


def harness_scores(loaded: LoadedModel, size: Size, questions: Sequence[Question], batch: int) -> Run:
    """Log-probability of every answer by lm-eval's own model class."""
    model = _harness(loaded, size, batch)
    requests = [
        ((str(number), str(place)), list(question.prompt), list(answer))
        for number, question in enumerate(questions)
        for place, answer in enumerate(question.answers)
    ]

    def run(_: Watch) -> np.ndarray:
        return np.array([score for score, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)])

    return run


def harness_answers(loaded: LoadedModel, size: Size, prompts: Sequence[Sequence[int]], most: int, batch: int) -> Run:
    """Greedy answers by lm-eval's own model class, as token ids."""
    model = _harness(loaded, size, batch)
    from lm_eval.api.instance import Instance

    wanted = {"until": [], "max_gen_toks": most}
    requests = [Instance("generate_until", {}, (as_text(prompt), wanted), i) for i, prompt in enumerate(prompts)]
    ends = {f"t{i}" for i in loaded.end_ids}

    def run(_: Watch) -> list[tuple[int, ...]]:
        texts = model.generate_until(requests, disable_tqdm=True)
        return [tuple(_ids_until(text, ends)) for text in texts]

    return run


def _ids_until(text: str, ends: set[str]) -> Iterator[int]:
    for word in text.split():
        if word in ends:
            return
        yield int(word[1:])


def _harness(loaded: LoadedModel, size: Size, batch: int) -> Any:
    with _quiet():
        from lm_eval.models.huggingface import HFLM

        tokenizer = id_tokenizer(size.vocabulary)
        return HFLM(pretrained=copy.deepcopy(loaded.model), tokenizer=tokenizer, batch_size=batch, device="cpu")


@contextmanager
def _quiet() -> Iterator[None]:
    """No advice from the libraries: what they warn of is meant here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
