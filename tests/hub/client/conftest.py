"""The fleets of the API's tests, and clients of theirs."""

from tests.hub.web.conftest import running, unused

__all__ = ["running", "unused"]
