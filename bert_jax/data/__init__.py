"""From a corpus to batches: the pure sampler (`plan`) and the loader (`load`)."""
