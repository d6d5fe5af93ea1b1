"""A server does not walk what it has loaded again and again; tried in a process of its own, which it is meant for."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, weakref
from recsys.server import collector

class Node: ...

def cycle():
    node = Node()
    node.itself = node
    return node

collector.collect_rarely()
assert gc.get_threshold()[0] == collector.YOUNG_OBJECTS
first, garbage = cycle(), weakref.ref(cycle())
collector.exempt_what_is_loaded()
assert garbage() is None, "what nobody holds is collected first"
walked = {id(one) for one in gc.get_objects()}
assert id(first) not in walked
assert len(walked) < 1_000
second, dropped = cycle(), weakref.ref(first)
del first
gc.collect()
assert dropped() is not None
collector.exempt_what_is_loaded()
assert dropped() is None, "what was exempt and is dropped is collected with the next version"
assert gc.get_freeze_count() > 1_000
print("done")
"""


def test_what_is_loaded_is_exempt_until_the_next_version() -> None:
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.stderr) == ("done\n", "")
