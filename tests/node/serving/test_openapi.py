"""The description that a node gives of itself, against an independent validator, the node's routes, and what it really answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from node.serving.oip_routes import Infer, routes_of
from node.serving.request_telemetry import Observing
from node.serving.worker_pool import WorkerPool
from tests.node.conftest import serving
from tools import openapi

CHECKOUT = Path(__file__).parents[3]
ROWS = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5]}]}


@pytest.fixture(scope="module")
def served(regressors: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(tmp_path_factory.mktemp("described"), regressors.linear) as running:
        yield running


@pytest.fixture(scope="module")
def document(served: Any) -> dict[str, Any]:
    return dict(httpx.get(served.url + "/openapi.json").raise_for_status().json())


def test_the_document_is_what_make_generate_writes_and_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()

    assert document == json.loads((CHECKOUT / "node" / "serving" / "openapi.json").read_text())
    assert document == openapi.document()


def test_the_document_covers_every_route_and_no_other(document: dict[str, Any]) -> None:
    pool = WorkerPool(lambda *told: None)
    observing = Observing(pool, lambda rows: None)
    routes = routes_of(pool, observing, Infer(pool, observing), node="n", on_labels=lambda counts: None, status=lambda: None)
    mounted = {(route.path, method) for route in routes for method in (route.methods or {"POST"}) - {"HEAD"}}
    described = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item if method in ("get", "post", "put", "delete")
    }

    assert mounted == described


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "schema"),
    [
        ("GET", "/v2", None, 200, "Server"),
        ("GET", "/v2/health/live", None, 200, "Live"),
        ("GET", "/v2/health/ready", None, 200, "Ready"),
        ("GET", "/v2/models/delay", None, 200, "Model"),
        ("GET", "/v2/models/delay/versions/1.0.0", None, 200, "Model"),
        ("GET", "/v2/models/delay/ready", None, 200, "ModelReady"),
        ("GET", "/v2/models/delay/stats", None, 200, "Statistics"),
        ("GET", "/v2/models/stats", None, 200, "Statistics"),
        ("POST", "/v2/repository/index", {}, 200, "Index"),
        ("POST", "/v2/models/delay/infer", ROWS, 200, "Answer"),
        ("POST", "/v2/models/delay/infer", {"inputs": []}, 400, "Error"),
        ("GET", "/v2/models/other", None, 404, "Error"),
        ("GET", "/v1/models", None, 200, "ChatModels"),
        ("GET", "/v1/models/delay", None, 404, "ChatError"),
        ("POST", "/v1/chat/completions", {"model": "delay"}, 400, "ChatError"),
    ],
)
def test_an_answer_is_as_the_document_describes_it(
    document: dict[str, Any], served: Any, method: str, path: str, body: Any, status: int, schema: str
) -> None:
    answer = httpx.request(method, served.url + path, json=body)

    assert answer.status_code == status
    jsonschema.validate(answer.json(), {"$ref": f"#/components/schemas/{schema}", "components": document["components"]})


def test_a_request_that_works_is_one_that_the_document_describes(document: dict[str, Any]) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "temperature": 1, "stop": "x"}
    for body, schema in ((ROWS, "Request"), (chat, "ChatRequest"), ({"at": 1, "right": 1, "wrong": 0}, "LabelCounts")):
        jsonschema.validate(body, {"$ref": f"#/components/schemas/{schema}", "components": document["components"]})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**chat, "temperature": 9}, {"$ref": "#/components/schemas/ChatRequest", "components": document["components"]})
