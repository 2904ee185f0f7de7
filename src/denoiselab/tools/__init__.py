"""Development tools; the package itself does not import them."""
