import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from alexnet_cli.machine import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(100_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc")
@pytest.mark.parametrize("call, kept", [("keep_freed_memory()", True), ("", False)])
def test_freed_memory_is_used_again_without_being_mapped_again(call, kept):
    program = FAULTS.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # 100 MB are 24,415 pages of 4 kB, or 49 huge ones where the system gives those of itself.
    assert (int(done.stdout) < 10) is kept, done
