"""A translator in plain Python, written from the RFCs alone, to hold the programs to.

It shares nothing with them: checksums are computed anew over whole packets instead of being
adjusted, addresses are put together byte by byte from RFC 6052's figure, and state is a few
dictionaries. Only what the RFCs leave open is asked of the translator under test: the port that it
picked for a new binding, and the identification of an IPv4 packet that nobody may fragment.
"""
