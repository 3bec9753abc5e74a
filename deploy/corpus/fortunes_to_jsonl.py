#!/usr/bin/env python3
"""Turns Debian's fortunes (packages fortunes and fortunes-zh) into a jsonl corpus for training.

    fortunes_to_jsonl.py --poems > poems.jsonl     # Tang and Song poems only
    fortunes_to_jsonl.py --all --out corpus.jsonl  # every file, English and Chinese

One object a line, {"text": ...}, in the order of the files' names. Standard library only.
"""

import argparse
import json
import pathlib
import re
import sys

POEMS = ("tang300", "song100")
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # terminal colours
OVERSTRIKE = re.compile(r".\x08")  # "_\x08a" underlines on paper


def clean(text):
    text = OVERSTRIKE.sub("", ESCAPE.sub("", text))
    lines = [line.rstrip() for line in text.replace("\r", "").split("\n")]
    return "\n".join(lines).strip("\n")


def fortunes(path):
    """The texts of one fortune file: separated by lines that hold a percent sign alone."""
    entry = []
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            if line.rstrip("\r\n") == "%":
                yield clean("".join(entry))
                entry = []
            else:
                entry.append(line)
    yield clean("".join(entry))


def sources(folder, poems):
    if poems:
        return [folder / name for name in POEMS]
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8")
    )


def write(paths, out):
    count = 0
    for path in paths:
        for text in fortunes(path):
            if text.strip():
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                count += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--poems", action="store_true", help="only " + " and ".join(POEMS))
    which.add_argument("--all", action="store_true", help="every file of the folder")
    parser.add_argument("--dir", default="/usr/share/games/fortunes", help="default: %(default)s")
    parser.add_argument("--out", default="-", help="output file; default: standard output")
    arguments = parser.parse_args()

    folder = pathlib.Path(arguments.dir)
    missing = [name for name in POEMS if not (folder / name).is_file()]
    if missing:
        sys.exit(
            f"{folder} has no {' and no '.join(missing)}: install the packages fortunes and"
            " fortunes-zh (apt-get install fortunes fortunes-zh), or name their folder with --dir"
        )
    paths = sources(folder, arguments.poems)
    if arguments.out == "-":
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        count = write(paths, sys.stdout)
    else:
        with open(arguments.out, "w", encoding="utf-8", newline="\n") as out:
            count = write(paths, out)
    print(f"{count} texts from {len(paths)} files", file=sys.stderr)


if __name__ == "__main__":
    main()
