"""The doors: requests to Steps, health, the OpenAPI document, and the API for operations.

``from everstep import http`` means the helper of Step files, and finds this
package instead once a server has imported it: so it can be called like the helper.

Floor 6.  May import: steps.config.  Imported by: http, app.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        from everstep.steps.config import http

        return http(*args, **options)


sys.modules[__name__].__class__ = _Room
