"""Record events and deliver alerts, each receiver in a thread of its own."""
