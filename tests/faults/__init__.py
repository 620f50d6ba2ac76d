"""Real processes and a real server, hurt on purpose."""
