"""What is measured on each kind of test data, sample by sample."""
