"""Talk to the broker in documents: parse at the door, so that nobody inside sees a topic string."""
