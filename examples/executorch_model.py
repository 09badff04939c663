"""Train a small PyTorch network and lower it to an ExecuTorch program, network.pte, with the signature that the file itself lacks."""

import json

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from sklearn.datasets import load_digits

ROWS_MAX = 64  # memory is planned for so many rows, and a request may not have more
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
network.eval()

free = {"input": {0: torch.export.Dim("rows", min=1, max=ROWS_MAX)}}
exported = torch.export.export(network, (rows[:4],), dynamic_shapes=free)
lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
with open("network.pte", "wb") as file:
    file.write(lowered.buffer)

sides = {"inputs": [("pixels", [-1, 64])], "outputs": [("probabilities", [-1, 10])]}
listed = {side: [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in some] for side, some in sides.items()}
with open("signature.json", "w") as file:
    json.dump(listed, file)

known = network(rows[:8]).detach().numpy()
np.savez("golden.npz", **{"input.pixels": rows[:8].numpy(), "output.probabilities": known})
with open("request.json", "w") as file:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [3, 64], "data": rows[:3].ravel().tolist()}
    json.dump({"inputs": [tensor]}, file)

print(json.dumps({"probabilities": known[:3].ravel().tolist()}))
