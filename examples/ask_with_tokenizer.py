"""Ask a model on this device about texts, with the tokenizer that is beside it: `python ask_with_tokenizer.py FOLDER URL TEXT ...`."""

import json
import sys
import urllib.request
from pathlib import Path

from tokenizers import Tokenizer

folder, url, *texts = sys.argv[1:]  # <data>/current/mood, http://127.0.0.1:8080
tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))  # it pads and cuts as it did in training
ids = [one.ids for one in tokenizer.encode_batch(texts)]

tensor = {"name": "ids", "datatype": "INT64", "shape": [len(ids), len(ids[0])], "data": ids}
body = json.dumps({"inputs": [tensor]}).encode()
request = urllib.request.Request(f"{url}/v2/models/mood/infer", body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as response:
    print(json.load(response)["outputs"][0]["data"])
