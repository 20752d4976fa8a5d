"""Nats a token and bits a byte: one number ties them, the bytes a token of the scored text."""

from __future__ import annotations

import math

from golf.runtime.errors import DataError


def nats_per_bpb(bytes_per_token: float) -> float:
    """How many nats a token make one bit a byte: ln 2 x bytes a token.

    The factor belongs to a tokenizer and a text, so 0.005 nats is 0.0030 bpb at 2.44 bytes a token
    and 0.0019 at 3.73.

    Raises:
        DataError: ``bytes_per_token`` is not a positive number.
    """
    if not (math.isfinite(bytes_per_token) and bytes_per_token > 0):
        raise DataError(f"bytes a token: found {bytes_per_token!r}, needed a positive number")
    return math.log(2.0) * bytes_per_token


def nats_to_bpb(nats: float, bytes_per_token: float) -> float:
    """``nats`` a token as bits a byte."""
    return nats / nats_per_bpb(bytes_per_token)


def bpb_to_nats(bpb: float, bytes_per_token: float) -> float:
    """``bpb`` as nats a token."""
    return bpb * nats_per_bpb(bytes_per_token)
