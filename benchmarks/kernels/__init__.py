"""The Triton kernels: their resources and projections without a GPU, their errors and times on one."""
