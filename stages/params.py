"""Check params.yaml before any work, and print the variants that it asks for.

    python -m stages.params

All of params.yaml -> data/.params, which is the same for all that are valid. The downloads depend on it, so that no
stage starts before the check.
"""

from pathlib import Path

from bitlite.workflow.command import run
from bitlite.workflow.params import load

CHECKED = Path("data/.params")


def main() -> None:
    params = load()
    CHECKED.parent.mkdir(exist_ok=True)
    CHECKED.write_text("params.yaml is valid\n")
    print(f"params.yaml asks for {len(params.variants)} variants: {', '.join(params.variants)}")


if __name__ == "__main__":
    run(main)
