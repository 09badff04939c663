"""List the pages and questions of the console. A page is one module of this folder and one template: hub/web/console/page.py says how."""

from collections.abc import Sequence
from typing import Final

from hub.web.console.page import Page, Question
from hub.web.console.pages import drift, fleet, keys, listed, node_questions, rollout, rollout_questions, rollout_start

# An address is answered by the first that matches it, questions before pages.
PAGES: Final[Sequence[Page]] = (*fleet.PAGES, *rollout.PAGES, *keys.PAGES, *listed.PAGES)
QUESTIONS: Final[Sequence[Question]] = (
    *rollout_questions.QUESTIONS,
    *rollout_start.QUESTIONS,
    *node_questions.QUESTIONS,
    *drift.QUESTIONS,
    *keys.QUESTIONS,
)
