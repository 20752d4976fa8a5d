"""``fairway sweep``: many experiments, planned from a journal, so that a kill costs only what was running."""
