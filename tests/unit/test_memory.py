"""The allocator keeps pages."""

import subprocess
import sys

TOUCH = """
import resource, sys, torch
from sedflow.memory import keep_pages
if "keep" in sys.argv:
    assert keep_pages()
def step():
    for _ in range(5):
        torch.ones(16_000_000)
step()
step()  # by now the heap has grown to what a step needs
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words):
    return int(subprocess.run([sys.executable, "-c", TOUCH, *words], capture_output=True, text=True, check=True).stdout)


def test_memory_that_was_freed_is_used_again_without_page_faults():
    if not sys.platform.startswith("linux"):
        from sedflow.memory import keep_pages

        assert not keep_pages()
        return
    assert faults("keep") < 0.1 * faults()
