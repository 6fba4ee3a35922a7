"""What is fitted to, what choices are made on, and what is looked at once."""
