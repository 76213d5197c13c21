"""The trace id of a request: the caller's, or a new one.

Floor 6.  May import: ids.  Imported by: http.ingress, http.api.
"""

from __future__ import annotations

import re

from everstep.ids import new_trace

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may add fields behind a dash.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def trace_of(traceparent: str | None) -> str:
    """
    The 32 hex digits that name a trace; a header that is not valid counts as none.

    >>> trace_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '0af7651916cd43dd8448eb211c80319c'
    """
    if traceparent:
        found = _TRACEPARENT.fullmatch(traceparent.strip())
        if found and (traceparent[:2] != "00" or not found[2]):
            return found[1]
    return new_trace()
