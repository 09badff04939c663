"""Train a tokenizer and a model of its words, to tokenizer.json and mood.onnx; the tokenizer goes to devices as a file of the release."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

WORDS = 8  # a text is cut or padded to so many
texts = ["it works very well", "what a good pump", "good and quiet", "it leaks again", "what a bad pump", "bad and loud again"]
moods = np.array([1, 1, 1, 0, 0, 0])

tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]"], show_progress=False))
tokenizer.enable_padding(length=WORDS)
tokenizer.enable_truncation(WORDS)
tokenizer.save("tokenizer.json")


def ids_of(lines: list[str]) -> np.ndarray:
    """Return the numbers of a text's words, [rows, words]."""
    return np.array([one.ids for one in tokenizer.encode_batch(lines)], np.int64)


# A bag of words: the sum of a weight for each, of which padding has none.
size = tokenizer.get_vocab_size()
bags = np.array([np.bincount(row, minlength=size) for row in ids_of(texts)])
bags[:, 0] = 0
fitted = LogisticRegression(C=10).fit(bags, moods)
weights = np.where(np.arange(size) == 0, 0, fitted.coef_[0]).astype(np.float32)

nodes = [
    helper.make_node("Gather", ["weights", "ids"], ["each"]),
    helper.make_node("ReduceSum", ["each", "axis"], ["sum"], keepdims=0),
    helper.make_node("Add", ["sum", "bias"], ["logit"]),
    helper.make_node("Sigmoid", ["logit"], ["good"]),
]
graph = helper.make_graph(
    nodes,
    "mood",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", WORDS])],
    [helper.make_tensor_value_info("good", TensorProto.FLOAT, ["rows"])],
    [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(fitted.intercept_.astype(np.float32), "bias"),
    ],
)
onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "mood.onnx")

known = fitted.predict_proba(bags)[:, 1].astype(np.float32)
np.savez("golden.npz", **{"input.ids": ids_of(texts), "output.good": known})
with open("request.json", "w") as file:
    tensor = {"name": "ids", "datatype": "INT64", "shape": [2, WORDS], "data": ids_of(texts[:2]).ravel().tolist()}
    json.dump({"inputs": [tensor]}, file)

print(json.dumps({"good": known[:2].tolist()}))
