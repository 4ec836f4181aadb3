"""The axes of the quality bench against each other, a point for each method, and the front of those unbeaten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spectra.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES: Mapping[str, tuple[str, bool, float]] = {
    "similarity": ("likeness", True, 1),
    "drift": ("drift", False, 1),
    "follows": ("prompt followed", True, 1),
    "bytes": ("file, kB", False, 1e3),
    "cpu": ("training, CPU s", False, 1),
    "memory": ("memory, MB", False, 1e6),
}
"""Axis to its label, whether more is better, and its unit."""

_LOGARITHMIC = ("bytes",)


def front(points: Sequence[tuple[float, float]], more: tuple[bool, bool]) -> list[int]:
    """Numbers of the points that no other is as good as in both and better in one, by their first value."""

    def worth(point: tuple[float, float]) -> tuple[float, float]:
        return (point[0] if more[0] else -point[0], point[1] if more[1] else -point[1])

    values = [worth(point) for point in points]
    unbeaten = [
        n for n, (x, y) in enumerate(values) if not any(a >= x and b >= y and (a > x or b > y) for a, b in values)
    ]
    return sorted(unbeaten, key=lambda n: points[n])


def draw(methods: Sequence[Mapping[str, Any]]) -> Figure:
    """A triangle of panels, of rows with a `method` each; whiskers are intervals, where a value is one."""
    names = list(AXES)
    size = len(names) - 1
    figure = style.new_figure(2.1 * size, 1.9 * size)
    panels = figure.subplots(size, size, squeeze=False)
    for row, below in enumerate(names[1:]):
        for column, across in enumerate(names[:-1]):
            axes = panels[row][column]
            if column > row:
                axes.set_axis_off()
                continue
            _panel(axes, methods, across, below)
            axes.set_xlabel(AXES[across][0] if row == size - 1 else "")
            axes.set_ylabel(AXES[below][0] if column == 0 else "")
            axes.tick_params(which="both", labelbottom=row == size - 1, labelleft=column == 0)
    handles, labels = panels[0][0].get_legend_handles_labels()
    panels[0][size - 1].legend(handles, labels, loc="upper right")
    return figure


def draw_likeness_and_drift(methods: Sequence[Mapping[str, Any]]) -> Figure:
    """Likeness against drift, a disc for each method, whose area grows with the root of its file's bytes."""
    figure = style.new_figure(7.6, 5.2)
    axes = figure.subplots()
    methods = sorted(methods, key=lambda own: -_value(own, "similarity")[0])
    points = [(_value(own, "drift")[0], _value(own, "similarity")[0]) for own in methods]
    best = front(points, (AXES["drift"][1], AXES["similarity"][1]))
    axes.plot(*zip(*(points[n] for n in best), strict=True), color=style.PALE, linewidth=1, zorder=0)
    wide, line = (max(values) - min(values) for values in zip(*points, strict=True))
    wide, line = wide / 3 or 1.0, line / 22 or 1.0  # about what a name takes
    names: list[tuple[float, float]] = []
    for number, (own, (x, y)) in enumerate(zip(methods, points, strict=True)):
        kilobytes = _value(own, "bytes")[0]
        colour = style.UP if number in best else style.DOWN
        axes.scatter(x, y, s=5 * kilobytes**0.5, color=colour, alpha=0.6, linewidths=0)
        height = min([y, *(below - line for beside, below in names if abs(beside - x) < wide)])
        names.append((x, height))
        label = f"{own['method']}, {kilobytes:,.0f} kB"
        arrow = {"arrowstyle": "-", "color": style.PALE}
        axes.annotate(label, (x, y), (x + wide / 8, height), va="center", fontsize="small", arrowprops=arrow)
    axes.margins(x=0.12)
    axes.set_xlabel("drift: how far other concepts' pictures move (less is better)")
    axes.set_ylabel("likeness to the subject (more is better)")
    return figure


def _panel(axes: Axes, methods: Sequence[Mapping[str, Any]], across: str, below: str) -> None:
    points = [(_value(own, across)[0], _value(own, below)[0]) for own in methods]
    best = front(points, (AXES[across][1], AXES[below][1]))
    axes.plot(*zip(*(points[n] for n in best), strict=True), color=style.PALE, linewidth=1, zorder=0)
    for number, own in enumerate(methods):
        (x, *x_ends), (y, *y_ends) = _value(own, across), _value(own, below)
        colour = style.LINES[number % len(style.LINES)]
        axes.errorbar(
            x,
            y,
            xerr=_whisker(x, x_ends),
            yerr=_whisker(y, y_ends),
            color=colour,
            elinewidth=0.5,
            marker="os"[number // len(style.LINES) % 2],
            markersize=5,
            markerfacecolor=colour if number in best else "white",
            linestyle="none",
            label=own["method"],
        )
    for name, scale in ((across, axes.set_xscale), (below, axes.set_yscale)):
        if name in _LOGARITHMIC:
            scale("log")


def _value(own: Mapping[str, Any], axis: str) -> list[float]:
    """Value, and its interval's ends where it has one, in the axis' unit."""
    value = own[axis]
    values = [value[name] for name in ("mean", "low", "high")] if isinstance(value, Mapping) else [value]
    return [v / AXES[axis][2] for v in values]


def _whisker(value: float, ends: Sequence[float]) -> Any:
    return [[value - ends[0]], [ends[1] - value]] if ends else None
