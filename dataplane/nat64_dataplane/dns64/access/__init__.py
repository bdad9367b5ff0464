"""Which clients may ask (`acl`), and how many questions and connections each may hold.

It may import message and settings. It must never know how a question is answered, nor by whom.
"""
