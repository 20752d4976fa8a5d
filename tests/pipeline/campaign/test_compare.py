import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from golf.params.stats import Stats
from golf.runtime.errors import ConfigError, DataError, MissingInput
from golf.stats.noise import Component, NoiseFloor
from pipeline.campaign.compare import compare_sides, judge
from pipeline.campaign.sides import Side, resolve
from tests.pipeline.campaign.checkout import folder, log
from tests.pipeline.campaign.graph import git, graph
from tests.pipeline.campaign.verbs import run

FLOOR = NoiseFloor(Component(1e-3, 20), Component(1e-3, 20), None, None, 24, 4, 1)
PAIRED = replace(FLOOR, paired=Component(1e-4, 10))


def side(name: str, *scores: float, text: float = 1e6, first: int = 1) -> Side:
    return Side(name, "made", dict(enumerate(scores, first)), text, 2.5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return graph(tmp_path, {42: 1.20, 314: 1.21, 999: 1.22})


def test_below_the_floor_is_noise_and_above_it_is_not() -> None:
    theirs = side("B", 1.1000, 1.1001, 1.1002, first=9)
    near = judge(side("A", 1.0995, 1.0996, 1.0997), theirs, FLOOR, Stats())
    assert near.unpaired is not None
    assert near.unpaired.p < 0.01  # by luck these seeds lie close together; the floor knows better
    assert "within noise" in near.verdict
    assert "3 seeds a side find" in near.verdict
    far = judge(side("A", 1.0900, 1.0901, 1.0902), theirs, FLOOR, Stats())
    assert "A against B: better by 0.01000 bpb [" in far.verdict
    back = judge(theirs, side("A", 1.0900, 1.0901, 1.0902), FLOOR, Stats())
    assert "worse by 0.01000 bpb [" in back.verdict
    assert back.interval == pytest.approx((-far.interval[1], -far.interval[0]))  # type: ignore[index]


def test_the_same_seeds_are_compared_in_pairs() -> None:
    ours, theirs = side("A", 1.0995, 1.1105, 1.1205), side("B", 1.1, 1.111, 1.121)
    result = judge(ours, theirs, PAIRED, Stats())
    assert result.basis == "noise floor, same seeds"
    assert "better by 0.00050" in result.verdict
    assert "within noise" in judge(ours, replace(theirs, scores={1: 1.1, 2: 1.111, 7: 1.121}), PAIRED, Stats()).verdict


def test_without_a_floor_the_seeds_own_spread_counts_and_is_named() -> None:
    result = judge(side("A", 1.0, 1.001), side("B", 1.1, 1.101), None, Stats(), no_floor="no database")
    assert "spread of these seeds alone" in result.verdict
    assert "no noise floor: no database" in result.flags
    alone = judge(side("A", 1.0), side("B", 1.1), None, Stats())
    assert "no claim: no spread known" in alone.verdict
    assert alone.unpaired is None


def test_one_seed_a_side_is_held_against_the_floor() -> None:
    assert "within noise" in judge(side("A", 1.0), side("B", 1.002), FLOOR, Stats()).verdict
    assert "better by" in judge(side("A", 1.0), side("B", 1.02), FLOOR, Stats()).verdict


def test_other_text_or_none_makes_no_claim() -> None:
    ours = side("A", 1.0, 1.001)
    assert "no claim: other text" in judge(ours, side("B", 1.1, 1.2, text=1.01e6), FLOOR, Stats()).verdict
    assert "no claim: it isn't known" in judge(ours, replace(ours, val_bytes=None), FLOOR, Stats()).verdict


def test_chosen_seeds_have_both_p_side_by_side() -> None:
    ours, theirs = side("A", 1.0, 1.001, 1.002, 1.006, 1.007), side("B", 1.004, 1.0045, 1.005)
    result = judge(ours, theirs, FLOOR, Stats(), best=3)
    assert result.selection is not None
    assert (result.selection.best, result.selection.ran) == (3, 5)
    assert result.selection.naive.p < 0.01 < result.selection.p
    assert "knowing of the choice" in result.verdict
    assert any("too good by the choice alone" in flag for flag in result.flags)
    published = judge(side("A", 1.0, 1.001, 1.002), theirs, FLOOR, Stats(), ran=5)
    assert published.selection is not None
    assert published.selection.p == result.selection.p
    assert judge(ours, theirs, FLOOR, Stats(), best=5).selection is None
    clear = judge(side("A", 1.0, 1.001, 1.002, 1.003), side("B", 1.104, 1.1045, 1.105), FLOOR, Stats(), best=3)
    assert "better by" in clear.verdict
    assert "the best 3 of 4: p = " in clear.verdict


@pytest.mark.parametrize(("best", "ran"), [(0, None), (4, None), (2, 2), (2, 9)])
def test_a_choice_that_cannot_be_is_refused(best: int, ran: int | None) -> None:
    with pytest.raises(ConfigError, match="--best"):
        judge(side("A", 1.0, 1.1, 1.2), side("B", 1.0, 1.1), FLOOR, Stats(), best=best, ran=ran)


def test_published_baselines_give_the_published_test(here: Path) -> None:
    result = compare_sides("pr1019", "pr549", here)
    assert result.unpaired is not None
    assert result.with_margin is not None
    assert result.unpaired.p == pytest.approx(0.000403, abs=1e-6)
    assert result.with_margin.p == pytest.approx(0.00955, abs=1e-5)
    assert "better by 0.00464 bpb" in result.verdict
    assert result.paired is None


def test_two_records_folders(here: Path) -> None:
    head = "Hyperparameters:\n  lr: {}\n  depth: 9"
    for name, shift, rate in (("a", 0.0, "0.1"), ("b", 0.02, "0.2")):
        scores = {seed: 1.2 + seed / 1e5 + shift for seed in (1, 2, 3)}
        logs = {f"train_seed{s}__log": log(v, s, extra=head.format(rate)) for s, v in scores.items()}
        results = {str(seed): {"val_bpb": value} for seed, value in scores.items()}
        folder(here, name, {"val_bpb": 1.20002 + shift, "seed_results": results}, **logs)
    place = here / "records/track_10min_16mb"
    result = compare_sides(str(place / "a"), str(place / "b"), here)
    assert result.differing == {"lr": ("0.1", "0.2")}
    assert result.ours.total_bytes == 15_950_000
    assert result.paired is None  # equal differences have no spread
    assert "better by 0.02000" in result.verdict


def test_a_tree_a_revision_and_an_experiment_by_name(here: Path) -> None:
    git(here, "init", "-q")
    git(here, "add", "params.yaml", "reports")
    git(here, "commit", "-qm", "base")
    graph(here, {42: 1.10, 314: 1.11, 999: 1.12}, bits=5)
    git(here, "add", "params.yaml", "reports")
    git(here, "commit", "-qm", "mossy-vole")
    commit = git(here, "rev-parse", "HEAD")
    git(here, "update-ref", f"refs/exps/ab/{'c' * 38}/mossy-vole", commit)
    git(here, "reset", "-q", "--hard", "HEAD~1")
    found = resolve("mossy-vole", here)
    assert found.scores == {42: 1.10, 314: 1.11, 999: 1.12}
    assert found.params["quant.bits"] == "5"
    assert resolve(commit[:10], here).scores == found.scores
    assert resolve("HEAD", here).scores == resolve(".", here).scores == {42: 1.20, 314: 1.21, 999: 1.22}
    result = compare_sides("mossy-vole", "HEAD", here)
    assert result.differing == {"quant.bits": ("5", "6")}
    assert result.price == 3.6


def test_what_cannot_be_read_says_so(here: Path) -> None:
    with pytest.raises(MissingInput, match=r"nowhere.*dvc exp list"):
        resolve("nowhere", here)
    with pytest.raises(MissingInput):
        resolve("--help", here)
    git(here, "init", "-q")
    (here / "reports/evaluate/42.json").write_text("{half")
    with pytest.raises(DataError, match=r"evaluate/42\.json: not JSON"):
        resolve(".", here)
    (here / "params.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not YAML"):
        resolve(".", here)
    (here / "params.yaml").write_text("text")
    with pytest.raises(DataError, match="no seeds"):
        resolve(".", here)
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="no score"):
        resolve("empty", here)


def test_the_verbs_print_and_write_the_same(here: Path) -> None:
    text = run("compare", "pr1019", "pr549", "--best", "2", "--json", "out.json")
    content = json.loads((here / "out.json").read_text())
    assert content["selection"]["naive_p"] < content["selection"]["p"]
    assert "best 2 of 3: naive p" in text
    folder(here, "2026-03-17_f", {"val_bpb": 1.2}, train__log=log(1.2))
    text = run("records", ".", "--sources", "--json", "board.json")
    assert "1 of 1 folders imported" in text
    assert "bpb 1.20000: records/track_10min_16mb/2026-03-17_f/train.log:" in text
    assert json.loads((here / "board.json").read_text())["imported"] == 1
    with pytest.raises(ConfigError, match="--of"):
        run("compare", "pr1019", "pr549", "--best", "2", "--of", "0")


@pytest.mark.parametrize("verb", ["noise", "compare", "records"])
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    assert f"Example: fairway {verb}" in " ".join(run(verb, "--help").split())


def test_the_verbs_cost_the_start_of_the_command_nothing(tmp_path: Path) -> None:
    probe = "import sys, pipeline.campaign.commands; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert not {"numpy", "scipy", "torch", "mlflow", "dvc", "yaml"} & set(done.stdout.decode().split())


def test_names_from_elsewhere_do_not_move_the_cursor(here: Path) -> None:
    folder(here, "f\x1b[2J", {"\x1b[31mkey": 1})
    assert "\x1b" not in run("records", ".", "--sources")
