"""Many named providers, kept warm and replaced where they break down."""
