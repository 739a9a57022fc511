"""Numbers as readers want them, and the templates that hold them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from bitlite.workflow.errors import printable


def percent(share: float) -> str:
    """A share, 0..1, to a tenth of a percent."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares, 0..1, in percentage points: 2 points, 0.133 points."""
    number = f"{100 * difference:.3g}"
    return f"{number} point{'' if number == '1' else 's'}"


def size(count: float) -> str:
    """A number of bytes to three digits, in decimal units as shops and app stores use them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{three_digits(count / scale)} {unit}"
    return f"{count} B"


def milliseconds(value: float) -> str:
    """A time in milliseconds to three digits."""
    return f"{three_digits(value)} ms"


def count(number: float) -> str:
    """A large number to three digits: 950, 478 k, 12.3 M, 4.62 G."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{three_digits(number / scale)} {unit}"
    return f"{number}"


def three_digits(value: float) -> str:
    """`value` >= 0 without an exponent: 0.0123, 1.23, 12.3, 1230."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(value))
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def series(items: Sequence[str], last: str = "and") -> str:
    """The items, of which there is one at least, as a sentence lists them: a; a and b; a, b and c."""
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if items[1:] else items)


def plain(name: str) -> str:
    """`name` as Markdown shows it: on one line, and without markup of its own."""
    return re.sub(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", printable(name))


def fence(text: str) -> str:
    """What stands before and behind a block of code in Markdown: longer than any in the code itself."""
    return "`" * (1 + max([2, *map(len, re.findall("`+", text))]))


def template(name: str) -> jinja2.Template:
    """A template of this folder, with the functions above as filters. Raises when it meets an unknown name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": size,
        "milliseconds": milliseconds,
        "count": count,
        "plain": plain,
        "fence": fence,
    }
    return environment.get_template(name)
