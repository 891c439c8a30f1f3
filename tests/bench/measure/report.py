"""Samples of several systems as a Markdown table and as JSON."""
import dataclasses
import json
import os
import pathlib
import platform
import statistics


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: `form` shows a value times `scale`."""

    key: str
    title: str
    form: str = "{:.1f}"
    scale: float = 1


class Samples:
    """Values by system and row, kept in a file as they come."""

    def __init__(self, path, settings):
        self.path = pathlib.Path(path)
        self.found = {}
        self.settings = settings

    def add(self, system, values):
        for key, value in values.items():
            self.found.setdefault(system, {}).setdefault(key, []).append(value)
        write_json(self.path, {"machine": machine(), "settings": self.settings, "samples": self.found})

    def of(self, system, key):
        return self.found.get(system, {}).get(key, [])


def write_json(path, content):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def machine():
    cpu = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(gib, 1), "kernel": platform.release()}


def cell(values, row):
    """The median, and the range where there are several."""
    if not values:
        return ""
    shown = row.form.format(statistics.median(values) * row.scale)
    if len(values) == 1:
        return shown
    return f"{shown} [{row.form.format(min(values) * row.scale)}–{row.form.format(max(values) * row.scale)}]"


def ratio(ours, theirs):
    if not ours or not theirs or statistics.median(theirs) == 0:
        return ""
    return f"{statistics.median(ours) / statistics.median(theirs):.2g}"


def table(rows, samples, systems, head="Case"):
    """`systems` are (name, title); what the first has is divided by what the others have."""
    first, *others = systems
    heads = [head, *(title for _, title in systems), *(f"ratio to {title}" for _, title in others)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        values = [samples.of(name, row.key) for name, _ in systems]
        if not any(values):
            continue
        cells = [cell(found, row) for found in values] + [ratio(values[0], found) for found in values[1:]]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)
