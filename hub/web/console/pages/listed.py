"""List the pages that only show: models, nodes, drift, bytes, alerts, changes."""

from typing import Final

from hub.web.console.pages import drift, model, models, node, nodes, release

PAGES: Final = (*models.PAGES, *model.PAGES, *release.PAGES, *nodes.PAGES, *node.PAGES, *drift.PAGES)
