"""What is done around runs of the graph: noise, comparisons, published records."""
