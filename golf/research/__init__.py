"""Ideas that are tried against the plain model, one module each; nothing of the pipeline imports them."""
