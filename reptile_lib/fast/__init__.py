"""Fast kernels: gradients written out, tasks spread over cores, recorded graphs."""
