"""LoRA whose experts the history weighs (iLoRA), in training."""
