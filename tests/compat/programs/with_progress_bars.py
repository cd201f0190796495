"""tqdm_joblib and joblib_progress, which replace the callback that Parallel calls after each batch."""

import io

from joblib import Parallel, delayed
from joblib_progress import joblib_progress
from tqdm import tqdm
from tqdm_joblib import ParallelPbar, tqdm_joblib

for n_jobs in (1, 2):
    with tqdm_joblib(tqdm(total=10, file=io.StringIO())) as bar:
        print(Parallel(n_jobs=n_jobs)(delayed(abs)(-i) for i in range(10)), bar.n)
    print(ParallelPbar("here", file=io.StringIO())(n_jobs=n_jobs)(delayed(abs)(-i) for i in range(10)))
    with joblib_progress("there", total=10):
        print(Parallel(n_jobs=n_jobs)(delayed(abs)(-i) for i in range(10)))
