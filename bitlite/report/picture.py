"""The pictures of the report: accuracy against size and against latency. Equal numbers give equal bytes."""

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FixedLocator, Formatter, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from bitlite.report.steps import Search
from bitlite.report.text import milliseconds, percent, size
from bitlite.report.variants import Comparison, Variant

# Okabe & Ito, "Color Universal Design" (2008), without yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
INK, FAINT, FRONT, GRID = "#1f2328", "#6e7781", "#b6bcc4", "#e6e8eb"
MARKER_POINTS = 8
RING_POINTS = 17
HALO = withStroke(linewidth=2.5, foreground="white")
# Where a label may stand: on which side of its marker, right and up being positive, and how many points from it. The
# freest place is taken, of equally free ones the first.
SIDES = ((1, 0), (1, -1), (-1, 1), (0, -1), (0, 1), (1, 1), (-1, -1), (-1, 0))
PLACES = [(side, reach) for reach in (7, 10, 18, 28, 40) for side in SIDES]
# From further off, a line leads to the marker.
NEAR = 10

Point = tuple[float, float]


def tradeoff(comparison: Comparison) -> bytes:
    """The picture that `draw` makes, as PNG of 1760 x 800 pixels."""
    return _png(draw(comparison))


def searched(searches: Mapping[str, Search]) -> bytes:
    """The picture that `draw_searches` makes, as PNG of 1760 x 640 pixels."""
    return _png(draw_searches(searches))


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    # Without this, matplotlib's version would be part of the file.
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def draw(comparison: Comparison) -> Figure:
    """Accuracy against size on the left, against latency on the right.

    Colour is quantization, marker is pruning; variants that miss a constraint are hollow.
    """
    figure = Figure(figsize=(11, 5), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    by_size, by_latency = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.8, bottom=0.125, top=0.82, wspace=0.07)
    _scale_size(by_size, [v.size_bytes for v in comparison.variants])
    _scale_latency(by_latency, [v.latency_ms_p50 for v in comparison.variants])
    floor = _scale_accuracy(by_size, comparison)
    _draw_variants(by_size, comparison, lambda v: v.size_bytes, floor)
    _draw_variants(by_latency, comparison, lambda v: v.latency_ms_p50, floor)
    by_size.set_ylabel("test accuracy", color=INK)
    _write_title(figure, comparison)
    _add_legend(figure, comparison)
    return figure


def draw_searches(searches: Mapping[str, Search]) -> Figure:
    """The accuracy that each search lost against the size of its files, and, where it was measured, against latency.

    A line for each variant leads from float32 through the files tried; a ring is where the variant stands.
    """
    figure = Figure(figsize=(11, 4), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    timed = {name: search for name, search in searches.items() if search.chosen.latency_ms is not None}
    panels: list[tuple[str, str, Formatter, Mapping[str, Search]]] = [
        ("size_bytes", "size of the .tflite file", EngFormatter(unit="B"), searches)
    ]
    if timed:
        panels.append(("latency_ms", "latency of one image, ms", FuncFormatter(lambda ms, _: f"{ms:.3g}"), timed))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(searches)}
    for number, (key, label, formatter, shown) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        for drop in sorted({search.max_accuracy_drop for search in shown.values()}):
            axes.axhline(-100 * drop, color=FAINT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
        for name, search in shown.items():
            points = [(getattr(step, key), -100 * step.lost) for step in search.steps if step.lost is not None]
            ring = points[search.tried.index(search.chosen)]
            axes.plot(*zip(*points, strict=True), color=colours[name], marker="o", markersize=4, label=name, zorder=3)
            axes.plot(*ring, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=4)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(formatter)
        axes.set_xlabel(label, color=INK)
        axes.set_ylabel("validation accuracy against float32, points", color=INK)
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    figure.tight_layout()
    return figure


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the (cost, accuracy) `points` that no cheaper or equally cheap one matches, cheapest first."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def _styles(comparison: Comparison) -> tuple[dict[str, str], dict[str, str]]:
    """Colour of every quantization and marker of every pruning, in the order of params.yaml."""
    quantizations = dict.fromkeys(v.quantization for v in comparison.variants)
    prunings = dict.fromkeys(v.pruning for v in comparison.variants)
    return (
        {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(quantizations)},
        {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(prunings)},
    )


def drop_bound(comparison: Comparison) -> float:
    """The test accuracy that lies `max_accuracy_drop` below the baseline's."""
    return comparison.baseline.accuracy - comparison.rule.max_accuracy_drop


def accuracy_span(comparison: Comparison) -> tuple[float, float]:
    """The lowest and the highest accuracy to draw.

    A variant that broke down would squeeze all others into a line: it is drawn on the floor.
    """
    values = [v.accuracy for v in comparison.variants]
    top, bound = max(values), drop_bound(comparison)
    span = max(top - bound, 0.02)
    return max(min(*values, bound), bound - span), top


def _scale_accuracy(axes: Axes, comparison: Comparison) -> float:
    """Set the limits of the accuracy axis and return its lowest value for a marker."""
    floor, top = accuracy_span(comparison)
    axes.set_ylim(floor - 0.12 * (top - floor), top + 0.12 * (top - floor))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))
    return floor


def _scale_size(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log")
    # At least a factor of 2.5 in all, so that one of the ticks 1, 2, 5, 10 always falls inside.
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    axes.xaxis.set_major_locator(FixedLocator([digit * 10**power for power in range(12) for digit in (1, 2, 5)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.set_xlabel("size of the .tflite file (log scale)", color=INK)


def _scale_latency(axes: Axes, latencies: list[float]) -> None:
    axes.set_xlim(0, 1.15 * max(latencies))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("median latency of one image, ms", color=INK)


def _draw_variants(axes: Axes, comparison: Comparison, cost: Callable[[Variant], float], floor: float) -> None:
    variants, foremost = comparison.variants, comparison.foremost
    colours, markers = _styles(comparison)
    points = [(cost(v), max(v.accuracy, floor)) for v in variants]
    best = front([(cost(v), v.accuracy) for v in variants])

    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.axhline(drop_bound(comparison), color=FAINT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
    # Past its last point the front goes on: more bytes or time buy nothing.
    left, right = axes.get_xlim()
    steps = [points[i] for i in best]
    steps.append((right, steps[-1][1]))
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=FRONT, linewidth=1.8, zorder=2)
    for variant, point in zip(variants, points, strict=True):
        colour = colours[variant.quantization]
        axes.plot(
            *point, marker=markers[variant.pruning], markersize=MARKER_POINTS, linestyle="none", zorder=4,
            markerfacecolor=colour if variant in comparison.qualified else "white",
            markeredgecolor="white" if variant in comparison.qualified else colour,
            markeredgewidth=0.8 if variant in comparison.qualified else 1.6,
        )  # fmt: skip
    axes.plot(
        *points[variants.index(foremost)], marker="o", markersize=RING_POINTS, markerfacecolor="none",
        markeredgecolor=INK, markeredgewidth=1.6, zorder=5,
    )  # fmt: skip

    labels = {variants.index(foremost): foremost.name, **{i: variants[i].name for i in best}}
    for i, variant in enumerate(variants):
        if variant.accuracy < floor:
            labels[i] = f"{labels.get(i, '')} ↓ {percent(variant.accuracy)}".strip()
    lines = [((left, drop_bound(comparison)), (right, drop_bound(comparison)))]
    for (x0, y0), (x1, y1) in pairwise(steps):
        lines += [((x0, y0), (x1, y0)), ((x1, y0), (x1, y1))]
    _place_labels(axes, points, labels, lines, bold=variants.index(foremost))


def _place_labels(
    axes: Axes, points: Sequence[Point], labels: dict[int, str], lines: Sequence[tuple[Point, Point]], bold: int
) -> None:
    """Write each of `labels`, keyed by index of its point, where it covers least of points, `lines` and labels.

    `lines` are horizontal or vertical. The label of the point `bold` is bold, and its ring is kept free.
    """
    inside = axes.get_window_extent()
    taken = [_box(axes, [point], 0.6 * (RING_POINTS if i == bold else MARKER_POINTS)) for i, point in enumerate(points)]
    taken += [_box(axes, ends, 1) for ends in lines]
    # Closer to another point than this, a label would seem to be that one's.
    territories = [_box(axes, [point], 1.4 * MARKER_POINTS) for point in points]
    for index, label in labels.items():
        text = axes.annotate(
            label, points[index], (0, 0), textcoords="offset points", fontsize=8.5, color=INK, zorder=6,
            fontweight="bold" if index == bold else "normal", path_effects=[HALO],
        )  # fmt: skip
        extent = text.get_window_extent().padded(2)
        obstacles = [*taken, *territories[:index], *territories[index + 1 :]]
        spots = {place: _shifted(extent, place, axes.figure.dpi) for place in PLACES}
        best = min(PLACES, key=lambda place: _covered(spots[place], inside, obstacles))
        taken.append(spots[best])
        (dx, dy), reach = best
        text.set(
            position=(dx * reach, dy * reach),
            horizontalalignment=("right", "center", "left")[dx + 1],
            verticalalignment=("top", "center", "bottom")[dy + 1],
        )
        if reach > NEAR:
            axes.annotate(
                "", points[index], text.xyann, textcoords="offset points", zorder=3,
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip


def _box(axes: Axes, points: Sequence[Point], margin: float) -> Bbox:
    """The pixels that `points` span, with a margin given in points of typography."""
    pixels = axes.transData.transform(points)
    return Bbox([pixels.min(axis=0), pixels.max(axis=0)]).padded(margin * axes.figure.dpi / 72)


def _shifted(extent: Bbox, place: tuple[tuple[int, int], float], dpi: float) -> Bbox:
    """The pixels of a label at `place`; `extent` is the label with its lower left corner on the marker."""
    (dx, dy), reach = place
    pixels = reach * dpi / 72
    return extent.translated(dx * pixels + (dx - 1) / 2 * extent.width, dy * pixels + (dy - 1) / 2 * extent.height)


def _covered(box: Bbox, inside: Bbox, obstacles: Sequence[Bbox]) -> float:
    """Square pixels of `box` that lie out of `inside` or on an obstacle; on two, they count twice."""
    outside = box.width * box.height - _overlap(box, inside)
    return outside + sum(_overlap(box, other) for other in obstacles)


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return common.width * common.height if common else 0.0


def _write_title(figure: Figure, comparison: Comparison) -> None:
    chosen = comparison.foremost
    name = chosen.name if comparison.selected else f"Nothing fits; nearest is {chosen.name}"
    headline = (
        f"{name}: {percent(chosen.accuracy)} with {size(chosen.size_bytes)} in {milliseconds(chosen.latency_ms_p50)}"
    )
    figure.text(0.012, 0.93, headline, fontsize=14, fontweight="bold", color=INK)
    machines = comparison.machines
    where = machines[0] if len(machines) == 1 else f"{len(machines)} different machines"
    points = f"{100 * comparison.rule.max_accuracy_drop:g} points"
    best, baseline = comparison.best, comparison.rule.baseline
    others = " and other constraints" if comparison.constraints[1:] else ""
    rule = f"the {best} within {points} of {baseline} on validation{others}; latency on {where}"
    figure.text(0.012, 0.875, rule, fontsize=9.5, color=FAINT)


def _add_legend(figure: Figure, comparison: Comparison) -> None:
    colours, markers = _styles(comparison)

    def entry(label: str, **style) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "none", "markersize": MARKER_POINTS, **style})

    ringed = "selected" if comparison.selected else "nearest"
    colour_heading, marker_heading = entry("Quantization"), entry("Pruning")
    handles = [
        colour_heading,
        *(entry(name, marker="o", color=colour) for name, colour in colours.items()),
        entry(""),
        marker_heading,
        *(entry(name, marker=marker, color=FAINT) for name, marker in markers.items()),
        entry(""),
        entry(ringed, marker="o", markerfacecolor="none", color=INK, markersize=11),
        entry("misses a constraint*", marker="o", markerfacecolor="white", color=FAINT, markeredgewidth=1.6),
        entry("Pareto front", linestyle="-", color=FRONT, linewidth=1.8),
        entry(
            f"{100 * comparison.rule.max_accuracy_drop:g} points below baseline",
            linestyle=(0, (3, 2)), color=FAINT, linewidth=1.2,
        ),
    ]  # fmt: skip
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.805, 0.85), frameon=False, fontsize=9, labelcolor=INK,
        handletextpad=0.7, labelspacing=0.45, borderpad=0,
    )  # fmt: skip
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        if handle in (colour_heading, marker_heading):
            text.set_fontweight("bold")
    figure.text(0.812, 0.035, "* accuracy on validation images", fontsize=8, color=FAINT)
