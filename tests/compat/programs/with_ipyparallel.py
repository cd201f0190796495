"""ipyparallel, with two engines."""

import logging

import ipyparallel as ipp
import joblib
from joblib import Parallel, delayed
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

with ipp.Cluster(n=2, controller_ip="127.0.0.1", log_level=logging.ERROR) as client:
    view = client.load_balanced_view()
    view.register_joblib_backend()
    parallel = Parallel(n_jobs=2, backend="ipyparallel")
    print(type(parallel._backend).__name__, len(parallel._backend._view))
    print(parallel(delayed(pow)(i, 2) for i in range(30)))
    with joblib.parallel_backend("ipyparallel", n_jobs=-1):
        print(cross_val_score(SVC(), *load_iris(return_X_y=True), cv=4).round(12).tolist())
