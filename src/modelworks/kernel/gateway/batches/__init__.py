"""`/v1/batches`: files of requests, answered by the routes of this server."""
