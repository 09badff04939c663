"""List the pages that only show: models, nodes, drift, bytes, alerts, changes."""

from typing import Final

from hub.web.console.pages import nodes

PAGES: Final = (*nodes.PAGES,)
