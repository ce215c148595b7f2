"""Score answers as whoever is given the folder would: a script for a process of its own, with transformers alone.

    python plain.py asked.json answered.json

`asked`     model: a folder; edited: whether at every pass; adapter, base: folders, or ""; dtype, device; rows: text,
            prompt and answer (token ids) each; placement: see tasks.models.placement.
`answered`  model: the log-probability of each answer, the end-of-sequence token excluded, nats; adapter: the same by
            peft, of the base model with the adapter; tokens: of each text, without special ones.

Only a model with an edit at every pass, which transformers cannot make, is read by `tasks.models.load.load_model`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(asked: str, answered: str) -> None:
    given = json.loads(Path(asked).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    placed = {} if given["placement"] == "one" else {"device_map": "auto"}
    model = read_edited(given) if given["edited"] else AutoModelForCausalLM.from_pretrained(given["model"], **placed)
    found: dict[str, Any] = {
        "tokens": [tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in given["rows"]],
        "model": scores(model, given["rows"], given["device"]),
    }
    if given["adapter"]:
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(given["base"], dtype=given["dtype"], **placed)
        found["adapter"] = scores(PeftModel.from_pretrained(base, given["adapter"]), given["rows"], given["device"])
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


def read_edited(given: dict[str, Any]) -> Any:
    """The model with the edit that lies beside its weights."""
    from tasks.models.load import load_model

    named = {name: given[name] for name in ("dtype", "device", "placement")}
    return load_model(given["model"], **named).model


@torch.no_grad()
def scores(model: Any, rows: list[dict[str, Any]], device: str) -> list[float]:
    """The log-probability of each row's answer after its prompt, nats."""
    model = (model if hasattr(model, "hf_device_map") else model.to(device)).eval()
    found = []
    for row in rows:
        ids = torch.tensor([row["prompt"] + row["answer"]], device=device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(row["prompt"]) - 1 : -1]
        log_probabilities = logits.float().log_softmax(-1)
        found.append(float(log_probabilities.gather(1, ids[0, len(row["prompt"]) :, None]).double().sum()))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
