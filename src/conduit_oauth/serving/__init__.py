"""What agent, bridge and development server share."""
