import numpy as np
import pytest

from golf.codec.rans import SLOTS, cumulative, decode, make_tables, scale
from golf.codec.rans_encoder import Matrix, describe, encode, fit_shapes, measure
from golf.codec.streams import entropy_bytes
from golf.quant.trellis import PARITY_CHECKS, trellis

Symbols = list[np.ndarray]
STATES = [0, *PARITY_CHECKS]


def code(matrices: Symbols, states: int = 0, carried: np.ndarray | None = None) -> tuple[bytes, bytes, list[Matrix]]:
    measured = [measure(symbols, states) for symbols in matrices]
    shapes, choice = fit_shapes(measured)
    lanes = max(symbols.shape[1] for symbols in matrices)
    carried = np.zeros(lanes, np.uint32) if carried is None else carried
    return encode(measured, shapes, choice, carried), describe(states, measured, shapes, choice), measured


def sizes(matrices: Symbols) -> list[tuple[int, int]]:
    return [(len(symbols), symbols.shape[1]) for symbols in matrices]


def joined(matrices: Symbols) -> bytes:
    return b"".join(symbols.tobytes() for symbols in matrices)


def random_matrix(random: np.random.Generator) -> np.ndarray:
    rows, columns = (int(n) for n in random.choice([1, 2, 3, 17, 64, 200], size=2))
    kind = random.integers(6)
    if kind == 0:
        return np.zeros((rows, columns), np.int8)
    if kind == 1:
        return random.integers(-128, 128, (rows, columns)).astype(np.int8)
    if kind == 2:
        return np.full((rows, columns), random.integers(-128, 128), np.int8)
    if kind == 3:  # sparse, with columns that hold nothing
        return ((random.random((rows, columns)) < 0.02) * random.integers(-9, 9, columns)).astype(np.int8)
    spread = random.choice([0.1, 1.0, 2.4, 20.0]) * np.exp(random.normal(0, random.choice([0, 0.1, 1.5]), columns))
    return np.clip(random.normal(0, spread, (rows, columns)).round(), -128, 127).astype(np.int8)


@pytest.mark.parametrize("seed", range(40))
def test_symbols_and_what_the_lanes_carry_come_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    matrices = [random_matrix(random) for _ in range(random.integers(1, 8))]
    states = STATES[seed % len(STATES)]
    lanes = max(symbols.shape[1] for symbols in matrices)
    carried = random.integers(0, 1 << 32, lanes, np.uint32)
    coded, model, _ = code(matrices, states, carried)
    found, rode = decode(coded, model, sizes(matrices))
    assert found.tobytes() == joined(matrices)
    assert (rode == carried).all()
    assert code(matrices, states, carried)[:2] == (coded, model)


def gaussian(rows: int, columns: int, spread: float = 2.4, columns_vary: float = 0.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    sigma = spread * np.exp(random.normal(0, columns_vary, columns))
    return np.clip(random.normal(0, sigma, (rows, columns)).round(), -31, 31).astype(np.int8)


def stream_bytes(matrices: Symbols, states: int = 0) -> float:
    """Words and model, less the 16 bits that a lane's state costs beyond what it can carry."""
    coded, model, _ = code(matrices, states)
    return len(coded) + len(model) - 4 * max(symbols.shape[1] for symbols in matrices)


def test_alike_columns_take_their_entropy() -> None:
    matrices = [gaussian(1024, 256, seed=seed) for seed in range(4)]
    entropy = sum(entropy_bytes(symbols) for symbols in matrices)
    assert stream_bytes(matrices) - 2 * 256 < 1.0006 * entropy


def test_columns_of_different_spread_take_less_than_order_0() -> None:
    symbols = gaussian(1024, 256, columns_vary=0.35)
    by_column = sum(entropy_bytes(np.ascontiguousarray(column)) for column in symbols.T)
    entropy = entropy_bytes(symbols)
    assert by_column < 0.97 * entropy  # which does not count the columns' own tables
    assert stream_bytes([symbols]) - 2 * 256 < 0.985 * entropy


@pytest.mark.parametrize("values", [9, 5, 3])
def test_a_flat_distribution_is_not_taken_for_a_bell(values: int) -> None:
    symbols = np.random.default_rng(0).integers(0, values, (1024, 128)).astype(np.int8) - values // 2
    assert stream_bytes([symbols]) - 2 * 128 < 1.004 * entropy_bytes(symbols)


def test_the_context_knows_the_trellis_state() -> None:
    """A level near 0 is a symbol near 0 or near -1/2: one histogram for both states costs more."""
    offset, successor = trellis(8)
    random = np.random.default_rng(0)
    symbols, state = np.zeros((400, 128), np.int8), np.zeros(128, np.int64)
    for row in symbols:
        row[:] = np.rint((random.normal(0, 1.2, 128) - offset[state]) / 2)
        state = successor[state, row & 1]
    assert stream_bytes([symbols], 8) < 0.97 * stream_bytes([symbols])


def test_shapes_are_shared_where_they_are_alike() -> None:
    bells = [gaussian(256, 128, seed=seed) for seed in range(5)]
    flat = [np.random.default_rng(seed).integers(-4, 5, (256, 128)).astype(np.int8) for seed in range(3)]
    _, choice = fit_shapes([measure(symbols, 0) for symbols in bells + flat])
    assert len(set(choice)) == 2
    assert len(set(choice[:5])) == 1


def test_the_size_is_known_before_it_is_coded() -> None:
    matrices = [gaussian(512, 128, columns_vary=0.2, seed=seed) for seed in range(3)]
    measured = [measure(symbols, 0) for symbols in matrices]
    shapes, choice = fit_shapes(measured)
    expected = sum(matrix.size(shapes[i]) for matrix, i in zip(measured, choice, strict=True))
    coded = encode(measured, shapes, choice, np.zeros(128, np.uint32))
    assert len(coded) - 6 * 128 == pytest.approx(expected, abs=2 * 128)
    assert expected == pytest.approx(sum(matrix.conditional_bytes for matrix in measured), rel=0.003)


@pytest.mark.parametrize("offsets", [1, 2])
def test_every_symbol_has_a_slot_and_every_slot_a_symbol(offsets: int) -> None:
    random = np.random.default_rng(offsets)
    for _ in range(60):
        mean, reach, span = int(random.integers(0, 113)), int(random.integers(1, 129)), int(random.integers(0, 33))
        codes = random.integers(0, 128, random.integers(1, 65))
        codes[random.integers(len(codes))] = 127
        first = cumulative(scale(codes), offsets, mean, span, reach)
        assert (first[..., 0] == 0).all()
        assert (first[..., -1] == SLOTS).all()
        assert (np.diff(first) >= 1).all()
        tables = make_tables(first, mean, span, reach)
        assert len(tables.symbols) == first.shape[0] * offsets * SLOTS
        assert tables.symbols.nbytes + tables.bins.nbytes < 1 << 24


def test_the_scale_has_eight_values_an_octave() -> None:
    values = scale(np.arange(150))
    assert (np.diff(values) > 0).all()
    assert values[:9].tolist() == list(range(9))
    assert (values[16:] == 2 * values[8:-8]).all()
    assert int(scale(127)) == 245_760


def test_truncation_and_mutation_are_a_value_error_or_wrong_symbols() -> None:
    matrices = [gaussian(40, 24, seed=seed) for seed in range(2)]
    coded, model, _ = code(matrices)
    random = np.random.default_rng(1)
    for cut in (2, 10, len(coded) // 2, len(coded) - 6 * 24):
        with pytest.raises(ValueError, match=r".*"):
            decode(coded[:-cut], model, sizes(matrices))
    refused = 0
    for _ in range(200):
        damaged = bytearray(coded)
        damaged[random.integers(len(coded))] ^= 1 << random.integers(8)
        try:
            found, _ = decode(bytes(damaged), model, sizes(matrices))
        except ValueError:
            refused += 1
        else:
            assert found.size == sum(symbols.size for symbols in matrices)
    assert refused > 180  # the lanes' last states tell: the checksum is for the rest


@pytest.mark.parametrize("place", range(10))
@pytest.mark.parametrize("value", [0, 1, 33, 128, 129, 255])
def test_a_model_of_any_bytes_is_refused_or_decodes(place: int, value: int) -> None:
    matrices = [gaussian(8, 16)]
    coded, model, _ = code(matrices)
    where = (0, 1, 2, 3, 4, -5, -4, -3, -2, -1)[place]
    damaged = bytearray(model)
    damaged[where] = value
    try:
        decode(coded, bytes(damaged), sizes(matrices))
    except (ValueError, IndexError):
        return
