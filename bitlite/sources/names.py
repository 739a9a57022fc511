"""Names of classes that can be told apart, and come back from labels.txt as they are on every system."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# Characters without a mark that Unicode does not list as format characters (Default_Ignorable_Code_Point), and blanks
# that look like another; the ideographic space is wide enough to be seen.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
    "|[\u00a0\u1680\u2000-\u200a\u202f\u205f]"
)


def faults(names: Iterable[str]) -> dict[str, list[str]]:
    """The names with a fault, in ASCII, by its kind."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        if fault := _fault(name):
            found.setdefault(f"class names {fault}", []).append(ascii(name))
    return found


def twins(names: Iterable[str]) -> list[str]:
    """The names, in ASCII, that file systems may take for one, as those of macOS and Windows do."""
    names = sorted(set(names))
    alike = Counter(map(_folded, names))
    return [ascii(name) for name in names if alike[_folded(name)] > 1]


def _fault(name: str) -> str | None:
    categories = {unicodedata.category(character) for character in name}
    if "Cs" in categories:  # how Python shows bytes of a file name that are no UTF-8
        return "that are not UTF-8"
    if categories & {"Cc", "Zl", "Zp"}:
        return "with a control character or a line separator"
    if not name or name != name.strip():
        return "that begin or end with a blank"
    if "Cf" in categories or UNSEEN.search(name):
        return "with an invisible character"
    return None


def _folded(name: str) -> str:
    """As disks compare names, by single characters: for them an ß is not ss, as it is for str.casefold."""
    return "".join(_lower(character) for character in unicodedata.normalize("NFD", name))


def _lower(character: str) -> str:
    upper = character.upper()  # of σ and ς, which lower does not take for one
    lower = (upper if len(upper) == 1 else character).lower()
    return lower if len(lower) == 1 else character
