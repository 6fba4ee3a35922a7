"""What is done to a trained model before it is published."""
