"""How an instruction-tuned model is asked: as the user of its chat template."""
