"""The training loop, distribution, checkpoints."""
