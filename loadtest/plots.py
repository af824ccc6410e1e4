"""Plots as SVG, written by hand: no library, and files small enough to keep. Knows nothing of what is measured."""

import math
from html import escape

WIDTH = 860
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
# Each colour stands out on white and, as its second, on near-black; none relies on red against green alone.
COLOURS = {
    "order-service": ("#d1242f", "#ff7b72"),
    "floor": ("#24292f", "#e6edf3"),
    "nginx": ("#0969da", "#58a6ff"),
    "nginx-memory": ("#1b9aaa", "#56d4dd"),
    "redis": ("#8250df", "#bc8cff"),
    "go-bytes": ("#b35900", "#f0a848"),
    "go-marshal": ("#6e7781", "#9aa4ae"),
}


def _style():
    light = "".join(f".{name} {{ --c: {pair[0]} }}" for name, pair in COLOURS.items())
    dark = "".join(f".{name} {{ --c: {pair[1]} }}" for name, pair in COLOURS.items())
    return (
        "<style>"
        ".paper { fill: #ffffff } .text { fill: #24292f } .faint { fill: #57606a } .grid { stroke: #d8dee4 }"
        ".axis { stroke: #8c959f }" + light + ".line { stroke: var(--c); fill: none } .fill { fill: var(--c) }"
        "@media (prefers-color-scheme: dark) {"
        ".paper { fill: #0d1117 } .text { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #2a313c }"
        ".axis { stroke: #656c76 }" + dark + "}"
        "</style>"
    )


def text(x, y, words, size=12, anchor="start", kind="text", weight="normal", turn=None):
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn is not None else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" class="{kind}" '
        f'font-weight="{weight}"{turned}>{escape(words)}</text>'
    )


def _line(x1, y1, x2, y2, kind="grid"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def document(height, title, parts):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" {FONT}><title>{escape(title)}</title>{_style()}'
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>' + "".join(parts) + "</svg>\n"
    )


def legend(y, names, left=24):
    """One row of names; each with its colour."""
    parts, x = [], left
    for name in names:
        parts.append(f'<g class="{name}"><rect class="fill" x="{x}" y="{y - 9}" width="18" height="5" rx="2"/></g>')
        parts.append(text(x + 24, y, name, weight="600" if name == "order-service" else "normal"))
        x += 24 + 7 * len(name) + 26
    return parts


def _width(name):
    return 3.4 if name == "order-service" else 1.8


class Panel:
    """A frame with two axes. Both map values to points by functions of their own."""

    def __init__(self, top, height, title, left=78, right=24):
        self.left, self.right, self.top, self.bottom = left, WIDTH - right, top, top + height
        self.parts = [text(left, top - 12, title, size=14, weight="600")]

    def x_axis(self, ticks, place, label):
        self.place_x = lambda value: self.left + place(value) * (self.right - self.left)
        for value, words in ticks:
            x = self.place_x(value)
            self.parts += [
                _line(x, self.top, x, self.bottom),
                text(x, self.bottom + 18, words, anchor="middle", kind="faint"),
            ]
        middle = (self.left + self.right) / 2
        self.parts.append(text(middle, self.bottom + 38, label, anchor="middle"))

    def y_axis(self, ticks, place, label):
        self.place_y = lambda value: self.bottom - place(value) * (self.bottom - self.top)
        for value, words in ticks:
            y = self.place_y(value)
            self.parts += [
                _line(self.left, y, self.right, y),
                text(self.left - 8, y + 4, words, anchor="end", kind="faint"),
            ]
        self.parts.append(text(20, (self.top + self.bottom) / 2, label, anchor="middle", turn=-90))

    def curve(self, name, points, has_marks=False):
        placed = [(self.place_x(x), self.place_y(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        marks = (
            "".join(f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed) if has_marks else ""
        )
        self.parts.append(
            f'<g class="{name}"><polyline class="line" stroke-width="{_width(name)}" stroke-linejoin="round" '
            f'points="{path}"/>{marks}</g>'
        )

    def done(self):
        frame = [
            _line(self.left, self.bottom, self.right, self.bottom, "axis"),
            _line(self.left, self.top, self.left, self.bottom, "axis"),
        ]
        return self.parts + frame


def micros(value):
    if value >= 1e6:
        return f"{value / 1e6:g} s"
    return f"{value / 1e3:g} ms" if value >= 1e3 else f"{value:g} us"


def _log_ticks(low, high):
    """1, 2, 5, 10 … in reach; only powers of ten when those are many."""
    steps = (1, 2, 5) if high / low < 300 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high]


def latency(panels):
    """Percentile curves. `panels`: titles, each with a curve of (quantile below 1, microseconds) for each name."""
    names = [name for name in COLOURS if any(name in curves for _, curves in panels)]
    parts = [
        text(
            24, 30, "Latency of one order at a fixed rate, from the moment each request was due", size=16, weight="600"
        )
    ]
    parts += legend(56, names)
    top, height, step = 106, 250, 340
    for title, curves in panels:
        panel = Panel(top, height, title)
        every = [point for curve in curves.values() for point in curve]
        end = max(1 / (1 - quantile) for quantile, _ in every)
        marks = [
            (0, "0 %"),
            (0.5, "50 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.999, "99.9 %"),
            (0.9999, "99.99 %"),
            (0.99999, "99.999 %"),
        ]
        marks = [(quantile, words) for quantile, words in marks if 1 / (1 - quantile) <= end * 1.001]
        panel.x_axis(
            marks, lambda q: math.log(1 / (1 - q)) / math.log(end), "Requests answered within (percentile, log scale)"
        )
        values = [value for _, value in every]
        low, high = min(values) / 1.3, max(values) * 1.3
        panel.y_axis(
            [(value, micros(value)) for value in _log_ticks(low, high)],
            lambda v: math.log(max(v, low) / low) / math.log(high / low),
            "Latency (log scale)",
        )
        for name in reversed(names):
            if name in curves:
                panel.curve(name, curves[name])
        parts += panel.done()
        top += step
    return document(top - step + height + 56, "Latency percentiles", parts)


def connections(curves):
    """Requests per second over connections. `curves`: (connections, requests per second) for each name."""
    names = [name for name in COLOURS if name in curves]
    counts = sorted({count for curve in curves.values() for count, _ in curve})
    highest = max(rate for curve in curves.values() for _, rate in curve)
    parts = [text(24, 30, "Requests per second for one order, over keep-alive connections", size=16, weight="600")]
    parts += legend(56, names)
    panel = Panel(100, 300, "")
    span = math.log(counts[-1] / counts[0]) or 1
    panel.x_axis(
        [(count, f"{count:,}") for count in counts],
        lambda n: math.log(n / counts[0]) / span * 0.96 + 0.02,
        "Connections (log scale)",
    )
    step = next(step for step in (1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6) if highest / step <= 8)
    top = math.ceil(highest * 1.05 / step) * step
    ticks = [(index * step, f"{index * step / 1e3:g}k") for index in range(int(top / step) + 1)]
    panel.y_axis(ticks, lambda v: v / top, "Requests per second")
    for name in reversed(names):
        panel.curve(name, curves[name], has_marks=True)
    parts += panel.done()
    return document(456, "Requests per second over connections", parts)


def bars(title, groups, columns=2):
    """Small multiples of bars. `groups`: titles, each with (name, value, label) in order."""
    gap, left, row, head = 32, 24, 21, 34
    wide = (WIDTH - 2 * left - (columns - 1) * gap) / columns
    name_width, label_width = 104, 122
    parts = [
        text(left, 30, title, size=16, weight="600"),
        text(
            left,
            50,
            "Shorter is better. Each panel has a scale of its own; in parentheses, how many times the floor.",
            kind="faint",
        ),
    ]
    top = 74
    for start in range(0, len(groups), columns):
        together = groups[start : start + columns]
        for column, (name, values) in enumerate(together):
            x = left + column * (wide + gap)
            parts.append(text(x, top + 14, name, size=13, weight="600"))
            highest = max(value for _, value, _ in values)
            for index, (server, value, label) in enumerate(values):
                y = top + head + index * row
                long = max(value / highest * (wide - name_width - label_width), 1.5)
                weight = "600" if server == "order-service" else "normal"
                parts.append(text(x + name_width - 8, y + 4, server, size=12, anchor="end", weight=weight))
                parts.append(
                    f'<g class="{server}"><rect class="fill" x="{x + name_width:.1f}" y="{y - 6.5:.1f}" width="{long:.1f}" height="14" rx="2"/></g>'
                )
                parts.append(text(x + name_width + long + 6, y + 4, label, size=12, weight=weight))
        top += head + max(len(values) for _, values in together) * row + 18
    return document(top + 4, title, parts)
