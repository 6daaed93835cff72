"""What is taken out of passages before they are indexed or learned from."""
