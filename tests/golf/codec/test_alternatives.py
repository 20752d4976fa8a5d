"""The table of alternatives, and the plot that DVC draws of it."""

import csv
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import yaml

from golf.codec.alternatives import COLUMNS, alternatives
from golf.codec.container import encode

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / ".dvc/plots/streams.json"


def test_a_line_for_each_stream_codec_and_layout() -> None:
    random = np.random.default_rng(0)
    arrays = {
        "w": np.clip(random.normal(0, 4, (200, 64)), -31, 31).astype(np.int8),
        "zeros": np.zeros((90, 90), np.int8),
    }
    rows = list(csv.DictReader(StringIO(alternatives(encode({}, arrays)[1]))))
    assert {row["stream"] for row in rows} == {"w"}, "without entropy nothing is to be compared"
    assert {row["codec"] for row in rows} == {"stored", "rans", "brotli", "lzma", "zstd"}
    assert [row["kept"] for row in rows].count("1") == 1
    for row in rows:
        assert abs(float(row["ratio"]) - int(row["bytes"]) / float(row["entropy"])) < 1e-4
        assert 0 < float(row["conditional"]) <= float(row["entropy"]) * 1.001


def test_the_plot_draws_bytes_entropies_ratio_and_seconds_of_each_stream_and_codec() -> None:
    template = json.loads(TEMPLATE.read_text())
    assert template["data"] == {"values": "<DVC_METRIC_DATA>"}
    text = json.dumps(template)
    made = {step["as"] for step in template["transform"] if "calculate" in step} | {"best layout"}
    read = set(re.findall(r"toNumber\(datum\.(\w+)\)", text))
    assert read == {"bytes", "entropy", "conditional", "ratio", "seconds"}
    drawn = set(re.findall(r'"field": "([^"]+)"', text))
    assert drawn - {"rev"} <= made | set(COLUMNS)
    assert made - {"best layout"} <= drawn
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["compress"]
    assert [next(iter(plot.values()))["template"] for plot in stage["plots"]] == [TEMPLATE.stem]
