"""Parts of evaluation: what is measured, on which images, and what becomes of the numbers."""
