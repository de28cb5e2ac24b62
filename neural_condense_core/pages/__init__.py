"""Pages in a browser: what the playground and the dashboard share."""
