"""What a project has, and what became different."""

from dataclasses import replace
from pathlib import Path

from everstep.cli.listing import Listed, Listing, Trouble, change_line, changes, flow_line, problem_lines
from everstep.steps.discover import discover

HELLO = Listed("Hello", "Http", "src/hello_step.py", 1, ("GET /hello",), ("greetings",), "aa")
WORK = Listed("Work", "Queue", "src/work_step.py", 1, ("work",), (), "bb")


def test_a_listing_survives_the_way_to_another_process() -> None:
    """What the child found is what the parent reads."""
    listing = Listing([HELLO, WORK], [Trouble("a.py", None, "no")], ["odd"])

    assert Listing.read(listing.document()) == listing


def test_changes_are_what_is_new_other_or_gone() -> None:
    """A Step is known by its name; one that moved or whose file changed is updated."""
    new = replace(WORK, name="New")
    after = Listing([replace(HELLO, digest="cc"), new])

    assert list(changes(Listing([HELLO, WORK]), after)) == [
        ("[UPDATED]", after.steps[0]),
        ("[CREATED]", new),
        ("[REMOVED]", WORK),
    ]
    assert list(changes(after, after)) == []


def test_lines_are_as_people_know_them() -> None:
    """Kind in brackets, the file, then what it listens to; problems with place, reason and remedy."""
    problem = Trouble("src/x_step.py", 3, "trigger 1 is 'quue'", "Did you mean 'queue'?")

    assert change_line("[CREATED]", WORK).plain == "[CREATED] Step (Queue) src/work_step.py  work"
    assert flow_line("orders", 1).plain == "[CREATED] Flow orders (1 Step)"
    assert flow_line("orders", 2).plain == "[CREATED] Flow orders (2 Steps)"
    told = problem_lines(problem).plain
    assert told == "[PROBLEM] src/x_step.py:3: trigger 1 is 'quue'\n          Did you mean 'queue'?"


def test_a_project_is_listed_as_it_was_found(tmp_path: Path) -> None:
    """Routes before topics, flows counted, problems kept; another content is another digest."""
    folder = tmp_path / "src"
    folder.mkdir()
    text = (
        "config = {'name': 'Both', 'flows': ['f'], 'triggers': [{'type': 'queue', 'topic': 't'},"
        " {'type': 'http', 'method': 'POST', 'path': '/x'}]}\nasync def handler(input, ctx): ...\n"
    )
    (folder / "both_step.py").write_text(text)
    (folder / "bad_step.py").write_text("(")
    first = Listing.of(discover(tmp_path), tmp_path)
    (folder / "both_step.py").write_text(f"{text}# more\n")
    second = Listing.of(discover(tmp_path), tmp_path)

    (both,) = first.steps
    assert (both.kind, both.file, both.on) == ("Queue+Http", "src/both_step.py", ("POST /x", "t"))
    assert first.flows == {"f": 1}
    assert [p.file for p in first.problems] == ["src/bad_step.py"]
    assert [tag for tag, _ in changes(first, second)] == ["[UPDATED]"]
