"""NVIDIA's client, unmodified, against a node."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(running: Any, stage: Callable[..., Any], regressors: Any) -> Iterator[triton.InferenceServerClient]:
    running.serve(stage("1.0.0", regressors.linear.onnx))
    running.serve(stage("2.0.0", regressors.forest.onnx))
    with triton.InferenceServerClient(f"127.0.0.1:{running.server.port}") as connected:
        yield connected


def test_health_and_metadata_are_understood(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("delay")

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delay")
    assert client.is_model_ready("delay", "1.0.0")
    assert not client.is_model_ready("delay", "9.9.9")
    assert client.get_server_metadata()["name"] == "ewr-1"
    assert metadata["versions"] == ["1.0.0", "2.0.0"]
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_both_versions_answer_in_binary_and_in_json(client: Any, regressors: Any, binary_in: bool, binary_out: bool) -> None:
    rows = regressors.rows[:3]
    tensor = triton.InferInput("X", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary_in)
    wanted = [triton.InferRequestedOutput("variable", binary_data=binary_out)]

    for version, model in (("1.0.0", regressors.linear), ("2.0.0", regressors.forest)):
        result = client.infer("delay", [tensor], model_version=version, outputs=wanted, request_id="abc")

        assert result.get_response()["model_version"] == version
        assert result.get_response()["id"] == "abc"
        np.testing.assert_allclose(result.as_numpy("variable"), model.predict(rows), rtol=1e-4)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_without_named_outputs_all_come_back_from_the_current_release(client: Any, regressors: Any, compression: str | None) -> None:
    rows = regressors.rows[:2]
    tensor = triton.InferInput("X", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)

    result = client.infer("delay", [tensor], request_compression_algorithm=compression)

    np.testing.assert_allclose(result.as_numpy("variable"), regressors.forest.predict(rows), rtol=1e-4)


def test_an_error_reaches_the_client_with_its_sentence(client: Any) -> None:
    tensor = triton.InferInput("X", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))

    with pytest.raises(InferenceServerException, match=r"X: shape: expected \[-1, 5\], found \[1, 4\]") as caught:
        client.infer("delay", [tensor])

    assert caught.value.status() == "400"
