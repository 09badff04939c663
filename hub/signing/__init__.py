"""Hold the keys and sign: the TUF repository, its metadata, the certificate authority, and signatures of devices."""
