"""The processors that threads run on."""

import os


def cores() -> int:
    """How many this process may use: in a container or a job of a large machine, few of its many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
