"""The long table of what was tried, for ``dvc plots``: a line for each stream, codec and layout, with seconds."""

from __future__ import annotations

from collections.abc import Sequence

from golf.codec.report import StreamReport

COLUMNS = ("stream", "codec", "layout", "kept", "bytes", "entropy", "conditional", "ratio", "seconds")


def alternatives(reports: Sequence[StreamReport]) -> str:
    """CSV of :data:`COLUMNS`: bytes coded, order-0 and conditional entropy in bytes, coded over order-0, CPU seconds.

    Streams without entropy are left out: nothing is to be compared there.
    """
    lines = [",".join(COLUMNS)]
    for report in reports:
        for key, size in report.tried.items() if report.entropy_bytes else ():
            codec, layout = key.split("/")
            kept = int((codec, layout) == (report.codec, report.layout))
            numbers = f"{report.entropy_bytes:.1f},{report.conditional_bytes:.1f},{size / report.entropy_bytes:.5f}"
            lines.append(f"{report.name},{codec},{layout},{kept},{size},{numbers},{report.seconds[key]:.3f}")
    return "\n".join(lines) + "\n"
