"""No client changes another's answer: what is joined with others is answered as it is alone, whatever the others send."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hub.blockstore import BlockStore
from hub.builder import build
from hub.core.plan import Build
from hub.request import PublishRequest
from node import workers
from node.serving import Staged
from tests.node.test_batching import at_once, joined, stopped_until

INFER = "/v2/models/digits/infer"
OUTLIER = 65_535.0  # a pixel of a camera that is broken


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return load_digits(return_X_y=True)[0].astype(np.float32)


@pytest.fixture(scope="module")
def softmax(pictures: np.ndarray) -> bytes:
    """A softmax regression on scikit-learn's digits."""
    trained = LogisticRegression(max_iter=300).fit(pictures[:1200], load_digits(return_X_y=True)[1][:1200])
    weights = {"w": trained.coef_.T.astype(np.float32), "b": trained.intercept_.astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["X", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    sides = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("X", 64), ("shares", 10)))
    graph = helper.make_graph(
        nodes, "g", [next(sides)], [next(sides)], [numpy_helper.from_array(one, name) for name, one in weights.items()]
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
