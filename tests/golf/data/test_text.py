"""Reading the user's files: every kind, every defect by file and line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from golf.data.text import JSONL, TEXT, limited, read_documents, text_files
from golf.runtime.errors import DataError, MissingInput

LINES = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(["one", "  ", "", "two €", "3\n4"]))


@pytest.mark.parametrize("suffix", JSONL)
def test_every_packing_of_json_lines(tmp_path: Path, suffix: str) -> None:
    raw = b"\xef\xbb\xbf" + LINES.encode() + b"\n\n"
    if suffix.endswith(".zst"):  # two frames, as `cat a.zst b.zst` makes
        raw = zstandard.compress(raw[:20]) + zstandard.compress(raw[20:])
    elif suffix.endswith(".gz"):
        raw = gzip.compress(raw)
    (tmp_path / f"a{suffix}").write_bytes(raw)
    assert list(read_documents([tmp_path / f"a{suffix}"])) == ["one", "two €", "3\n4"]


def test_a_window_beyond_the_usual_is_no_damage(tmp_path: Path) -> None:
    """As ``zstd --long=28`` writes it; most decoders stop at 2^27 unless told otherwise."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(stream.compress(LINES.encode()) + stream.flush())
    assert len(list(read_documents([tmp_path / "a.jsonl.zst"]))) == 3


def test_text_files_are_documents_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a.md", ".hidden.txt", ".git/x.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else name)
    assert list(read_documents(text_files(tmp_path, TEXT))) == ["a/z.txt", "b.txt"]
    assert text_files(tmp_path / "b.txt", TEXT) == [tmp_path / "b.txt"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{oops", 'needed {"text"'),
        (b'"text"', "found str"),
        (b"[1]", "found list"),
        (b'{"body": "x"}', "the keys ['body']"),
        (b'{"text": 3}', "text of the type int"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "needed"),
    ],
)
def test_garbage_is_refused_by_file_and_line(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_documents([path]))
    assert f"{path}:3: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ok\nbad \xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: not UTF-8: byte 0xff at offset 7"):
        list(read_documents([tmp_path / "a.txt"]))


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_archives_are_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    raw = LINES.encode() * 500
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(raw) if "zst" in suffix else gzip.compress(raw)
    broken = {
        "cut": packed[:-8],
        "flipped": packed[:40] + bytes([packed[40] ^ 0x5A]) + packed[41:],
        "other": b"plain text",
    }[damage]
    (tmp_path / f"a{suffix}").write_bytes(broken)
    with pytest.raises(DataError, match=r"a\.jsonl\."):
        list(read_documents([tmp_path / f"a{suffix}"]))


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file or folder"):
        text_files(tmp_path / "absent", JSONL)
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"found \.csv, needed \.jsonl"):
        text_files(tmp_path / "a.csv", JSONL)
    assert text_files(tmp_path, JSONL) == []


def test_limits() -> None:
    texts = ["aaa bbb", "ccc ddd", "eee"]
    assert list(limited(texts)) == texts
    assert list(limited(texts, max_documents=2)) == texts[:2]
    assert list(limited(texts, max_bytes=14)) == texts[:2]
    assert list(limited(texts, max_bytes=12)) == ["aaa bbb", "ccc"]
    assert list(limited(texts, max_bytes=7)) == texts[:1]
    assert list(limited(["one long document"], max_bytes=9)) == ["one long"]
    assert list(limited(["unbroken"], max_bytes=4)) == ["unbr"]
    assert list(limited(["€€€"], max_bytes=4)) == ["€"]
    assert list(limited(["€"], max_bytes=2)) == []


def test_nothing_is_read_behind_a_limit() -> None:
    def damaged() -> Iterator[str]:
        yield from ("one", "two")
        raise DataError("damaged")

    assert list(limited(damaged(), max_documents=2)) == ["one", "two"]
    assert list(limited(damaged(), max_bytes=4)) == ["one"]
    with pytest.raises(DataError, match="damaged"):
        list(limited(damaged(), max_documents=3))
