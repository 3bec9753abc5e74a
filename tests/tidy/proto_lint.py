"""buf lint (STANDARD) over proto/; skipped, loudly, where buf is not installed."""
import os
import shutil
import subprocess
import sys


def main():
    folder = sys.argv[1]
    buf = os.path.join(os.path.dirname(sys.executable), "buf")
    if not os.path.exists(buf):
        buf = shutil.which("buf")
    if not buf:
        print("SKIPPED: buf is not installed (tests/requirements.txt has buf-bin)")
        return 77
    return subprocess.run([buf, "lint"], cwd=folder, check=False).returncode


sys.exit(main())
