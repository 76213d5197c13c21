"""Where the flow waits for a person.  It is only drawn: nothing runs here."""

from .orders import FLOW

config = {
    "type": "noop",
    "name": "HumanApprovalGate",
    "description": "The order waits in state until somebody decides",
    "virtualSubscribes": ["approval.required"],
    "virtualEnqueues": ["human.decision"],
    "flows": [FLOW],
}
