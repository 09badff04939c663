"""Fit a LightGBM and an XGBoost model and convert both by onnxmltools, to lightgbm.onnx and xgboost.onnx."""

import json

import lightgbm
import numpy as np
import onnx
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_iris

OPSET = 15  # the newest that onnxmltools converts both to
iris = load_iris()
rows = iris.data.astype(np.float32)  # what ONNX computes with
models = {
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(rows, iris.target),
    "xgboost": xgboost.XGBClassifier(n_estimators=20).fit(rows, iris.target),
}
types = [("input", FloatTensorType([None, 4]))]
graphs = {
    "lightgbm": onnxmltools.convert_lightgbm(models["lightgbm"], initial_types=types, target_opset=OPSET, zipmap=False),
    "xgboost": onnxmltools.convert_xgboost(models["xgboost"], initial_types=types, target_opset=OPSET),
}
for name, graph in graphs.items():
    # onnxmltools declares LightGBM's label as [1] whatever the rows are: say that its first axis is free.
    for output in graph.graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
    onnx.save_model(graph, f"{name}.onnx")

np.savez("reference.npz", **{f"cm{at}": column for at, column in enumerate(rows.T)})
asked = rows[::50]
with open("request.json", "w") as file:
    tensor = {"name": "input", "datatype": "FP32", "shape": [3, 4], "data": asked.ravel().tolist()}
    json.dump({"inputs": [tensor]}, file)

answers = {name: model.predict_proba(asked).ravel().tolist() for name, model in models.items()}
print(json.dumps({name: {"label": [0, 1, 2], "probabilities": found} for name, found in answers.items()}))
