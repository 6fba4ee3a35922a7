"""What one model learns from another."""
