"""nilearn, and its caches."""

import tempfile
import warnings

import nibabel
import numpy
from nilearn.decoding import SearchLight
from nilearn.maskers import NiftiMasker

warnings.simplefilter("ignore")
rng = numpy.random.default_rng(0)
images = nibabel.Nifti1Image(rng.normal(size=(6, 6, 6, 12)).astype("f4"), numpy.eye(4))
mask = nibabel.Nifti1Image(numpy.ones((6, 6, 6), "u1"), numpy.eye(4))
searched = SearchLight(mask, radius=1.5, n_jobs=2, cv=2).fit(images, numpy.tile([0, 1], 6))
print(searched.scores_.sum().round(8))
with tempfile.TemporaryDirectory() as folder:
    for _ in range(2):
        masker = NiftiMasker(mask, standardize="zscore_sample", memory=folder, memory_level=2)
        print(masker.fit_transform(images)[0, :6].round(4).tolist())
