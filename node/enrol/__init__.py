"""Hold the device's identity: key, certificates, and the client of the hub's enrolment endpoint."""
