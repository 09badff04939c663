"""Meet the machine: pid file, service manager, site parameters."""
