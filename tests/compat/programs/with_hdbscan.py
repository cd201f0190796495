"""hdbscan, and a Memory."""

import tempfile

import hdbscan
import joblib
import numpy
from sklearn.datasets import make_blobs

X, _ = make_blobs(20000, random_state=0)
with tempfile.TemporaryDirectory() as folder:
    memory = joblib.Memory(folder, verbose=0)
    for algorithm in ("boruvka_kdtree", "best"):
        for _ in range(2):
            model = hdbscan.HDBSCAN(algorithm=algorithm, core_dist_n_jobs=2, min_cluster_size=50, memory=memory).fit(X)
            print(numpy.bincount(model.labels_ + 1).tolist())
