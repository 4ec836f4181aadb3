"""What is known of one frozen weight: its singular values and vectors, its fingerprint, and the cache of both."""
