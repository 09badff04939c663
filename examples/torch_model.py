"""Train a small PyTorch network and export it by torch.onnx to network.onnx, with a free first axis."""

import json

import numpy as np
import torch
from sklearn.datasets import load_digits

torch.manual_seed(0)
digits = load_digits()
rows = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)

network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10), torch.nn.Softmax(dim=1))
optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(100):
    optimiser.zero_grad()
    torch.nn.functional.nll_loss(torch.log(network(rows)), labels).backward()
    optimiser.step()
network.eval()  # without dropout, and with the batch norms' own means

torch.onnx.export(
    network,
    (rows[:2],),
    "network.onnx",
    input_names=["pixels"],
    output_names=["probabilities"],
    dynamic_shapes={"input": {0: torch.export.Dim("rows")}},  # else a device could ask for two rows only
    dynamo=True,
    external_data=False,
)

np.savez("reference.npz", **{f"p{at}": column for at, column in enumerate(rows.numpy().T)})
asked = rows[:3]
with open("request.json", "w") as file:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [3, 64], "data": asked.ravel().tolist()}
    json.dump({"inputs": [tensor]}, file)

print(json.dumps({"probabilities": network(asked).ravel().tolist()}))
