"""Fairway beside the public 1.0611 record's script: training by the clock, and evaluation of the same weights.

The script is not part of this repository; docs/gpu.md says where it is. It runs as it is published, but for the few
places of ``script.REPLACEMENTS`` where it trains on a single GPU.

    python -m benchmarks.beside train --script train_gpt.py --shards data/shards --tokenizer data/tokenizer
    python -m benchmarks.beside evaluate --script train_gpt.py --shards data/shards --tokenizer data/tokenizer \\
        --run runs/train/42 --weights raw
"""
