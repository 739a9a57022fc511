"""Check params.yaml before any work, and print the variants that it asks for.

    python -m stages.params

All of params.yaml -> data/.params, which is the same for all that are valid. The downloads depend on it, so that no
stage starts before the check.
"""

from pathlib import Path

from bitlite.workflow.command import run
from bitlite.workflow.errors import InputError, listed
from bitlite.workflow.files import write_bytes
from bitlite.workflow.params import load
from bitlite.workflow.paths import linked_out

CHECKED = Path("data/.params")


def main() -> None:
    params = load()
    if links := linked_out():
        raise InputError(
            f"DVC refuses links out of the Git repository ({listed(links)}): put its cache on the other disk instead, "
            "see docs/systems.md"
        )
    write_bytes(CHECKED, b"params.yaml is valid\n")
    print(f"params.yaml asks for {len(params.variants)} variants: {', '.join(params.variants)}")


if __name__ == "__main__":
    run(main)
