"""The documentation is true: its programs run, its commands do what they say, its links lead somewhere.

A ```python block with a title (``title="src/hello_step.py"``) is a file of the
page's project; all of a page's files are served together, and the page's
``sh`` blocks are then run against them, in order.
"""

import ast
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from everstep.settings import Settings
from tests.acceptance.project import Project, Server, eventually

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
EXAMPLE = ROOT / "examples" / "order_approval"

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Title and text of the blocks of one language."""
    found = _BLOCK.findall(page.read_text("utf-8"))
    return [(title, text) for kind, title, text in found if kind == language]


def files_of(page: Path) -> dict[str, str]:
    """The project a page writes: the example's own for pages about it."""
    titled = {title: text for title, text in blocks(page, "python") if title.startswith("src/")}
    if page == EXAMPLE / "README.md" or page == ROOT / "README.md":
        titled |= {f"src/{file.name}": file.read_text("utf-8") for file in (EXAMPLE / "src").glob("*.py")}
    return titled


def programs_of(page: Path) -> list[str]:
    return [title for title, _ in blocks(page, "python") if title and not title.startswith("src/")]


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=id_of)


# ---- what can be read off the page


@pages
def test_every_link_leads_to_a_file(page: Path) -> None:
    """Relative links are followed from the page they stand on."""
    broken = [
        link
        for link in _LINK.findall(page.read_text("utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]

    assert broken == []


@pages
def test_every_piece_of_python_is_python(page: Path) -> None:
    """Also the pieces that are no whole program: an await may stand alone."""
    for title, text in blocks(page, "python"):
        compile(text, title or id_of(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pages
def test_every_command_exists(page: Path) -> None:
    """Each `everstep …` that a page names has a help page of its own."""
    shell = "\n".join(text for _, text in blocks(page, "sh"))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
    named = re.findall(r"^everstep ([a-z]+(?: [a-z]+)?)", f"{shell}\n{inline}", re.MULTILINE)
    for command in set(named):
        words = command.split()
        for attempt in (words, words[:1]):  # "state get" is a command, "enqueue order" is not
            if _help(attempt):
                break
        else:
            pytest.fail(f"{id_of(page)} names `everstep {command}`, which is no command")


def _help(words: list[str]) -> bool:
    program = Path(sys.executable).with_name("everstep")
    return subprocess.run([program, *words, "--help"], capture_output=True).returncode == 0


def test_every_setting_is_documented_with_its_default() -> None:
    """One row for each variable, and none for what is no variable."""
    text = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `EVERSTEP_([A-Z_]+)` \|([^|]*)\|", text, re.MULTILINE))

    assert {name.lower() for name in rows} == {field.name for field in fields(Settings)}
    for name, default in rows.items():
        told = {f"EVERSTEP_{name}": default.strip(" `")}
        assert getattr(Settings.load(told), name.lower()) == getattr(Settings(), name.lower()), name


# ---- what must be run


@pytest.mark.parametrize("page", [page for page in PAGES if files_of(page)], ids=id_of)
def test_the_programs_of_a_page_are_served_and_its_commands_work(page: Path, tmp_path: Path) -> None:
    """Every Step is found without a word of warning, and every command succeeds, in order."""
    with Project(tmp_path / "project") as project:
        for path, text in files_of(page).items():
            project.write(path, text)
        server = project.dev()
        assert "[PROBLEM]" not in server.output
        assert "[WARNING]" not in server.output

        shell = _Shell(server)
        for _, text in blocks(page, "sh"):
            for command in commands(text):
                shell.run(command)


def commands(text: str) -> list[str]:
    """The commands of a block; one that ends in a backslash goes on in the next line."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


class _Shell:
    """Runs the commands a reader would type, with the server's own port and the ids it answered."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.last: str = ""

    def run(self, command: str) -> None:
        words = shlex.split(command)
        if words[0] == "curl":
            self._curl(command)
        elif words[:2] in (["everstep", "state"], ["everstep", "runs"], ["everstep", "dlq"]):
            self._everstep(words[1:])

    def _curl(self, command: str) -> None:
        command = self._here(command).replace(":3111", f":{self.server.port}")
        done = subprocess.run(
            ["bash", "-c", command.replace("curl ", "curl --fail-with-body ", 1)],
            capture_output=True,
            text=True,
            env={**os.environ, "no_proxy": "*"},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answer = json.loads(done.stdout)
        self.last = answer.get("orderId") or answer.get("id") or self.last
        if answer.get("status") == "submitted":  # what comes next may need the Step behind it
            eventually(self._analyzed, "the order is analysed")

    def _analyzed(self) -> bool:
        order = httpx.get(f"{self.server.url}/orders/{self.last}", trust_env=False).json()
        return "analyzed" in order["order"]["done"]

    def _everstep(self, words: list[str]) -> None:
        if any("<" in word for word in words):
            return  # a placeholder: what it stands for is in the text
        words = shlex.split(self._here(shlex.join(words)).replace("'", ""))
        eventually(lambda: self.server.project.run(*words).code == 0, f"everstep {' '.join(words)} succeeds")

    def _here(self, command: str) -> str:
        return re.sub(r"\$(ORDER|ID)\b", self.last, command)


def test_make_run_starts_the_example_and_says_what_to_try(tmp_path: Path) -> None:
    """Steps, addresses, then the commands of the example's README, with the port it listens on."""
    with Project(tmp_path / "unused") as project, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        server = _start(
            project, "scripts.example", cwd=ROOT, env=project.env({"EVERSTEP_PORT": str(port)})
        )
        server.wait_for("# See an order")

        order = server.output.index("[CREATED] Step (Http) src/submit_order_step.py")
        assert order < server.output.index(server.url) < server.output.index("# High risk")
        assert "3111" not in server.output
        server.send(signal.SIGINT, group=True)
        assert server.wait() == 0


@pytest.mark.parametrize("page", [page for page in PAGES if programs_of(page)], ids=id_of)
def test_programs_that_mount_the_app_serve_it(page: Path, tmp_path: Path) -> None:
    """Each whole program of a page starts under uvicorn, with Steps below its mount."""
    programs = {title: text for title, text in blocks(page, "python") if title in programs_of(page)}
    for name, text in programs.items():
        with Project(tmp_path / Path(name).stem) as project:
            project.write(name, text)
            project.write("src/ready_step.py", _STEP)
            _serves(project, Path(name).stem)


_STEP = """
    config = {"name": "Hi", "triggers": [{"type": "http", "method": "GET", "path": "/hi"}]}

    async def handler(request, ctx):
        return {"body": "hi"}
"""


def _serves(project: Project, module: str) -> None:
    server = _start(project, "uvicorn", f"{module}:api", "--port", "0", cwd=project.root, env=project.env())
    server.wait_for("Uvicorn running on")
    assert httpx.get(f"{server.url}/flows/hi", trust_env=False).text == "hi"
    assert httpx.get(f"{server.url}/flows/ready", trust_env=False).status_code == 200
    server.stop()
    assert "Application shutdown complete" in server.output


def _start(project: Project, *module: str, cwd: Path, env: dict[str, str]) -> Server:
    """Run a module as a program, watched and ended like the project's own servers."""
    with (project.logs / "program.out").open("wb") as out, (project.logs / "program.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=cwd, env=env, stdout=out, stderr=err, start_new_session=True
        )
    server = Server(project, process, "program")
    project.servers.append(server)
    return server
