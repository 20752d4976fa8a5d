"""A vocabulary without a model: what counts bytes asks a SentencePiece processor for no more."""


class Pieces:
    """A vocabulary by its pieces: <name> control, ? unknown, ! unused, <0xXX> a byte."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = ("<pad>", "<s>", "</s>", "?", *pieces)

    def vocab_size(self) -> int:
        return len(self.pieces)

    def bos_id(self) -> int:
        return 1

    def id_to_piece(self, index: int) -> str:
        return self.pieces[index]

    def piece_to_id(self, piece: str) -> int:
        return self.pieces.index(piece) if piece in self.pieces else 3

    def is_control(self, index: int) -> bool:
        return self.pieces[index] in ("<pad>", "<s>", "</s>")

    def is_unknown(self, index: int) -> bool:
        return self.pieces[index] == "?"

    def is_unused(self, index: int) -> bool:
        return self.pieces[index] == "!"

    def is_byte(self, index: int) -> bool:
        return self.pieces[index].startswith("<0x")
