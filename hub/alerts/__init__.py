"""Send alerts to receivers: parsed settings, signed webhooks, bounded programs."""
