"""The frozen models: loading a pipeline, reading a checkpoint's tensors, and the embedded base."""
