#!/usr/bin/env python3
"""Draws what curves.py kept: plot.py FILE DIR writes partitions.svg and sizes.svg to DIR (docs/plots by default).

Lines join the medians; bars are the ranges. Needs matplotlib, and installs it in target/bench/venv when it is not there.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import venv

from measure import clusters, load

VENV = load.BUILT / "venv"
PICTURES = {
    "partitions": ("partitions", [("bytes", "MB/s", 1e-6), ("cpu_per_gb", "CPU of all brokers, s per GB", 1),
                                  ("idle_memory", "memory when idle, MiB", 1), ("create", "until all have a leader, s", 1)]),
    "sizes": ("size", [("bytes", "MB/s", 1e-6), ("records", "records/s", 1),
                       ("cpu_per_gb", "CPU of all brokers, s per GB", 1)]),
}
AXES = {"partitions": "partitions, RF 3", "size": "bytes of a record"}


def with_matplotlib():
    """This program again, in an environment that has it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        if pathlib.Path(sys.prefix) == VENV:
            raise
        if not (VENV / "bin/python3").exists():
            venv.create(VENV, with_pip=True)
        requirements = load.HERE / "requirements.txt"
        subprocess.run([VENV / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r", requirements], check=True)
        os.execv(VENV / "bin/python3", [VENV / "bin/python3", *sys.argv])


def points(found, curve, measure):
    """(where, values) in order."""
    named = [(key.split("/"), values) for key, values in found.items()]
    return sorted((int(at), values) for (of, at, name), values in named if of == curve and name == measure)


def draw(samples, curve, measures, path):
    import matplotlib
    matplotlib.use("svg")
    # The same content gives the same file, and text stays text.
    matplotlib.rcParams |= {"svg.hashsalt": "tidelog", "svg.fonttype": "none"}
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(measures), figsize=(4.2 * len(measures), 3.4), layout="constrained")
    for axis, (measure, title, scale) in zip(axes, measures):
        for name, found in samples.items():
            line = [(at, [value * scale for value in values]) for at, values in points(found, curve, measure)]
            if not line:
                continue
            middles = [statistics.median(values) for _, values in line]
            ranges = [[middle - min(values) for middle, (_, values) in zip(middles, line)],
                      [max(values) - middle for middle, (_, values) in zip(middles, line)]]
            axis.errorbar([at for at, _ in line], middles, yerr=ranges, marker="o", capsize=3,
                          label=clusters.SYSTEMS[name].title)
        axis.set(xscale="log", yscale="log", xlabel=AXES[curve], title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, nargs="?", default=load.BUILT / "curves.json", metavar="FILE")
    parser.add_argument("dir", type=pathlib.Path, nargs="?", default=load.REPO / "docs/plots", metavar="DIR")
    arguments = parser.parse_args()
    if not arguments.file.exists():
        parser.error(f"no {arguments.file}: run curves.py first")
    with_matplotlib()
    samples = json.loads(arguments.file.read_text())["samples"]
    arguments.dir.mkdir(parents=True, exist_ok=True)
    for name, (curve, measures) in PICTURES.items():
        if any(points(found, curve, measures[0][0]) for found in samples.values()):
            draw(samples, curve, measures, arguments.dir / f"{name}.svg")
            print(arguments.dir / f"{name}.svg")


if __name__ == "__main__":
    main()
