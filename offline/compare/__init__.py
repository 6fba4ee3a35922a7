"""`python -m offline compare`: every family, baseline and control on one data set, with equal budgets."""
