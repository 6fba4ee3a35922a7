"""Raw data -> Interactions."""
