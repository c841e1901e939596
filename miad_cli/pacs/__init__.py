"""The way into a PACS and back: DIMSE and DICOMweb behind one port, and what was sent.

`destinations` says where to, `outcome` what both transports take and give, `store` is DIMSE.
"""
