"""glibc keeps freed memory when asked to, and is left alone when the environment has its own say."""

import sys

import pytest
from helpers import run_python

# A block of 64 MB, made, touched and freed again and again, in a thread as well: how many page faults come after
# the first.
PROGRAM = """
import ctypes, resource, threading
from biencoder_ablate.model.memory import keep_freed_memory
print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def touch():
    block = libc.malloc(64 * 2**20)
    ctypes.memset(block, 1, 64 * 2**20)
    libc.free(block)
def in_a_thread():
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
touch()
in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
    in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked")


@glibc
def test_freed_memory_is_kept(tmp_path):
    taken, faults = run_python(["-c", PROGRAM], tmp_path).stdout.split()
    if taken == "False":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 100


@glibc
def test_an_environment_that_says_how_is_left_alone(tmp_path):
    taken, faults = run_python(["-c", PROGRAM], tmp_path, MALLOC_ARENA_MAX="2").stdout.split()
    assert taken == "False" and int(faults) > 100
