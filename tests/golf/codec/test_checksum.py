import numpy as np
import pytest

from golf.codec.checksum import SCALAR, crc32c


def slow(data: bytes, crc: int = 0) -> int:
    """Bit by bit, from the definition."""
    register = crc ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4, and the check value of the catalogue
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_published_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("size", [0, 1, 3, SCALAR - 1, SCALAR, SCALAR + 1, 100_001, (1 << 17) + 5, (1 << 18) - 1])
def test_every_path_agrees_with_the_definition(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert crc32c(data) == slow(data)


def test_it_continues_over_any_cut() -> None:
    data = np.random.default_rng(1).integers(0, 256, 200_000, np.uint8).tobytes()
    whole = crc32c(data)
    for cut in (0, 1, 2, 3, 5, 4096, 131_072, 199_999, 200_000):
        assert crc32c(data[cut:], crc32c(data[:cut])) == whole


def test_large_blocks_are_the_same_as_small_ones_in_turn() -> None:
    data = np.random.default_rng(2).integers(0, 256, 9_000_001, np.uint8).tobytes()
    crc = 0
    for start in range(0, len(data), 120_000):
        crc = crc32c(data[start : start + 120_000], crc)
    assert crc32c(data) == crc


def test_it_takes_arrays_of_any_dtype() -> None:
    array = np.arange(5000, dtype="<f4")
    assert crc32c(array) == crc32c(array.tobytes())
