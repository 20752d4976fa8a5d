"""The charts, as Vega-Lite by Altair: marks, axes and units. The page gives each its rows, by the names used here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

# Colours that stand out on a light and on a dark page.
BLUE, ORANGE, GREEN, RED, GREY = "#3f7fd0", "#d9822b", "#2f9e77", "#d0506a", "#8b93a1"
SERIES = (BLUE, ORANGE, GREEN, RED, "#8a6fd1", "#3aa5b8", "#b58a2a", GREY, "#c770b0", "#6f9440")
SCORE = "score (bits per byte)"


def specs() -> dict[str, dict[str, Any]]:
    """Every chart by the id of its place in page.html."""
    charts = {
        "progression": _progression(), "size": _size(), "effects": _effects(), "streams": _streams(),
        "curves": _curves(), "gap": _gap(), "spend": _spend(), "money": _money(), "speed": _speed(), "rates": _rates(),
    }  # fmt: skip
    return {name: chart.to_dict() for name, chart in charts.items()}


def _progression() -> alt.LayerChart:
    import altair as alt

    when = alt.X("time:T", title="date", axis=alt.Axis(format="%d %b %y", labelOverlap=True))
    score = alt.Y("bpb:Q", title=SCORE, scale=alt.Scale(zero=False, nice=True))
    pick = alt.selection_point(fields=["origin"], bind="legend")
    points = (
        alt.Chart(alt.NamedData("entries")).mark_point(filled=True, size=42)
        .encode(when, score, _origin(), tooltip=_entry(),
                opacity=_valid())
        .transform_filter(pick)
        .add_params(pick)
    )  # fmt: skip
    best = (
        alt.Chart(alt.NamedData("best")).mark_line(interpolate="step-after", strokeWidth=2)
        .encode(when, score, _origin())
    )  # fmt: skip
    return _sized(best + points, 320)


def _size() -> alt.LayerChart:
    import altair as alt

    x = alt.X("mb:Q", title="code and compressed weights, largest seed (million bytes)", scale=alt.Scale(zero=False))
    points = (
        alt.Chart(alt.NamedData("entries"))
        .mark_point(filled=True, size=42)
        .encode(
            x, alt.Y("bpb:Q", title=SCORE, scale=alt.Scale(zero=False)), _origin(), tooltip=_entry(), opacity=_valid()
        )
    )
    cap = alt.Chart(alt.NamedData("cap")).encode(alt.X("mb:Q"))
    rule = cap.mark_rule(color=RED, strokeDash=[5, 4], strokeWidth=1.5)
    label = cap.mark_text(align="right", dx=-5, dy=9, color=RED, baseline="top").encode(y=alt.value(0), text="label:N")
    return _sized(points + rule + label, 320)


def _effects() -> alt.LayerChart:
    import altair as alt

    names = alt.Y("name:N", title=None, sort=alt.EncodingSortField("order"))
    colour = alt.Color(
        "verdict:N",
        title=None,
        scale=alt.Scale(
            domain=["helps", "within noise", "harmful after quantisation", "harmful"], range=[GREEN, GREY, ORANGE, RED]
        ),
    )
    told = [
        alt.Tooltip("name:N", title="switch"),
        _number("difference", "Δ bpb", "+.5f"),
        _number("low", "from", "+.5f"),
        _number("high", "to", "+.5f"),
        alt.Tooltip("verdict:N"),
        alt.Tooltip("basis:N", title="interval from"),
    ]
    base = alt.Chart(alt.NamedData("effects")).encode(names, colour, tooltip=told)
    title = "Δ bits per byte (left of zero: better)"
    interval = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q", title=title), alt.X2("high:Q"))
    point = base.mark_point(filled=True, size=70, opacity=1).encode(alt.X("difference:Q", title=title))
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=GREY, strokeDash=[4, 4]).encode(alt.X("at:Q"))
    return (zero + interval + point).properties(**_stepped(26, "name"))


def _streams() -> alt.Chart:
    import altair as alt

    return (
        alt.Chart(alt.NamedData("streams")).mark_bar(height={"band": 0.75})
        .encode(alt.Y("stream:N", title=None, sort="-x"),
                alt.X("bytes:Q", title="bytes in the submission", axis=alt.Axis(format="~s")),
                alt.Color("codec:N", title=None, scale=alt.Scale(range=list(SERIES))),
                tooltip=[alt.Tooltip("stream:N"), alt.Tooltip("codec:N"), _number("bytes", "bytes", ","),
                         _number("raw", "before coding", ",")])
        .properties(**_stepped(22, "stream"))
    )  # fmt: skip


def _curves() -> alt.Chart:
    import altair as alt

    pick = alt.selection_point(fields=["name"], on="pointerover", empty=False)
    chart = (
        alt.Chart(alt.NamedData("curves"))
        .mark_line(strokeJoin="round")
        .encode(
            alt.X("step:Q", title="optimizer step"),
            alt.Y("loss:Q", title="training loss (nats per token)", scale=alt.Scale(zero=False)),
            alt.Color("name:N", title=None, scale=alt.Scale(range=list(SERIES))),
            alt.Detail("run:N"),
            opacity=alt.condition(pick, alt.value(1.0), alt.value(0.7)),
            strokeWidth=alt.condition(pick, alt.value(2.6), alt.value(1.2)),
            tooltip=[alt.Tooltip("full:N", title="run"), _number("step", "step", ","), _number("loss", "loss", ".4f")],
        )
        .add_params(pick)
    )
    return _sized(chart, 340)


def _gap() -> alt.Chart:
    import altair as alt

    return _sized(
        alt.Chart(alt.NamedData("runs"))
        .mark_point(filled=True, size=32, opacity=0.6)
        .encode(
            alt.X("mb:Q", title="code and compressed weights (million bytes)", scale=alt.Scale(zero=False)),
            alt.Y("gap:Q", title="after minus before (bits per byte)", scale=alt.Scale(zero=False)),
            alt.Color("bits:O", title="matrix width (bits)", scale=alt.Scale(scheme="viridis")),
            tooltip=[
                alt.Tooltip("name:N", title="run"),
                _number("gap", "gap", "+.5f"),
                _number("pre", "before", ".5f"),
                _number("post", "after", ".5f"),
                alt.Tooltip("bits:O"),
                _number("bytes", "bytes", ","),
            ],
        ),
        300,
    )


def _spend() -> alt.Chart:
    import altair as alt

    return (
        alt.Chart(alt.NamedData("spend")).mark_bar(height={"band": 0.7})
        .encode(alt.Y("device:N", title=None),
                alt.X("hours:Q", title="hours really run, all runs"),
                alt.Color("stage:N", title=None, sort=None, scale=alt.Scale(range=list(SERIES))),
                alt.Order("order:Q"),
                tooltip=[alt.Tooltip("device:N"), alt.Tooltip("stage:N"), _number("hours", "hours", ".3f"),
                         _number("dollars", "dollars", ",.2f"), _number("runs", "runs", ",")])
        .properties(**_stepped(34, "device"))
    )  # fmt: skip


def _money() -> alt.Chart:
    import altair as alt

    return _sized(
        alt.Chart(alt.NamedData("money"))
        .mark_area(interpolate="step-after", opacity=0.35, line={"strokeWidth": 2})
        .encode(
            alt.X("time:T", title="date", axis=alt.Axis(format="%d %b %y", labelOverlap=True)),
            alt.Y("total:Q", title="dollars spent, running total", stack=None),
            color=alt.value(BLUE),
            tooltip=[
                alt.Tooltip("time:T", title="until", format="%d %b %Y %H:%M"),
                _number("total", "dollars", ",.2f"),
            ],
        ),
        240,
    )


def _speed() -> alt.LayerChart:
    import altair as alt

    device = alt.Y("device:N", title=None)
    title = "ms a step (point: median)"
    ms = alt.X("ms:Q", title=title, scale=alt.Scale(zero=False))
    told = [alt.Tooltip("device:N"), _number("ms", "ms a step", ",.2f"), alt.Tooltip("name:N", title="run")]
    data = alt.Chart(alt.NamedData("speed"))
    ticks = data.mark_tick(thickness=1.5, opacity=0.5, color=BLUE).encode(device, ms, tooltip=told)
    point = data.mark_point(filled=True, size=80, color=ORANGE, opacity=1)
    median = point.encode(device, alt.X("median(ms):Q", title=title))
    return (ticks + median).properties(**_stepped(34, "device"))


def _rates() -> alt.LayerChart:
    import altair as alt

    device = alt.Y("name:N", title=None)
    title = "TFLOP/s (pale: data sheet)"
    told = [alt.Tooltip("name:N", title="machine"), _number("tflops", "measured TFLOP/s", ",.4~g"),
            _number("peak", "data sheet", ",.4~g"), _number("attention", "attention TFLOP/s", ",.4~g")]  # fmt: skip
    data = alt.Chart(alt.NamedData("machines")).encode(device, tooltip=told)
    sheet = data.mark_bar(height={"band": 0.7}, color=GREY, opacity=0.25).encode(alt.X("peak:Q", title=title))
    rate = data.mark_bar(height={"band": 0.4}, color=BLUE).encode(alt.X("tflops:Q", title=title))
    return (sheet + rate).properties(**_stepped(30, "name"))


def _origin() -> alt.Color:
    import altair as alt

    return alt.Color("origin:N", title=None, scale=alt.Scale(domain=["own", "published"], range=[BLUE, ORANGE]))


def _valid() -> Any:
    """Pale where an entry is over the cap, or not known to be legal."""
    import altair as alt

    return alt.condition("datum.state === 'valid'", alt.value(0.8), alt.value(0.25))


def _entry() -> list[alt.Tooltip]:
    import altair as alt

    return [alt.Tooltip("name:N"), alt.Tooltip("origin:N"), _number("bpb", "bits per byte", ".5f"),
            _number("seeds", "seeds", "d"), _number("bytes", "bytes", ","), alt.Tooltip("state:N"),
            alt.Tooltip("time:T", title="date", format="%d %b %Y")]  # fmt: skip


def _number(name: str, title: str, form: str) -> alt.Tooltip:
    import altair as alt

    return alt.Tooltip(f"{name}:Q", title=title, format=form)


def _stepped(row: int, field: str) -> dict[str, Any]:
    """As wide as its place; the page makes it ``row`` pixels high for each value of ``field``."""
    return {"width": "container", "height": row, "usermeta": {"row": row, "field": field}}


def _sized(chart: Any, height: int) -> Any:
    return chart.properties(width="container", height=height)
