"""Fit a scikit-learn pipeline of text and number columns, and keep it, its reference and a request beside this script's folder."""

import json

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

# Parcels: where they go, how they are sent, how heavy they are, and whether they came late.
draw = np.random.default_rng(0)
parcels = pd.DataFrame(
    {
        "town": draw.choice(["Bern", "Jena", "Oslo"], 600),
        "service": draw.choice(["express", "plain"], 600),
        "kilos": draw.gamma(2, 2, 600),
        "hour": draw.integers(6, 22, 600),
    }
)
slow = (parcels["town"] == "Oslo") * 2.0 + (parcels["service"] == "plain") + parcels["hour"] / 12
late = np.where(slow + draw.normal(scale=0.3, size=600) > 2.5, "late", "in time")

encoded = ColumnTransformer(
    [
        ("texts", OneHotEncoder(handle_unknown="ignore"), ["town", "service"]),
        ("numbers", StandardScaler(), ["kilos", "hour"]),
    ]
)
model = make_pipeline(encoded, LogisticRegression()).fit(parcels, late)

joblib.dump(model, "parcels.joblib")
parcels.assign(day=np.arange(600) // 60).to_csv("reference.csv", index=False)

# A program on the device asks with one input a column, each [rows, 1].
asked = parcels.head(3)
datatypes = {"town": "BYTES", "service": "BYTES", "kilos": "FP32", "hour": "FP32"}
inputs = [{"name": name, "datatype": word, "shape": [3, 1], "data": asked[name].tolist()} for name, word in datatypes.items()]
with open("request.json", "w") as file:
    json.dump({"inputs": inputs}, file)

print(json.dumps({"label": model.predict(asked).tolist(), "probabilities": model.predict_proba(asked).ravel().tolist()}))
