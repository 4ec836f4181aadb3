"""Many concepts trained by the processes of a Ray cluster, each as `train` would alone."""
