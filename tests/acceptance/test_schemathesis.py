"""Requests nobody would think of, made from the example's own OpenAPI document."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.project import Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "order_approval"
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method"),
    "allow_header_conformance",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["dev", "start"])
def test_no_request_made_from_the_document_breaks_the_server(tmp_path: Path, command: str) -> None:
    """
    Whatever comes, no answer is 500 or above, and each is one the document names.

    In dev an answer that is not what its Step declares would be a 500 too.
    """
    with Project(tmp_path / "order_approval") as project:
        shutil.copytree(EXAMPLE / "src", project.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        server = project.start(command).wait_ready()

        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *("run", f"{server.url}/openapi.json", "--checks", ",".join(CHECKS)),
                *("--max-examples", "60", "--seed", "1", "--phases", "examples,coverage,fuzzing,stateful"),
                *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

        assert done.returncode == 0, done.stdout + done.stderr
        assert server.http.get("/ready").status_code == 200
        assert "Traceback" not in server.err
