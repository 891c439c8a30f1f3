#!/usr/bin/env python3
"""Makes the records every client produces, as JSON lines, from text files of this repository.

    input.py REPO > records.jsonl

One line is {"partition", "key", "value", "headers", "timestamp"}; the same files give the same
records. Text lines and JSON documents alternate by file; empty lines stay as empty values, every
41st record has no key, every 97th has no value, so that null and empty are told apart.
"""
import json
import pathlib
import sys

PARTITIONS = 6
START_MS = 1_700_000_000_000


def source_lines(repo):
    files = sorted((repo / "docs").rglob("*.md")) + [repo / "README.md", repo / "Cargo.lock"]
    for path in files:
        if not path.is_file():
            continue
        name = str(path.relative_to(repo))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield name, number, line


def main():
    repo = pathlib.Path(sys.argv[1])
    for n, (name, number, line) in enumerate(source_lines(repo)):
        as_json = name.endswith(".lock") or n % 3 == 0
        value = json.dumps({"file": name, "line": number, "text": line}, ensure_ascii=False) if as_json else line
        record = {
            "partition": n % PARTITIONS,
            "key": None if n % 41 == 0 else f"{name}:{number}",
            "value": None if n % 97 == 1 else value,
            "headers": [] if n % 5 == 0 else [["file", name], ["line", str(number)]],
            # Not quite monotonic, as real event times are; per partition every 7th steps back.
            "timestamp": START_MS + 10 * n - (500 if n // PARTITIONS % 7 == 6 else 0),
        }
        print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    main()
