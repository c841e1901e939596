"""The watermark, on plain arrays: logo, blending and its inverse, lesion boxes, search."""
