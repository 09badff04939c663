"""Ctrl-C while a command runs: wherever it comes, the command ends with 130, and what belongs together is done whole."""

import signal
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fleetcast import interrupts

# A command in a process of its own, which presses Ctrl-C by `press()`. What it prints is what it has done.
PROGRAM = """
import os, pickle, signal, sys, time, weakref
from fleetcast import interrupts
from fleetcast.cli import standard_streams
interrupts.install()
standard_streams.prepare()
from hub.cli.errors import guarded

def press():
    os.kill(os.getpid(), signal.SIGINT)

def say(text):
    print(text, flush=True)

class Thing:
    pass

def go_on(steps=400):
    for _ in range(steps):
        time.sleep(0.01)
    say("went on")

def run():
{body}

guarded(run)
"""


def ended(body: str, cwd: Path) -> tuple[int, str, str]:
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=indented)], capture_output=True, text=True, check=False, timeout=60, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "press()\ngo_on()",
        "thing = Thing()\nref = weakref.ref(thing, lambda _: press())\ndel thing\ngo_on()",
        "try:\n    press()\n    go_on()\nexcept BaseException:\n    pass\ngo_on()",
        "try:\n    press()\n    go_on()\nexcept BaseException:\n    raise ImportError('a library could not be loaded') from None",
        "try:\n    press()\n    go_on()\nexcept BaseException:\n    sys.exit(1)",
        "import click\ntry:\n    press()\n    go_on()\nexcept KeyboardInterrupt:\n    raise click.Abort from None",
    ],
    ids=["plainly", "in a callback", "swallowed", "another error", "another exit", "as click's"],
)
def test_ctrl_c_ends_a_command_with_130_whatever_becomes_of_the_exception(body: str, tmp_path: Path) -> None:
    assert ended(body, tmp_path) == (130, "", "")


def test_ctrl_c_before_the_command_begins_ends_it_at_once(tmp_path: Path) -> None:
    program = (
        "import os; from fleetcast import interrupts; interrupts.install(); os.kill(os.getpid(), 2); "
        "from hub.cli.errors import guarded; guarded(lambda: print('went on'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


PRESSED_AT_IMPORT = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
sys.argv = ["{program}", "--version"]
from {side}.entry import main
main()
"""


@pytest.mark.parametrize("module", ["fleetcast", "fleetcast.interrupts", "fleetcast.cli.standard_streams"])
@pytest.mark.parametrize(("program", "side"), [("fleetcast", "hub"), ("fleetcast-node", "node")])
def test_ctrl_c_while_the_first_modules_are_imported_leaves_no_traceback(program: str, side: str, module: str) -> None:
    text = PRESSED_AT_IMPORT.format(module=module, program=program, side=side)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_installed_commands_begin_where_ctrl_c_leaves_no_traceback() -> None:
    scripts = {one.name: one.value for one in entry_points(group="console_scripts") if one.name.startswith("fleetcast")}
    assert scripts == {"fleetcast": "hub.entry:main", "fleetcast-node": "node.entry:main"}


def test_what_belongs_together_is_done_whole_before_ctrl_c_ends_it(tmp_path: Path) -> None:
    body = """
with interrupts.held():
    say("first")
    press()
    with interrupts.held():
        time.sleep(0.1)
    say("second")
say("third")
"""
    assert ended(body, tmp_path) == (130, "first\nsecond\n", "")


def test_ctrl_c_once_more_does_not_cut_what_is_cleared_away(tmp_path: Path) -> None:
    body = """
try:
    press()
    go_on()
finally:
    for _ in range(5):
        press()
        time.sleep(0.03)
    say("cleared away")
"""
    assert ended(body, tmp_path) == (130, "cleared away\n", "")


def test_a_module_that_native_code_loads_is_loaded_whole(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), 2)\ntime.sleep(0.1)\nprint('loaded', flush=True)\nA = 1\n"
    )
    body = "sys.path.insert(0, os.getcwd())\npickle.loads(b'cslow\\nA\\n.')\ngo_on()"

    assert ended(body, tmp_path) == (130, "loaded\n", "")


def test_a_module_that_python_imports_does_not_keep_ctrl_c_waiting(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os\nos.kill(os.getpid(), 2)\nprint('loaded', flush=True)\n")

    assert ended("sys.path.insert(0, os.getcwd())\nimport slow\ngo_on()", tmp_path) == (130, "", "")


def test_ctrl_c_after_the_end_changes_nothing(tmp_path: Path) -> None:
    body = "import atexit\natexit.register(press)\nsay('done')"

    assert ended(body, tmp_path) == (0, "done\n", "")


def test_in_a_program_of_somebody_else_held_work_is_done_whole_before_its_handler_runs() -> None:
    done: list[str] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever an earlier test in this process has installed

    with pytest.raises(KeyboardInterrupt), interrupts.held():  # noqa: PT012
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
        done.append("whole")

    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_has_replaced_ours_is_held_back_too(tmp_path: Path) -> None:
    program = """
import signal
from fleetcast import interrupts
interrupts.install()
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupts.held():
        signal.raise_signal(signal.SIGINT)
        print("whole")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("whole\ninterrupted\n", "")


def test_held_work_in_another_thread_leaves_the_handler_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with interrupts.held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [signal.getsignal(signal.SIGINT)]
