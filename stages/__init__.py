"""One module a DVC stage: read inputs, call golf, write outputs and a report."""
