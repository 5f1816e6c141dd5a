"""Pages and the application. No statistics of its own."""
