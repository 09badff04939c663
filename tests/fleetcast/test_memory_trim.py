import subprocess
import sys

import pytest

# Blocks as a socket gives them, in a thread, with one that stays behind them. Prints MiB: before, while held, and after.
PROGRAM = """
import re, threading
from fleetcast import memory_trim
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
{prepare}
def work():
    blocks = [bytes(2**17) for _ in range(1000)]
    large = [bytes(b"x") * 2**25 for _ in range(2)]
    kept.append(bytes(2**12))
    held.append(resident())
kept, held, before = [], [], resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
{release}
print(before, held[0], resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_thread_freed_is_given_back() -> None:
    program = PROGRAM.format(prepare="memory_trim.keep_little(arenas_max=1)", release="memory_trim.trim_memory()")

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, held, after = map(float, said.split())

    assert held - before > 100
    assert after - before < 8


def test_another_c_library_is_left_as_it_is() -> None:
    program = "import ctypes; from fleetcast import memory_trim as m; ctypes.CDLL = lambda _: object(); m.keep_little(); m.trim_memory()"

    subprocess.run([sys.executable, "-c", program], check=True)
