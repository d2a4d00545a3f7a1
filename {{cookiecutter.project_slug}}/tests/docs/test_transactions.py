"""What the page on transactions says beyond what its snippets print."""
