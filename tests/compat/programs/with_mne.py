"""mne."""

import mne
import numpy
from mne.parallel import parallel_func
from mne.stats import permutation_cluster_test
from mne.time_frequency import tfr_array_morlet

mne.set_log_level("ERROR")
parallel, call, n_jobs = parallel_func(abs, n_jobs=2)
print(parallel(call(-i) for i in range(10)), n_jobs)
rng = numpy.random.default_rng(0)
data = rng.normal(size=(4, 2, 200))
power = tfr_array_morlet(data, 100.0, numpy.array([8.0, 12.0]), n_cycles=2, output="power", n_jobs=2)
print(power.sum().round(8))
groups = [rng.normal(size=(10, 20)), rng.normal(1, size=(10, 20))]
print(permutation_cluster_test(groups, n_permutations=50, n_jobs=2, seed=0, out_type="mask")[2].round(8).tolist())
