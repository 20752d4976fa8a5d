import json
from pathlib import Path

import pytest

from golf.runtime.errors import DataError, MissingInput
from golf.stats.baseline import FINEWEB_VAL_BYTES, convert_margin, load_baseline, parse_baseline, text_relation

READY = sorted(Path("golf/stats/baselines").glob("*.json"))
GOOD = {
    "name": "x",
    "metric": "bpb",
    "values": [1.1, 1.2],
    "bytes_per_token": 2.5,
    "val_bytes": 1000,
    "dataset": "mine",
    "source": "here",
}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_baselines(path):
    baseline = load_baseline(path)
    assert baseline.dataset == "fineweb-val"
    assert all(1.05 < value < 1.23 for value in baseline.bpb)
    total = baseline.val_bytes / FINEWEB_VAL_BYTES - 1
    assert abs(total) < (0.04 if baseline.name == "Naive baseline" else 1e-4)


def test_nats_are_converted_by_the_files_own_factor():
    baseline = parse_baseline({**GOOD, "metric": "nats", "values": [2.0727]} | {"bytes_per_token": 2.4423})
    assert baseline.bpb[0] == pytest.approx(1.2244, abs=5e-5)
    assert convert_margin(0.005, baseline) == pytest.approx(0.002954, abs=5e-7)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"values": []}, "values: found"),
        ({"values": 1.2}, "values: found"),
        ({"values": [1.1, "1.2"]}, r"values\[1\]"),
        ({"values": [1.1, True]}, r"values\[1\]"),
        ({"values": [1.1, -1.0]}, r"values\[1\]"),
        ({"values": [1.1, 1.1]}, "equal values"),
        ({"metric": "accuracy"}, "metric"),
        ({"metric": ["bpb"]}, "metric"),
        ({"bytes_per_token": 0}, "bytes_per_token"),
        ({"val_bytes": -3}, "val_bytes"),
        ({"val_bytes": 0.5}, "val_bytes: found 0.5, needed a whole number"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"std": 0.1}, "unknown std"),
    ],
)
def test_bad_content_is_named(change, text):
    with pytest.raises(DataError, match=text):
        parse_baseline(GOOD | change, "b.json")


def test_missing_key_file_and_json(tmp_path):
    with pytest.raises(DataError, match="source missing"):
        parse_baseline({key: value for key, value in GOOD.items() if key != "source"})
    with pytest.raises(DataError, match="found list"):
        parse_baseline([1.1])
    with pytest.raises(MissingInput, match="pr1019"):
        load_baseline(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load_baseline(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not JSON"):
        load_baseline(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    assert load_baseline(tmp_path / "good.json").values == (1.1, 1.2)


def test_texts_are_told_apart_by_their_bytes():
    record = load_baseline("golf/stats/baselines/pr1019.json")
    naive = load_baseline("golf/stats/baselines/naive-baseline.json")
    assert text_relation(record, FINEWEB_VAL_BYTES) == "same"
    assert text_relation(record, int(FINEWEB_VAL_BYTES * 1.001)) == "different"
    assert text_relation(record, 2_504_867) == "different"
    assert text_relation(naive, FINEWEB_VAL_BYTES) == "export"
    assert text_relation(naive, 155_769_746) == "same"
