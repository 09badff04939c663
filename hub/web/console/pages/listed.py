"""List the pages that only show: models, nodes, drift, bytes, alerts, changes."""

from typing import Final

from hub.web.console.pages import alerts, audit, bytes_paid, drift, model, models, node, nodes, release

PAGES: Final = (
    *models.PAGES,
    *model.PAGES,
    *release.PAGES,
    *nodes.PAGES,
    *node.PAGES,
    *drift.PAGES,
    *bytes_paid.PAGES,
    *alerts.PAGES,
    *audit.PAGES,
)
