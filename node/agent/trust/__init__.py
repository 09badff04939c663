"""Keep the verified state of the fleet, and turn it into wishes for the slots."""
