"""buf breaking: a program of the first build whose protos are kept still understands ours.

tests/data/upgrade/protos.binpb is that build's image (`buf build proto -o …`). Skipped, loudly, where
buf is not installed.
"""
import os
import shutil
import subprocess
import sys
import tempfile


def main():
    protos, image = sys.argv[1:3]
    buf = os.path.join(os.path.dirname(sys.executable), "buf")
    if not os.path.exists(buf):
        buf = shutil.which("buf")
    if not buf:
        print("SKIPPED: buf is not installed (tests/requirements.txt has buf-bin)")
        return 77

    def breaking(folder):
        return subprocess.run([buf, "breaking", "--against", image], cwd=folder, check=False,
                              capture_output=True, text=True)

    ours = breaking(protos)
    print(ours.stdout, ours.stderr)
    if ours.returncode != 0:
        return 1
    # And it would say so: the same protos with one field renumbered.
    with tempfile.TemporaryDirectory() as folder:
        broken = os.path.join(folder, "proto")
        shutil.copytree(protos, broken)
        path = os.path.join(broken, "mindforge", "v1", "job_service.proto")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert "JobSpec job = 1;" in text
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("JobSpec job = 1;", "JobSpec job = 100;"))
        if breaking(broken).returncode == 0:
            print("buf breaking did not find a renumbered field")
            return 1
    return 0


sys.exit(main())
