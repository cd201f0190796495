"""ray.util.joblib: ray's own backend, which replaces shoal's of the same name."""

import joblib
from joblib import Parallel, delayed
from ray.util.joblib import register_ray
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from _ray_util import ray_cluster

with ray_cluster():
    register_ray()
    print(joblib.parallel.BACKENDS["ray"].__module__)
    for context in (joblib.parallel_config, joblib.parallel_backend):
        with context("ray", n_jobs=2):
            backend = joblib.parallel.get_active_backend()[0]
            print(type(backend).__name__, type(backend).__module__)
            print(Parallel()(delayed(pow)(i, 2) for i in range(30)))
            print(Parallel()(delayed(lambda x: 3 * x)(i) for i in range(5)))
            try:
                Parallel()(delayed(divmod)(1, i) for i in (2, 0))
            except ZeroDivisionError as error:
                print(error)
    with joblib.parallel_backend("ray", n_jobs=-1, ray_remote_args={"num_cpus": 1}):
        search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(*load_iris(return_X_y=True))
        print(search.best_params_, search.cv_results_["mean_test_score"].round(12).tolist())
