"""The report's pictures that answer to the mouse: Vega-Lite, in which DVC's plots are drawn too, and its script."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import vl_convert

from bitlite.report.curves import Curve
from bitlite.report.picture import accuracy_span, drop_bound
from bitlite.report.text import milliseconds, percent, size, three_digits
from bitlite.report.variants import Comparison, Variant, misses, told, wilson

# Paths within -1..1 both ways, which SVG and Vega take alike.
SHAPES = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z",  # circle
    "M-.9 -.9H.9V.9H-.9Z",  # square
    "M0 -1.1L1.05 .8H-1.05Z",  # triangle
    "M0 -1.2L1.2 0L0 1.2L-1.2 0Z",  # diamond
    "M0 1.1L1.05 -.8H-1.05Z",  # triangle that points down
    "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",  # cross
    "M1.1 0L-.8 1.05V-1.05Z",  # triangle that points right
    "M-1.1 0L.8 1.05V-1.05Z",  # triangle that points left
)
# Colours are the page's, light or dark; so many of them are told apart.
COLOURS = tuple(f"var(--colour-{number})" for number in range(8))
INK, FAINT, LINE, PAGE = (f"var(--{name})" for name in ("ink", "faint", "line", "page"))
CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": FAINT, "titleColor": FAINT, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE,
        "titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12, "titlePadding": 8,
    },
}  # fmt: skip
POINT, RING = 110, 480
HEIGHT = 320
# Half a label's pixels or more: closer to an edge than this it is not centred.
LABEL = 80


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend: what it hides is the rows of the field `of` that are called `name`."""

    of: str
    name: str
    shape: str
    colour: str


@dataclass(frozen=True)
class Figure:
    """Charts of the same things side by side. label: what they show, for those who don't see them."""

    label: str
    keys: Mapping[str, list[Key]]
    specs: list[dict]


def script() -> str:
    """Vega, Vega-Lite and vegaEmbed, as global names of a module script within the page."""
    # What would end the element, or begin a comment in it.
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default of `snippet`
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def tradeoff(comparison: Comparison) -> Figure:
    """Accuracy against size and latency. Colour is quantization, shape pruning; what misses a constraint is hollow."""
    colours = _assigned([v.quantization for v in comparison.variants], COLOURS)
    shapes = _assigned([v.pruning for v in comparison.variants], SHAPES)
    keys = {
        "Pruning": [Key("pruning", name, shape, FAINT) for name, shape in shapes.items()],
        "Quantization": [Key("quantization", name, SHAPES[0], colour) for name, colour in colours.items()],
    }
    rule = comparison.rule
    sizes = _costs(comparison, "size_bytes", rule.max_size_bytes)
    low, high = min(sizes) / 1.4, max(sizes) * 1.4
    by_size = {
        "field": "size_bytes",
        "title": "size of the .tflite file (log scale)",
        "scale": {"type": "log", "domain": [low, high]},
        "axis": {"grid": True, "values": _ticks(low, high), "labelExpr": "format(datum.value, '~s') + 'B'"},
    }
    by_latency = {
        "field": "latency_ms_p50",
        "title": "median latency of one image, ms",
        "scale": {"domain": [0, 1.1 * max(_costs(comparison, "latency_ms_p50", rule.max_latency_ms))]},
        "axis": {"grid": True, "tickCount": 6},
    }
    specs = [
        _scatter(comparison, by_size, rule.max_size_bytes, colours, shapes),
        _scatter(comparison, by_latency, rule.max_latency_ms, colours, shapes),
    ]
    return Figure("Test accuracy of every variant against its size and its latency, as in the table.", keys, specs)


def training(curves: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Loss and accuracies of all trainings by step; colour is the training."""
    colours = _assigned(curves, COLOURS)
    keys = {"Training": [Key("training", name, SHAPES[0], colour) for name, colour in colours.items()]}
    rows = [
        {"training": name, "step": step, measure: value}
        for name, measures in curves.items()
        for measure, curve in measures.items()
        for step, value in curve
    ]
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickCount": 6}}
    stroke = {"field": "training", "type": "nominal", "legend": None, "scale": _scale(colours)}

    def line(measure: str, y: dict, opacity: float, **mark) -> dict:
        number = {"field": measure, "type": "quantitative"}
        told = [
            {"field": "training", "type": "nominal"},
            {"field": "step", "type": "quantitative"},
            {**number, "format": y["axis"]["format"], "title": measure.replace("_", " ")},
        ]
        return {
            "transform": [{"filter": f"isValid(datum.{measure})"}],
            "mark": {"type": "line", "strokeOpacity": opacity, "strokeWidth": 1.8, "clip": True, **mark},
            "encoding": {"x": x, "y": {**number, **y}, "stroke": stroke, "tooltip": told},
        }

    loss = {"title": "training loss", "axis": {"format": ".3~f", "tickCount": 6}}
    # From the worst on validation on: what the first steps of a training get right is below all that matters.
    worst = min((share for each in curves.values() for _, share in each.get("validation_accuracy", [])), default=0)
    low = worst - 0.05 * (1 - worst) - 0.001
    accuracy = {"title": "accuracy", "scale": {"domain": [low, 1]}, "axis": {"format": ".4~%", "tickCount": 6}}
    dots = {"point": {"size": 28, "filled": True, "opacity": 1, "fill": None}}
    specs = [
        _chart(rows, ["training"], [line("loss", loss, 1)]),
        _chart(rows, ["training"], [line("accuracy", accuracy, 0.3), line("validation_accuracy", accuracy, 1, **dots)]),
    ]
    return Figure("Loss and accuracy of every training by step.", keys, specs)


def _scatter(comparison: Comparison, x: dict, most: float | None, colours: Mapping, shapes: Mapping) -> dict:
    """Accuracy against what `x`, an encoding of Vega-Lite, has for field; the constraints allow `most` of it."""
    floor, top = accuracy_span(comparison)
    margin = 0.1 * (top - floor)
    x = {"type": "quantitative", **x}
    y = {
        "field": "accuracy", "type": "quantitative", "title": "test accuracy",
        "scale": {"domain": [floor - margin, top + margin], "clamp": True},
        "axis": {"grid": True, "format": ".4~%", "tickCount": 6},
    }  # fmt: skip
    colour = {"field": "quantization", "type": "nominal", "legend": None, "scale": _scale(colours)}
    rows = [
        {
            "variant": v.name, "pruning": v.pruning, "quantization": v.quantization, "accuracy": v.accuracy,
            x["field"]: getattr(v, x["field"]), "qualified": v in comparison.qualified,
            "foremost": v == comparison.foremost, "told": _told(comparison, v),
        }
        for v in comparison.variants
    ]  # fmt: skip
    front = {
        "transform": [
            {
                "window": [{"op": "max", "field": "accuracy", "as": "best"}],
                "sort": [{"field": x["field"]}, {"field": "accuracy", "order": "descending"}],
                "frame": [None, 0],
            }
        ],
        "mark": {"type": "line", "interpolate": "step-after", "stroke": FAINT, "strokeOpacity": 0.4, "strokeWidth": 2},
        "encoding": {"x": x, "y": {**y, "field": "best"}},
    }
    points = {
        "mark": {"type": "point", "size": POINT, "strokeWidth": 1.6, "fillOpacity": 0.85},
        "encoding": {
            "x": x,
            "y": y,
            "shape": {"field": "pruning", "type": "nominal", "legend": None, "scale": _scale(shapes)},
            "stroke": colour,
            "fill": {"condition": {"test": "datum.qualified", **colour}, "value": PAGE},
            "tooltip": [{"field": f"told.{name}", "type": "nominal", "title": name} for name in rows[0]["told"]],
        },
    }
    name = {"text": {"field": "variant"}}
    place = f"scale('x', datum.{x['field']})"
    align = {"expr": f"{place} < {LABEL} ? 'left' : {place} > width - {LABEL} ? 'right' : 'center'"}
    label = {"type": "text", "align": align, "dy": -20, "fontWeight": "bold", "fontSize": 12, "tooltip": None}
    foremost = {
        "transform": [{"filter": "datum.foremost"}],
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": {"type": "point", "size": RING, "stroke": INK, "strokeWidth": 1.8, "tooltip": None}},
            {"mark": {**label, "stroke": PAGE, "strokeWidth": 4}, "encoding": name},
            {"mark": {**label, "fill": INK}, "encoding": name},
        ],
    }
    lines = [_line("y", drop_bound(comparison), y), *([_line("x", most, x)] if most else [])]
    return _chart(rows, ["pruning", "quantization"], [*lines, front, points, foremost])


def _told(comparison: Comparison, variant: Variant) -> dict[str, str]:
    """What a point says of its variant."""
    low, high = wilson(variant.accuracy, comparison.images)
    found = {
        "variant": variant.name,
        "accuracy": f"{percent(variant.accuracy)} ({100 * low:.1f}–{100 * high:.1f})",
        "validation": percent(variant.validation_accuracy),
        "size": size(variant.size_bytes),
        "latency": milliseconds(variant.latency_ms_p50),
        "memory": f"{three_digits(variant.peak_memory_mb)} MB",
        f"to {comparison.foremost.name}": told(comparison.against_foremost.get(variant.name)) or "itself",
    }
    if len(comparison.machines) > 1:
        found["measured on"] = variant.machine
    if comparison.misses(variant) or len(comparison.qualified) < len(comparison.variants):
        found["misses"] = "; ".join(misses(comparison, variant)) or "nothing"
    return found


def _chart(rows: list[dict], fields: list[str], layers: list[dict]) -> dict:
    """A spec of `layers` in which the signal `hidden`, a list of FIELD=NAME, takes rows away."""
    shown = " && ".join(f"indexof(hidden, '{field}=' + datum.{field}) < 0" for field in fields)
    return {
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": CONFIG,
        "params": [{"name": "hidden", "value": []}],
        "data": {"values": rows},
        "transform": [{"filter": shown}],
        "layer": layers,
    }


def _line(channel: str, value: float, encoding: dict) -> dict:
    """A dashed line across the chart where the axis of `encoding` has this value."""
    there = {key: entry for key, entry in encoding.items() if key != "field"} | {"datum": value}
    mark = {"type": "rule", "stroke": FAINT, "strokeDash": [5, 4], "tooltip": None}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {channel: there}}


def _costs(comparison: Comparison, field: str, most: float | None) -> list[float]:
    """What an axis must show: every variant's, and the constraint on it."""
    return [getattr(v, field) for v in comparison.variants] + ([most] if most else [])


def _ticks(low: float, high: float) -> list[float]:
    ticks = (digit * 10**power for power in range(12) for digit in (1, 2, 5))
    return [tick for tick in ticks if low <= tick <= high]


def _assigned(names: Iterable[str], looks: Sequence[str]) -> dict[str, str]:
    """Each name's colour or shape; where they run out, the first again."""
    return dict(zip(dict.fromkeys(names), cycle(looks), strict=False))


def _scale(looks: Mapping[str, str]) -> dict:
    return {"domain": list(looks), "range": list(looks.values())}
