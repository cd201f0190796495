"""lithops, on this machine."""

import joblib
from joblib import Parallel, delayed
from lithops.util.joblib import register_lithops

register_lithops()
with joblib.parallel_config("lithops", n_jobs=2):
    print(type(joblib.parallel.get_active_backend()[0]).__name__)
    print(Parallel()(delayed(pow)(i, 2) for i in range(12)))
