import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from bitlite.workflow.cores import cores; print(cores())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone binds processes to processors")
def test_cores_are_those_that_the_process_may_use():
    for mine in ({min(os.sched_getaffinity(0))}, os.sched_getaffinity(0)):
        bound = f"import os; os.sched_setaffinity(0, {mine}); {CODE}"
        done = subprocess.run([sys.executable, "-c", bound], cwd=Path(__file__).parents[1], capture_output=True)
        assert int(done.stdout) == len(mine)
