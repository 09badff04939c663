"""List which role each route of the API needs: the one table of it. A route that is not in it does not exist."""

import re
from typing import Final, Literal

from hub.operations.api_tokens import Role

Right = Literal["anybody", "viewer", "operator", "publisher", "admin"]

GRANTS: Final[dict[Role, frozenset[Right]]] = {
    "viewer": frozenset({"viewer"}),
    "operator": frozenset({"viewer", "operator"}),
    "publisher": frozenset({"viewer", "publisher"}),  # It publishes, and moves no node: a build machine needs no more.
    "admin": frozenset({"viewer", "operator", "publisher", "admin"}),
}

DEPLOYMENT: Final = "/models/{model}/deployments/{deployment}"
ROLLOUT: Final = "/rollouts/{model}/{deployment}"
ACTIONS: Final = ("halt", "resume", "back", "approve", "retry")

ROUTES: Final[dict[tuple[str, str], Right]] = {
    ("GET", "/openapi.json"): "anybody",
    ("GET", "/token"): "viewer",
    ("GET", "/fleet"): "viewer",
    ("GET", "/models"): "viewer",
    ("GET", "/models/{model}"): "viewer",
    ("GET", "/models/{model}/releases"): "viewer",
    ("GET", "/models/{model}/releases/{version}"): "viewer",
    ("GET", "/models/{model}/deployments"): "viewer",
    ("GET", DEPLOYMENT): "viewer",
    ("PUT", DEPLOYMENT): "operator",
    ("DELETE", DEPLOYMENT): "operator",
    ("GET", "/rollouts"): "viewer",
    ("POST", "/rollouts"): "operator",
    ("GET", ROLLOUT): "viewer",
    ("GET", f"{ROLLOUT}/gates"): "viewer",
    ("GET", f"{ROLLOUT}/nodes"): "viewer",
    **{("POST", f"{ROLLOUT}/{action}"): "operator" for action in ACTIONS},
    ("PATCH", f"{ROLLOUT}/parameters"): "operator",
    ("GET", "/nodes"): "viewer",
    ("GET", "/nodes/{node}"): "viewer",
    ("DELETE", "/nodes/{node}"): "admin",
    ("POST", "/nodes/{node}/replacement"): "admin",
    ("POST", "/enrolment-tokens"): "admin",
    ("GET", "/nodes/{node}/settings"): "viewer",
    ("PATCH", "/nodes/{node}/settings"): "operator",
    ("POST", "/node-settings"): "operator",
    ("POST", "/node-settings/effect"): "viewer",
    ("GET", "/models/{model}/publishing"): "publisher",
    ("GET", "/models/{model}/releases/{version}/bytes"): "viewer",
    ("GET", "/models/{model}/releases/{version}/manifest"): "viewer",
    ("GET", "/models/{model}/releases/{version}/removal"): "viewer",
    ("POST", "/models/{model}/releases/{version}/removal"): "publisher",
    ("GET", "/models/{model}/removal"): "viewer",
    ("POST", "/models/{model}/removal"): "admin",
    ("GET", "/payloads/{payload}"): "publisher",
    ("POST", "/publications"): "publisher",
    ("GET", "/publications/{publication}"): "publisher",
    ("DELETE", "/publications/{publication}"): "publisher",
    ("PUT", "/publications/{publication}/payloads/{payload}"): "publisher",
    ("POST", "/publications/{publication}/release"): "publisher",
    ("POST", "/plan"): "viewer",
    ("GET", "/blueprint"): "viewer",
    ("GET", "/blueprint/present"): "viewer",
    ("GET", "/blueprint/revisions"): "viewer",
    ("GET", "/blueprint/revisions/{revision}"): "viewer",
    ("POST", "/blueprint/diff"): "viewer",
    ("POST", "/blueprint/applications"): "operator",
    ("GET", "/blueprint/applications/{application}"): "operator",
    ("GET", "/drift"): "viewer",
    ("POST", "/drift/explanation"): "viewer",
    ("GET", "/bytes"): "viewer",
    ("GET", "/alerts"): "viewer",
    ("GET", "/events"): "viewer",
    ("GET", "/events/stream"): "viewer",
    ("GET", "/audit"): "viewer",
    ("GET", "/operations/{operation}"): "viewer",
    ("GET", "/tokens"): "admin",
    ("POST", "/tokens"): "admin",
    ("DELETE", "/tokens/{token}"): "admin",
}


_PATTERNS: Final = {template: re.compile(re.sub(r"{\w+}", "[^/]+", template)) for _, template in ROUTES}


def methods_of(path: str) -> list[str]:
    """Return the methods that a resource takes."""
    return sorted({method for (method, template) in ROUTES if _PATTERNS[template].fullmatch(path)})


def may(role: str, right: Right) -> bool:
    """Return whether a role has a right."""
    return any(name == role and right in rights for name, rights in GRANTS.items())
