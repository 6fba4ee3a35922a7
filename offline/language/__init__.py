"""Language models in training, and how they read items."""
