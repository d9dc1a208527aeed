"""What a meta-step costs: in seconds, in bytes, and over several processes."""
