"""pyod, and its own unpickler."""

import os
import tempfile

import joblib
import numpy
from pyod.models.copod import COPOD
from pyod.models.iforest import IForest
from pyod.models.lof import LOF
from pyod.utils.persistence import compat_load

X = numpy.random.default_rng(0).normal(size=(200, 4))
for model in (IForest(n_estimators=10, n_jobs=2, random_state=0), LOF(n_jobs=2), COPOD(n_jobs=2)):
    print(model.fit(X).decision_function(X[:5]).round(10).tolist())
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model")
    model = IForest(n_estimators=10, n_jobs=2, random_state=0).fit(X)
    for compress in (0, 3):
        joblib.dump(model, path, compress=compress)
        print(compat_load(path, trusted=True).decision_function(X[:5]).round(10).tolist())
