"""Training logs of other programs: their files, their formats, and step records from them."""
