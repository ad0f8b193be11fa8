"""Draws charts as inline SVG: curves, reliability diagrams, intervals.

Turns numbers into markup whose colours and sizes come from the page's style sheet. Knows nothing of labels
or models; it escapes what text it is given.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape

from khabar.training.curves import Curve, Reliability

# Units of the view box: the page scales a chart to the room there is.
_SIZE, _LEFT, _TOP, _RIGHT, _BOTTOM = 200, 42, 10, 12, 40
_WIDTH, _HEIGHT = _SIZE - _LEFT - _RIGHT, _SIZE - _TOP - _BOTTOM
_BAR = 120


def curve_chart(curve: Curve, *, point: tuple[float, float] | None, title: str) -> Markup:
    """Draw precision (upwards) against recall.

    Args:
        curve: The curve.
        point: Recall and precision of the model's own decisions, marked on it.
        title: What a reader who does not see the chart is told.
    """
    parts = []
    if curve.recall:
        # The first point's precision holds from recall 0 on: fewer decisions are not right more often.
        places = [(0.0, curve.precision[0]), *zip(curve.recall, curve.precision, strict=True)]
        parts.append(Markup('<polyline class="curve" points="{}"/>').format(_points(places)))
    if point is not None:
        x, y = _place(*point)
        parts.append(Markup('<circle class="point" cx="{}" cy="{}" r="4"/>').format(_number(x), _number(y)))
    return _square(parts, across="recall", up="precision", title=title)


def reliability_chart(found: Reliability, *, title: str) -> Markup:
    """Draw how often probabilities came true (upwards) against what they were; the area of a dot is their number.

    Args:
        found: The diagram's bins.
        title: What a reader who does not see the chart is told.
    """
    most = max((one.n for one in found.bins), default=1)
    parts = [Markup('<polyline class="ideal" points="{}"/>').format(_points([(0, 0), (1, 1)]))]
    for one in found.bins:
        x, y = _place(one.mean, one.share)
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
                _number(x),
                _number(y),
                _number(2.5 + 5 * (one.n / most) ** 0.5),
                f"{one.low:.1f} to {one.high:.1f}: {one.n:,}, mean {one.mean:.2f}, came true {one.share:.2f}",
            )
        )
    return _square(parts, across="probability", up="came true", title=title)


def interval_bar(value: float, ends: Sequence[float] | None, *, low: float = 0.0, high: float = 1.0) -> Markup:
    """Draw a value and its interval on a line from low to high, with a stroke at 0 where that lies inside.

    It repeats what stands beside it, so it is hidden from screen readers.
    """

    def across(x: float) -> str:
        share = (min(max(x, low), high) - low) / (high - low)
        return _number(4 + (_BAR - 8) * share)

    parts = [Markup('<line class="axis" x1="4" x2="{}" y1="8" y2="8"/>').format(_BAR - 4)]
    if low < 0 < high:
        parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y1="1" y2="15"/>').format(across(0)))
    if ends is not None:
        parts.append(
            Markup('<line class="whisker" x1="{}" x2="{}" y1="8" y2="8"/>').format(across(ends[0]), across(ends[1]))
        )
    parts.append(Markup('<circle class="dot" cx="{}" cy="8" r="3.5"/>').format(across(value)))
    return Markup('<svg class="bar" viewBox="0 0 {} 16" aria-hidden="true">{}</svg>').format(_BAR, Markup().join(parts))


def _square(parts: Sequence[Markup], *, across: str, up: str, title: str) -> Markup:
    """Put a chart's parts into a square from 0 to 1 both ways."""
    grid = []
    for k in range(5):
        x, y = _place(k / 4, k / 4)
        bottom, left = _TOP + _HEIGHT, _LEFT
        label = f"{k / 4:g}"
        grid.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_number(x), _TOP, bottom))
        grid.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(left, left + _WIDTH, _number(y))
        )
        if k % 2 == 0:
            grid.append(
                Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_number(x), bottom + 15, label)
            )
            grid.append(
                Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 5, _number(y + 4), label)
            )
    middle_x, middle_y = _LEFT + _WIDTH / 2, _TOP + _HEIGHT / 2
    grid.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(_number(middle_x), _SIZE - 6, across)
    )
    grid.append(
        Markup('<text x="{0}" y="{1}" text-anchor="middle" transform="rotate(-90 {0} {1})">{2}</text>').format(
            11, _number(middle_y), up
        )
    )
    return Markup('<svg class="chart" viewBox="0 0 {0} {0}" role="img"><title>{1}</title>{2}</svg>').format(
        _SIZE, escape(title), Markup().join([*grid, *parts])
    )


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in (_place(*place) for place in places))


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + _WIDTH * x, _TOP + _HEIGHT * (1 - y)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
