import json
import random
from pathlib import Path

import pytest

from golf.runtime.errors import DataError, MissingInput
from pipeline.campaign.published.findings import findings, scored_text
from pipeline.campaign.published.folder import read_folder
from pipeline.campaign.published.leaderboard import as_json, columns, read_checkout, sources, summary
from pipeline.campaign.published.logs import read_log
from pipeline.campaign.published.sourced import read_document
from tests.pipeline.campaign.checkout import TOKENS, WHOLE, folder, log, loss

SEEDS = {"42": 1.2001, "314": 1.2005, "999": 1.2003}


def kinds(made: Path, top: Path) -> set[str]:
    return {finding.kind for finding in findings(read_folder(made, top), top)}


def test_the_naive_schema_one_score_and_one_log(tmp_path: Path) -> None:
    made = folder(tmp_path, "2026-03-17_One", {
        "author": "a", "github_id": "b", "name": "One", "date": "2026-03-18T10:00:00Z", "val_loss": 2.0,
        "val_bpb": 1.2345, "bytes_total": 15_950_000, "bytes_code": 50_000,
    }, train__log=log(1.23451234))  # fmt: skip
    entry = read_folder(made, tmp_path)
    assert (entry.name, entry.author, entry.date, entry.track) == ("One", "a", "2026-03-17", "track_10min_16mb")
    assert entry.bpb.source == "records/track_10min_16mb/2026-03-17_One/submission.json:7"
    (seed,) = entry.seeds
    assert seed.bpb.value == 1.23451234
    line = int(seed.bpb.source.rpartition(":")[2])
    assert (made / "train.log").read_text().split("\n")[line - 1].startswith("final_int8_zlib_roundtrip_exact")
    assert seed.eval_seconds is None
    assert seed.train_seconds.value == 599.9
    assert kinds(made, tmp_path) == {"few-seeds"}


@pytest.mark.parametrize("key", ["val_bpb", "mean_val_bpb", "mean_bpb"])
@pytest.mark.parametrize("group", ["seed_results", "seeds"])
@pytest.mark.parametrize(("total", "seconds"), [("artifact_bytes", "train_time_s"), ("bytes_total", "train_time_ms")])
def test_every_name_of_the_same_thing(tmp_path: Path, key: str, group: str, total: str, seconds: str) -> None:
    scale = 1000 if seconds.endswith("ms") else 1
    results = {s: {"val_bpb": v, total: 15_950_000, seconds: 599 * scale} for s, v in SEEDS.items()}
    logs = {f"train_seed{s}__log": log(v, int(s)) for s, v in SEEDS.items()}
    entry = read_folder(folder(tmp_path, "f", {"run_name": "n", key: 1.2003, group: results}, **logs), tmp_path)
    assert [seed.seed for seed in entry.seeds] == [42, 314, 999]
    assert all(seed.score and seed.log and seed.log.seed == seed.seed for seed in entry.seeds)
    assert entry.seeds[0].train_seconds.value == pytest.approx(599)
    assert entry.sizes.stated.value == 15_950_000
    assert entry.name == "n"


def test_two_lists_instead_of_an_object(tmp_path: Path) -> None:
    content = {"val_bpb": 1.2003, "seeds": [42, 314, 999], "seed_scores": list(SEEDS.values()), "artifact_bytes_max": 9}
    entry = read_folder(folder(tmp_path, "f", content), tmp_path)
    assert [seed.bpb.value for seed in entry.seeds] == list(SEEDS.values())
    assert len({seed.bpb.source for seed in entry.seeds}) == 3
    assert "no-log" in kinds(tmp_path / "records/track_10min_16mb/f", tmp_path)


def test_seeds_that_only_the_logs_have_are_found_by_their_mean(tmp_path: Path) -> None:
    logs = {f"train_seed{s}__log": log(v, int(s)) for s, v in SEEDS.items()}
    entry = read_folder(folder(tmp_path, "f", {"val_bpb": 1.2003}, **logs), tmp_path)
    assert sorted(entry.values) == sorted(SEEDS.values())
    made = folder(tmp_path, "g", {"val_bpb": 1.2001}, **logs)
    assert "best-seed-stated" in kinds(made, tmp_path)


def test_a_score_with_all_its_decimals_goes_before_a_rounded_mean_that_is_near(tmp_path: Path) -> None:
    logs = {f"train_seed{s}__log": log(v, s) for s, v in {1: 1.20143417, 2: 1.19945102, 3: 1.20319508}.items()}
    entry = read_folder(folder(tmp_path, "f", {"val_bpb": 1.20143417}, **logs), tmp_path)
    assert entry.values == [1.20143417, 1.19945102, 1.20319508]


def test_logs_that_name_no_seed_stand_for_themselves(tmp_path: Path) -> None:
    made = folder(tmp_path, "f", {"val_bpb": 1.2}, a__log=log(1.2, None), b__log=log(1.4, None))
    assert read_folder(made, tmp_path).values == [1.2]


def test_a_label_is_not_trusted_the_number_is(tmp_path: Path) -> None:
    """Some records print the sliding score under the round trip's label, last."""
    extra = f"final_int6_roundtrip_exact val_loss:{loss(1.25):.8f} val_bpb:{1.25:.8f}"
    made = folder(tmp_path, "f", {"val_bpb": 1.25}, train__log=log(1.2, extra=extra))
    (seed,) = read_folder(made, tmp_path).seeds
    assert seed.score is not None
    assert seed.score.label == "final_int6_roundtrip_exact"


def test_lines_with_the_time_in_front_and_sliding_before_the_label(tmp_path: Path) -> None:
    text = (
        log(1.2, stamp="1776142360.538 ") + f"x sliding val_loss:{loss(1.1):.4f} sliding val_bpb:1.1000 eval_time:9ms\n"
    )
    (tmp_path / "a.log").write_text(text)
    found = read_log(tmp_path / "a.log", "a.log")
    assert [score.label for score in found.scores][-1] == "sliding x"
    assert found.value("val_tokens") == TOKENS


def test_the_programs_own_source_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text('print(f"final val_loss:{v} val_bpb:{b}")\n    seed = int("7")\nlog0("seed:7")\n')
    found = read_log(tmp_path / "a.log", "a.log")
    assert not found.scores
    assert not found.numbers


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (TOKENS, WHOLE, set()),
        (TOKENS, WHOLE - 400, set()),  # a tail scored twice
        (63_779_840, 155_769_746, {"older-export"}),
        (9_662_464, round(9_662_464 * 3.15736), {"partial-validation"}),
        (TOKENS // 8, WHOLE // 8, {"partial-validation"}),
        (40_540_160, round(WHOLE * 1.17), {"byte-count"}),  # a leading space counted twice
        (47_851_520, 164_600_000, {"byte-count"}),  # operators counted as text
        (TOKENS, round(WHOLE * 0.97), {"byte-count"}),
        (1_000_000, 1_700_000, {"other-text"}),
    ],
)
def test_the_scored_text_gives_itself_away(tmp_path: Path, tokens: int, text: int, expected: set[str]) -> None:
    made = folder(tmp_path, "f", {"val_bpb": 1.2}, train__log=log(1.2, tokens=tokens, text=text))
    assert kinds(made, tmp_path) - {"few-seeds"} == expected
    (seed,) = read_folder(made, tmp_path).seeds
    found = scored_text(seed.score, seed.log)
    assert abs(found.bytes.value - text) <= found.error + 1


@pytest.mark.parametrize("seed", range(12))
def test_any_part_of_the_split_is_seen_whatever_the_score(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    bpb, share = round(generator.uniform(0.8, 2.5), 8), generator.uniform(0.01, 0.95)
    part = log(bpb, tokens=int(TOKENS * share), text=int(WHOLE * share))
    assert "partial-validation" in kinds(folder(tmp_path, "f", {"val_bpb": bpb}, train__log=part), tmp_path)


def caseops(bpb: float, shards: int) -> str:
    made = log(bpb, tokens=47_851_520).replace("train_shards:80", "x").replace("fineweb10B_sp1024", "caseops")
    return made.replace("seed:42", f"seed:42\ntrain_shards: {shards}")


def test_training_on_the_validation_text_leaves_its_shard_count(tmp_path: Path) -> None:
    prepare = 'p.add_argument("--val-docs", type=int, default=10_000)\n'
    for shards, expected in ((1499, "overlap"), (80, None), (39, "overlap-possible")):
        made = folder(tmp_path, f"f{shards}", {"val_bpb": 1.2}, train__log=caseops(1.2, shards), prepare__py=prepare)
        assert kinds(made, tmp_path) - {"few-seeds"} == ({expected} if expected else set())
    made = folder(tmp_path, "held", {"val_bpb": 1.2}, train__log=caseops(1.2, 39),
                  prepare__py=prepare.replace("10_000", "50_000"))  # fmt: skip
    assert "overlap-possible" not in kinds(made, tmp_path)


def test_sizes_by_each_convention(tmp_path: Path) -> None:
    helper = "x = 1\n" * 10_000
    made = folder(
        tmp_path, "f", {"val_bpb": 1.2, "bytes_total": 15_950_000}, train__log=log(1.2),
        train_gpt__py="import helper\n", helper__py=helper, unused__py=helper, prepare_data__py=helper,
    )  # fmt: skip
    sizes = read_folder(made, tmp_path).sizes
    assert (sizes.stated.value, sizes.logged.value) == (15_950_000, 15_950_000)
    assert sizes.shipped.value == 15_900_000 + len("import helper\n") + len(helper)
    assert 15_900_000 < sizes.wrapped.value < 15_901_000
    assert sizes.shipped.source.endswith("f/train_gpt.py + records/track_10min_16mb/f/helper.py")
    made = folder(tmp_path, "g", {"val_bpb": 1.2}, train__log=log(1.2), train_gpt__py=helper * 2)
    assert "shipped-over-cap" in kinds(made, tmp_path)
    assert "over-cap" in kinds(folder(tmp_path, "h", {"val_bpb": 1.2}, train__log=log(1.2, model=15_960_000)), tmp_path)
    made = folder(tmp_path, "i", {"val_bpb": 1.2, "bytes_total": 15_900_000}, train__log=log(1.2))
    assert "bytes-disagree" in kinds(made, tmp_path)


def test_what_else_is_found(tmp_path: Path) -> None:
    results = {"42": {"val_bpb": 1.2004}, "7": {"val_bpb": 1.3004}, "8": {"val_bpb": 1.1704}}
    more = {"all_5_val_bpb": {str(i): 1.2 + i / 1000 for i in range(5)}}
    content = {"val_bpb": 1.2512, "val_bpb_std": 0.0531, "seed_results": results, "disclosure": more}
    made = folder(
        tmp_path, "f", content,
        train_seed42__log=log(1.2004, 42, train_ms=602_000, extra="GPTQ:collected 9 Hessians in 3.5s"),
        train_seed7__log=log(1.3004, 1337), train_seed8__log=log(1.2, 8),
        broken__log=log(1.2).partition("Total submission")[0],
    )  # fmt: skip
    expected = {
        "mean-disagrees",
        "std",
        "selected-seeds",
        "train-clock",
        "seed-mismatch",
        "score-not-logged",
        "log-broke-off",
    }
    assert kinds(made, tmp_path) == expected
    early = folder(tmp_path, "g", {"val_bpb": 1.1904}, train__log=log(1.2004))  # what was printed while training
    assert "before-quantisation" in kinds(early, tmp_path)


def test_a_score_of_a_later_evaluation_keeps_the_size_of_the_run_that_made_the_model(tmp_path: Path) -> None:
    content = {"val_bpb": 1.19, "seed_results": {"42": {"val_bpb": 1.1902}}}
    made = folder(tmp_path, "f", content, train_seed42__log=log(1.2))
    (made / "again").mkdir()
    late = f"val_tokens: {TOKENS}\nquantized_ttt val_loss:{loss(1.19023):.8f} val_bpb:1.19023000 eval_time:1000ms\n"
    (made / "again" / "seed_42.log").write_text(late)
    entry = read_folder(made, tmp_path)
    (seed,) = entry.seeds
    assert seed.log.name.endswith("again/seed_42.log")
    assert entry.sizes.logged.value == 15_950_000


def checkout(top: Path) -> Path:
    """Two records in a row and every kind of broken folder."""
    for day, shift in (("2026-03-20", 0.0), ("2026-03-25", 0.01)):
        results = {s: {"val_bpb": round(v - shift, 8)} for s, v in SEEDS.items()}
        logs = {f"train_seed{s}__log": log(round(v - shift, 8), int(s)) for s, v in SEEDS.items()}
        folder(top, f"{day}_Good", {"val_bpb": round(1.2003 - shift, 8), "seed_results": results}, **logs)
    folder(top, "2026-03-21_Partial", {"val_bpb": 1.0}, train__log=log(1.0, tokens=TOKENS // 8, text=WHOLE // 8))
    folder(top, "only logs", train__log=log(1.3))
    folder(top, "garbage", "{not json", train__log="\x00\xff" * 50)
    folder(top, "foreign", {"accuracy": 0.5, "epochs": [1]})
    folder(top, "a list", "[1, 2]")
    folder(top, "empty file", "")
    folder(top, "nothing")
    folder(top, "deep", "[" * 100_000)
    folder(top, "odd types", {"val_bpb": "1.2", "seeds": {"x": 3}, "seed_results": [1], "name": 7}, train__log=log(1.4))
    folder(top, "huge", {"val_bpb": 10**30}, track="track_non_record_16mb")
    return top


def test_every_folder_is_imported_or_named_with_the_reason(tmp_path: Path) -> None:
    board = read_checkout(checkout(tmp_path))
    names = {row.entry.folder.rpartition("/")[2] for row in board.rows}
    assert names == {"2026-03-20_Good", "2026-03-25_Good", "2026-03-21_Partial", "only logs", "odd types"}
    failed = {folder.rpartition("/")[2]: reason for folder, reason in board.failed.items()}
    assert set(failed) == {"garbage", "foreign", "a list", "empty file", "nothing", "deep", "huge"}
    assert "not JSON" in failed["garbage"]
    assert "accuracy, epochs" in failed["foreign"]
    assert "found list" in failed["a list"]
    assert "no submission.json" in failed["nothing"]
    text = "\n".join([*columns(board), *summary(board), *sources(board)])
    assert "5 of 12 folders imported, 1 ruled out" in text


def test_a_record_is_tested_against_the_best_legal_one_before_it(tmp_path: Path) -> None:
    board = read_checkout(checkout(tmp_path))
    later = next(row for row in board.rows if row.entry.folder.endswith("2026-03-25_Good"))
    assert later.predecessor is not None
    assert later.predecessor.folder.endswith("2026-03-20_Good")
    assert later.significance is not None
    assert later.significance.plain is not None
    assert later.significance.plain.p < 1e-4
    assert "better by more than 0.005 nats" in later.significance.verdict
    json.dumps(as_json(board), allow_nan=False)


def numbers(value: object) -> list[dict]:
    if isinstance(value, dict):
        here = [value] if set(value) == {"value", "source"} else []
        return here + [found for child in value.values() for found in numbers(child)]
    return [found for child in value for found in numbers(child)] if isinstance(value, list) else []


def test_every_number_stands_on_the_line_that_it_names(tmp_path: Path) -> None:
    found = numbers(as_json(read_checkout(checkout(tmp_path)))["rows"])
    assert len(found) > 40
    for number in found:
        for source in number["source"].split(", ")[0].split(" + "):
            name, _, line = source.rpartition(":")
            if not line.isdigit():  # a whole file whose bytes are counted
                assert (tmp_path / source).is_file()
                continue
            text = (tmp_path / name).read_text().split("\n")[int(line) - 1]
            assert any(character.isdigit() for character in text), source
            if "+" not in number["source"] and "," not in number["source"] and "ms" not in text:
                assert f"{number['value']:.10g}".rstrip("0").rstrip(".") in text, (number, text)


def test_json_lines_are_those_of_the_values(tmp_path: Path) -> None:
    content = {"a": {"b": [1, {"c": "x:{[,"}, 2.5], "": None}, "d": True, 'e"q': -1e-3, "f": []}
    for indent in (None, 1, 4):
        (tmp_path / "x.json").write_text(json.dumps(content, indent=indent))
        found = read_document(tmp_path / "x.json", "x.json")
        text = (tmp_path / "x.json").read_text().split("\n")
        for key, value in (
            (("a", "b", 2), "2.5"),
            (("a", "b", 1, "c"), "x:{[,"),
            (("d",), "true"),
            (('e"q',), "-0.001"),
        ):
            assert value in text[found.lines[key] - 1]
        assert found.number("d") is None
        assert found.number('e"q').digits == 3
        assert found.number("a", "b", 2).source == f"x.json:{found.lines['a', 'b', 2]}"


NAMES = [
    "val_bpb",
    "seeds",
    "seed_results",
    "42",
    "all_5_val_bpb",
    "bytes_total",
    "compliance",
    "seed_scores",
    "",
    "x:",
]


def anything(generator: random.Random, depth: int = 3) -> object:
    """A JSON value of any shape, with the names that the importer looks for in the wrong places."""
    kind = generator.randrange(9 if depth else 7)
    if kind == 7:
        return [anything(generator, depth - 1) for _ in range(generator.randrange(4))]
    if kind == 8:
        return {name: anything(generator, depth - 1) for name in generator.sample(NAMES, generator.randrange(1, 8))}
    return [None, True, 10 ** generator.randrange(30), generator.uniform(-2, 2), float("nan"), "1.2", 'seed "{['][kind]


@pytest.mark.parametrize("block", range(4))
def test_no_json_and_no_half_written_log_crashes(tmp_path: Path, block: int) -> None:
    for seed in range(30):
        generator, top = random.Random(100 * block + seed), tmp_path / str(seed)
        made = folder(top, "f", {name: anything(generator) for name in generator.sample(NAMES, 6)})
        cut, tail = generator.randrange(1500), generator.randbytes(generator.randrange(200))
        (made / "train_seed42.log").write_bytes(log(1.2).encode()[:cut] + tail)
        board = read_checkout(top)
        assert len(board.rows) + len(board.failed) == 1
        json.dumps(as_json(board), allow_nan=False)
        sources(board)


def test_a_place_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no records folder"):
        read_checkout(tmp_path)
    with pytest.raises(MissingInput, match="git clone"):
        read_checkout(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no score"):
        read_folder(folder(tmp_path, "nothing"), tmp_path)
