"""Talk to the broker, and run the embedded one."""
