"""`/mcp`: the platform's routes as tools of the Model Context Protocol."""
