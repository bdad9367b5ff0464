"""Who may ask (`acl`), and how many questions and connections one client may hold.
It may import message and settings. It must never know what a question is answered with, nor by
whom.
"""
