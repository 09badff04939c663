"""Train a small Keras network and convert it to TensorFlow Lite, to digits.tflite."""

import json

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(0)
digits = load_digits()
rows = (digits.data / 16).astype(np.float32)

network = keras.Sequential([keras.Input((64,), name="pixels"), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")])
network.compile("adam", "sparse_categorical_crossentropy")
network.fit(rows, digits.target, epochs=10, verbose=0)

with open("digits.tflite", "wb") as file:
    file.write(tf.lite.TFLiteConverter.from_keras_model(network).convert())

# What it is known by is in the file, so it is read back. One row at a time: LiteRT's shapes are fixed.
interpreter = tf.lite.Interpreter("digits.tflite")
entry, answer = interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0]["name"]
known = network.predict(rows[:8], verbose=0)
np.savez("golden.npz", **{f"input.{entry}": rows[:8], f"output.{answer}": known})
with open("request.json", "w") as file:
    json.dump({"inputs": [{"name": entry, "datatype": "FP32", "shape": [1, 64], "data": rows[0].tolist()}]}, file)

print(json.dumps({answer: known[0].tolist()}))
