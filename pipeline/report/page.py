"""One HTML file out of the template, its style, its program, the charts and the data; nothing is fetched by it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from golf.runtime.errors import Exit, FairwayError
from pipeline.report.charts import specs

PROGRAM = ("data.js", "table.js", "charts.js", "detail.js", "app.js")
_PLACE = re.compile(r"<!-- insert: (\w+) -->")


def render(content: dict[str, Any]) -> str:
    """The page that shows ``content``, as :func:`pipeline.report.content.gather` makes it.

    Its policy allows the scripts of the template, by their hash, and no request: a name that came through the
    escaping could still run nothing and send nothing.

    Raises:
        FairwayError: the charts' packages aren't installed.
    """
    try:
        library, charts = _library(), specs()
    except ModuleNotFoundError as error:
        raise FairwayError(
            f"report: the package {error.name} is not installed, needed for the charts",
            hint="pip install -e '.[track,report]' -c constraints.txt -c constraints-report.txt",
            code=Exit.CONFIG,
        ) from None
    program = '"use strict";\n(() => {\n' + "\n".join(map(_static, PROGRAM)) + "\n})();\n"
    scripts = " ".join(f"'sha256-{_hash(text)}'" for text in (library, program))
    parts = {
        "policy": f"default-src 'none'; script-src {scripts} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",  # Vega makes functions of its expressions and adds a style of its own
        "style": _static("style.css"), "data": data(content), "charts": data(charts),
        "library": library, "program": program,
    }  # fmt: skip
    return _PLACE.sub(lambda place: parts[place[1]], _static("page.html"))


def data(value: Any) -> str:
    """``value`` as JSON that can stand in a script element: no ``<`` ends it or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed``."""
    import vl_convert

    return _safe(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _static(name: str) -> str:
    return (files("pipeline.report") / "static" / name).read_text(encoding="utf-8")


def _safe(script: str) -> str:
    """A script that can stand in a page: the same program without ``</script`` in its texts and carriage returns."""
    return script.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
