"""The process that forks the others: plan decides, arbiter does."""
