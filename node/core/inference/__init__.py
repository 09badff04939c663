"""Parse and write inference requests, tensors, and frames between agent and worker."""
