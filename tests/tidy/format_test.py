"""Every C++ file that git tracks is formatted as .clang-format says (clang-format 14, as Debian 12 has)."""
import re
import subprocess
import sys


def main():
    root, tool = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    if not tool or tool.endswith("NOTFOUND"):
        print("SKIPPED: clang-format is not installed")
        return 77
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if not re.search(r"version 14\.", version):
        print(f"SKIPPED: formatting differs between versions; wanted clang-format 14, have {version}")
        return 77
    files = subprocess.run(
        ["git", "ls-files", "*.cc", "*.h", "*.cu"], cwd=root, capture_output=True, text=True
    ).stdout.split()
    if not files:
        print("SKIPPED: not a git checkout")
        return 77
    return subprocess.run([tool, "--dry-run", "-Werror", *files], cwd=root).returncode


sys.exit(main())
