"""The child of `everstep dev`: serves the project on its parent's socket until it is replaced.

It speaks to its parent over one socket pair, a JSON document a line; when the
parent is gone, however it died, the pair is closed, and so is the child.

Floor 8.  May import: app, settings, listing, serving, exits.  Imported by: nothing (it is a program).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


class Parent:
    """The other end of the socket pair."""

    def __init__(self, fd: int) -> None:
        self._pair = socket.socket(fileno=fd)
        threading.Thread(target=self._outlive, name="everstep-parent", daemon=True).start()

    def _outlive(self) -> None:
        """Nothing ever comes this way but the end."""
        try:
            self._pair.recv(1)
        finally:
            os._exit(1)

    def say(self, event: str, **fields: Any) -> None:
        """Tell the parent."""
        try:
            self._pair.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")
        except OSError:
            os._exit(1)


def main() -> int:
    """Serve; what to serve stands in the arguments, as JSON."""
    told = json.loads(sys.argv[1])
    # Ctrl-C reaches the whole process group; when we end is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Parent(told["parent"])
    listener = socket.socket(fileno=told["listener"])
    try:
        return _serve(parent, listener, told)
    except Exception as error:
        from everstep.cli.exits import code_of

        code = code_of(error)
        text = str(error) if code is not None else traceback.format_exc()
        parent.say("failed", code=code or 1, error=text)
        return code or 1


def _serve(parent: Parent, listener: socket.socket, told: dict[str, Any]) -> int:
    from everstep.cli import serving
    from everstep.cli.start import app_of
    from everstep.settings import Settings

    settings = Settings.load(**told["settings"])
    serving.configure_logs(settings, access=told["access"])
    app, listing = app_of(settings, told["modules"], Path.cwd())
    parent.say("found", listing=listing.document())
    ours = logging.getLogger("everstep.app")
    ours.setLevel(logging.CRITICAL)  # what is wrong with the Steps is the parent's to say

    def accepting() -> None:
        ours.setLevel(logging.NOTSET)
        parent.say("serving")

    serving.run(
        serving.serve(
            app,
            listener,
            drain=settings.drain,
            serving=accepting,
            stops=(signal.SIGTERM,),
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
