"""Make pages of templates: every value is escaped, whatever does not print is written out, and each region can be made alone."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fleetcast.counted import named
from hub.web.console import moments
from hub.web.console.sentence import nodes_where, path, short, shown

HERE: Final = Path(__file__).parent
REGION: Final = "live_"
PAGE: Final = "page.html"  # What every page extends.
MEDIA: Final[Mapping[str, str]] = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon-well.svg": "image/svg+xml",
    "icon-needs.svg": "image/svg+xml",
}
SECTIONS: Final = (
    ("Fleet", "/", "f"),
    ("Models", "/models", "m"),
    ("Nodes", "/nodes", "n"),
    ("Drift", "/drift", "d"),
    ("Bytes", "/bytes", "b"),
    ("Alerts", "/alerts", "a"),
    ("Audit", "/audit", "u"),
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types fleetcast"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), camera=(), microphone=()",
    "cache-control": "no-store",
}


@cache
def asset(name: str) -> bytes:
    """Return a file that pages load."""
    return (HERE / "assets" / name).read_bytes()


@cache
def asset_address(name: str) -> str:
    """Return the address of such a file, which is another one when its content is."""
    return f"/{name}?{hashlib.sha256(asset(name)).hexdigest()[:12]}"


def _finalized(value: object) -> object:
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def environment() -> Environment:
    """Return the templates."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.globals.update(asset=asset_address, path=path, nodes_where=nodes_where, sections=SECTIONS)
    found.filters.update(
        short=short,
        moment=moments.moment,
        clock=moments.clock,
        day=moments.day,
        lasting=moments.lasting,
        lasting_coarse=moments.lasting_coarse,
        counted=moments.counted,
        noun=named,
    )
    found.globals["ui"] = found.get_template("macros.html").module
    return found


def page(template: str, values: Mapping[str, Any]) -> str:
    """Return a whole page."""
    return environment().get_template(template).render(values)


def regions(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the regions of a page, each by its name, as the page itself has them."""
    found = environment().get_template(template)
    context = found.new_context(dict(values))
    blocks = {**environment().get_template(PAGE).blocks, **found.blocks}  # A template's own blocks stand for those that it extends.
    return {name.removeprefix(REGION): "".join(block(context)) for name, block in blocks.items() if name.startswith(REGION)}
