"""pynndescent and umap-learn."""

import numpy
import pynndescent
import umap

X = numpy.random.default_rng(0).normal(size=(150, 5))
index = pynndescent.NNDescent(X, n_neighbors=5, n_jobs=2, random_state=0)
print(index.neighbor_graph[0][:5].tolist())
model = umap.UMAP(n_neighbors=5, n_epochs=20, random_state=0, n_jobs=1).fit(X)
print(model._input_hash, model.embedding_[:3].round(4).tolist())
