"""Pictures in files: what an image is, and the only code that knows file formats."""
