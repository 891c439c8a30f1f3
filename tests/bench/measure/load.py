"""Runs the load program in tests/bench/load."""
import json
import pathlib
import shutil
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parents[1]
REPO = HERE.parents[1]
BUILT = REPO / "target/bench"
PROGRAM = BUILT / "load"


def build():
    if not shutil.which("go"):
        sys.exit("the load program needs Go: install it from https://go.dev/dl or your distribution")
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "load", check=True)


def words(mode, bootstrap, **flags):
    told = [str(PROGRAM), mode, "-brokers", bootstrap]
    for name, value in flags.items():
        told.append(f"-{name}={str(value).lower() if isinstance(value, bool) else value}")
    return told


def run(mode, bootstrap, **flags):
    """What the program told."""
    done = subprocess.run(words(mode, bootstrap, **flags), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"the load ended with {done.returncode}: {mode} {flags}")
    return json.loads(done.stdout)


class Background:
    """The load program beside something else. Leaving the `with` ends it."""

    def __init__(self, mode, bootstrap, **flags):
        self.what = f"{mode} {flags}"
        self.process = subprocess.Popen(words(mode, bootstrap, **flags), stdout=subprocess.PIPE, text=True)

    def result(self):
        out, _ = self.process.communicate()
        if self.process.returncode != 0:
            sys.exit(f"the load ended with {self.process.returncode}: {self.what}")
        return json.loads(out)

    def finish(self):
        """Ends an `offer` early."""
        self.process.send_signal(signal.SIGTERM)
        return self.result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
