"""Report to the hub and to commands beside the agent."""
