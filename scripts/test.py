"""Everything `make test` promises: lint, types, the tests, and the version matrix.

Stages run in the order that fails fastest, and the first that fails is the
last that runs.  Each pytest prints its own closing line; the very last line
adds them up.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from scripts import postgres

ROOT = Path(__file__).parent.parent
OTHER_VERSIONS = ("3.12", "3.13")
WHERE_VERSIONS_MATTER = ("tests/core", "tests/engine")  # the rules, and the loop they run on


def main() -> int:
    seen: Counter[str] = Counter()
    code = passes("lint", ["make", "--no-print-directory", "lint"])
    if code:
        return code
    with postgres.server() as url:
        os.environ[postgres.VARIABLE] = url
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        code = run_tests(here, Path(sys.executable), ["tests"], seen)
        for version in OTHER_VERSIONS:
            code = code or run_on(version, seen)
    total = sum(seen.values())
    skipped = f", {seen['skipped']} skipped" if seen["skipped"] else ""
    failed = total - seen["passed"] - seen["skipped"]
    print(f"\n{seen['passed']} passed, {failed} failed{skipped}", flush=True)
    return code


def run_on(version: str, seen: Counter[str]) -> int:
    """Run the tests where Python versions differ, in an environment with only what they need."""
    folders = [folder for folder in WHERE_VERSIONS_MATTER if any((ROOT / folder).glob("**/test_*.py"))]
    interpreter = find_python(version)
    if interpreter is None or not folders:
        why = f"no python{version} on PATH or in ~/.pyenv/versions" if folders else "no tests there yet"
        print(f"\n== pytest on Python {version}: skipped, {why}", flush=True)
        return 0
    venv = ROOT / f".venv-{version}"
    stamp = venv / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        install = ["scripts/install.sh", str(interpreter), str(venv), "test"]
        if code := passes(f"install for Python {version}", install):
            return code
        stamp.touch()
    return run_tests(version, venv / "bin" / "python", folders, seen)


def find_python(version: str) -> Path | None:
    """An interpreter that runs: a pyenv shim on PATH may only say that it would not."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    for candidate in [*([Path(on_path)] if on_path else []), *reversed(installed)]:
        asked = subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False)
        if asked.returncode == 0:
            return candidate
    return None


def run_tests(version: str, python: Path, folders: list[str], seen: Counter[str]) -> int:
    """Run pytest, showing its output as it comes, and add its closing line to *seen*."""
    print(f"\n== pytest on Python {version}", flush=True)
    command = [str(python), "-m", "pytest", "-n", "2", *folders]
    closing = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as pytest:
        try:
            for line in pytest.stdout or ():
                print(line, end="", flush=True)
                closing = line if line.strip() else closing
        except BaseException:
            pytest.terminate()  # told to stop: the tests stop before their server does
            raise
    for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", closing):
        seen[word] += int(number)
    return pytest.returncode


def passes(title: str, command: list[str]) -> int:
    print(f"\n== {title}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
