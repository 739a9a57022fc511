"""Check params.yaml before any work, and print the variants that it asks for.

python -m stages.params
"""

from bitlite.workflow.command import run
from bitlite.workflow.params import load


def main() -> None:
    params = load()
    print(f"params.yaml asks for {len(params.variants)} variants: {', '.join(params.variants)}")


if __name__ == "__main__":
    run(main)
