"""`/v1/evals` and graders: answers judged, item by item."""
